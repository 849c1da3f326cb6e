//! Errors of password hashing, and the limits of the bcrypt cost.

use super::policy::{MAX_BYTES, PasswordRefused};

/// Error of [`PasswordHasher`](super::PasswordHasher).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// The queue is full, or the caller has too many jobs in it. Worth a retry after a second.
    #[error("too many sign-ins at once")]
    Busy,
    /// The bcrypt cost is out of range.
    #[error("login.bcrypt_cost is {0}: expected {MIN_COST} to {MAX_COST}")]
    Cost(u32),
    /// The operating system's random number generator failed.
    #[error("the system gives no random bytes")]
    NoRandomness,
    /// The pool is configured without threads.
    #[error("passwords need at least one worker")]
    NoWorkers,
    /// The new password does not meet the policy.
    #[error(transparent)]
    Refused(#[from] PasswordRefused),
    /// The job panicked.
    #[error("the password job did not finish")]
    Stopped,
    /// The threads cannot be started.
    #[error("cannot start the password threads")]
    Threads(#[source] std::io::Error),
    /// The password is longer than [`MAX_BYTES`].
    #[error("the password is longer than {MAX_BYTES} bytes")]
    TooLong,
}

/// Lowest cost that bcrypt supports.
pub(super) const MIN_COST: u32 = 4;

/// Maximum bcrypt cost, configured or imported. A check of this cost takes about a minute.
pub const MAX_COST: u32 = 20;
