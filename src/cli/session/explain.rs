//! `sekisho session explain`: the state of a session and the reason for its end.

use std::fmt::Write as _;

use serde::Serialize;
use time::OffsetDateTime;

use super::row::SessionRow;
use crate::backend::db::Stores;
use crate::cli::bootstrap;
use crate::cli::error::CliError;
use crate::cli::output::{self, TableRow};
use crate::clock::Clock;
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::{EndReason, Session, SessionId};
use crate::user_agent::DeviceName;

/// Prints the row and the audit entries of a session.
pub(super) async fn run(stores: &Stores, id: SessionId, json: bool) -> Result<(), CliError> {
    let session = stores.sessions.find_session(id).await?;
    let audit = stores.sessions.session_audit(id, MAX_AUDIT_ENTRIES).await?;
    let now = bootstrap::session_clock(stores).await?.now();
    let report = SessionReport::new(session.as_ref(), &audit, now);
    let report = report.ok_or_else(|| {
        let advice = "check database.url, and session.keep_ended and audit.keep, after which ended sessions are purged";
        CliError::Refused(format!("there is no session {id}: {advice}"))
    })?;
    if json {
        return output::print_json(&report);
    }
    output::print_text(&report.render(id))?;
    output::print_list(&report.audit, false)
}

/// The report of a session.
#[derive(Debug, Serialize)]
struct SessionReport {
    /// Its row; `null` after it was purged.
    session: Option<SessionRow>,
    /// Number of rotations.
    renewals: Option<u64>,
    /// Number of replays.
    replays: Option<u64>,
    /// The explanation of its state.
    explanation: String,
    /// The advice to the operator, if there is any.
    advice: Option<String>,
    /// Its audit entries, oldest first.
    audit: Vec<AuditRow>,
}

impl SessionReport {
    /// Returns `None` if there is neither a row nor an audit entry.
    fn new(session: Option<&Session>, audit: &[AuditEntry], now: OffsetDateTime) -> Option<Self> {
        if session.is_none() && audit.is_empty() {
            return None;
        }
        let ended = audit.iter().find_map(|entry| match entry.event {
            AuditEvent::Ended(reason) => Some((reason, entry)),
            _ => None,
        });
        let termination = session.and_then(|session| session.termination(now));
        let reason = termination.and_then(|(event, _)| EndReason::from_word(event.as_str()));
        let reason = reason.or(ended.map(|(reason, _)| reason));
        Some(Self {
            session: session.map(|session| SessionRow::new(session, now)),
            renewals: session.map(|session| session.rotations),
            replays: session.map(|session| session.replays),
            explanation: match (reason, session) {
                (Some(reason), _) => explain_end(reason, ended.map(|(_, entry)| entry)),
                (None, Some(session)) => explain_active(session),
                (None, None) => {
                    "This database has no row for it, only audit entries of requests with its tokens."
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
                "user       {} ({})\nsigned in  {}\nrotated    {}\nreplayed   {}\nstate      {}\n",
                session.email,
                session.kind,
                utc(session.created_at),
                rotations(self.renewals.unwrap_or_default(), session.last_seen_at, &seen),
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

/// Describes the rotations. The last client of a session without one is that of its sign-in.
fn rotations(count: u64, last_at: OffsetDateTime, seen: &str) -> String {
    match count {
        0 => format!("never; signed in from {seen}"),
        _ => format!("{}, last {} from {seen}", times(count), utc(last_at)),
    }
}

fn state_in_words(session: &SessionRow) -> String {
    match session.state {
        "live" => format!("live, until {} unless it is refreshed", utc(session.expires_at)),
        state => format!("ended {} ({state})", utc(session.expires_at)),
    }
}

fn explain_active(session: &Session) -> String {
    format!("Active. Each refresh extends it, at most until {}.", utc(session.absolute_expires_at))
}

/// Explains why a session ended. `entry` is the audit entry of its end, if it still exists.
fn explain_end(reason: EndReason, entry: Option<&AuditEntry>) -> String {
    let by = entry.map_or_else(|| "an unknown place".to_owned(), |entry| entry.by.to_string());
    match reason {
        EndReason::AbsoluteExpired => "It reached its maximum age (session.absolute_ttl).".to_owned(),
        EndReason::Displaced => format!(
            "The user signed in again, from {by}, and exceeded session.max_per_user, so the oldest session ended."
        ),
        EndReason::Exhausted => "It had used all generations of refresh tokens.".to_owned(),
        EndReason::IdleExpired => "It was idle for longer than session.idle_ttl.".to_owned(),
        EndReason::LoggedOut => {
            format!("The user signed out, or replaced it by signing in again, from {by}.")
        }
        EndReason::PasswordChanged => format!("The user's password was changed, from {by}."),
        EndReason::ReuseDetected => entry.map_or_else(|| TWO_CLIENTS.to_owned(), reuse),
        EndReason::Revoked => format!("It was revoked, from {by}."),
        EndReason::RoleChanged => format!("The user's role was changed, from {by}."),
        EndReason::UserDeleted => format!("The user was deleted, from {by}."),
        EndReason::UserDisabled => format!("The user was disabled, from {by}."),
    }
}

/// Describes how token reuse was detected. Either a cookie was stolen, or the user copied a browser profile.
fn reuse(entry: &AuditEntry) -> String {
    let (by, holder) = (&entry.by, &entry.holder);
    let behind = entry.held.zip(entry.presented).map(|(held, presented)| held.saturating_sub(presented));
    let evidence = match behind {
        Some(0) => format!(
            "A second access token of the same rotation had confirmed use, from {by}, while the last rotation was \
             requested from {holder}"
        ),
        Some(behind) => format!(
            "A refresh token that had been replaced {} was presented from {by}; its latest successor was \
             requested from {holder}",
            times(behind.into())
        ),
        None => format!("One was seen from {by}, the other from {holder}"),
    };
    format!("{TWO_CLIENTS} {evidence}. The owner cannot be determined, so the session ended for both.")
}

fn advice(reason: EndReason, session: Option<&Session>) -> Option<String> {
    if reason != EndReason::ReuseDetected {
        return None;
    }
    // Quoted for a shell, because users choose their addresses.
    let email = session.map_or("EMAIL".to_owned(), |session| session.email.replace('\'', r"'\''"));
    Some(format!(
        "Ask the user whether both clients are theirs, for instance a copied or restored browser profile. If not, the \
         cookies were stolen: change the password (sekisho user passwd '{email}'), which ends all sessions."
    ))
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

/// A row of the audit entries.
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
    const CUT: &'static [usize] = &[4];

    fn cells(&self) -> Vec<String> {
        let generation = match (self.presented, self.held) {
            (Some(presented), Some(held)) => format!("{presented} of {held}"),
            (presented, held) => presented.or(held).map(|number| number.to_string()).unwrap_or_default(),
        };
        let device =
            self.user_agent.as_deref().map(|agent| DeviceName::from_user_agent(Some(agent)).to_string());
        vec![
            output::second(self.at),
            self.event.to_owned(),
            generation,
            self.request_id.clone().unwrap_or_default(),
            agent(self.address.as_deref(), device.as_deref()),
        ]
    }
}

const TWO_CLIENTS: &str = "Two clients used the cookies of this session.";

/// A session usually has a few entries.
const MAX_AUDIT_ENTRIES: u32 = 1_000;

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
    use crate::client_info::ClientInfo;
    use crate::services::store::SessionTermination;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const DAY: Duration = Duration::from_secs(86_400);

    fn session() -> Session {
        Session {
            generation: 42,
            created_at: NOW - 3 * DAY,
            rotated_at: NOW - DAY,
            rotations: 41,
            replays: 1,
            idle_expires_at: NOW + 13 * DAY,
            absolute_expires_at: NOW + 87 * DAY,
            client: from("192.0.2.1", "Browser/1.0"),
            ..Session::example(NOW)
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
        let entry = ending.audit_entry(session.id, session.subject.clone(), 42, session.client.clone());
        let login = AuditEntry::login(&session);
        (session, vec![entry, login])
    }

    fn render(session: Option<&Session>, audit: &[AuditEntry]) -> String {
        SessionReport::new(session, audit, NOW)
            .expect("something is known")
            .render(SessionId(Uuid::from_u128(1)))
    }

    #[test]
    fn live_session_shows_its_lifetime() {
        assert_eq!(
            render(Some(&session()), &[]),
            "session    00000000-0000-0000-0000-000000000001\n\
             user       taro@example.jp (browser)\n\
             signed in  2026-02-26 12:00:00 UTC\n\
             rotated    41 times, last 2026-02-28 12:00:00 UTC from 192.0.2.1 (Browser/1.0)\n\
             replayed   once\n\
             state      live, until 2026-03-14 12:00:00 UTC unless it is refreshed\n\
             \n\
             Active. Each refresh extends it, at most until 2026-05-27 12:00:00 UTC.\n\n"
        );
    }

    /// D8: "never, last …" contradicted itself.
    #[test]
    fn session_without_a_rotation_has_no_last_one() {
        let session = Session { rotations: 0, ..session() };
        let text = render(Some(&session), &[]);
        assert!(text.contains("rotated    never; signed in from 192.0.2.1 (Browser/1.0)\n"), "{text}");
    }

    #[test]
    fn reuse_names_both_clients_and_the_remedy() {
        let (session, audit) = ended(EndReason::ReuseDetected, from("203.0.113.9", "curl/8"), Some(40));
        let text = render(Some(&session), &audit);
        assert!(text.contains("ended 2026-03-01 11:59:00 UTC (reuse_detected)"), "{text}");
        assert!(
            text.contains("that had been replaced 2 times was presented from 203.0.113.9 (curl/8)"),
            "{text}"
        );
        assert!(text.contains("from 192.0.2.1 (Browser/1.0). The owner"), "{text}");
        assert!(text.contains("sekisho user passwd 'taro@example.jp'"), "{text}");

        let (session, audit) = ended(EndReason::ReuseDetected, from("203.0.113.9", "curl/8"), Some(42));
        let text = render(Some(&session), &audit);
        assert!(text.contains("A second access token of the same rotation"), "{text}");
    }

    #[test]
    fn every_reason_has_an_explanation_with_and_without_audit() {
        for reason in EndReason::ALL {
            let (session, audit) = ended(reason, from("203.0.113.9", "curl/8"), None);
            let rows = [(Some(&session), &audit[..]), (Some(&session), &[]), (None, &audit[..])];
            for (row, audit) in rows {
                let report = SessionReport::new(row, audit, NOW).expect("something is known");
                assert!(report.explanation.ends_with('.'), "{reason:?}: {}", report.explanation);
            }
        }
        assert!(SessionReport::new(None, &[], NOW).is_none());
    }

    #[test]
    fn expired_session_without_recorded_end_is_explained() {
        let session = Session { idle_expires_at: NOW - DAY, ..session() };
        let text = render(Some(&session), &[]);
        assert!(text.contains("ended 2026-02-28 12:00:00 UTC (idle_expired)"), "{text}");
        assert!(text.contains("It was idle for longer than session.idle_ttl"), "{text}");
    }
}
