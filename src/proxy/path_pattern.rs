//! Recognition of patterns in the paths of routes, which are prefixes.
//!
//! Other proxies and frameworks have patterns. Here `/api/*` would match a literal `*` alone, so that a rule for it
//! protects nothing.

/// Returns the prefix to write instead of `path` if that looks like a pattern: a wildcard, a placeholder or a regular
/// expression. Percent-encoded characters stand for themselves.
#[must_use]
pub fn literal_prefix(path: &str) -> Option<String> {
    if !path.split('/').any(is_pattern) {
        return None;
    }
    let mut prefix = String::new();
    // Modifiers of nginx and anchors stand before the path, and a query after it.
    let path = path.trim_start_matches(['~', '=', '^', '*', ' ']);
    let path = path.split('?').next().unwrap_or_default();
    for segment in path.split('/').filter(|part| !part.is_empty()) {
        let is_last = is_pattern(segment);
        let literal = if is_last { segment.trim_end_matches(['*', '$', '?', '(']) } else { segment };
        if !literal.is_empty() && !is_pattern(literal) {
            prefix.push('/');
            prefix.push_str(literal);
        }
        if is_last {
            break;
        }
    }
    Some(if prefix.is_empty() { "/".to_owned() } else { prefix })
}

fn is_pattern(segment: &str) -> bool {
    let special = ['*', '?', '^', '$', '{', '}', '[', ']', '(', ')', '|', '<', '>', '\\'];
    segment.contains(special)
        || segment.contains(".+")
        || segment.starts_with(':')
        || matches!(segment, "..." | "+")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D1: patterns of other proxies and frameworks.
    #[test]
    fn patterns_are_recognised_with_the_prefix_to_write() {
        for (path, prefix) in [
            ("/api/*", "/api"),
            ("/api*", "/api"),
            ("/api/**", "/api"),
            ("*", "/"),
            ("/*", "/"),
            ("/users/:id", "/users"),
            ("/users/{id}/posts", "/users"),
            ("/users/<int:id>", "/users"),
            ("/files/*splat", "/files"),
            ("/files/{*path}", "/files"),
            ("^/api", "/api"),
            ("~ ^/api/", "/api"),
            ("/api$", "/api"),
            ("/api?", "/api"),
            ("/api?x=1", "/api"),
            ("/api/v[12]", "/api"),
            ("/api(/.*)?", "/api"),
            ("/api/(a|b)", "/api"),
            ("/a|/b", "/"),
            ("/api/.+", "/api"),
            ("/user/\\d+", "/user"),
            ("/api/...", "/api"),
            ("/api/+/x", "/api"),
        ] {
            assert_eq!(literal_prefix(path).as_deref(), Some(prefix), "{path}");
        }
        for path in
            ["/", "/api", "/a.b", "/~ann/@x", "/v1:batch", "/%2A", "/c++", "/a;b", "/a,b", "/.well-known"]
        {
            assert_eq!(literal_prefix(path), None, "{path}");
        }
    }
}
