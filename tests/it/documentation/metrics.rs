//! The list of metrics in `docs/observability.md`.

use sekisho::telemetry::metrics::METRICS;

use super::generated;

#[test]
fn observability_page_lists_every_metric() {
    let rows = METRICS.iter().map(|metric| format!("| `{}` | {} |\n", metric.name, metric.help));
    let text = format!("\n| metric | |\n|---|---|\n{}\n", rows.collect::<String>());
    generated::check("docs/observability.md", &text);
}
