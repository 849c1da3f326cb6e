//! `[session]`: how long sessions live.

use std::time::Duration;

use super::error::ConfigError;
use super::settings::Settings;
use super::tokens::Tokens;
use crate::layer::OnStoreLoss;

/// How long sessions live: `[session]`.
#[derive(Clone, Debug)]
pub struct Session {
    /// How long after the last access token expired a session can still be renewed.
    pub idle_ttl: Duration,
    /// How long after signing in a session ends, whatever happens.
    pub absolute_ttl: Duration,
    /// How long a rotated refresh token is replayed rather than rotated again. From a second to half
    /// of `tokens.access_ttl`.
    pub grace: Duration,
    /// How many sessions a user may have.
    pub max_per_user: u32,
    /// What a valid access token is worth when the store can't be asked.
    pub on_store_loss: OnStoreLoss,
    /// How long the row of a session is kept after its end.
    pub keep_ended: Duration,
}

impl Session {
    pub(super) fn read(
        settings: &Settings,
        tokens: &Tokens,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let duration = |key| settings.required(key, settings.duration(key, Duration::from_secs(1)));
        let words = [("serve", OnStoreLoss::Serve), ("refuse", OnStoreLoss::Refuse)];
        let session = Self {
            idle_ttl: duration("session.idle_ttl")?,
            absolute_ttl: duration("session.absolute_ttl")?,
            grace: duration("session.grace")?,
            max_per_user: settings
                .required("session.max_per_user", settings.integer("session.max_per_user", 1..=1_000_000))?,
            on_store_loss: settings
                .required("session.on_store_loss", settings.one_of("session.on_store_loss", &words))?,
            keep_ended: duration("session.keep_ended")?,
        };
        session.check(settings, tokens.access_ttl)?;
        session.check_keep(settings, tokens)?;
        session.warn(tokens, warnings);
        Ok(session)
    }

    fn check(&self, settings: &Settings, access_ttl: Duration) -> Result<(), ConfigError> {
        let access = humantime::format_duration(access_ttl);
        if self.grace > access_ttl / 2 {
            let half = humantime::format_duration(access_ttl / 2);
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

    /// What other replicas must refuse they read from the rows.
    fn check_keep(&self, settings: &Settings, tokens: &Tokens) -> Result<(), ConfigError> {
        let least = tokens.access_ttl + tokens.leeway + 2 * self.grace + MARGIN;
        if self.keep_ended >= least {
            return Ok(());
        }
        let least = humantime::format_duration(least);
        let problem = format!("expected at least {least}: until then its access tokens must be refused");
        Err(settings.invalid("session.keep_ended", problem))
    }

    fn warn(&self, tokens: &Tokens, warnings: &mut Vec<String>) {
        // A JWT's times are whole seconds: at either end up to one is lost.
        let shortest = tokens.access_ttl.mul_f64(0.9 * (1.0 - tokens.access_ttl_jitter));
        if shortest <= self.grace + Duration::from_secs(2) {
            let advice =
                "a page that asks all the time may be given fresh access tokens without ever being rotated";
            warnings.push(format!("tokens.access_ttl is very short for session.grace: {advice}"));
        }
        if self.grace < SAFE_GRACE {
            warnings.push(format!(
                "session.grace is below {}: browsers write cookies to disk every 30 s, so one that crashes may \
                 come back with cookies that count as stolen",
                humantime::format_duration(SAFE_GRACE)
            ));
        }
        if self.absolute_ttl < self.idle_ttl {
            let advice = "sessions end before they can be idle for that long";
            warnings.push(format!("session.absolute_ttl is shorter than session.idle_ttl: {advice}"));
        }
    }
}

/// For statements and purges that take their time.
const MARGIN: Duration = Duration::from_secs(60);

/// Half a minute to reach the disk, and a quarter for clocks.
const SAFE_GRACE: Duration = Duration::from_secs(45);
