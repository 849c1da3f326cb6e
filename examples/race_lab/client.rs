//! A client with cookies: sends requests, stores cookies and records the results in the event log.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::cookies::{Claims, Cookies, Jar, is_deletion};
use crate::http_client::{ConnectionFault, HttpRequest, HttpResponse, RequestError};
use crate::lab::Lab;

/// A browser or a thief.
pub(crate) struct Client {
    pub(crate) lab: Arc<Lab>,
    pub(crate) cookies: Cookies,
    pub(crate) name: String,
}

/// A planned request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) after: Duration,
    /// The gateway to try first.
    pub(crate) replica: usize,
    pub(crate) request: HttpRequest,
    pub(crate) fault: ConnectionFault,
    /// Timeout for the response head. A later response counts as lost.
    pub(crate) timeout: Duration,
    /// Time from a response that refreshes the session until the browser crashes.
    pub(crate) crash: Option<Duration>,
}

/// A response that arrived in time.
pub(crate) struct Received {
    pub(crate) response: HttpResponse,
    pub(crate) sent: Instant,
    took: Duration,
    life: u32,
    /// The session of the cookies in the request.
    session: Option<Uuid>,
}

impl Client {
    /// Sends a request. Returns the status if there was a response.
    pub(crate) async fn request(&self, plan: Plan) -> Option<u16> {
        sleep(plan.after).await;
        let received = self.exchange(&plan).await?;
        self.keep(&received);
        if let Some(session) = received.session {
            self.check(session, &received, &plan.request.path);
        }
        if let Some(after) = plan.crash.filter(|_| is_refresh(received.response.event()))
            && self.lab.pause(after).await
        {
            self.crash();
        }
        let status = received.response.status;
        received.response.body().await;
        Some(status)
    }

    /// Sends a request and waits for the response head. Tries the next gateway if one cannot be reached.
    pub(crate) async fn exchange(&self, plan: &Plan) -> Option<Received> {
        let lab = &self.lab;
        for attempt in 0..MAX_ATTEMPTS {
            let replica = (plan.replica + attempt) % lab.deployment.replicas();
            let (life, jar) = self.cookies.now();
            let cookies = jar.header();
            let sent = Instant::now();
            let response =
                plan.request.send(lab.deployment.public(replica), &cookies, &self.name, plan.fault);
            let response = timeout(plan.timeout, response).await;
            let took = sent.elapsed();
            let response = response.ok().filter(|_| took < plan.timeout);
            if let Some(Err(RequestError::Unreachable)) = response {
                sleep(RETRY_INTERVAL).await;
                continue;
            }
            self.record(&jar, replica, plan, response.as_ref(), took);
            let session = jar.session();
            return response?.ok().map(|response| Received { response, sent, took, life, session });
        }
        None
    }

    /// Stores the cookies of a response.
    pub(crate) fn keep(&self, received: &Received) {
        self.cookies.keep(received.life, received.response.header("set-cookie"));
        if is_refresh(received.response.event())
            && let Some(claims) = self.cookies.now().1.claims()
        {
            self.lab.session_time.record(claims.iat);
        }
    }

    /// Restarts the browser with the cookies on its disk.
    pub(crate) fn crash(&self) {
        if self.cookies.crash() {
            self.lab.events.count(|counters| counters.browser_crashes += 1);
            if let Some(claims) = self.cookies.now().1.claims() {
                let (name, generation, token) = (&self.name, claims.generation, claims.jti);
                self.lab.events.note(
                    claims.sid,
                    format_args!("{name}: crashed and restarted with generation {generation}, token {token}"),
                );
            }
        }
    }

    /// Counts the result of a request and records it for its session.
    fn record(
        &self,
        jar: &Jar,
        replica: usize,
        plan: &Plan,
        response: Option<&Result<HttpResponse, RequestError>>,
        took: Duration,
    ) {
        let events = &self.lab.events;
        events.count(|counters| match response {
            Some(Ok(_)) => counters.responses += 1,
            Some(Err(RequestError::Injected)) => counters.cut += 1,
            Some(Err(_)) => counters.broken += 1,
            None => counters.late_responses += 1,
        });
        let Some(Claims { sid, generation, jti, .. }) = jar.claims() else { return };
        let result = match response {
            Some(Ok(response)) => format!("{} {}", response.status, response.event()),
            Some(Err(error)) => format!("{error:?}"),
            None => "too late".to_owned(),
        };
        let name = &self.name;
        let path = &plan.request.path;
        events.note(
            sid,
            format_args!(
                "{name}: {path} at gateway {replica} with generation {generation}, token {jti}: {result} after {took:.0?}"
            ),
        );
        if response.is_none() {
            events.record_late_request(sid);
        }
    }

    fn check(&self, session: Uuid, received: &Received, path: &str) {
        let (events, response) = (&self.lab.events, &received.response);
        let event = response.event();
        if response.status < 300 {
            events.record_acceptance(session, received.sent);
        }
        match response.status {
            200..=299 => self.count_latency(received, path),
            401 => events.record_rejection(session, &self.name, event),
            503 => events.count(|counters| counters.unavailable += 1),
            403 if path == "/auth/password" => {}
            status => events.record_error(Some(session), format_args!("{path} responded {status} {event}")),
        }
        let cleared = response.header("set-cookie").any(is_deletion);
        if cleared && response.status != 401 && path != "/auth/logout" {
            events.record_error(Some(session), format_args!("{} cleared the cookies", response.status));
        }
    }

    fn count_latency(&self, received: &Received, path: &str) {
        let event = received.response.event();
        self.lab.events.count(|counters| {
            match event {
                "rotated" => counters.rotated += 1,
                "replayed" => counters.replayed += 1,
                "caught_up" => counters.caught_up += 1,
                _ => {}
            }
            // On other paths the upstream determines the time.
            if path == "/auth/session" {
                let times =
                    if is_refresh(event) { &mut counters.refresh_times } else { &mut counters.other_times };
                times.push(received.took);
            }
        });
    }
}

fn is_refresh(event: &str) -> bool {
    matches!(event, "rotated" | "replayed" | "caught_up")
}

/// Maximum number of attempts to reach a gateway.
const MAX_ATTEMPTS: usize = 100;
const RETRY_INTERVAL: Duration = Duration::from_millis(25);
