//! Who is asking: the only words that layer, proxy and handlers share.

mod hang_up;
mod scope;

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::header::USER_AGENT;
use http::{Extensions, HeaderMap};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::hang_up::ResponseAbortHandle;
pub use self::scope::{RequestContext, RequestId, Scoped, with_current_context};
/// Part of an [`Identity`], so the layer can name it without knowing the rows.
pub use crate::models::session::SessionId;

/// The user and session that a valid access token speaks for.
///
/// The layer puts it into a request's extensions; handlers take it with
/// [`CurrentUser`](crate::layer::CurrentUser), the proxy turns it into identity headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's id, immutable and never used again (`sub`).
    pub subject: Arc<str>,
    /// The session the token belongs to (`sid`).
    pub session: SessionId,
    /// The user's address, in lower case.
    pub email: Arc<str>,
    /// What the user may do.
    pub roles: Roles,
    /// When the access token expires (`exp`). The session goes on after it.
    pub expires_at: OffsetDateTime,
}

/// A set of role names, kept as the comma-separated list in which proxies hand them on.
///
/// ```
/// use sekisho::identity::Roles;
///
/// let roles = Roles::new(["user", "editor"]).expect("legal names");
/// assert!(roles.contains("editor"));
/// assert_eq!(roles.as_str(), "user,editor");
/// assert!(Roles::new(["a,b"]).is_none());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(Arc<str>);

impl Roles {
    /// The roles of these names; `None` if a name is empty or holds anything but visible ASCII, a
    /// comma, a quote or a backslash (which JSON would escape).
    #[must_use]
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Option<Self> {
        let mut list = String::new();
        for name in names {
            push_role(&mut list, name.as_ref())?;
        }
        Some(Self(list.into()))
    }

    /// The roles in a comma-separated list, as [`as_str`](Self::as_str) gives it.
    #[must_use]
    pub fn from_list(list: &str) -> Option<Self> {
        if list.is_empty() {
            return Some(Self::default());
        }
        Self::new(list.split(','))
    }

    /// Whether `role` is among them.
    #[must_use]
    pub fn contains(&self, role: &str) -> bool {
        self.iter().any(|name| name == role)
    }

    /// The names, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').filter(|name| !name.is_empty())
    }

    /// The comma-separated list.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn push_role(list: &mut String, name: &str) -> Option<()> {
    let legal = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !br#",\""#.contains(&b));
    if !legal {
        return None;
    }
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(name);
    Some(())
}

impl Serialize for Roles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Roles;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of role names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Roles, A::Error> {
                let mut list = String::with_capacity(ORDINARY);
                while let Some(name) = names.next_element::<&str>()? {
                    push_role(&mut list, name).ok_or_else(|| serde::de::Error::custom("not a role name"))?;
                }
                Ok(Roles(list.into()))
            }
        }

        /// Room for a few names.
        const ORDINARY: usize = 64;

        deserializer.deserialize_seq(Names)
    }
}

/// Tells when a session ends, to those who keep a connection open in its name.
///
/// Closures of the same shape do so too.
pub trait SessionEndWatcher: Send + Sync + 'static {
    /// Waits for the session's end, anywhere, and says how it came about. One that has ended already
    /// is told of at once. Dropping the future ends the watch.
    ///
    /// The end may also be that the session can't be vouched for any more
    /// ([`StoreUnavailable`](SessionEvent::StoreUnavailable)), if so it is set up.
    fn watch(&self, session: SessionId) -> SessionEndFuture;
}

/// The answer to [`SessionEndWatcher::watch`].
pub type SessionEndFuture = Pin<Box<dyn Future<Output = SessionEvent> + Send>>;

impl<F> SessionEndWatcher for F
where
    F: Fn(SessionId) -> SessionEndFuture + Send + Sync + 'static,
{
    fn watch(&self, session: SessionId) -> SessionEndFuture {
        self(session)
    }
}

/// The address that a request really comes from.
///
/// An outer layer that knows which proxies to trust puts it into the request's extensions. Without it the
/// address of the [`RequestContext`] counts, and without that sessions have no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Where a request comes from, for the list of a user's sessions and the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The `User-Agent` header, cut to [`ClientInfo::USER_AGENT_MAX`] bytes.
    pub user_agent: Option<String>,
    /// Which of its requests this is, by the `X-Request-Id` that the log names too: for the audit. A
    /// session's row doesn't keep it.
    pub request_id: Option<String>,
}

impl ClientInfo {
    /// How much of a `User-Agent` is kept, in bytes.
    pub const USER_AGENT_MAX: usize = 256;

    /// The client at `address` that sent this `User-Agent`.
    #[must_use]
    pub fn new(address: Option<IpAddr>, user_agent: Option<&str>) -> Self {
        let user_agent = user_agent.map(|agent| {
            let end = agent.floor_char_boundary(Self::USER_AGENT_MAX);
            agent[..end].to_owned()
        });
        Self { address, user_agent, request_id: None }
    }

    /// The operator at the command line, by this command.
    #[must_use]
    pub fn command_line(command: &str) -> Self {
        Self::new(None, Some(&format!("command line: sekisho {command}")))
    }

    /// The client of a request with these extensions and headers.
    #[must_use]
    pub fn from_request_parts(extensions: &Extensions, headers: &HeaderMap) -> Self {
        let address = extensions.get::<ClientAddress>().map(|address| address.0);
        let address = address.or_else(|| RequestContext::with_current(RequestContext::client).flatten());
        let user_agent = headers.get(USER_AGENT).and_then(|agent| str::from_utf8(agent.as_bytes()).ok());
        let request_id = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
        let request_id = request_id.filter(|id| id.len() <= REQUEST_ID_MAX).map(str::to_owned);
        Self { request_id, ..Self::new(address, user_agent) }
    }
}

/// What the log calls a request by.
const X_REQUEST_ID: &str = "x-request-id";

/// How long an id may be to be kept, in bytes.
const REQUEST_ID_MAX: usize = 64;

/// What the session machinery did, or why it refused: one word for the answer's
/// `X-Session-Event`, the log field, the metric label and the audit row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEvent {
    /// Beyond its absolute lifetime.
    AbsoluteExpired,
    /// The database had lost its last writes; the token presented proved it, and was taken over.
    CaughtUp,
    /// Ended because the user had too many sessions.
    Displaced,
    /// Ended at the last generation that a refresh token can hold.
    Exhausted,
    /// Not renewed for too long.
    IdleExpired,
    /// Ended by the user.
    LoggedOut,
    /// A cookie or token that isn't one of ours, or came twice.
    Malformed,
    /// No usable token came with the request.
    Missing,
    /// Ended because the password was changed.
    PasswordChanged,
    /// The refresh token had been rotated already, which is not held against it.
    Replayed,
    /// A refresh token was presented that its owner has replaced: two clients hold the session.
    ReuseDetected,
    /// Ended by an operator.
    Revoked,
    /// Ended because the user's role was changed.
    RoleChanged,
    /// Renewed.
    Rotated,
    /// The store can't be asked; nothing was decided.
    StoreUnavailable,
    /// Signed with a key that we don't hold.
    UnknownKey,
    /// No such session in this database.
    UnknownSession,
    /// The user no longer exists.
    UserDeleted,
    /// The user may not sign in.
    UserDisabled,
}

impl SessionEvent {
    /// All of them, in the order of their words.
    pub const ALL: [Self; 19] = [
        Self::AbsoluteExpired,
        Self::CaughtUp,
        Self::Displaced,
        Self::Exhausted,
        Self::IdleExpired,
        Self::LoggedOut,
        Self::Malformed,
        Self::Missing,
        Self::PasswordChanged,
        Self::Replayed,
        Self::ReuseDetected,
        Self::Revoked,
        Self::RoleChanged,
        Self::Rotated,
        Self::StoreUnavailable,
        Self::UnknownKey,
        Self::UnknownSession,
        Self::UserDeleted,
        Self::UserDisabled,
    ];

    /// The event of this word.
    #[must_use]
    pub fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str().as_bytes() == word)
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AbsoluteExpired => "absolute_expired",
            Self::CaughtUp => "caught_up",
            Self::Displaced => "displaced",
            Self::Exhausted => "exhausted",
            Self::IdleExpired => "idle_expired",
            Self::LoggedOut => "logged_out",
            Self::Malformed => "malformed",
            Self::Missing => "missing",
            Self::PasswordChanged => "password_changed",
            Self::Replayed => "replayed",
            Self::ReuseDetected => "reuse_detected",
            Self::Revoked => "revoked",
            Self::RoleChanged => "role_changed",
            Self::Rotated => "rotated",
            Self::StoreUnavailable => "store_unavailable",
            Self::UnknownKey => "unknown_key",
            Self::UnknownSession => "unknown_session",
            Self::UserDeleted => "user_deleted",
            Self::UserDisabled => "user_disabled",
        }
    }
}

impl fmt::Display for SessionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_word() {
        for (nth, event) in SessionEvent::ALL.into_iter().enumerate() {
            assert_eq!(SessionEvent::parse(event.as_str().as_bytes()), Some(event));
            assert_eq!(event as usize, nth, "{event}");
        }
        assert_eq!(SessionEvent::ALL.last(), Some(&SessionEvent::UserDisabled), "none is left out");
        assert_eq!(SessionEvent::parse(b"rotatedd"), None);
    }
}
