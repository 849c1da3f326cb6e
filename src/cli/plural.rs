//! Numbers of things in messages.

/// Formats a number of things, whose name has a regular plural.
pub(super) fn counted(count: usize, name: &str) -> String {
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}
