//! The differences between the two clients, each with its reason.

use http::Method;

use super::clients::{BodyEnd, Difference, Http1ErrorKind, Outcome, Received};
use super::generator::{GeneratedResponse, Oddity};

/// A difference that is intended.
pub(super) struct Category {
    pub(super) name: &'static str,
    pub(super) reason: &'static str,
    /// Returns `true` if the category explains a difference.
    applies: fn(&Comparison<'_>) -> bool,
}

/// A difference with all that is known about it.
pub(super) struct Comparison<'c> {
    pub(super) difference: Difference,
    pub(super) response: &'c GeneratedResponse,
    pub(super) own: &'c Outcome,
    pub(super) of_hyper: &'c Outcome,
    /// True if a lenient hyper treats the head as the client does.
    pub(super) is_tolerated: bool,
}

impl Comparison<'_> {
    /// Returns the first category that explains the difference.
    pub(super) fn category(&self) -> Option<&'static Category> {
        CATEGORIES.iter().find(|category| (category.applies)(self))
    }

    /// The head is tolerated, and has this property.
    fn tolerates(&self, oddity: Oddity) -> bool {
        self.difference == Difference::Head && self.is_tolerated && self.response.has(oddity)
    }

    /// The client has rejected the head with this error, and the response has this property.
    fn rejects(&self, error: Http1ErrorKind, oddity: Oddity) -> bool {
        self.difference == Difference::Head
            && *self.own == Outcome::Rejected(Some(error))
            && self.response.has(oddity)
    }

    /// Both have received a head, for which the condition is true.
    fn received(&self, condition: impl FnOnce(&Received, &Received) -> bool) -> bool {
        self.own.received().zip(self.of_hyper.received()).is_some_and(|(own, other)| condition(own, other))
    }

    /// The bodies end in these ways, which may also change the other aspects of a body.
    fn ends(&self, own_end: BodyEnd, end_of_hyper: BodyEnd) -> bool {
        use Difference::{Body, End, Reuse, Trailers};
        matches!(self.difference, Body | End | Reuse | Trailers)
            && self.received(|own, other| own.end == own_end && other.end == end_of_hyper)
    }

    /// The fields differ in `Content-Length` only.
    fn differs_in_length_only(&self) -> bool {
        let others = |received: &Received| {
            let fields = received.fields.iter().filter(|(name, _)| name != "content-length");
            fields.cloned().collect::<Vec<_>>()
        };
        self.difference == Difference::Fields && self.received(|own, other| others(own) == others(other))
    }

    /// The connection can be reused by hyper only.
    fn closes(&self) -> bool {
        self.difference == Difference::Reuse && self.received(|own, _| !own.is_reusable)
    }

    /// The response that hyper has received ends with its head (RFC 9112, section 6.3).
    fn is_bodiless(&self) -> bool {
        let is_bodiless_status = |received: &Received| matches!(received.status.as_u16(), 101 | 204 | 304);
        self.response.method == Method::HEAD || self.of_hyper.received().is_some_and(is_bodiless_status)
    }
}

pub(super) const CATEGORIES: [Category; 18] = [
    Category {
        name: "whitespace before a colon",
        reason: "A proxy removes it from responses (RFC 9112, section 5.1). hyper does so on request.",
        applies: |comparison| comparison.tolerates(Oddity::SpaceBeforeColon),
    },
    Category {
        name: "invalid field name",
        reason: "The field is dropped, as by nginx. hyper does so on request.",
        applies: |comparison| comparison.tolerates(Oddity::InvalidName),
    },
    Category {
        name: "more than 100 fields",
        reason: "The limit is 256. hyper's is 100 by default.",
        applies: |comparison| comparison.tolerates(Oddity::ManyFields),
    },
    Category {
        name: "head of more than 64 KiB",
        reason: "The limit is a choice of the recipient (RFC 9110, section 5.4). hyper's is about 400 KiB.",
        applies: |comparison| comparison.rejects(Http1ErrorKind::TooLarge, Oddity::LargeHead),
    },
    Category {
        name: "other transfer coding",
        reason: "Only `chunked` is decoded, and no other coding may be forwarded undecoded (RFC 9112, section 6.1). hyper \
                 leaves them to its user.",
        applies: |comparison| comparison.rejects(Http1ErrorKind::Coding, Oddity::OtherCoding),
    },
    Category {
        name: "invalid length of a response without body",
        reason: "It would be forwarded, so it is an error (RFC 9112, section 6.3, rule 5). hyper does not read it.",
        applies: |comparison| {
            comparison.rejects(Http1ErrorKind::Length, Oddity::InvalidLength) && comparison.is_bodiless()
        },
    },
    Category {
        name: "reason phrase that is not ASCII",
        reason: "It is forwarded (RFC 9112, section 4). hyper's is empty.",
        applies: |comparison| {
            comparison.difference == Difference::Reason
                && comparison.response.has(Oddity::ObsoleteReason)
                && comparison.received(|own, other| other.reason.is_empty() && own.reason.contains("\\x"))
        },
    },
    Category {
        name: "spaces after the reason phrase",
        reason: "They are removed: the phrase has no meaning (RFC 9112, section 4). hyper keeps them.",
        applies: |comparison| {
            comparison.difference == Difference::Reason
                && comparison.response.has(Oddity::SpaceAfterReason)
                && comparison.received(|own, other| other.reason.starts_with(&own.reason))
        },
    },
    Category {
        name: "repeated or padded length",
        reason: "Equal numbers become one (RFC 9112, section 6.3, rule 5). hyper keeps the fields as they are.",
        applies: |comparison| {
            comparison.differs_in_length_only() && comparison.response.has(Oddity::UnusualLength)
        },
    },
    Category {
        name: "length beside a transfer coding",
        reason: "It is removed before the response is forwarded (RFC 9112, section 6.3, rule 3). hyper keeps it.",
        applies: |comparison| {
            comparison.differs_in_length_only() && comparison.response.has(Oddity::LengthBesideCoding)
        },
    },
    Category {
        name: "connection with both a length and a transfer coding",
        reason: "It is closed, because this may be an attempt at response splitting (RFC 9112, section 6.3, rule 3).",
        applies: |comparison| comparison.closes() && comparison.response.has(Oddity::LengthBesideCoding),
    },
    Category {
        name: "connection with a faulty transfer coding",
        reason: "It is closed, also after a response without body: the framing is faulty in HTTP/1.0 (RFC 9112, section \
                 6.1).",
        applies: |comparison| {
            let is_faulty =
                [Oddity::OtherCoding, Oddity::Http10].iter().any(|oddity| comparison.response.has(*oddity));
            comparison.closes() && is_faulty && comparison.is_bodiless()
        },
    },
    Category {
        name: "long line of a chunk's size",
        reason: "The limit is 4 KiB (RFC 9112, section 7.1.1). hyper's is 16 KiB for all extensions of a body.",
        applies: |comparison| {
            let is_failed = comparison.received(|own, _| own.end == BodyEnd::Failed);
            comparison.response.has(Oddity::LongChunkLine) && is_failed
        },
    },
    Category {
        name: "line feed in trailers",
        reason: "A chunked body has no bare line feeds (RFC 9112, section 7.1). hyper accepts them in trailers.",
        applies: |comparison| {
            comparison.response.has(Oddity::BareLineFeedInTrailers)
                && [BodyEnd::Complete, BodyEnd::Waiting]
                    .into_iter()
                    .any(|end_of_hyper| comparison.ends(BodyEnd::Failed, end_of_hyper))
        },
    },
    Category {
        name: "more than 100 trailers",
        reason: "The limit is 256. hyper's is 100 by default.",
        applies: |comparison| {
            comparison.response.has(Oddity::ManyTrailers)
                && comparison.ends(BodyEnd::Complete, BodyEnd::Failed)
        },
    },
    Category {
        name: "field name of a trailer",
        reason: "The same is tolerated as in heads. hyper rejects it.",
        applies: |comparison| {
            comparison.response.has(Oddity::OddTrailerName)
                && comparison.ends(BodyEnd::Complete, BodyEnd::Failed)
        },
    },
    Category {
        name: "`Connection` that is not ASCII",
        reason: "Its options are read all the same (RFC 9110, section 7.6.1). hyper ignores the field.",
        applies: |comparison| {
            comparison.difference == Difference::Reuse && comparison.response.has(Oddity::ObsoleteConnection)
        },
    },
    Category {
        name: "fault of an incomplete section",
        reason: "It can be rejected before its end. hyper waits for the empty line before it parses a head or trailers \
                 again, and the client for the end of a head whose fields it may drop, and of a line with the size of a \
                 chunk.",
        applies: |comparison| {
            let is_waiting = match (comparison.own, comparison.of_hyper) {
                (Outcome::Rejected(_), Outcome::Waiting) => true,
                (Outcome::Waiting, Outcome::Rejected(_)) => comparison.is_tolerated,
                _ if comparison.ends(BodyEnd::Waiting, BodyEnd::Failed) => {
                    !comparison.response.bytes.ends_with(b"\n")
                }
                _ => comparison.ends(BodyEnd::Failed, BodyEnd::Waiting),
            };
            is_waiting && !comparison.response.closes
        },
    },
];
