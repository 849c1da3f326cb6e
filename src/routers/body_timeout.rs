//! Bodies that do not arrive in time.

use std::error::Error;
use std::io;

use axum::extract::rejection::BytesRejection;

/// Returns `true` if a body did not arrive in time.
pub(super) fn is_timeout(rejection: &BytesRejection) -> bool {
    let mut causes = std::iter::successors(rejection.source(), |&cause| cause.source());
    causes.any(|cause| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    })
}
