//! An HTTP/1.1 client (RFC 9112).
//!
//! # Path of a request
//!
//! 1. `connection.rs` is a connection. Its [`send_request`](Http1Connection::send_request) drives steps 2
//!    to 4.
//! 2. `request_head.rs` writes the request head, whose field names `header_case.rs` may capitalize.
//! 3. `request_writer.rs` sends the head and the body over the stream of `io.rs`.
//! 4. `response_head.rs` parses the response head and determines the framing of the body.
//! 5. `body.rs` reads the body, which `framing.rs` decodes. At its end it gives the connection back.
//!
//! # Why not hyper's client
//!
//! hyper drives each connection by a task, so that every request crosses two channels and wakes two tasks,
//! and its head is built as a map before it is written. Here no task drives a connection: the request drives
//! it until the response head has arrived, then the reader of the response body does. The change lowered the
//! instructions of the worker thread per proxied request from 71,500 to 42,700 (callgrind). An idle
//! connection costs its buffers only.
//!
//! One case does spawn a task. If the response begins before the request is sent, a task sends the rest,
//! because the client may not read the response before it has sent the whole request.
//!
//! The price is a parser of its own. It is fuzzed (`fuzzing.rs`), and `tests.rs` compares the client with hyper's by
//! generated responses: `tests/differences.rs` has the differences.
//!
//! # Strictness
//!
//! Where another interpretation could hide a second message, responses are parsed strictly. Contradictory
//! framing, transfer codings other than `chunked`, and chunks without CRLF are errors. If any byte follows
//! the end of a response, the connection is closed.
//!
//! Two faults of field lines are tolerated (`field_lines.rs`): whitespace before the colon, which a proxy has to
//! remove (RFC 9112, section 5.1), and names that are no tokens, whose fields are dropped. nginx forwards both.

mod body;
mod connection;
mod error;
mod field_lines;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod header_case;
mod io;
mod request_head;
mod request_writer;
mod response_head;
#[cfg(test)]
mod tests;

pub(crate) use self::body::Http1Body;
pub(crate) use self::connection::Http1Connection;
pub(crate) use self::error::Http1Error;
pub(crate) use self::io::{MaybeTlsStream, UpgradedConnection};
pub(crate) use self::request_writer::RequestWriter;
pub(crate) use self::response_head::{DroppedField, EMPTY_REASON};
