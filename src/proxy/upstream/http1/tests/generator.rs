//! Responses of an upstream: valid, odd and invalid.

use fastrand::Rng;
use http::Method;

use crate::fuzzing::divisions::divide;

/// The bytes that an upstream sends in response to a request.
#[derive(Debug)]
pub(super) struct GeneratedResponse {
    pub(super) method: Method,
    pub(super) bytes: Vec<u8>,
    /// True if the upstream closes the connection after the last byte.
    pub(super) closes: bool,
    pub(super) oddities: Vec<Oddity>,
    /// Seed of the division into pieces.
    division: u64,
}

/// A property of a response that clients may treat in different ways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Oddity {
    /// Whitespace between a field name and its colon.
    SpaceBeforeColon,
    /// A field name that is no token.
    InvalidName,
    /// From 101 to 256 fields.
    ManyFields,
    /// A head of more than 64 KiB.
    LargeHead,
    /// A reason phrase that is not ASCII.
    ObsoleteReason,
    /// Spaces after the reason phrase.
    SpaceAfterReason,
    /// A transfer coding besides `chunked`, or more than one.
    OtherCoding,
    /// A `Content-Length` that is no number, or several different ones.
    InvalidLength,
    /// A valid `Content-Length` that is repeated or has leading zeros.
    UnusualLength,
    LengthBesideCoding,
    Http10,
    /// A line feed without carriage return in the trailers.
    BareLineFeedInTrailers,
    /// A line of a chunk's size that is longer than 4 KiB.
    LongChunkLine,
    /// From 101 to 256 trailers.
    ManyTrailers,
    /// A field name in the trailers that is no token, or whitespace after it.
    OddTrailerName,
    /// A `Connection` field that is not ASCII.
    ObsoleteConnection,
    /// A response 101 to a request that offers no upgrade.
    UnexpectedUpgrade,
}

impl GeneratedResponse {
    /// Returns the pieces in which the bytes are sent.
    pub(super) fn pieces(&self) -> Vec<&[u8]> {
        let mut random = Rng::with_seed(self.division);
        let max_length = *random.choice(&[1, 5, 50, 1_000, 50_000, 500_000]).unwrap_or(&1);
        // A large head is parsed anew with every piece.
        let large = if self.bytes.len() > 4_096 { self.bytes.len() / 3 } else { 0 };
        divide(&self.bytes, max_length.max(large), &mut random)
    }

    pub(super) fn has(&self, oddity: Oddity) -> bool {
        self.oddities.contains(&oddity)
    }
}

/// Generates the next response.
pub(super) fn generate(random: &mut Rng) -> GeneratedResponse {
    let method = if random.u8(0..8) == 0 { Method::HEAD } else { Method::GET };
    let mut generator = Generator { random, bytes: Vec::new(), oddities: Vec::new() };
    generator.push_interim_responses();
    generator.push_status_line();
    generator.push_fields();
    let framing = generator.push_framing();
    generator.push_connection();
    generator.push(b"\r\n");
    if method != Method::HEAD || generator.is_one_in(4) {
        generator.push_body(framing);
    }
    if generator.is_one_in(12) {
        generator.push_choice(&[b"\r\n", b"\n", b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"]);
    }
    let Generator { random, mut bytes, oddities } = generator;
    let closes = random.bool();
    if random.u8(0..10) == 0 {
        bytes.truncate(random.usize(0..=bytes.len()));
    }
    GeneratedResponse { method, bytes, closes, oddities, division: random.u64(..) }
}

struct Generator<'r> {
    random: &'r mut Rng,
    bytes: Vec<u8>,
    oddities: Vec<Oddity>,
}

/// The body that a head announces.
enum Framing {
    Chunked,
    Length(usize),
    UntilClose,
}

impl Generator<'_> {
    fn is_one_in(&mut self, number: usize) -> bool {
        self.random.usize(0..number) == 0
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn push_choice(&mut self, choices: &[&[u8]]) {
        let index = self.random.usize(0..choices.len());
        self.push(choices[index]);
    }

    fn push_odd(&mut self, oddity: Oddity, choices: &[&[u8]]) {
        self.oddities.push(oddity);
        self.push_choice(choices);
    }

    fn push_interim_responses(&mut self) {
        if !self.is_one_in(6) {
            return;
        }
        for _ in 0..self.random.usize(1..4) {
            self.push_choice(&[
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 100\r\nX: 1\r\n\r\n",
                b"HTTP/1.1 102 Processing\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.css>\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n",
                b"HTTP/1.1 199 Odd\r\nContent-Length: 5\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"HTTP/1.0 100 Continue\r\n\r\n",
                b"\r\nHTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 100 Continue\n\n",
            ]);
        }
    }

    fn push_status_line(&mut self) {
        match self.random.usize(0..40) {
            0..24 => self.push(b"HTTP/1.1 200 OK\r\n"),
            24..30 => self.push_choice(&[
                b"HTTP/1.1 204 No Content\r\n",
                b"HTTP/1.1 304 Not Modified\r\n",
                b"HTTP/1.1 404 Not Found\r\n",
                b"HTTP/1.1 500 Internal Server Error\r\n",
                b"HTTP/1.1 206 Partial Content\r\n",
                b"HTTP/1.1 205 Reset Content\r\n",
            ]),
            30..34 => {
                let lines: &[&[u8]] = &[b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0 304 Not Modified\r\n"];
                self.push_odd(Oddity::Http10, lines);
            }
            34..36 => self.push_choice(&[
                b"HTTP/1.1 200\r\n",
                b"HTTP/1.1 200 \r\n",
                b"HTTP/1.1 200 Fine by me\r\n",
                b"HTTP/1.1 200 a\tb\r\n",
                b"HTTP/1.1 299 Odd\r\n",
                b"HTTP/1.1 599\r\n",
                b"HTTP/1.1 999 Blocked\r\n",
                b"\r\nHTTP/1.1 200 OK\r\n",
                b"\r\n\n\r\nHTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 200 OK\n",
                b"HTTP/1.1 200  OK\r\n",
            ]),
            36 => {
                let lines: &[&[u8]] = &[b"HTTP/1.1 404 Non trouv\xc3\xa9\r\n", b"HTTP/1.1 200 \xff\r\n"];
                self.push_odd(Oddity::ObsoleteReason, lines);
            }
            37 => {
                let lines: &[&[u8]] = &[b"HTTP/1.1 200 OK \r\n", b"HTTP/1.1 200 Fine \t \r\n"];
                self.push_odd(Oddity::SpaceAfterReason, lines);
            }
            38 => {
                let lines: &[&[u8]] = &[b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n"];
                self.push_odd(Oddity::UnexpectedUpgrade, lines);
            }
            _ => self.push_choice(&[
                b"HTTP/1.1 20 OK\r\n",
                b"HTTP/1.1 2000 OK\r\n",
                b"HTTP/1.1 099 No\r\n",
                b"HTTP/1.1 000 No\r\n",
                b"HTTP/2.0 200 OK\r\n",
                b"HTTP/1.2 200 OK\r\n",
                b"HTTP/1.1  200 OK\r\n",
                b" HTTP/1.1 200 OK\r\n",
                b"http/1.1 200 OK\r\n",
                b"ICY 200 OK\r\n",
                b"HTTP/1.1 200 O\0K\r\n",
                b"HTTP/1.1 200 OK\rX: 1\r\n",
                b"HTTP/1.1\t200\tOK\r\n",
                b"HTTP/1.1 200 OK\r\r\n",
                b"HTTP/1.1 +20 OK\r\n",
                b"<html>\r\n",
            ]),
        }
    }

    fn push_fields(&mut self) {
        for _ in 0..self.random.usize(0..4) {
            self.push_choice(&[
                b"X-One: 1\r\n",
                b"x-one: 2\r\n",
                b"Set-Cookie: a=b; Path=/\r\n",
                b"Set-Cookie: c=d\r\n",
                b"ETag: \"x\"\r\n",
                b"Empty:\r\n",
                b"Blank: \t \r\n",
                b"Tight:value\r\n",
                b"Loose: \t value \t \r\n",
                b"Colons: a:b::c\r\n",
                b"Obsolete: \xff\xfe\r\n",
                b"!#$%&'*+-.^_`|~: token\r\n",
                b"Line: feed\n",
                b"Keep-Alive: timeout=5\r\n",
                b"Upgrade: h2c\r\n",
                b"Content_Length: 9\r\n",
                b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
            ]);
        }
        if self.is_one_in(8) {
            self.push_odd_field();
        }
    }

    fn push_odd_field(&mut self) {
        match self.random.usize(0..10) {
            0 | 1 => {
                let lines: &[&[u8]] =
                    &[b"X : 1\r\n", b"X\t: 1\r\n", b"X \t : 1\r\n", b"Content-Type : a\r\n"];
                self.push_odd(Oddity::SpaceBeforeColon, lines);
            }
            2 | 3 => {
                let lines: &[&[u8]] =
                    &[b"X(a): 1\r\n", b"[X]: 1\r\n", b"X\"a\": 1\r\n", b"X\xc3\xa9: 1\r\n", b"@: 1\r\n"];
                self.push_odd(Oddity::InvalidName, lines);
            }
            4 => {
                let number = *self.random.choice(&[90, 101, 200, 300]).unwrap_or(&0);
                if (101..257).contains(&number) {
                    self.oddities.push(Oddity::ManyFields);
                }
                (0..number).for_each(|number| self.push(format!("X-{number}: {number}\r\n").as_bytes()));
            }
            5 => {
                let length = *self.random.choice(&[1, 1, 4, 4, 60, 70]).unwrap_or(&0) * 1024;
                if length > 64 * 1024 {
                    self.oddities.push(Oddity::LargeHead);
                }
                self.push(&[b"Long: ", &*vec![b'x'; length], b"\r\n"].concat());
            }
            _ => self.push_choice(&[
                b" Folded: 1\r\n",
                b"X: 1\r\n folded\r\n",
                b"X: 1\r\n\tfolded\r\n",
                b"X: 1\r\n \r\n",
                b"X\r\n",
                b": 1\r\n",
                b" : 1\r\n",
                b"X y: 1\r\n",
                b"X: a\0b\r\n",
                b"X: a\x01b\r\n",
                b"X: a\x7fb\r\n",
                b"X: a\rb\r\n",
                b"X: a\r\r\n",
                b"X\0: 1\r\n",
                b"\rX: 1\r\n",
            ]),
        }
    }

    fn push_framing(&mut self) -> Framing {
        let length = match self.random.usize(0..50) {
            0..40 => self.random.usize(0..40),
            40..45 => 0,
            45..49 => self.random.usize(0..3_000),
            _ => self.random.usize(0..100_000),
        };
        match self.random.usize(0..30) {
            0..9 => self.push(format!("Content-Length: {length}\r\n").as_bytes()),
            9..15 => return self.push_chunked(),
            15..18 => return Framing::UntilClose,
            18 | 19 => self.push_unusual_length(length),
            20 => self.push_invalid_length(length),
            21 | 22 => {
                let announced = if self.random.bool() { length + 5 } else { length / 2 };
                self.push(format!("Content-Length: {announced}\r\n").as_bytes());
            }
            23..26 => return self.push_length_beside_coding(length),
            26 => {
                self.push_choice(&[b"Content-Length: 0\r\n", b"content-length:0\r\n"]);
                return Framing::Length(0);
            }
            _ => return self.push_other_coding(),
        }
        Framing::Length(length)
    }

    fn push_chunked(&mut self) -> Framing {
        self.push_choice(&[
            b"Transfer-Encoding: chunked\r\n",
            b"transfer-encoding:Chunked\r\n",
            b"TRANSFER-ENCODING: CHUNKED \t\r\n",
            b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n",
        ]);
        Framing::Chunked
    }

    fn push_unusual_length(&mut self, length: usize) {
        self.oddities.push(Oddity::UnusualLength);
        let lines = match self.random.usize(0..5) {
            0 => format!("Content-Length: 00{length}\r\n"),
            1 => format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
            2 => format!("Content-Length: {length}, {length}\r\n"),
            3 => format!("Content-Length: {length},{length} ,0{length}\r\n"),
            _ => format!("Content-Length: {length}\r\nContent-Length: 0{length}\r\n"),
        };
        self.push(lines.as_bytes());
    }

    fn push_invalid_length(&mut self, length: usize) {
        self.oddities.push(Oddity::InvalidLength);
        let other = length + 1;
        let lines = [
            format!("Content-Length: {length}\r\nContent-Length: {other}\r\n"),
            format!("Content-Length: {length}, {other}\r\n"),
            format!("Content-Length: {length},\r\n"),
            format!("Content-Length: ,{length}\r\n"),
            format!("Content-Length: +{length}\r\n"),
            format!("Content-Length: -{length}\r\n"),
            format!("Content-Length: 0x{length}\r\n"),
            format!("Content-Length: {length}.0\r\n"),
            format!("Content-Length: {length} {length}\r\n"),
            format!("Content-Length: \"{length}\"\r\n"),
            "Content-Length:\r\n".to_owned(),
            "Content-Length: \r\nContent-Length: 5\r\n".to_owned(),
            "Content-Length: 18446744073709551616\r\n".to_owned(),
            format!("Content-Length: {length}\u{b2}\r\n"),
        ];
        self.push_choice(&lines.each_ref().map(String::as_bytes));
    }

    fn push_length_beside_coding(&mut self, length: usize) -> Framing {
        self.oddities.push(Oddity::LengthBesideCoding);
        let length = format!("Content-Length: {length}\r\n");
        if self.random.bool() {
            self.push(length.as_bytes());
            return self.push_chunked();
        }
        self.push_chunked();
        self.push(length.as_bytes());
        Framing::Chunked
    }

    fn push_other_coding(&mut self) -> Framing {
        let lines: &[&[u8]] = &[
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked, chunked\r\n",
            b"Transfer-Encoding: chunked, gzip\r\n",
            b"Transfer-Encoding: chunked, identity\r\n",
            b"Transfer-Encoding: identity\r\n",
            b"Transfer-Encoding: xchunked\r\n",
            b"Transfer-Encoding: chunked;q=1\r\n",
            b"Transfer-Encoding: \"chunked\"\r\n",
            b"Transfer-Encoding: , chunked\r\n",
            b"Transfer-Encoding: chunked,\r\n",
            b"Transfer-Encoding:\r\n",
            b"Transfer-Encoding: \xffchunked\r\n",
        ];
        self.push_odd(Oddity::OtherCoding, lines);
        if self.random.bool() { Framing::Chunked } else { Framing::UntilClose }
    }

    fn push_connection(&mut self) {
        match self.random.usize(0..10) {
            0..5 => {}
            5..9 => self.push_choice(&[
                b"Connection: close\r\n",
                b"Connection: keep-alive\r\n",
                b"connection: Keep-Alive\r\n",
                b"Connection: keep-alive, Close\r\n",
                b"Connection: close\r\nConnection: keep-alive\r\n",
                b"Connection: keep-alive\r\nConnection: x ,close\r\n",
                b"Connection: X-One, close\r\n",
                b"Connection: X-One,,not a name\r\n",
                b"Connection: closed\r\n",
                b"Connection:\r\n",
            ]),
            _ => self.push_odd(
                Oddity::ObsoleteConnection,
                &[b"Connection: close, \xff\r\n", b"Connection: \xff, keep-alive\r\n"],
            ),
        }
    }

    fn push_body(&mut self, framing: Framing) {
        match framing {
            Framing::Chunked => self.push_chunks(),
            Framing::Length(length) => self.push_data(length),
            Framing::UntilClose => {
                let length = self.random.usize(0..60);
                self.push_data(length);
            }
        }
    }

    fn push_data(&mut self, length: usize) {
        let start = self.random.usize(0..DATA.len());
        let data = DATA.iter().copied().cycle().skip(start).take(length);
        self.bytes.extend(data);
    }

    fn push_chunks(&mut self) {
        for _ in 0..self.random.usize(0..4) {
            let length = self.random.usize(1..40);
            let length = if self.is_one_in(20) { length * 1_000 } else { length };
            if self.is_one_in(12) {
                self.push_odd_chunk(length);
                continue;
            }
            let size = match self.random.usize(0..4) {
                0 => format!("{length:X}\r\n"),
                1 => format!("{length:04x}\r\n"),
                2 => format!("{length:x};name=\"value\"\r\n"),
                _ => format!("{length:x}\r\n"),
            };
            self.push(size.as_bytes());
            self.push_data(length);
            self.push(b"\r\n");
        }
        if !self.is_one_in(20) {
            self.push_choice(&[
                b"0\r\n",
                b"0\r\n",
                b"0\r\n",
                b"000\r\n",
                b"0;last\r\n",
                b"0 \r\n",
                b"00000000000000000\r\n",
            ]);
            self.push_trailers();
        }
    }

    fn push_odd_chunk(&mut self, length: usize) {
        let size = match self.random.usize(0..8) {
            0 => format!("{length:x} \t ;a\r\n"),
            1 => format!("{length:x}  \r\n"),
            2 => format!("00000000000000000000{length:x}\r\n"),
            3 => format!("{length:x};{}\r\n", "x".repeat(1_000)),
            4 => {
                self.oddities.push(Oddity::LongChunkLine);
                format!("{length:x};{}\r\n", "x".repeat(5_000))
            }
            _ => return self.push_invalid_chunk(length),
        };
        self.push(size.as_bytes());
        self.push_data(length);
        self.push(b"\r\n");
    }

    fn push_invalid_chunk(&mut self, length: usize) {
        let sizes = [
            format!("{length:x}\n"),
            format!("{length:x}\r"),
            format!("{length:x} x\r\n"),
            format!("{length:x};a\n"),
            format!("{length:x};\ra\r\n"),
            format!("{length:x}\u{c}\r\n"),
            format!("{length:x}\u{b};a\r\n"),
            format!(" {length:x}\r\n"),
            format!("-{length:x}\r\n"),
            format!("+{length:x}\r\n"),
            format!("0x{length:x}\r\n"),
            format!("1000000000000000{length:x}\r\n"),
            "\r\n".to_owned(),
            ";a\r\n".to_owned(),
            "g\r\n".to_owned(),
            format!("{length:x}\r\n"),
        ];
        self.push_choice(&sizes.each_ref().map(String::as_bytes));
        self.push_data(length);
        self.push_choice(&[b"\r\n", b"\n", b"", b"x\r\n", b"\r\r\n"]);
    }

    fn push_trailers(&mut self) {
        if self.is_one_in(4) {
            for _ in 0..self.random.usize(1..4) {
                self.push_choice(&[b"X-Sum: 7\r\n", b"x-sum:8\r\n", b"Obsolete: \xff\r\n", b"Empty:\r\n"]);
            }
        }
        if self.is_one_in(10) {
            self.push_odd_trailer();
        }
        if !self.is_one_in(30) {
            self.push(b"\r\n");
        }
    }

    fn push_odd_trailer(&mut self) {
        match self.random.usize(0..8) {
            0 | 5 => self.push_odd(Oddity::BareLineFeedInTrailers, &[b"X: 1\n", b"\n", b"X: 1\r\nY: 2\n"]),
            1 | 2 => {
                self.push_odd(Oddity::OddTrailerName, &[b"X : 1\r\n", b"X(a): 1\r\n", b"X\xc3\xa9: 1\r\n"])
            }
            3 => {
                let number = *self.random.choice(&[90, 101, 200, 300]).unwrap_or(&0);
                if (101..257).contains(&number) {
                    self.oddities.push(Oddity::ManyTrailers);
                }
                (0..number).for_each(|number| self.push(format!("X-{number}: {number}\r\n").as_bytes()));
            }
            4 => self.push(&[b"Long: ", &*vec![b'x'; 17 * 1024], b"\r\n"].concat()),
            _ => self.push_choice(&[
                b" Folded: 1\r\n",
                b"X: 1\r\n folded\r\n",
                b"X\r\n",
                b": 1\r\n",
                b"X: a\0b\r\n",
                b"X: a\rb\r\n",
                b"X y: 1\r\n",
            ]),
        }
    }
}

/// Bytes of bodies, which resemble heads and chunks.
const DATA: &[u8] = b"a\r\n\r\nHTTP/1.1 200 OK\r\nX: 1\r\n\r\n0\r\n\r\n5\r\nabcde\r\n\0\xff: \n\n";
