//! Responses: when they are sent, whether they arrive, and when their cookies are on disk.

use super::*;

impl World<'_> {
    pub(super) fn respond(&mut self, request: usize) {
        if self.is_orphaned(request) {
            return;
        }
        self.withhold_cookies(request);
        let InFlightRequest { plan, sent, cookie_change, .. } = self.requests[request];
        if cookie_change == CookieChange::Nothing {
            return;
        }
        if plan.disconnect.is_some_and(|patience| self.now > sent + patience) {
            self.record(CoverageEvent::ClientDisconnected);
        } else if plan.lost {
            self.record(CoverageEvent::ResponseLost);
        } else {
            self.after(plan.down, Event::Deliver(request));
        }
    }

    /// Withholds cookies that are too old or whose session has been terminated.
    fn withhold_cookies(&mut self, request: usize) {
        let replica = self.replica(request);
        let InFlightRequest { minted, cookie_change: CookieChange::Set(cookies), .. } =
            self.requests[request]
        else {
            return;
        };
        let late = self.now > minted + self.settings.fresh_for();
        if late {
            self.record(CoverageEvent::ResponseTooLate);
        }
        if late || self.replicas[replica].ended.contains_key(&cookies.session) {
            self.requests[request].cookie_change = CookieChange::Nothing;
        }
    }

    pub(super) fn deliver(&mut self, request: usize) {
        let InFlightRequest { holder: number, life, cookie_change, minted, plan, .. } =
            self.requests[request];
        if self.holders[number].life != life {
            return;
        }
        if plan.down > 1_000 {
            self.record(CoverageEvent::ResponseDelayed);
        }
        if cookie_change != CookieChange::Clear && minted < self.holders[number].minted {
            self.record(CoverageEvent::ResponseOvertaken);
        }
        let holder = &mut self.holders[number];
        holder.minted = minted;
        let fresh = match cookie_change {
            CookieChange::Nothing => return,
            CookieChange::Set(cookies) => Some(cookies),
            CookieChange::Clear => None,
        };
        let generation = |cookies: Cookies| (cookies.session, cookies.generation);
        let has_changed = holder.jar.map(generation) != fresh.map(generation);
        holder.jar = fresh;
        let crash_after = if has_changed { holder.crash_after.take() } else { None };
        if !std::mem::replace(&mut holder.is_disk_write_scheduled, true) {
            self.after(MAX_DISK_DELAY, Event::Disk(number, life));
        }
        if let Some(delay) = crash_after {
            self.after(delay, Event::Crash(number, life));
        }
    }

    pub(super) fn write_disk(&mut self, number: usize, life: u32) {
        let holder = &mut self.holders[number];
        if holder.life == life {
            holder.disk = holder.jar;
            holder.is_disk_write_scheduled = false;
        }
    }
}
