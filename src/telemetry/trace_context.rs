//! W3C Trace Context: which trace a request belongs to, and what the upstream is told of it.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::ids;
use crate::http_headers::TRACEPARENT;
use crate::request_context::RequestId;

/// Our place in a trace.
///
/// A client's `traceparent` is continued, for it is no more than an id; one that can't be read is
/// replaced, and the trace begins here, with the request's id for its own. Either way the upstream's
/// parent is our span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// The trace.
    pub(crate) trace: u128,
    /// The span of whoever called us.
    pub(crate) parent: Option<u64>,
    /// Our own.
    pub(crate) span: u64,
    /// Whether somebody keeps it: the caller, or we.
    pub(crate) sampled: bool,
}

impl TraceContext {
    /// Of a request with these headers.
    ///
    /// A `tracestate` stays only beside a `traceparent` that could be read (section 3.3).
    pub(crate) fn extract(headers: &mut HeaderMap, id: RequestId) -> Self {
        match single_value(headers).and_then(parse) {
            Some((trace, parent, sampled)) => {
                Self { trace, parent: Some(parent), span: ids::span(), sampled }
            }
            None => {
                headers.remove(TRACESTATE);
                Self::new_root(id)
            }
        }
    }

    /// Of a request that says nothing of any trace.
    pub(crate) fn new_root(id: RequestId) -> Self {
        Self { trace: id.as_u128(), parent: None, span: ids::span(), sampled: false }
    }

    /// Tells the upstream.
    pub(crate) fn inject(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_bytes(&self.traceparent()) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// The trace's id in hexadecimal.
    pub(crate) fn trace_id(self) -> [u8; 32] {
        hexadecimal(self.trace)
    }

    fn traceparent(self) -> [u8; LENGTH] {
        let mut value = *b"00-................................-................-0.";
        value[TRACE].copy_from_slice(&self.trace_id());
        value[PARENT].copy_from_slice(&hexadecimal(self.span.into())[16..]);
        value[LENGTH - 1] = b'0' + u8::from(self.sampled);
        value
    }
}

/// The header's value; none if it is there twice.
fn single_value(headers: &HeaderMap) -> Option<&[u8]> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    let line = lines.next()?;
    lines.next().is_none().then_some(line.as_bytes())
}

/// The trace, the parent and the sampled flag (section 3.2). What a later version appends is passed
/// over, as section 4.3 asks.
fn parse(value: &[u8]) -> Option<(u128, u64, bool)> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let version = number(&known[..2])?;
    let whole = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !whole || [2, 35, 52].iter().any(|at| known[*at] != b'-') {
        return None;
    }
    let (trace, parent) = (number(&known[TRACE])?, number(&known[PARENT])?);
    let flags = number(&known[FLAGS])?;
    let parent = u64::try_from(parent).ok()?;
    (trace != 0 && parent != 0).then_some((trace, parent, flags & SAMPLED != 0))
}

/// Hexadecimal, in lower case alone.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// In lower case. By arithmetic, so that the compiler makes many digits at once.
fn hexadecimal(number: u128) -> [u8; 32] {
    let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(&number.to_be_bytes()) {
        (pair[0], pair[1]) = (digit(byte >> 4), digit(byte & 0xf));
    }
    digits
}

const LENGTH: usize = 55;
const TRACE: std::ops::Range<usize> = 3..35;
const PARENT: std::ops::Range<usize> = 36..52;
const FLAGS: std::ops::Range<usize> = 53..55;
const SAMPLED: u128 = 1;

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACEPARENT, HeaderValue::try_from(*line).unwrap());
        }
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        headers
    }

    fn passed_on(lines: &[&str]) -> (String, Option<String>) {
        let mut headers = headers(lines);
        TraceContext::extract(&mut headers, RequestId::from_u128(7)).inject(&mut headers);
        assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        (text(TRACEPARENT).unwrap(), text(TRACESTATE))
    }

    #[test]
    fn a_trace_goes_on_with_us_as_the_parent() {
        let longer = GOOD.replacen("00", "cc", 1) + "-what-the-future-brings";
        let unknown_flags = GOOD.replace("-01", "-ff");
        for line in [GOOD, &longer, &unknown_flags] {
            let (parent, state) = passed_on(&[line]);
            assert_eq!(parent[..36], GOOD[..36], "{line}");
            assert_ne!(parent[36..52], GOOD[36..52], "{line}");
            assert_eq!(&parent[52..], "-01", "{line}");
            assert_eq!(state.as_deref(), Some("vendor=1"));
            assert!(parse(parent.as_bytes()).is_some(), "{parent}");
        }
    }

    #[test]
    fn what_is_no_traceparent_is_replaced() {
        let bad = [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &format!("{GOOD}-x"),
            &format!("{GOOD}x"),
            &(GOOD.replacen("00", "01", 1) + "x"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("4736-", "473g-"),
            &GOOD.replace('-', "_"),
            &GOOD.replace("-01", "-0x"),
        ];
        let twice: &[&str] = &[GOOD, GOOD];
        for lines in bad.iter().map(std::slice::from_ref).chain([twice, &[]]) {
            let (parent, state) = passed_on(lines);
            let ours = "00-00000000000040008000000000000007-";
            assert_eq!(&parent[..36], ours, "{lines:?}");
            assert_eq!((&parent[52..], state), ("-00", None), "{lines:?}");
            assert!(parse(parent.as_bytes()).is_some(), "{parent}");
        }
    }
}
