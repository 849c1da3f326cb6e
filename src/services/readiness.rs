//! Reasons for which a replica is not ready, although it serves requests.
//!
//! Background tasks and the stores report them. `/readyz` returns the first one with 503, and the log has one
//! line a minute for each.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::log_interval;

/// The reasons. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The present problems, and those of the past.
    problems: Mutex<BTreeMap<Problem, State>>,
    reported: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_present: bool,
    /// True if the present problem has been logged.
    is_logged: bool,
    logged_at: Option<Instant>,
}

/// A reason for which a replica is not ready. The most specific one is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// The path of the SQLite database leads to another file, or to none.
    DatabaseReplaced,
    /// A signing key differs from the one that the database knows under its number.
    KeyMismatch,
    /// The last write to the database failed.
    WritesFail,
}

impl Readiness {
    /// Reports a problem until it is [resolved](Self::resolve). Logs it at most once a minute.
    pub fn report(&self, problem: Problem, error: &(dyn Error + 'static)) {
        let now = Instant::now();
        let mut problems = self.0.problems.lock();
        let state = problems.entry(problem).or_default();
        state.is_present = true;
        // Also if the problem was resolved in the meantime, so that one that comes and goes fills no log.
        let is_due = log_interval::is_due(state.logged_at, now);
        if is_due {
            state.is_logged = true;
            state.logged_at = Some(now);
        }
        drop(problems);
        if is_due {
            tracing::error!(error, "not ready: {problem}");
        }
        self.0.reported.notify_waiters();
    }

    /// Withdraws a problem.
    pub fn resolve(&self, problem: Problem) {
        let mut problems = self.0.problems.lock();
        let Some(state) = problems.get_mut(&problem) else { return };
        state.is_present = false;
        let was_logged = std::mem::take(&mut state.is_logged);
        drop(problems);
        if was_logged {
            tracing::info!("resolved: {problem}");
        }
    }

    /// Returns the most specific of the present problems.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        self.0.problems.lock().iter().find(|(_, state)| state.is_present).map(|(problem, _)| *problem)
    }

    /// Waits until a problem is present.
    pub async fn reported(&self, problem: Problem) {
        loop {
            let reported = self.0.reported.notified();
            if self.0.problems.lock().get(&problem).is_some_and(|state| state.is_present) {
                return;
            }
            reported.await;
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DatabaseReplaced => "database file was replaced or removed",
            Self::KeyMismatch => "signing key differs from the recorded one",
            Self::WritesFail => "database writes fail",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn problem_is_present_until_it_is_resolved() {
        let readiness = Readiness::default();
        assert_eq!(readiness.problem(), None);
        let error = std::io::Error::other("disk full");
        for problem in [Problem::WritesFail, Problem::DatabaseReplaced] {
            readiness.report(problem, &error);
            readiness.reported(problem).await;
        }
        assert_eq!(readiness.problem(), Some(Problem::DatabaseReplaced));
        readiness.resolve(Problem::DatabaseReplaced);
        assert_eq!(readiness.problem(), Some(Problem::WritesFail));
        readiness.resolve(Problem::WritesFail);
        assert_eq!(readiness.problem(), None);
    }
}
