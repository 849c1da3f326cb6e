//! `[login]`: signing in and registering.

use super::error::ConfigError;
use super::server::Server;
use super::settings::Settings;
use crate::services::auth::Registration;

/// Signing in and registering: `[login]`.
#[derive(Clone, Debug)]
pub struct Login {
    /// bcrypt's cost: each one more doubles the work.
    pub bcrypt_cost: u32,
    /// Who may register.
    pub registration: Registration,
    /// How long a new password must be, in code points.
    pub password_min_length: u32,
}

impl Login {
    pub(super) fn read(
        settings: &Settings,
        server: &Server,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let words = [("closed", Registration::Closed), ("open", Registration::Open)];
        // For tests and trials on one's own machine, cheaper ones will do.
        let cheapest = if server.listen.is_loopback() { 4 } else { SAFE_COST };
        let bcrypt_cost = settings.required(COST, settings.integer(COST, cheapest..=16))?;
        if bcrypt_cost < SAFE_COST {
            warnings.push(format!("{COST} is below {SAFE_COST}: fit for trials alone"));
        }
        Ok(Self {
            bcrypt_cost,
            registration: settings
                .required("login.registration", settings.one_of("login.registration", &words))?,
            password_min_length: settings.required(
                "login.password_min_length",
                settings.integer("login.password_min_length", 8..=256),
            )?,
        })
    }
}

const COST: &str = "login.bcrypt_cost";
const SAFE_COST: u32 = 10;
