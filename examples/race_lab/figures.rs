//! Percentiles and aligned tables, for the reports of load tests.

use std::time::Duration;

/// Returns the smallest time that is not exceeded by a `share` of `sorted`, or `None` if there are no times.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}

/// Returns the lines as an aligned Markdown table. The first line is its head.
pub(crate) fn table(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (nth, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        text.push_str(&format!("|{}\n", cells.collect::<String>()));
        if nth == 0 {
            let rule = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2)));
            text.push_str(&format!("|{}\n", rule.collect::<String>()));
        }
    }
    text
}
