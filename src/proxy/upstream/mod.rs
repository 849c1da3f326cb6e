//! Upstreams: load balancing, health, connections and timeouts.
//!
//! # Path of a request
//!
//! 1. [`send()`] sends one request, over as many connections and upstreams as necessary.
//! 2. `balancer.rs` picks an [`upstream`](upstream::Upstream) of the route by the power of two choices.
//! 3. `circuit_breaker.rs` excludes ejected upstreams, and admits half-open probes and slow starts.
//! 4. `concurrency.rs` limits the requests that wait for a response, with a bounded queue. `permit.rs` is
//!    the request's claim on the upstream.
//! 5. `pool.rs` provides a connection, if the worker thread has one: an idle one, or a stream of a shared HTTP/2
//!    connection (`http2.rs`).
//! 6. `connect.rs` makes a connection otherwise: `dns.rs` resolves the host, then happy eyeballs (RFC 8305)
//!    and `tls.rs`. If connecting fails, the request goes to another upstream, since nothing has been sent.
//! 7. `connection.rs` sends the request over HTTP/1.1 (`http1/`) or HTTP/2 (hyper) and waits for the
//!    response head, with a timer from `deadline_timer.rs`.
//! 8. `lease.rs` returns the connection to the pool once the response body has ended.
//!
//! Beside the requests, `health_check.rs` probes the upstreams and updates their gauges (`metrics.rs`).
//! `settings.rs`, `origin.rs` and `error.rs` are the configuration.
//!
//! All worker threads share an upstream. Connections belong to one worker thread: no request crosses
//! threads. An HTTP/1.1 connection is driven by the request that uses it, an HTTP/2 connection by a task of
//! its thread.
//!
//! # Retries
//!
//! A request that the upstream may have processed is not sent again, with one exception: a `GET`, `HEAD` or
//! `OPTIONS` request without a body is retried once if a reused connection closes, or an HTTP/2 stream is
//! reset, before the first byte of a response. Most likely the upstream closed the idle connection at that
//! moment.
//!
//! A request that an HTTP/2 upstream has refused is sent again with any method (RFC 9113, section 8.7), and
//! is no failure of the upstream: the stream was reset with `REFUSED_STREAM`, or is above the last stream of a
//! GOAWAY. nginx sends one after each 1,000 requests. `resend.rs` keeps the first 64 KiB of the body for it.
//!
//! # Timeouts
//!
//! | step | setting | on expiry |
//! |---|---|---|
//! | queue of a busy upstream | `queue_timeout` | 503 `upstream_busy`, also if the queue is full, or half of it by the client |
//! | DNS, TCP and TLS, over all upstreams tried | `connect_timeout` | 504 `upstream_connect_timeout` |
//! | next part of the request body from the client | `idle_timeout` | 408 `body_timeout` |
//! | the upstream's reading of that part | `idle_timeout` | 504 `upstream_timeout` |
//! | response head, once the request is sent | `first_byte_timeout` | 504 `upstream_timeout` |
//! | next part of the response body | `idle_timeout` | the client's connection is aborted |

mod balancer;
mod certificate_verifier;
mod circuit_breaker;
mod client_certificate;
mod concurrency;
mod connect;
mod connection;
mod contention;
mod deadline_timer;
mod dns;
mod error;
mod health_check;
mod http1;
mod http2;
mod http2_io;
mod lease;
mod metrics;
mod origin;
mod permit;
mod pool;
mod resend;
mod send;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
#[expect(clippy::module_inception, reason = "named for the type that it defines, as its siblings are")]
mod upstream;

pub use self::client_certificate::ClientCertificate;
pub use self::dns::Resolve;
pub use self::error::UpstreamConfigError;
pub use self::settings::{HeaderCase, HealthCheck, UpstreamHttp, UpstreamSettings};

pub(super) use self::balancer::LoadBalancer;
pub(super) use self::connection::UpstreamBody;
pub(super) use self::health_check::run_health_checks;
#[cfg(any(test, fuzzing))]
pub(super) use self::http1::fuzzing;
pub(super) use self::http1::{EMPTY_REASON, UpgradedConnection};
pub(super) use self::lease::Lease;
pub(super) use self::pool::Pool;
pub(super) use self::send::send;
pub(super) use self::settings::UpstreamTimeouts;
pub(super) use self::tls::TrustAnchors;
