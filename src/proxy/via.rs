//! The `Via` header, and the loops it shows (RFC 9110, section 7.6.3).

use std::hash::{BuildHasher, Hasher, RandomState};

use http::header::{HeaderMap, VIA};
use http::{HeaderValue, Version};

use super::header_writer::HeaderWriter;

/// The name by which this process goes in `Via`: `sekisho-` and a random number of its own, so
/// that another gateway on the way is not taken for us.
#[derive(Clone, Debug)]
pub(super) struct Via {
    name: String,
    /// What is added for HTTP/1.0, 1.1 and 2.
    elements: [Option<HeaderValue>; 3],
}

impl Via {
    pub(super) fn new() -> Self {
        // Seeded by the system for each process; it need be unlikely, not secret.
        let instance = RandomState::new().build_hasher().finish();
        let name = format!("sekisho-{instance:016x}");
        let elements =
            ["1.0", "1.1", "2.0"].map(|version| HeaderValue::try_from(format!("{version} {name}")).ok());
        Self { name, elements }
    }

    /// Whether the message has passed through here already.
    pub(super) fn has_looped(&self, headers: &HeaderMap) -> bool {
        let elements =
            headers.get_all(VIA).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
        elements.into_iter().any(|element| received_by(element) == Some(self.name.as_bytes()))
    }

    /// Adds us, the last in the list, as having received the message in this version.
    pub(super) fn write_to(&self, version: Version, to: &mut impl HeaderWriter) {
        let [http10, http11, http2] = &self.elements;
        let element = match version {
            Version::HTTP_09 | Version::HTTP_10 => http10,
            Version::HTTP_2 => http2,
            _ => http11,
        };
        if let Some(element) = element {
            to.copy(&VIA, element);
        }
    }
}

fn received_by(element: &[u8]) -> Option<&[u8]> {
    element.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_know_ourselves_in_any_line() {
        let us = Via::new();
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("1.0 fred, 1.1 p.example.net (Apache/1.1)"));
        assert!(!us.has_looped(&headers));
        us.write_to(Version::HTTP_11, &mut headers);
        headers.append(VIA, HeaderValue::from_static("1.1 last"));
        assert!(us.has_looped(&headers));
        let joined = headers.get_all(VIA).iter().map(|line| line.to_str().unwrap());
        let joined = joined.collect::<Vec<_>>().join(" ,  ");
        headers.insert(VIA, joined.parse().unwrap());
        assert!(us.has_looped(&headers));
    }

    #[test]
    fn another_process_is_not_us() {
        let mut headers = HeaderMap::new();
        Via::new().write_to(Version::HTTP_10, &mut headers);
        assert!(headers[VIA].to_str().unwrap().starts_with("1.0 sekisho-"));
        assert!(!Via::new().has_looped(&headers));
    }
}
