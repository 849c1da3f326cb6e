//! The minimum time between two log lines about the same thing.

use std::time::Duration;

use tokio::time::Instant;

/// Returns `true` if the last line was logged a minute ago or more. The caller then logs one at `now`.
pub(crate) fn is_due(logged_at: Option<Instant>, now: Instant) -> bool {
    logged_at.is_none_or(|logged_at| now.saturating_duration_since(logged_at) >= LOG_INTERVAL)
}

const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_due_once_a_minute() {
        let logged_at = Instant::now();
        assert!(is_due(None, logged_at));
        for (seconds, expected) in [(0, false), (59, false), (60, true)] {
            assert_eq!(is_due(Some(logged_at), logged_at + Duration::from_secs(seconds)), expected);
        }
        assert!(!is_due(Some(logged_at + Duration::from_secs(61)), logged_at));
    }
}
