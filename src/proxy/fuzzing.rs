//! Properties of request paths, of WebSocket frames and of cookies, and access to those of the HTTP/1.1 client.

use std::sync::OnceLock;

use http::Uri;
use http::header::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use url::Url;

use super::cookies::ReservedCookies;
use super::forwarded::{Forwarded, ForwardedPrefix};
use super::path;
use super::route_spec::RouteSpec;
use super::routes::{MatchedRoute, Routes};
pub use super::upstream::fuzzing::{check_chunked_framing, check_response_head};
use super::websocket::{self, FrameTracker};
use crate::fuzzing::divisions::divisions;

/// Removes the lines of reserved cookies from the `Set-Cookie` fields of a response.
pub(crate) fn remove_set_cookies(reserved: &ReservedCookies, headers: &mut HeaderMap) {
    reserved.remove_from_response(headers);
}

/// Returns the headers that tell an upstream about the client.
pub(crate) fn written_headers(forwarded: &Forwarded, prefix: Option<&ForwardedPrefix>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    forwarded.write_to(&mut headers);
    ForwardedPrefix::write(prefix, None, &mut headers);
    headers
}

/// Checks the path and the route of a request whose target is `input`.
///
/// # Panics
///
/// If a property does not hold.
pub fn check_request_path(input: &[u8]) {
    let Ok(target) = str::from_utf8(input) else { return };
    check_normal_form(target);
    for prefix in ["/", "/api", "/api/v2", "/a/b", "/caf%C3%A9", "/A%2fb"] {
        check_prefix(prefix, target);
    }
    if let Ok(uri) = Uri::try_from(target) {
        check_route(&uri);
    }
}

/// An accepted path has one reading: no reader leaves a segment, and normalizing it again changes nothing.
fn check_normal_form(path: &str) {
    let normalized = path::normalize(path);
    assert_eq!(path::normalize(&percent_encode(&normalized, NOT_PLAIN).to_string()), normalized);
    let is_accepted = path::check(path, true).is_ok();
    assert!(is_accepted || path::check(path, false).is_err());
    if path::is_plain(path) {
        assert_eq!(path::check_request_path(path, false), Ok(()));
    }
    if !is_accepted {
        return;
    }
    assert!(!path.contains("//") && path.starts_with('/'));
    if !path::may_be_respelled(path) {
        assert_eq!(normalized, path.strip_suffix('/').unwrap_or(path).as_bytes());
    }
    for segment in normalized.split(|byte| *byte == b'/') {
        assert!(!matches!(segment, b"." | b".."), "{}", segment.escape_ascii());
        assert!(!segment.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'));
    }
    // Browsers and many applications parse URLs as the crate `url` does.
    if !path.contains(['?', '#', ' ']) {
        let url = Url::parse(&format!("http://a.example{path}")).map(|url| url.path().matches('/').count());
        assert_eq!(url, Ok(path.matches('/').count()));
    }
}

/// A path is below a prefix if its normalized form is.
fn check_prefix(prefix: &str, path: &str) {
    let prefix = path::normalize(prefix);
    let is_expected = is_below(&prefix, &path::normalize(path));
    let length = path::prefix_length(&prefix, path);
    assert_eq!(length.is_some(), is_expected);
    if let Some(length) = length {
        assert!(path.is_char_boundary(length));
        assert_eq!(path::normalize(&path[..length]), prefix);
    }
    if path::is_plain(path) {
        assert_eq!(path::is_plain_below(&prefix, path), is_expected);
    }
}

/// Returns `true` for a path that is the prefix or below it. Both are normalized.
fn is_below(prefix: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The route is the one with the longest prefix, in every spelling of the path, and the upstream gets the same path.
fn check_route(uri: &Uri) {
    let path = uri.path();
    let routes = ROUTES.get_or_init(build_routes);
    let Ok(found) = routes.find(uri) else {
        assert!(path::check_request_path(path, false).is_err());
        return;
    };
    let route = found.unwrap_or_else(|| panic!("no route"));
    let normalized = path::normalize(path);
    let matching = ROUTE_PATHS.iter().filter(|prefix| is_below(&path::normalize(prefix), &normalized));
    let longest = matching.max_by_key(|prefix| prefix.len());
    assert_eq!(Some(&route.path()), longest);
    if let Ok(respelled) = Uri::try_from(respell(path)) {
        let found = routes.find(&respelled).unwrap_or_else(|error| panic!("{respelled}: {error}"));
        assert_eq!(found.as_ref().map(MatchedRoute::path), Some(route.path()), "{respelled}");
    }
    check_target(uri, &route);
}

fn check_target(uri: &Uri, matched: &MatchedRoute) {
    let route = matched.route();
    let Ok(target) = route.target(uri) else {
        assert!(route.spec.strip_prefix);
        return;
    };
    assert_eq!(target.query(), uri.query());
    assert_eq!(path::check_request_path(target.path(), route.spec.encoded_slash), Ok(()));
    if route.spec.strip_prefix {
        assert!(uri.path().ends_with(&target.path()[1..]));
        let joined = [path::normalize(&route.spec.path), path::normalize(target.path())].concat();
        assert_eq!(joined, path::normalize(uri.path()));
    } else {
        assert_eq!(target.path(), uri.path());
    }
}

/// Percent-encodes letters and digits, which leaves a valid path equivalent (RFC 3986, section 6.2.2.2).
fn respell(path: &str) -> String {
    let mut respelled = String::new();
    let mut left_of_escape = 0;
    for character in path.chars() {
        if character == '%' {
            left_of_escape = 3;
        }
        if left_of_escape == 0 && character.is_ascii_alphanumeric() {
            respelled.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            respelled.push(character);
            left_of_escape = left_of_escape.max(1) - 1;
        }
    }
    respelled
}

fn build_routes() -> Routes {
    let specs = ROUTE_PATHS.map(|path| {
        let spec = RouteSpec::new(path, ["http://127.0.0.1:1"]);
        let strip_prefix = !matches!(path, "/" | "/api/v2");
        RouteSpec { encoded_slash: path.starts_with("/api"), strip_prefix, ..spec }
    });
    Routes::new(specs).unwrap_or_else(|error| panic!("{error}"))
}

static ROUTES: OnceLock<Routes> = OnceLock::new();

const ROUTE_PATHS: [&str; 5] = ["/", "/a/b", "/api", "/api/v2", "/caf%C3%A9"];

/// All bytes that do not stand for themselves in a normalized path.
const NOT_PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/');

/// Checks that the frames of a WebSocket are tracked, with `input` as the bytes of one direction.
///
/// # Panics
///
/// If a property does not hold.
pub fn check_websocket_frames(input: &[u8]) {
    let frames = Frame::split(input);
    let tracked = Tracked::new(&[input]);
    let end = frames.last().map_or(0, |frame| frame.end);
    let expected = Tracked {
        at_boundary: end == input.len(),
        closed: frames.iter().any(|frame| frame.opcode == 8 && frame.end <= input.len()),
        has_data: frames.iter().any(|frame| frame.opcode < 8),
    };
    assert_eq!(tracked, expected);
    for pieces in divisions(input) {
        assert_eq!(Tracked::new(&pieces), tracked, "in pieces");
        check_end_of_frame(input, &frames, pieces.first().map_or(0, |piece| piece.len()));
    }
    let reason = String::from_utf8_lossy(input);
    for close in [websocket::close(websocket::SESSION_ENDED, &reason), websocket::masked_close(1001)] {
        let frames = Frame::split(&close);
        assert!(matches!(frames[..], [Frame { opcode: 8, end, .. }] if end == close.len()));
    }
}

/// A frame whose header is complete.
struct Frame {
    opcode: u8,
    /// Position of its end, which may lie after that of the input.
    end: usize,
}

impl Frame {
    /// Splits the bytes into frames (RFC 6455, section 5.2).
    fn split(bytes: &[u8]) -> Vec<Self> {
        let mut frames = Vec::new();
        let mut start = 0_usize;
        while let Some([first, second]) = bytes.get(start..start.saturating_add(2)) {
            let mut header = 2 + if second & 0x80 == 0 { 0 } else { 4 };
            let number = |length: usize| {
                let digits = bytes.get(start + 2..start + 2 + length)?;
                Some(digits.iter().fold(0_u64, |number, byte| number * 256 + u64::from(*byte)))
            };
            let payload = match second & 0x7f {
                126 => (2, number(2)),
                127 => (8, number(8)),
                length => (0, Some(u64::from(length))),
            };
            header += payload.0;
            let Some(payload) = payload.1.filter(|_| start + header <= bytes.len()) else { break };
            let end = usize::try_from(payload).unwrap_or(usize::MAX).saturating_add(start + header);
            frames.push(Self { opcode: first & 0x0f, end });
            start = end;
        }
        frames
    }
}

/// The state of a tracker after some bytes.
#[derive(Debug, PartialEq)]
struct Tracked {
    at_boundary: bool,
    closed: bool,
    has_data: bool,
}

impl Tracked {
    fn new(pieces: &[&[u8]]) -> Self {
        let mut tracker = FrameTracker::default();
        let mut has_data = false;
        for piece in pieces {
            has_data |= tracker.advance(piece);
        }
        Self { at_boundary: tracker.at_boundary(), closed: tracker.closed(), has_data }
    }
}

/// After `position` bytes, the rest of the frame is what a tunnel forwards before it sends a Close.
fn check_end_of_frame(input: &[u8], frames: &[Frame], position: usize) {
    let mut tracker = FrameTracker::default();
    let (before, after) = input.split_at(position);
    tracker.advance(before);
    let rest = tracker.rest_of_frame(after);
    let end = frames.iter().map(|frame| frame.end).find(|end| *end >= position);
    let is_at_boundary = position == 0 || end == Some(position);
    let expected =
        if is_at_boundary { position } else { end.map_or(input.len(), |end| end.min(input.len())) };
    assert_eq!(position + rest, expected);
    tracker.advance(&after[..rest]);
    let is_complete = is_at_boundary || end.is_some_and(|end| end <= input.len());
    assert_eq!(tracker.at_boundary(), is_complete);
}
