//! The cookies of a browser, in memory and on disk.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sekisho::services::rotation::confirmation_age;
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;

const ACCESS: &str = "__Host-access_token";
const REFRESH: &str = "__Host-refresh_token";

/// Both session cookies.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Jar {
    access: Option<String>,
    refresh: Option<String>,
}

/// Claims of an access token. Browsers ignore them; the lab uses them to identify sessions.
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

    /// Returns `true` if a use of the access token would be confirmed at this session time, in milliseconds: it is
    /// valid and older than the confirmation age.
    pub(crate) fn would_confirm_use(&self, grace: Duration, now: i64) -> bool {
        let Some(claims) = self.claims() else { return false };
        let age = confirmation_age(grace).as_millis();
        i128::from(now - claims.iat * 1_000) >= age.cast_signed() && now < claims.exp * 1_000
    }

    /// Returns the `Cookie` header.
    pub(crate) fn header(&self) -> String {
        let pair = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}={value}"));
        let pairs = [pair(ACCESS, &self.access), pair(REFRESH, &self.refresh)];
        pairs.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// Applies a `Set-Cookie` header.
    pub(crate) fn keep(&mut self, line: &str) {
        let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
        let Some((name, value)) = pair.split_once('=') else { return };
        let value = (!is_deletion(attributes)).then(|| value.to_owned());
        match name {
            ACCESS => self.access = value,
            REFRESH => self.refresh = value,
            _ => {}
        }
    }
}

/// Returns `true` if the attributes delete the cookie.
pub(crate) fn is_deletion(attributes: &str) -> bool {
    attributes.split("; ").any(|attribute| attribute == "Max-Age=0")
}

/// The cookies of a browser that writes them to disk at regular intervals.
pub(crate) struct Cookies {
    state: Mutex<State>,
    began: Instant,
    disk_interval: Duration,
}

struct State {
    jar: Jar,
    /// Former contents of the jar that may still be on disk, with their start times.
    history: VecDeque<(Instant, Jar)>,
    /// Number of crashes.
    life: u32,
}

impl Cookies {
    /// Starts without cookies. Browsers that start at different times write to disk at different times.
    pub(crate) fn new(disk_interval: Duration) -> Self {
        let state = State { jar: Jar::default(), history: VecDeque::new(), life: 0 };
        Self { state: Mutex::new(state), began: Instant::now(), disk_interval }
    }

    /// Returns the number of crashes and the present cookies.
    pub(crate) fn now(&self) -> (u32, Jar) {
        let state = self.lock();
        (state.life, state.jar.clone())
    }

    /// Stores the cookies of a response, unless the browser has crashed since its request.
    pub(crate) fn keep<'a>(&self, life: u32, lines: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        if state.life == life {
            let mut jar = state.jar.clone();
            lines.for_each(|line| jar.keep(line));
            self.replace(&mut state, jar);
        }
    }

    /// Replaces the cookies by another client's, as a thief does.
    pub(crate) fn copy(&self, jar: Jar) {
        self.replace(&mut self.lock(), jar);
    }

    /// Restarts the browser with the cookies on its disk.
    ///
    /// Returns `false` without a crash if those are of an earlier session, since the user would sign in again.
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

    /// Returns the cookies of the last disk write. Computed, since a timer could be late.
    fn on_disk(&self, state: &State) -> Jar {
        let written = self.last_written();
        let written_jar = state.history.iter().rev().find(|(since, _)| *since <= written);
        written_jar.map(|(_, jar)| jar.clone()).unwrap_or_default()
    }

    fn last_written(&self) -> Instant {
        let times = self.began.elapsed().as_nanos() / self.disk_interval.as_nanos().max(1);
        self.began + self.disk_interval * u32::try_from(times).unwrap_or(u32::MAX)
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
