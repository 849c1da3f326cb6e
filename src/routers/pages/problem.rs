//! Errors of services as problems of a form.

use crate::pages::FormProblem;
use crate::services::auth::AuthError;
use crate::services::password::{PasswordError, PasswordRefused};
use crate::services::store::StoreError;

/// Returns the problem if a later attempt may succeed.
pub(super) fn temporary(error: &AuthError) -> Option<FormProblem> {
    match error {
        AuthError::Password(PasswordError::Busy) => Some(FormProblem::Busy),
        AuthError::Store(StoreError::Unavailable(_)) => Some(FormProblem::Unavailable),
        _ => None,
    }
}

/// Returns the problem of a change of the password that the user can solve, or that is temporary.
pub(super) fn of_password_change(error: &AuthError) -> Option<FormProblem> {
    match error {
        AuthError::Credentials => Some(FormProblem::WrongPassword),
        AuthError::Password(PasswordError::Refused(refused)) => Some(of_new_password(refused)),
        AuthError::Password(PasswordError::TooLong) => Some(FormProblem::PasswordTooLong),
        other => temporary(other),
    }
}

fn of_new_password(refused: &PasswordRefused) -> FormProblem {
    match refused {
        PasswordRefused::TooLong => FormProblem::PasswordTooLong,
        PasswordRefused::TooShort { .. } => FormProblem::PasswordTooShort,
        _ => FormProblem::PasswordGuessable,
    }
}
