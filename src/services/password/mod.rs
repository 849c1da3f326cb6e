//! Passwords: hashed, checked, and judged when they are new.
//!
//! A password of up to 72 bytes is stored as plain bcrypt, `$2b$`. bcrypt reads no further and
//! stumbles over NUL, so any other one is stored in passlib's `$bcrypt-sha256$` format (version 2).
//! Both are what passlib writes, so the users of an application that used it move over as they are.
//!
//! Passwords are taken byte for byte: nothing is trimmed, folded or normalised, since an imported
//! hash was made that way.
//!
//! All of it runs on a [bounded pool](PasswordSettings::workers) of threads of its own.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use secrecy::SecretString;
//! use sekisho::services::password::{PasswordSettings, Passwords};
//!
//! let passwords = Passwords::new(PasswordSettings { bcrypt_cost: 4, ..Default::default() })?;
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

use std::thread;

use secrecy::{ExposeSecret, SecretString};

use self::error::MIN_COST;
pub use self::error::{MAX_COST, PasswordError};
pub use self::hash::{HashFormat, HashFormatError, PasswordCheck};
use self::hash::{RoundCounter, StoredHash};
pub use self::policy::{MAX_BYTES, PasswordRefused};
use self::pool::Pool;

/// Hashes and checks passwords.
///
/// Every call takes a place in the pool's queue and frees it when its future is dropped; bcrypt that
/// has begun runs to its end.
#[derive(Debug)]
pub struct PasswordHasher {
    cost: u32,
    min_length: usize,
    pool: Pool,
}

/// How passwords are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordSettings {
    /// The bcrypt cost of new hashes: 2 to the power of it rounds, 4 to [`MAX_COST`].
    pub bcrypt_cost: u32,
    /// How many code points a new password has at least.
    pub min_length: usize,
    /// How many passwords are worked on at once, at least one: each keeps a core busy.
    pub workers: usize,
    /// How many calls may wait for a worker. Beyond that they are [`PasswordError::Busy`].
    pub queue: usize,
}

impl PasswordHasher {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`PasswordError::Cost`] and [`PasswordError::NoWorkers`] for settings that can't work,
    /// [`PasswordError::Threads`] if the system gives no threads.
    pub fn new(settings: PasswordSettings) -> Result<Self, PasswordError> {
        let PasswordSettings { bcrypt_cost: cost, min_length, workers, queue } = settings;
        if !(MIN_COST..=MAX_COST).contains(&cost) {
            return Err(PasswordError::Cost(cost));
        }
        if workers == 0 {
            return Err(PasswordError::NoWorkers);
        }
        let pool = Pool::new(workers, queue).map_err(PasswordError::Threads)?;
        Ok(Self { cost, min_length, pool })
    }

    /// Hashes a password for storage. It is not judged: see [`check_new`](Self::check_new).
    ///
    /// # Errors
    ///
    /// [`PasswordError::TooLong`], [`PasswordError::Busy`], or a failing system.
    pub async fn hash(&self, password: &SecretString) -> Result<SecretString, PasswordError> {
        within_limit(password)?;
        let (password, cost) = (password.clone(), self.cost);
        self.pool
            .run(move || hash::hash(password.expose_secret().as_bytes(), cost, &mut RoundCounter::default()))
            .await?
    }

    /// Checks a password against a stored hash.
    ///
    /// `None` stands for an unknown user. Give it for a disabled account too, or check the account
    /// only afterwards: either way it is the work of a wrong password. That is always the work of
    /// the configured cost, also where the stored hash has a lower one. A higher one costs more, and
    /// so tells that the account exists, until its user has signed in and been given a new hash.
    ///
    /// A stored hash in no format that we know counts as a wrong password, and is logged.
    ///
    /// # Errors
    ///
    /// [`PasswordError::TooLong`] (before any work), [`PasswordError::Busy`], or a failing system.
    pub async fn verify(
        &self,
        password: &SecretString,
        stored: Option<&SecretString>,
    ) -> Result<PasswordCheck, PasswordError> {
        within_limit(password)?;
        let (password, cost) = (password.clone(), self.cost);
        let stored = stored.and_then(readable);
        let verified = self
            .pool
            .run(move || {
                let password = password.expose_secret().as_bytes();
                hash::verify(password, stored.as_ref(), cost, &mut RoundCounter::default())
            })
            .await?;
        Ok(verified)
    }

    /// Judges a new password by its length and by how easy it is to guess.
    ///
    /// `context` is what a guesser would try first: the user's address and name, the product's name.
    ///
    /// # Errors
    ///
    /// [`PasswordError::Refused`] says what to do about it; [`PasswordError::Busy`], or a failing
    /// system.
    pub async fn check_new(&self, password: &SecretString, context: &[&str]) -> Result<(), PasswordError> {
        policy::check_length(password.expose_secret(), self.min_length)?;
        let (password, words) = (password.clone(), policy::words(context));
        self.pool.run(move || policy::check_guessable(password.expose_secret(), &words)).await??;
        Ok(())
    }
}

impl Default for PasswordSettings {
    /// Cost 12, 15 code points, all cores but one, 64 waiting.
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { bcrypt_cost: 12, min_length: 15, workers: (cores - 1).max(1), queue: 64 }
    }
}

fn within_limit(password: &SecretString) -> Result<(), PasswordError> {
    if password.expose_secret().len() > MAX_BYTES {
        return Err(PasswordError::TooLong);
    }
    Ok(())
}

fn readable(stored: &SecretString) -> Option<StoredHash> {
    StoredHash::parse(stored.expose_secret())
        .inspect_err(|error| tracing::error!(%error, "a stored password hash can't be verified"))
        .ok()
}

#[cfg(test)]
mod tests;
