//! Errors of the HTTP/1.1 client.

use std::io;

/// An error while a request is sent or its response is received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Http1Error {
    #[error("request body ended early or exceeds its announced length")]
    Body,
    #[error("malformed chunk in the response body")]
    Chunk,
    #[error("connection closed before the end of the response")]
    Closed,
    #[error("unsupported transfer coding of the response")]
    Coding,
    #[error("malformed response head")]
    Head(#[from] httparse::Error),
    #[error("connection failed")]
    Io(#[from] io::Error),
    #[error("invalid or contradictory Content-Length of the response")]
    Length,
    /// The connection failed before any byte was written.
    #[error("connection failed before the request was sent")]
    NotSent(#[source] io::Error),
    #[error("response head or trailers too large")]
    TooLarge,
}
