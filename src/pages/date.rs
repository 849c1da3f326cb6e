//! Dates and times in the form that a language uses.

use time::{OffsetDateTime, UtcOffset};

use super::catalogue::{Catalogue, fill_in};

/// Formats a time in UTC with the texts `date.pattern` and `date.months`.
pub(super) fn format_time(catalogue: &Catalogue, time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    let months = catalogue.text("date.months");
    let month = months.split_whitespace().nth(usize::from(u8::from(time.month())) - 1);
    fill_in(catalogue.text("date.pattern"), |name| {
        Some(match name {
            "year" => time.year().to_string(),
            "month" => month?.to_owned(),
            "day" => time.day().to_string(),
            "hour" => format!("{:02}", time.hour()),
            "minute" => format!("{:02}", time.minute()),
            _ => return None,
        })
    })
}
