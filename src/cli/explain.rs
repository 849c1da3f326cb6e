//! `sekisho session explain`: why a session is over, in words that help whoever must answer for it.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;

use super::error::CliError;
use super::output::{self, TableRow};
use super::session::{SessionRow, failed, parse_id};
use crate::backend::db::Stores;
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock};
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::{EndReason, Session, SessionId};
use crate::session_event::SessionEvent;

/// Arguments of `sekisho session explain`.
#[derive(Args, Clone, Debug)]
pub struct SessionExplain {
    /// The session, by the id that `sekisho session list` and the log show
    #[arg(value_name = "ID", value_parser = parse_id)]
    pub id: SessionId,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints all that is known of a session.
pub(super) async fn explain(
    stores: &Stores,
    SessionExplain { id, json }: SessionExplain,
) -> Result<(), CliError> {
    let session = stores.sessions.find_session(id).await.map_err(failed)?;
    let audit = stores.sessions.session_audit(id, MOST_ENTRIES).await.map_err(failed)?;
    let story = SessionReport::new(session.as_ref(), &audit, SystemClock.now());
    let story = story.ok_or_else(|| {
        let advice = "is it another database's, or was it purged (session.keep_ended, audit.keep)?";
        CliError::Refused(format!("there is no session {id}, and nothing is known of one: {advice}"))
    })?;
    if json {
        return output::print_json(&story);
    }
    output::print_text(&story.render(id))?;
    output::print_list(&story.audit, false)
}

/// What is known of a session.
#[derive(Debug, Serialize)]
struct SessionReport {
    /// Its row; `null` once that was purged.
    session: Option<SessionRow>,
    /// How often it was renewed.
    renewals: Option<u64>,
    /// How often an answer had to be given again.
    replays: Option<u64>,
    /// What became of it, as a sentence or two.
    explanation: String,
    /// What to do about it, if anything.
    advice: Option<String>,
    /// What the audit has of it, the earliest first.
    audit: Vec<AuditRow>,
}

impl SessionReport {
    /// `None` if nothing is known at all.
    fn new(session: Option<&Session>, audit: &[AuditEntry], now: OffsetDateTime) -> Option<Self> {
        if session.is_none() && audit.is_empty() {
            return None;
        }
        let ended = audit.iter().find_map(|entry| match entry.event {
            AuditEvent::Ended(reason) => Some((reason, entry)),
            _ => None,
        });
        let over = session.and_then(|session| session.termination(now));
        let reason = over.and_then(|(event, _)| EndReason::from_word(event.as_str()));
        let reason = reason.or(ended.map(|(reason, _)| reason));
        Some(Self {
            session: session.map(|session| SessionRow::new(session, now)),
            renewals: session.map(|session| session.rotations),
            replays: session.map(|session| session.replays),
            explanation: match (reason, session) {
                (Some(reason), _) => explain_end(reason, ended.map(|(_, entry)| entry)),
                (None, Some(session)) => explain_active(session),
                (None, None) => {
                    "Its row is not in this database: tokens of it came, and nothing else is known."
                        .to_owned()
                }
            },
            advice: reason.and_then(|reason| advice(reason, session)),
            audit: audit.iter().rev().map(AuditRow::new).collect(),
        })
    }

    fn render(&self, id: SessionId) -> String {
        let mut text = format!("session    {id}\n");
        if let Some(session) = &self.session {
            let seen = agent(session.address.as_deref(), session.user_agent.as_deref());
            let _ = write!(
                text,
                "user       {} ({})\nsigned in  {}\nrenewed    {}, last {} from {seen}\nrepeated   {}\nstate      {}\n",
                session.email,
                session.kind,
                utc(session.created_at),
                times(self.renewals.unwrap_or_default()),
                utc(session.last_seen_at),
                times(self.replays.unwrap_or_default()),
                state_in_words(session),
            );
        }
        let _ = write!(text, "\n{}\n", self.explanation);
        if let Some(advice) = &self.advice {
            let _ = writeln!(text, "{advice}");
        }
        text.push('\n');
        text
    }
}

/// What a session's state means, for people.
pub(super) fn describe_event(event: SessionEvent) -> &'static str {
    match event {
        SessionEvent::AbsoluteExpired => "at its longest lifetime",
        SessionEvent::Displaced => "too many sessions",
        SessionEvent::Exhausted => "renewed too often",
        SessionEvent::IdleExpired => "not used for too long",
        SessionEvent::LoggedOut => "signed out",
        SessionEvent::PasswordChanged => "password changed",
        SessionEvent::ReuseDetected => "two clients held it",
        SessionEvent::Revoked => "revoked",
        SessionEvent::RoleChanged => "role changed",
        SessionEvent::UserDeleted => "user deleted",
        SessionEvent::UserDisabled => "user disabled",
        other => other.as_str(),
    }
}

fn state_in_words(session: &SessionRow) -> String {
    match session.state {
        "live" => format!("live, until {} unless it is used", utc(session.expires_at)),
        state => format!("over since {} ({state})", utc(session.expires_at)),
    }
}

fn explain_active(session: &Session) -> String {
    format!("It lives. Each renewal puts its end off, but not beyond {}.", utc(session.absolute_expires_at))
}

/// Why it is over. The entry tells by whom, if it is still there.
fn explain_end(reason: EndReason, entry: Option<&AuditEntry>) -> String {
    let by = entry.map_or_else(|| "an unknown place".to_owned(), |entry| client(&entry.by));
    match reason {
        EndReason::AbsoluteExpired => {
            "It had lived for as long as a session may (session.absolute_ttl), however much it is used."
                .to_owned()
        }
        EndReason::Displaced => format!(
            "The user signed in again, from {by}, and had more sessions than session.max_per_user then: the oldest \
             ended."
        ),
        EndReason::Exhausted => "It had been renewed as often as a session can be.".to_owned(),
        EndReason::IdleExpired => {
            "Nobody used it for longer than an idle session lives (session.idle_ttl).".to_owned()
        }
        EndReason::LoggedOut => format!("The user signed out, or signed in anew in its place, from {by}."),
        EndReason::PasswordChanged => format!("The user's password was changed, from {by}."),
        EndReason::ReuseDetected => entry.map_or_else(|| TWO_CLIENTS.to_owned(), reuse),
        EndReason::Revoked => format!("It was revoked, from {by}."),
        EndReason::RoleChanged => format!("The user's role was changed, from {by}."),
        EndReason::UserDeleted => format!("The user was deleted, from {by}."),
        EndReason::UserDisabled => format!("The user was forbidden to sign in, from {by}."),
    }
}

/// How two clients showed. One of them is not the owner, or the owner has copied a browser's profile.
fn reuse(entry: &AuditEntry) -> String {
    let (by, holder) = (client(&entry.by), client(&entry.holder));
    let behind = entry.held.zip(entry.presented).map(|(held, presented)| held.saturating_sub(presented));
    let came = match behind {
        Some(0) => format!(
            "A second access token of the same renewal was in lasting use, from {by}, while the session had last been \
             renewed from {holder}"
        ),
        Some(behind) => format!(
            "A refresh token came from {by} that had been replaced {} before; the one in its place now had last been \
             asked for from {holder}",
            times(behind.into())
        ),
        None => format!("One was seen from {by}, the other from {holder}"),
    };
    format!("{TWO_CLIENTS} {came}. Which of them is the owner can't be told from here, so it ended for both.")
}

fn advice(reason: EndReason, session: Option<&Session>) -> Option<String> {
    if reason != EndReason::ReuseDetected {
        return None;
    }
    // For a shell, and users choose their addresses.
    let email = session.map_or("EMAIL".to_owned(), |session| session.email.replace('\'', r"'\''"));
    Some(format!(
        "Ask the user whether both are theirs, as after a browser's profile was copied or restored. If not, the cookies \
         were stolen: have the password changed (sekisho user passwd '{email}'), which ends all sessions."
    ))
}

fn client(client: &ClientInfo) -> String {
    let address = client.address.map(|address| address.to_string());
    agent(address.as_deref(), client.user_agent.as_deref())
}

fn agent(address: Option<&str>, user_agent: Option<&str>) -> String {
    match (address, user_agent) {
        (Some(address), Some(agent)) => format!("{address} ({agent})"),
        (Some(address), None) => address.to_owned(),
        (None, Some(agent)) => format!("({agent})"),
        (None, None) => "an unknown place".to_owned(),
    }
}

fn times(count: u64) -> String {
    match count {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        many => format!("{many} times"),
    }
}

fn utc(time: OffsetDateTime) -> String {
    format!("{} UTC", output::second(time))
}

/// An entry of the audit, as it is listed.
#[derive(Clone, Debug, Serialize)]
struct AuditRow {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    event: &'static str,
    presented: Option<u32>,
    held: Option<u32>,
    address: Option<String>,
    user_agent: Option<String>,
    holder_address: Option<String>,
    holder_user_agent: Option<String>,
    request_id: Option<String>,
}

impl AuditRow {
    fn new(entry: &AuditEntry) -> Self {
        Self {
            at: entry.at,
            event: entry.event.as_str(),
            presented: entry.presented,
            held: entry.held,
            address: entry.by.address.map(|address| address.to_string()),
            user_agent: entry.by.user_agent.clone(),
            holder_address: entry.holder.address.map(|address| address.to_string()),
            holder_user_agent: entry.holder.user_agent.clone(),
            request_id: entry.by.request_id.clone(),
        }
    }
}

impl TableRow for AuditRow {
    const HEAD: &'static [&'static str] = &["TIME (UTC)", "EVENT", "GENERATION", "REQUEST", "BY"];

    fn cells(&self) -> Vec<String> {
        let generation = match (self.presented, self.held) {
            (Some(presented), Some(held)) => format!("{presented} of {held}"),
            (one, other) => one.or(other).map(|number| number.to_string()).unwrap_or_default(),
        };
        vec![
            output::second(self.at),
            self.event.to_owned(),
            generation,
            self.request_id.clone().unwrap_or_default(),
            agent(self.address.as_deref(), self.user_agent.as_deref()),
        ]
    }
}

const TWO_CLIENTS: &str = "Two clients held this session's cookies.";

/// A session has a handful of them.
const MOST_ENTRIES: u32 = 1_000;

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho session list --ended --user ada@example.com
  sekisho session explain 0198c0de-0000-4000-8000-000000000000
  sekisho session explain 0198c0de-0000-4000-8000-000000000000 --json";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::identity::Roles;
    use crate::models::session::SessionKind;
    use crate::models::user::UserId;
    use crate::services::store::SessionTermination;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const DAY: Duration = Duration::from_secs(86_400);

    fn session() -> Session {
        Session {
            id: SessionId(Uuid::from_u128(1)),
            user_id: UserId(Uuid::from_u128(7)),
            kind: SessionKind::Browser,
            email: "taro@example.jp".to_owned(),
            roles: Roles::default(),
            generation: 42,
            key_number: 1,
            created_at: NOW - 3 * DAY,
            rotated_at: NOW - DAY,
            asked_by: None,
            settled_by: None,
            rotations: 41,
            replays: 1,
            idle_expires_at: NOW + 13 * DAY,
            absolute_expires_at: NOW + 87 * DAY,
            end: None,
            client: from("192.0.2.1", "Browser/1.0"),
        }
    }

    fn from(address: &str, agent: &str) -> ClientInfo {
        ClientInfo::new(Some(address.parse().expect("an address")), Some(agent))
    }

    /// The session, ended by this, and what the audit has of it.
    fn ended(reason: EndReason, by: ClientInfo, presented: Option<u32>) -> (Session, Vec<AuditEntry>) {
        let ending = SessionTermination {
            presented,
            ..SessionTermination::new(NOW - Duration::from_secs(60), reason, by)
        };
        let session = Session { end: Some(ending.end()), ..session() };
        let entry = ending.audit_entry(session.id, session.user_id, 42, session.client.clone());
        let login = AuditEntry::login(&session);
        (session, vec![entry, login])
    }

    fn told(session: Option<&Session>, audit: &[AuditEntry]) -> String {
        SessionReport::new(session, audit, NOW)
            .expect("something is known")
            .render(SessionId(Uuid::from_u128(1)))
    }

    #[test]
    fn a_live_session_tells_its_life() {
        assert_eq!(
            told(Some(&session()), &[]),
            "session    00000000-0000-0000-0000-000000000001\n\
             user       taro@example.jp (browser)\n\
             signed in  2026-02-26 12:00:00 UTC\n\
             renewed    41 times, last 2026-02-28 12:00:00 UTC from 192.0.2.1 (Browser/1.0)\n\
             repeated   once\n\
             state      live, until 2026-03-14 12:00:00 UTC unless it is used\n\
             \n\
             It lives. Each renewal puts its end off, but not beyond 2026-05-27 12:00:00 UTC.\n\n"
        );
    }

    #[test]
    fn reuse_names_both_sides_and_what_to_do() {
        let (session, audit) = ended(EndReason::ReuseDetected, from("203.0.113.9", "curl/8"), Some(40));
        let text = told(Some(&session), &audit);
        assert!(text.contains("over since 2026-03-01 11:59:00 UTC (reuse_detected)"), "{text}");
        assert!(text.contains("from 203.0.113.9 (curl/8) that had been replaced 2 times before"), "{text}");
        assert!(text.contains("from 192.0.2.1 (Browser/1.0). Which of them"), "{text}");
        assert!(text.contains("sekisho user passwd 'taro@example.jp'"), "{text}");

        let (session, audit) = ended(EndReason::ReuseDetected, from("203.0.113.9", "curl/8"), Some(42));
        let text = told(Some(&session), &audit);
        assert!(text.contains("A second access token of the same renewal"), "{text}");
    }

    #[test]
    fn every_reason_has_words_with_the_audit_and_without() {
        for reason in EndReason::ALL {
            let (session, audit) = ended(reason, from("203.0.113.9", "curl/8"), None);
            let rows = [(Some(&session), &audit[..]), (Some(&session), &[]), (None, &audit[..])];
            for (row, audit) in rows {
                let story = SessionReport::new(row, audit, NOW).expect("something is known");
                assert!(story.explanation.ends_with('.'), "{reason:?}: {}", story.explanation);
            }
            assert!(!describe_event(reason.event()).contains('_'), "{reason:?}");
        }
        assert!(SessionReport::new(None, &[], NOW).is_none());
    }

    #[test]
    fn a_session_that_nobody_has_ended_yet_may_have_expired() {
        let session = Session { idle_expires_at: NOW - DAY, ..session() };
        let text = told(Some(&session), &[]);
        assert!(text.contains("over since 2026-02-28 12:00:00 UTC (idle_expired)"), "{text}");
        assert!(text.contains("Nobody used it for longer"), "{text}");
    }
}
