//! [`TokensBuilder`], and the bounds of its settings.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::build_error::{BuildError, OpenTokensError};
use super::jwt::{AccessTokens, JwtSettings};
use super::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use super::memory::MemoryStore;
use super::open::OpenedStore;
use super::purge::RetentionPolicy;
use super::session_settings::SessionSettings;
use super::store::{PersistentStore, SessionStore};
use super::token::Tokens;
use crate::clock::{Clock, ContinuedClock, SystemClock};
use crate::duration_format::format_duration;

/// Builder of [`Tokens`], with the defaults of the server.
///
/// Without [`store`](Self::store) and a key, sessions and key are kept in memory: all sessions are lost when the process
/// exits.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use sekisho::{MemoryStore, Tokens};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = "PF3V1b1zYcXcJ8mS0dWqkN6tRhLxGuEa4o7yKZ2QwTs".to_owned();
/// let tokens = Tokens::builder()
///     // At least 32 bytes: `openssl rand -base64 32`.
///     .secret(secret)
///     .store(Arc::new(MemoryStore::default()))
///     .access_ttl(Duration::from_secs(5 * 60))
///     .idle_ttl(Duration::from_secs(7 * 86_400))
///     .build()?;
/// assert_eq!(tokens.settings().access_ttl, Duration::from_secs(300));
///
/// let error = Tokens::builder().grace(Duration::from_secs(600)).build().expect_err("more than half");
/// assert_eq!(error.to_string(), "grace: expected at most 7m 30s, half of access_ttl (15m)");
/// let error = Tokens::builder().secret("too short").build().expect_err("too short");
/// assert!(error.to_string().contains("shorter than 32 bytes"));
/// // `main` prints errors in this form.
/// assert!(format!("{error:?}").contains("generate one with `openssl rand -base64 32`"));
/// # Ok(())
/// # }
/// ```
#[must_use = "`build` creates the tokens"]
pub struct TokensBuilder {
    keys: KeySource,
    store: Option<Arc<dyn SessionStore>>,
    settings: SessionSettings,
    issuer: String,
    audience: String,
    leeway: Duration,
    keep_ended: Duration,
    keep_audit: Option<Duration>,
    clock: Option<Arc<dyn Clock>>,
}

/// The source of the keys. Errors are reported by [`TokensBuilder::build`].
enum KeySource {
    Generated,
    Material(KeyMaterial),
    Secret(SecretString),
    Shared(Arc<SharedKeys>),
}

impl Tokens {
    /// Returns a builder with default settings, a new HS256 key and a store in memory.
    pub fn builder() -> TokensBuilder {
        let JwtSettings { issuer, audience, leeway, .. } = JwtSettings::default();
        TokensBuilder {
            keys: KeySource::Generated,
            store: None,
            settings: SessionSettings::default(),
            issuer,
            audience,
            leeway,
            keep_ended: KEEP_ENDED,
            keep_audit: Some(KEEP_AUDIT),
            clock: None,
        }
    }

    /// Creates tokens for examples and tests, with default settings and a new HS256 key.
    ///
    /// Sessions and key are kept in memory: all sessions are lost when the process exits.
    ///
    /// # Errors
    ///
    /// If the operating system returns no random bytes.
    pub fn in_memory() -> Result<Self, BuildError> {
        Self::builder().build()
    }
}

impl TokensBuilder {
    /// Signs with one key.
    pub fn signing_key(mut self, key: KeyMaterial) -> Self {
        self.keys = KeySource::Material(key);
        self
    }

    /// Signs with HS256, with a key derived from this secret of at least 32 random bytes (`openssl rand -base64 32`).
    ///
    /// Two applications need two secrets, issuers or audiences: otherwise each accepts the access tokens of the other.
    ///
    /// Secrets that repeat themselves, placeholders and published ones are refused, in tests too.
    pub fn secret(mut self, secret: impl Into<SecretString>) -> Self {
        self.keys = KeySource::Secret(secret.into());
        self
    }

    /// Signs with the newest of these keys, and verifies with all of them. They can be replaced while the process runs.
    pub fn keys(mut self, keys: Arc<SharedKeys>) -> Self {
        self.keys = KeySource::Shared(keys);
        self
    }

    /// Keeps the sessions in `store`.
    pub fn store(mut self, store: Arc<dyn SessionStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets all lifetimes and limits of sessions.
    pub fn settings(mut self, settings: SessionSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the [lifetime of access tokens](SessionSettings::access_ttl): 2 seconds or more, 15 minutes by default.
    pub fn access_ttl(mut self, lifetime: Duration) -> Self {
        self.settings.access_ttl = lifetime;
        self
    }

    /// Sets the [idle lifetime](SessionSettings::idle_ttl): at least that of access tokens, 14 days by default.
    pub fn idle_ttl(mut self, lifetime: Duration) -> Self {
        self.settings.idle_ttl = lifetime;
        self
    }

    /// Sets the [maximum lifetime of a session](SessionSettings::absolute_ttl): at least that of access tokens, 90 days by
    /// default.
    pub fn absolute_ttl(mut self, lifetime: Duration) -> Self {
        self.settings.absolute_ttl = lifetime;
        self
    }

    /// Sets the [grace period](SessionSettings::grace): from a second to half of the lifetime of access tokens, a minute
    /// by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Sets the [maximum number of sessions of a user](SessionSettings::max_per_user): from 1 to 1,000,000, 50 by default.
    pub fn max_per_user(mut self, max: u32) -> Self {
        self.settings.max_per_user = max;
        self
    }

    /// Sets the issuer (`iss`) of access tokens: 1 to 255 visible ASCII characters, `sekisho` by default.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = issuer.into();
        self
    }

    /// Sets the audience (`aud`) of access tokens: 1 to 255 visible ASCII characters, `sekisho` by default.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Sets the tolerance for clocks that differ: less than the lifetime of access tokens, 5 seconds by default.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Sets how long [`open`](Self::open) keeps a session after its end: longer than its access tokens are valid, 30 days
    /// by default.
    pub fn keep_ended(mut self, time: Duration) -> Self {
        self.keep_ended = time;
        self
    }

    /// Sets how long [`open`](Self::open) keeps entries of the audit log: up to ten years, a year by default. `None`
    /// keeps all.
    pub fn keep_audit(mut self, time: Option<Duration>) -> Self {
        self.keep_audit = time;
        self
    }

    /// Sets the clock, for tests: see [`ManualClock`](crate::clock::ManualClock).
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Creates the tokens. They may be used on any runtime. Store calls run on the runtime that is current here, if there
    /// is one.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that names the setting and its limit, or the error of the key.
    pub fn build(self) -> Result<Tokens, BuildError> {
        self.check()?;
        let clock = self.clock.clone().unwrap_or_else(|| Arc::new(ContinuedClock::new(SystemClock.now())));
        let store = self.store.clone().unwrap_or_else(|| Arc::new(MemoryStore::default()));
        self.tokens(store, clock)
    }

    /// Creates tokens over a store that outlives the process, and that other processes may share.
    ///
    /// It starts the clock of the sessions where the last process stopped it, or beside those that run, which takes up
    /// to 2.5 seconds. It compares issuer, audience and keys with theirs. Tasks on the current runtime, which must run
    /// for as long as the tokens are used, learn of sessions that others end, and delete old rows, until
    /// [`Tokens::stop`], or until the last clone is dropped. It uses `store` instead of that of [`store`](Self::store),
    /// whose migrations must have been applied.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use sekisho::{MemoryStore, SessionRequest, Tokens};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let secret = "PF3V1b1zYcXcJ8mS0dWqkN6tRhLxGuEa4o7yKZ2QwTs".to_owned();
    /// // In a program: a `SqliteStore` or a `PostgresStore`.
    /// let store = MemoryStore::default();
    /// let tokens = Tokens::builder().secret(secret).open(Arc::new(store)).await?;
    /// tokens.sign_in(SessionRequest::new(42_i64, "ann@example.org")).await?;
    /// // Before the program exits:
    /// tokens.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an [`OpenTokensError`] that names what differs from the other processes, or the setting and its limit. A
    /// key is required.
    pub async fn open(self, store: Arc<dyn PersistentStore>) -> Result<Tokens, OpenTokensError> {
        self.check()?;
        self.check_retention()?;
        if matches!(self.keys, KeySource::Generated) {
            return Err(BuildError::setting("secret", EXPECTED_KEY).into());
        }
        let grace = self.settings.grace;
        let retention = RetentionPolicy { ended: self.keep_ended, audit: self.keep_audit, grace };
        let opened = OpenedStore::open(store.clone(), self.clock.clone(), grace).await?;
        let tokens = self.tokens(store, opened.clock())?;
        opened.start(&tokens, retention).await?;
        Ok(tokens)
    }

    fn tokens(self, store: Arc<dyn SessionStore>, clock: Arc<dyn Clock>) -> Result<Tokens, BuildError> {
        let access = AccessTokens::new(JwtSettings {
            issuer: self.issuer,
            audience: self.audience,
            leeway: self.leeway,
            future_iat: self.settings.grace / 4,
            access_ttl: self.settings.access_ttl,
            ..JwtSettings::default()
        });
        let keys = self.keys.load(&*clock)?;
        Ok(Tokens::new(store, keys, access, self.settings, clock))
    }

    fn check(&self) -> Result<(), BuildError> {
        self.settings.check()?;
        for (setting, name) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if !is_name(name) {
                return Err(BuildError::setting(setting, EXPECTED_NAME));
            }
        }
        let access_ttl = self.settings.access_ttl;
        if self.leeway >= access_ttl {
            let limit = format!("expected less than access_ttl ({})", format_duration(access_ttl));
            return Err(BuildError::setting("leeway", limit));
        }
        Ok(())
    }

    fn check_retention(&self) -> Result<(), BuildError> {
        let SessionSettings { access_ttl, grace, .. } = self.settings;
        let min_ended = min_keep_ended(access_ttl, self.leeway, grace);
        if self.keep_ended < min_ended {
            let min = format_duration(min_ended);
            let sum = "the sum of access_ttl, leeway, twice grace and a minute";
            return Err(BuildError::setting("keep_ended", format!("expected at least {min}, {sum}")));
        }
        check_max("keep_ended", self.keep_ended)?;
        self.keep_audit.map_or(Ok(()), |time| check_max("keep_audit", time))
    }
}

impl KeySource {
    fn load(self, clock: &dyn Clock) -> Result<Arc<SharedKeys>, BuildError> {
        let ring = match self {
            Self::Generated => KeyRing::generate(Algorithm::Hs256, clock.now())?,
            Self::Material(key) => KeyRing::from_material(&key)?,
            Self::Secret(secret) => {
                KeyRing::from_material(&KeyMaterial::from_secret(&secret).map_err(BuildError::Secret)?)?
            }
            Self::Shared(keys) => return Ok(keys),
        };
        Ok(Arc::new(SharedKeys::new(ring)))
    }
}

impl SessionSettings {
    /// Checks the settings, as the server checks those of its configuration.
    fn check(&self) -> Result<(), BuildError> {
        let Self { access_ttl, idle_ttl, absolute_ttl, grace, max_per_user, refuse_on_store_loss: _ } = *self;
        let access = format_duration(access_ttl);
        let too_short = |setting, min| {
            BuildError::setting(setting, format!("expected at least {}", format_duration(min)))
        };
        if access_ttl < MIN_ACCESS_TTL {
            return Err(too_short("access_ttl", MIN_ACCESS_TTL));
        }
        if grace < MIN_GRACE {
            return Err(too_short("grace", MIN_GRACE));
        }
        if grace > max_grace(access_ttl) {
            let half = format_duration(max_grace(access_ttl));
            let limit = format!("expected at most {half}, half of access_ttl ({access})");
            return Err(BuildError::setting("grace", limit));
        }
        for (setting, lifetime) in [("idle_ttl", idle_ttl), ("absolute_ttl", absolute_ttl)] {
            if lifetime < access_ttl {
                let limit = format!("expected at least {access}, the value of access_ttl");
                return Err(BuildError::setting(setting, limit));
            }
            check_max(setting, lifetime)?;
        }
        if !SESSIONS_PER_USER.contains(&max_per_user) {
            let (min, max) = SESSIONS_PER_USER.into_inner();
            return Err(BuildError::setting("max_per_user", format!("expected {min} to {max}")));
        }
        Ok(())
    }
}

fn check_max(setting: &'static str, time: Duration) -> Result<(), BuildError> {
    if time <= MAX_LIFETIME {
        return Ok(());
    }
    Err(BuildError::setting(setting, format!("expected at most {}", format_duration(MAX_LIFETIME))))
}

impl fmt::Debug for TokensBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokensBuilder")
            .field("settings", &self.settings)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("leeway", &self.leeway)
            .finish_non_exhaustive()
    }
}

/// Returns the minimum time for which sessions are kept after their end.
///
/// The row of an ended session must outlive its access tokens: processes learn from it which tokens to reject.
pub(crate) fn min_keep_ended(access_ttl: Duration, leeway: Duration, grace: Duration) -> Duration {
    access_ttl + leeway + 2 * grace + Duration::from_secs(60)
}

/// Returns the maximum grace period.
pub(crate) fn max_grace(access_ttl: Duration) -> Duration {
    access_ttl / 2
}

/// Returns `true` if `text` is a valid issuer or audience.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The key of a store that outlives the process.
const EXPECTED_KEY: &str =
    "expected a secret or keys: sessions in a store are lost without the key that signed them";

/// Time for which sessions are kept after their end.
const KEEP_ENDED: Duration = Duration::from_secs(30 * 86_400);

/// Time for which audit entries are kept.
const KEEP_AUDIT: Duration = Duration::from_secs(365 * 86_400);

/// The form of an issuer or audience.
pub(crate) const EXPECTED_NAME: &str = "expected 1 to 255 visible ASCII characters";

/// Minimum lifetime of access tokens: twice the minimum of the grace period, which is at most half of the lifetime.
pub(crate) const MIN_ACCESS_TTL: Duration = Duration::from_secs(2);

/// Minimum grace period.
const MIN_GRACE: Duration = Duration::from_secs(1);

/// Maximum of lifetimes: ten years.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(3_652 * 24 * 60 * 60 + 12 * 60 * 60);

/// Maximum number of sessions of a user.
pub(crate) const SESSIONS_PER_USER: RangeInclusive<u32> = 1..=1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn error(builder: TokensBuilder) -> String {
        builder.build().expect_err("a setting outside of its limits").to_string()
    }

    #[test]
    fn settings_outside_of_their_limits_are_named_with_the_limit() {
        let seconds = Duration::from_secs;
        let new = Tokens::builder;
        for (builder, message) in [
            (new().access_ttl(seconds(1)), "access_ttl: expected at least 2s"),
            (new().grace(Duration::from_millis(999)), "grace: expected at least 1s"),
            (new().grace(seconds(451)), "grace: expected at most 7m 30s, half of access_ttl (15m)"),
            (new().idle_ttl(seconds(899)), "idle_ttl: expected at least 15m, the value of access_ttl"),
            (new().absolute_ttl(seconds(1)), "absolute_ttl: expected at least 15m, the value of access_ttl"),
            (new().absolute_ttl(Duration::MAX), "absolute_ttl: expected at most 3652d 12h"),
            (new().max_per_user(0), "max_per_user: expected 1 to 1000000"),
            (new().issuer(""), "issuer: expected 1 to 255 visible ASCII characters"),
            (new().audience("a b"), "audience: expected 1 to 255 visible ASCII characters"),
            (new().leeway(seconds(900)), "leeway: expected less than access_ttl (15m)"),
            (
                new().secret("0123456789012345678901234567890"),
                "the secret is shorter than 32 bytes: generate one with `openssl rand -base64 32`",
            ),
        ] {
            assert_eq!(error(builder), message);
        }
    }

    #[test]
    fn extreme_settings_are_accepted() {
        let second = Duration::from_secs(1);
        let builder = Tokens::builder().access_ttl(2 * second).grace(second).leeway(Duration::ZERO);
        let builder = builder.idle_ttl(2 * second).absolute_ttl(2 * second).max_per_user(1);
        assert!(builder.build().is_ok());
    }

    #[test]
    fn debug_shows_no_secret() {
        let builder = Tokens::builder().secret("PF3V1b1zYcXcJ8mS0dWqkN6tRhLxGuEa4o7yKZ2QwTs");
        assert!(!format!("{builder:?}").contains("PF3V"));
    }
}
