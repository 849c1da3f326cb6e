//! The `Via` header and loop detection (RFC 9110, section 7.6.3).

use std::hash::{BuildHasher, Hasher, RandomState};

use http::header::{HeaderMap, VIA};
use http::{HeaderValue, Version};

use super::header_writer::HeaderWriter;
use crate::http_headers;

/// Pseudonym of this process in `Via`: `sekisho-` and a random number.
///
/// The number distinguishes this process from other Sekisho gateways on the path.
#[derive(Clone, Debug)]
pub(super) struct Via {
    pseudonym: String,
    /// The list elements for HTTP/1.0, 1.1 and 2.
    elements: [Option<HeaderValue>; 3],
}

impl Via {
    /// Chooses a random pseudonym.
    pub(super) fn new() -> Self {
        // `RandomState` is seeded by the system. The number must be unique, not secret.
        let instance = RandomState::new().build_hasher().finish();
        let pseudonym = format!("sekisho-{instance:016x}");
        let elements =
            ["1.0", "1.1", "2.0"].map(|version| HeaderValue::try_from(format!("{version} {pseudonym}")).ok());
        Self { pseudonym, elements }
    }

    /// Returns `true` if this process has already forwarded the message.
    pub(super) fn has_looped(&self, headers: &HeaderMap) -> bool {
        http_headers::list_elements(headers, &VIA)
            .any(|element| received_by(element) == Some(self.pseudonym.as_bytes()))
    }

    /// Appends this process, as the recipient of a message in this HTTP version.
    pub(super) fn write_to(&self, version: Version, writer: &mut impl HeaderWriter) {
        let [http10, http11, http2] = &self.elements;
        let element = match version {
            Version::HTTP_09 | Version::HTTP_10 => http10,
            Version::HTTP_2 => http2,
            _ => http11,
        };
        if let Some(element) = element {
            writer.copy(&VIA, element);
        }
    }
}

/// Returns the received-by part of a list element.
fn received_by(element: &[u8]) -> Option<&[u8]> {
    element.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_pseudonym_is_found_in_any_line() {
        let via = Via::new();
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("1.0 fred, 1.1 p.example.net (Apache/1.1)"));
        assert!(!via.has_looped(&headers));
        via.write_to(Version::HTTP_11, &mut headers);
        headers.append(VIA, HeaderValue::from_static("1.1 last"));
        assert!(via.has_looped(&headers));
        let joined = headers.get_all(VIA).iter().map(|line| line.to_str().unwrap());
        let joined = joined.collect::<Vec<_>>().join(" ,  ");
        headers.insert(VIA, joined.parse().unwrap());
        assert!(via.has_looped(&headers));
    }

    #[test]
    fn other_processes_are_not_a_loop() {
        let mut headers = HeaderMap::new();
        Via::new().write_to(Version::HTTP_10, &mut headers);
        assert!(headers[VIA].to_str().unwrap().starts_with("1.0 sekisho-"));
        assert!(!Via::new().has_looped(&headers));
    }
}
