//! Field names in their usual case.
//!
//! Names are case-insensitive (RFC 9110, section 5.1), and HTTP/2 sends them in lower case. Some applications compare
//! them letter by letter all the same.

/// Writes the field names of a section in their usual case, such as `Content-Length`.
///
/// The section consists of a first line, which is left as it is, and field lines whose names are in lower case.
pub(super) fn capitalize_names(section: &mut [u8]) {
    for line in section.split_mut(|byte| *byte == b'\n').skip(1) {
        if let Some(end) = memchr::memchr(b':', line) {
            capitalize(&mut line[..end]);
        }
    }
}

fn capitalize(name: &mut [u8]) {
    if let Some(usual) = find(&NAMES, name) {
        name.copy_from_slice(usual.as_bytes());
        return;
    }
    for word in name.split_mut(|byte| *byte == b'-') {
        match (find(&WORDS, word), word.first_mut()) {
            (Some(usual), _) => word.copy_from_slice(usual.as_bytes()),
            (None, Some(initial)) => initial.make_ascii_uppercase(),
            (None, None) => {}
        }
    }
}

fn find(spellings: &[&'static str], text: &[u8]) -> Option<&'static str> {
    spellings.iter().find(|spelling| spelling.as_bytes().eq_ignore_ascii_case(text)).copied()
}

/// Names of which a word is spelled differently in other names.
const NAMES: [&str; 2] = ["Last-Event-ID", "X-XSRF-TOKEN"];

/// Words with other capitals than the first letter, as clients and standards write them.
const WORDS: [&str; 31] = [
    "CDN",
    "CF",
    "CH",
    "CSP",
    "CSRF",
    "CSRFToken",
    "CT",
    "DAV",
    "DNS",
    "DNT",
    "DPR",
    "ECT",
    "ETag",
    "GPC",
    "HTTP",
    "HTTP2",
    "IM",
    "IP",
    "MD5",
    "MIME",
    "NEL",
    "P3P",
    "RTT",
    "SOAPAction",
    "TE",
    "UA",
    "WebKit",
    "WebSocket",
    "WWW",
    "XSRF",
    "XSS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_usual_case() {
        for usual in [
            "Accept",
            "Accept-CH",
            "CF-Connecting-IP",
            "Content-Length",
            "Content-MD5",
            "DNT",
            "ETag",
            "Forwarded",
            "If-None-Match",
            "Last-Event-ID",
            "Proxy-Authorization",
            "SOAPAction",
            "Sec-CH-UA-Mobile",
            "Sec-Fetch-Site",
            "Sec-WebSocket-Key",
            "TE",
            "Transfer-Encoding",
            "WWW-Authenticate",
            "X-CSRFToken",
            "X-Forwarded-For",
            "X-HTTP-Method-Override",
            "X-Real-IP",
            "X-UA-Compatible",
            "X-XSRF-TOKEN",
            "X-XSS-Protection",
            "X--Odd-",
            "X_underscored-Name",
        ] {
            let section =
                |name: &str, host: &str| format!("GET /te:st HTTP/1.1\r\n{name}: a:b\r\n{host}: x\r\n\r\n");
            let mut bytes = section(&usual.to_lowercase(), "host").into_bytes();
            capitalize_names(&mut bytes);
            assert_eq!(String::from_utf8(bytes).expect("text"), section(usual, "Host"));
        }
    }
}
