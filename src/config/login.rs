//! `[login]`.

use super::error::ConfigError;
use super::raw::RawSettings;
use super::server::Server;
use crate::services::auth::Registration;

/// Sign-in and registration: `[login]`.
#[derive(Clone, Debug)]
pub struct Login {
    /// The bcrypt cost. Each increment doubles the work.
    pub bcrypt_cost: u32,
    /// Registration policy.
    pub registration: Registration,
    /// Minimum length of new passwords, in code points.
    pub password_min_length: u32,
}

impl Login {
    pub(super) fn read(
        settings: &RawSettings,
        server: &Server,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        // Lower costs are allowed for tests and trials on one machine.
        let min_cost = if server.listen.is_loopback() { 4 } else { RECOMMENDED_MIN_COST };
        let bcrypt_cost = settings.required(BCRYPT_COST, settings.integer(BCRYPT_COST, min_cost..=16))?;
        if bcrypt_cost < RECOMMENDED_MIN_COST {
            warnings.push(format!("{BCRYPT_COST} is below {RECOMMENDED_MIN_COST}: use it for trials only"));
        }
        let choices = [("closed", Registration::Closed), ("open", Registration::Open)];
        let registration = settings.one_of(REGISTRATION, &choices);
        let password_min_length = settings.integer(PASSWORD_MIN_LENGTH, 8..=256);
        Ok(Self {
            bcrypt_cost,
            registration: settings.required(REGISTRATION, registration)?,
            password_min_length: settings.required(PASSWORD_MIN_LENGTH, password_min_length)?,
        })
    }
}

const BCRYPT_COST: &str = "login.bcrypt_cost";
const REGISTRATION: &str = "login.registration";
const PASSWORD_MIN_LENGTH: &str = "login.password_min_length";
const RECOMMENDED_MIN_COST: u32 = 10;
