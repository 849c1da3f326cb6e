//! Suggestions for misspelt names.

/// Returns the candidate nearest to `word` by Damerau-Levenshtein distance, if any is near enough.
///
/// The last segment of a dotted candidate is compared as well, so that a key in the wrong section is found.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let max_distance = (last_segment(word).chars().count() / 3).clamp(1, 4);
    let distances = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= max_distance).then_some(candidate)
}

fn distance(word: &str, candidate: &str) -> usize {
    if word.strip_prefix(candidate).is_some_and(|rest| rest.starts_with('.')) {
        return 0;
    }
    let whole = strsim::damerau_levenshtein(word, candidate);
    // A wrong section costs as much as one wrong letter.
    let last = strsim::damerau_levenshtein(last_segment(word), last_segment(candidate)) + 1;
    whole.min(last)
}

fn last_segment(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["server.listen", "admin.listen", "session.grace", "tokens.access_ttl"];

    #[test]
    fn nearest_finds_misspelt_names() {
        assert_eq!(nearest("server.lisen", NAMES), Some("server.listen"));
        assert_eq!(nearest("sever.listen", NAMES), Some("server.listen"));
        assert_eq!(nearest("listen", NAMES), Some("server.listen"));
        assert_eq!(nearest("session.access_ttl", NAMES), Some("tokens.access_ttl"));
        assert_eq!(nearest("session.acces_tll", NAMES), Some("tokens.access_ttl"));
        assert_eq!(nearest("server.colour", NAMES), None);
        assert_eq!(nearest("", NAMES), None);
    }
}
