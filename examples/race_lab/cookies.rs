//! A browser's cookies: in memory, and on its disk some time later.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sekisho::clock::{Clock, SystemClock};
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;

const ACCESS: &str = "__Host-access_token";
const REFRESH: &str = "__Host-refresh_token";

/// Both cookies.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Jar {
    access: Option<String>,
    refresh: Option<String>,
}

/// What an access token says. A browser doesn't look; the lab does, to know what it sees.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sid: Uuid,
    #[serde(rename = "gen")]
    pub(crate) generation: u32,
    pub(crate) jti: Uuid,
    pub(crate) iat: i64,
    pub(crate) exp: i64,
}

impl Jar {
    pub(crate) fn claims(&self) -> Option<Claims> {
        let payload = self.access.as_deref()?.split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    pub(crate) fn session(&self) -> Option<Uuid> {
        self.claims().map(|claims| claims.sid)
    }

    /// Whether using the access token now would settle its generation: it is older than the grace,
    /// and still good.
    pub(crate) fn is_lasting(&self, grace: Duration) -> bool {
        let Some(claims) = self.claims() else { return false };
        let now = SystemClock.now().unix_timestamp();
        now - claims.iat >= grace.as_secs().cast_signed() && now < claims.exp
    }

    /// The value of the request header.
    pub(crate) fn header(&self) -> String {
        let pair = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}={value}"));
        let pairs = [pair(ACCESS, &self.access), pair(REFRESH, &self.refresh)];
        pairs.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// Does what one `Set-Cookie` says.
    pub(crate) fn keep(&mut self, line: &str) {
        let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
        let Some((name, value)) = pair.split_once('=') else { return };
        let value = (!clears(attributes)).then(|| value.to_owned());
        match name {
            ACCESS => self.access = value,
            REFRESH => self.refresh = value,
            _ => {}
        }
    }
}

/// Whether these attributes take a cookie away.
pub(crate) fn clears(attributes: &str) -> bool {
    attributes.split("; ").any(|attribute| attribute == "Max-Age=0")
}

/// The jar of a browser whose disk is written at regular times.
pub(crate) struct Cookies {
    state: Mutex<State>,
    began: Instant,
    disk_every: Duration,
}

struct State {
    jar: Jar,
    /// What the jar has been, and since when; as far as the disk may still have it.
    history: VecDeque<(Instant, Jar)>,
    /// Counts the crashes.
    life: u32,
}

impl Cookies {
    /// No cookies. Browsers that begin at different times write at different times.
    pub(crate) fn new(disk_every: Duration) -> Self {
        let state = State { jar: Jar::default(), history: VecDeque::new(), life: 0 };
        Self { state: Mutex::new(state), began: Instant::now(), disk_every }
    }

    /// What there is now, and in which life.
    pub(crate) fn now(&self) -> (u32, Jar) {
        let state = self.lock();
        (state.life, state.jar.clone())
    }

    /// Keeps what an answer sets, unless the browser that asked has crashed since.
    pub(crate) fn keep<'a>(&self, life: u32, lines: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        if state.life == life {
            let mut jar = state.jar.clone();
            lines.for_each(|line| jar.keep(line));
            self.replace(&mut state, jar);
        }
    }

    /// Another's cookies, as a thief has them.
    pub(crate) fn copy(&self, jar: Jar) {
        self.replace(&mut self.lock(), jar);
    }

    /// The browser crashes and comes back with what its disk has. Not if that is of an earlier
    /// session, since its user would only sign in again: then this returns `false`.
    pub(crate) fn crash(&self) -> bool {
        let mut state = self.lock();
        let jar = self.on_disk(&state);
        if jar.session() != state.jar.session() {
            return false;
        }
        state.life += 1;
        state.history = VecDeque::from([(self.began, jar.clone())]);
        state.jar = jar;
        true
    }

    /// What the disk got when it was written last. Computed and not written by a timer, which might
    /// be late.
    fn on_disk(&self, state: &State) -> Jar {
        let written = self.last_written();
        let was = state.history.iter().rev().find(|(since, _)| *since <= written);
        was.map(|(_, jar)| jar.clone()).unwrap_or_default()
    }

    fn last_written(&self) -> Instant {
        let times = self.began.elapsed().as_nanos() / self.disk_every.as_nanos().max(1);
        self.began + self.disk_every * u32::try_from(times).unwrap_or(u32::MAX)
    }

    fn replace(&self, state: &mut State, jar: Jar) {
        if jar == state.jar {
            return;
        }
        state.history.push_back((Instant::now(), jar.clone()));
        state.jar = jar;
        let written = self.last_written();
        while state.history.get(1).is_some_and(|(since, _)| *since <= written) {
            state.history.pop_front();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
