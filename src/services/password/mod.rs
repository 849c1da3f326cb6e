//! Password hashing, verification and policy.
//!
//! A password shorter than 72 bytes is stored as plain bcrypt, `$2b$`. bcrypt ignores what follows the 72nd
//! byte and stops at NUL, so longer passwords and those with NUL are stored in passlib's `$bcrypt-sha256$`
//! format (version 2). passlib writes both formats, so its hashes can be imported unchanged.
//!
//! An imported `$2b$` may stand for the beginning of a longer password, so it is verified as passlib does, over
//! the first 72 bytes. A `$2b$` of this program never matches a longer password.
//!
//! Passwords are byte strings: they are not trimmed, case-folded or normalized, because imported hashes
//! were computed over the original bytes.
//!
//! All work runs on a [bounded pool](PasswordSettings::workers) of dedicated threads. Each [`Caller`] has a share of
//! its queue, and callers with little recent use come first.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use secrecy::SecretString;
//! use sekisho::services::password::{PasswordHasher, PasswordSettings};
//!
//! let passwords = PasswordHasher::new(PasswordSettings { bcrypt_cost: 4, ..Default::default() })?;
//! let password = SecretString::from("tall umbrellas sing at noon");
//! passwords.check_new(&password, &["ada@example.org", "Ada Lovelace"]).await?;
//!
//! let hash = passwords.hash(&password).await?;
//! assert!(passwords.verify(&password, Some(&hash)).await?.ok);
//! assert!(!passwords.verify(&password, None).await?.ok, "unknown user");
//! # Ok::<(), sekisho::services::password::PasswordError>(())
//! # }).unwrap();
//! ```

mod error;
mod hash;
mod policy;
mod pool;
mod queue;

use std::thread;

use secrecy::{ExposeSecret, SecretString};

use self::error::MIN_COST;
pub use self::error::{MAX_COST, PasswordError};
pub(crate) use self::hash::bcrypt_cost;
pub use self::hash::{HashFormat, HashFormatError, PasswordCheck};
use self::hash::{RoundCounter, StoredHash};
pub use self::policy::{MAX_BYTES, PasswordRefused};
use self::pool::Pool;
pub use self::queue::Caller;
use crate::models::user::User;

/// Hashes and verifies passwords.
///
/// Every call occupies a place in the pool's queue, as a job of its [`Caller`], and releases it when its future is
/// dropped. A bcrypt computation that has started runs to completion.
#[derive(Debug)]
pub struct PasswordHasher {
    cost: u32,
    min_length: usize,
    pool: Pool,
}

/// Settings of [`PasswordHasher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordSettings {
    /// bcrypt cost of new hashes, from 4 to [`MAX_COST`]: the binary logarithm of the number of rounds.
    pub bcrypt_cost: u32,
    /// Minimum length of a new password in code points.
    pub min_length: usize,
    /// Number of threads, at least one. Each keeps a core busy.
    pub workers: usize,
    /// Maximum number of calls that wait for a thread. The last one of a further call and these fails with
    /// [`PasswordError::Busy`].
    pub queue: usize,
}

impl PasswordHasher {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`PasswordError::Cost`] and [`PasswordError::NoWorkers`] for invalid settings,
    /// [`PasswordError::Threads`] if a thread cannot be started.
    pub fn new(settings: PasswordSettings) -> Result<Self, PasswordError> {
        let cost = settings.bcrypt_cost;
        if !(MIN_COST..=MAX_COST).contains(&cost) {
            return Err(PasswordError::Cost(cost));
        }
        if settings.workers == 0 {
            return Err(PasswordError::NoWorkers);
        }
        let pool = Pool::new(settings.workers, settings.queue).map_err(PasswordError::Threads)?;
        Ok(Self { cost, min_length: settings.min_length, pool })
    }

    /// Hashes a password for storage. Does not apply the policy: see [`check_new`](Self::check_new).
    ///
    /// # Errors
    ///
    /// [`PasswordError::TooLong`], [`PasswordError::Busy`], or an error of the operating system.
    pub async fn hash(&self, password: &SecretString) -> Result<SecretString, PasswordError> {
        check_max_length(password)?;
        let password = password.clone();
        let cost = self.cost;
        self.pool
            .run(Caller::current(), move || {
                hash::hash(password.expose_secret().as_bytes(), cost, &mut RoundCounter::default())
            })
            .await?
    }

    /// Verifies the password of a user for the [current caller](Caller::current), as [`verify`](Self::verify) does.
    /// An imported hash is verified as the program that it comes from verified it.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub async fn verify_user(
        &self,
        password: &SecretString,
        user: Option<&User>,
    ) -> Result<PasswordCheck, PasswordError> {
        self.verify_user_for(Caller::current(), password, user).await
    }

    /// Verifies the password of a user for `caller`, as [`verify_user`](Self::verify_user) does.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub async fn verify_user_for(
        &self,
        caller: Caller,
        password: &SecretString,
        user: Option<&User>,
    ) -> Result<PasswordCheck, PasswordError> {
        let stored = user.and_then(|user| {
            parse_stored(&user.hashed_password).map(|hash| hash.with_origin(user.password_origin))
        });
        self.check(caller, password, stored).await
    }

    /// Verifies a password against a hash that [`hash`](Self::hash) returned, for the
    /// [current caller](Caller::current).
    ///
    /// Pass `None` for an unknown user. For a disabled account, pass `None` or check the account
    /// afterwards. Either way the call does the work of a wrong password, so that its duration does not
    /// reveal whether the account exists.
    ///
    /// The work is that of the configured cost even if the stored hash has a lower one. A stored hash of
    /// a higher cost takes longer and so reveals the account, until its user signs in and is rehashed.
    ///
    /// A stored hash of an unknown format counts as a wrong password and is logged.
    ///
    /// # Errors
    ///
    /// [`PasswordError::TooLong`] (before any work), [`PasswordError::Busy`], or an error of the operating
    /// system.
    pub async fn verify(
        &self,
        password: &SecretString,
        stored: Option<&SecretString>,
    ) -> Result<PasswordCheck, PasswordError> {
        self.check(Caller::current(), password, stored.and_then(parse_stored)).await
    }

    async fn check(
        &self,
        caller: Caller,
        password: &SecretString,
        stored: Option<StoredHash>,
    ) -> Result<PasswordCheck, PasswordError> {
        check_max_length(password)?;
        let password = password.clone();
        let cost = self.cost;
        let verify = move || {
            let password = password.expose_secret().as_bytes();
            hash::verify(password, stored.as_ref(), cost, &mut RoundCounter::default())
        };
        let check = self.pool.run(caller, verify).await?;
        if !check.ok {
            self.pool.record_failure(caller);
        }
        Ok(check)
    }

    /// Checks a new password against the policy: its length and an estimate of its strength.
    ///
    /// `context` holds words that an attacker would try first: the user's address and name, and the name
    /// of the product.
    ///
    /// # Errors
    ///
    /// [`PasswordError::Refused`] with the reason, [`PasswordError::Busy`], or an error of the operating
    /// system.
    pub async fn check_new(&self, password: &SecretString, context: &[&str]) -> Result<(), PasswordError> {
        policy::check_length(password.expose_secret(), self.min_length)?;
        let password = password.clone();
        let words = policy::words(context);
        let check = move || policy::check_guessable(password.expose_secret(), &words);
        self.pool.run(Caller::current(), check).await??;
        Ok(())
    }
}

impl Default for PasswordSettings {
    /// Cost 12, at least 15 code points, one thread fewer than cores, and a queue of 64.
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { bcrypt_cost: 12, min_length: 15, workers: (cores - 1).max(1), queue: 64 }
    }
}

fn check_max_length(password: &SecretString) -> Result<(), PasswordError> {
    if password.expose_secret().len() > MAX_BYTES {
        return Err(PasswordError::TooLong);
    }
    Ok(())
}

fn parse_stored(stored: &SecretString) -> Option<StoredHash> {
    StoredHash::parse(stored.expose_secret())
        .inspect_err(|error| tracing::error!(%error, "cannot parse a stored password hash"))
        .ok()
}

#[cfg(test)]
mod tests;
