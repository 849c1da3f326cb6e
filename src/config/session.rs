//! `[session]`.

use std::time::Duration;

use super::error::ConfigError;
use super::raw::RawSettings;
use super::tokens::Tokens;
use crate::duration_format::format_duration;
use crate::layer::OnStoreLoss;
use crate::services::tokens_builder::{SESSIONS_PER_USER, max_grace, min_keep_ended};

/// Lifetime and limits of sessions: `[session]`.
#[derive(Clone, Debug)]
pub struct Session {
    /// Time after the expiry of the last access token in which the session can be refreshed.
    pub idle_ttl: Duration,
    /// Maximum age of a session.
    pub absolute_ttl: Duration,
    /// Time in which a rotated refresh token is replayed instead of rotated again, from one second to
    /// half of `tokens.access_ttl`.
    pub grace: Duration,
    /// Maximum number of sessions of each kind per user.
    pub max_per_user: u32,
    /// Policy for valid access tokens while the store is unavailable.
    pub on_store_loss: OnStoreLoss,
    /// Retention of ended sessions.
    pub keep_ended: Duration,
}

impl Session {
    pub(super) fn read(
        settings: &RawSettings,
        tokens: &Tokens,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let duration = |key| settings.required(key, settings.duration(key, Duration::from_secs(1)));
        let choices = [("serve", OnStoreLoss::Serve), ("refuse", OnStoreLoss::Refuse)];
        let max_per_user = settings.integer(MAX_PER_USER, SESSIONS_PER_USER);
        let session = Self {
            idle_ttl: duration("session.idle_ttl")?,
            absolute_ttl: duration("session.absolute_ttl")?,
            grace: duration("session.grace")?,
            max_per_user: settings.required(MAX_PER_USER, max_per_user)?,
            on_store_loss: settings.required(ON_STORE_LOSS, settings.one_of(ON_STORE_LOSS, &choices))?,
            keep_ended: duration("session.keep_ended")?,
        };
        session.check_lifetimes(settings, tokens.access_ttl)?;
        session.check_keep_ended(settings, tokens)?;
        session.warn(tokens, warnings);
        Ok(session)
    }

    fn check_lifetimes(&self, settings: &RawSettings, access_ttl: Duration) -> Result<(), ConfigError> {
        let access = format_duration(access_ttl);
        if self.grace > max_grace(access_ttl) {
            let half = format_duration(max_grace(access_ttl));
            let problem = format!("expected at most {half}, half of tokens.access_ttl ({access})");
            return Err(settings.invalid("session.grace", problem));
        }
        for (key, value) in [("session.idle_ttl", self.idle_ttl), ("session.absolute_ttl", self.absolute_ttl)]
        {
            if value < access_ttl {
                let problem = format!("expected at least {access}, the value of tokens.access_ttl");
                return Err(settings.invalid(key, problem));
            }
        }
        Ok(())
    }

    fn check_keep_ended(&self, settings: &RawSettings, tokens: &Tokens) -> Result<(), ConfigError> {
        let min = min_keep_ended(tokens.access_ttl, tokens.leeway, self.grace);
        if self.keep_ended >= min {
            return Ok(());
        }
        let min = format_duration(min);
        let problem = format!(
            "expected at least {min}, the sum of tokens.access_ttl, tokens.leeway, twice session.grace and a minute"
        );
        Err(settings.invalid("session.keep_ended", problem))
    }

    fn warn(&self, tokens: &Tokens, warnings: &mut Vec<String>) {
        // The times of a JWT are whole seconds, so up to one second is lost at either end.
        let min_access_ttl = tokens.access_ttl.mul_f64(0.9 * (1.0 - tokens.access_ttl_jitter));
        if min_access_ttl <= self.grace + Duration::from_secs(2) {
            let effect = "a client that sends requests continuously may refresh without rotation";
            warnings.push(format!("tokens.access_ttl is very short for session.grace: {effect}"));
        }
        if self.grace < RECOMMENDED_MIN_GRACE {
            warnings.push(format!(
                "session.grace is below {}: browsers write cookies to disk every 30 s, so after a crash a browser \
                 may present an old token that counts as stolen",
                format_duration(RECOMMENDED_MIN_GRACE)
            ));
        }
        if self.absolute_ttl < self.idle_ttl {
            let effect = "sessions end before the idle lifetime has passed";
            warnings.push(format!("session.absolute_ttl is shorter than session.idle_ttl: {effect}"));
        }
    }
}

const MAX_PER_USER: &str = "session.max_per_user";
const ON_STORE_LOSS: &str = "session.on_store_loss";

/// Thirty seconds until a browser has written its cookies to disk, and fifteen for clock skew.
const RECOMMENDED_MIN_GRACE: Duration = Duration::from_secs(45);
