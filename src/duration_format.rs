//! Durations in messages and log lines.

use std::time::Duration;

/// Formats a duration in the form of the configuration: `90d`, `7m 30s`, `250ms`, `0s`.
///
/// Days are the largest unit, because months and years are not of one length. Times below a millisecond are left out,
/// unless the whole duration is shorter.
pub(crate) fn format_duration(duration: Duration) -> String {
    if !duration.is_zero() && duration < Duration::from_millis(1) {
        return format!("{}us", duration.as_nanos().div_ceil(1_000));
    }
    let mut rest = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, millis) in UNITS {
        if rest >= millis {
            parts.push(format!("{}{unit}", rest / millis));
            rest %= millis;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// Formats a duration that may be negative, likewise.
pub(crate) fn format_signed(duration: time::Duration) -> String {
    let sign = if duration.is_negative() { "-" } else { "" };
    format!("{sign}{}", format_duration(duration.unsigned_abs()))
}

const UNITS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

#[cfg(test)]
mod tests {
    use super::*;

    /// D8: months, years and nanoseconds in messages.
    #[test]
    fn durations_have_the_units_of_the_configuration() {
        let seconds = Duration::from_secs;
        for (duration, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1us"),
            (Duration::from_micros(1_500), "1ms"),
            (Duration::from_millis(250), "250ms"),
            (seconds(60), "1m"),
            (seconds(450), "7m 30s"),
            (seconds(86_400), "1d"),
            (seconds(90 * 86_400), "90d"),
            (seconds(3_650 * 86_400 + 3_600), "3650d 1h"),
        ] {
            assert_eq!(format_duration(duration), text);
        }
        assert_eq!(format_signed(time::Duration::milliseconds(-1_250)), "-1s 250ms");
        assert_eq!(format_signed(time::Duration::ZERO), "0s");
    }
}
