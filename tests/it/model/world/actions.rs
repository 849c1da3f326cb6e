//! Runs the actions of the script.

use super::*;

impl World<'_> {
    pub(super) fn schedule_action(&mut self, action: usize) {
        if let Some(&(time, _)) = self.script.actions.get(action) {
            self.after(time - self.now, Event::Act(action));
        }
    }

    pub(super) fn run_action(&mut self, action: usize) {
        let script = self.script;
        match &script.actions[action].1 {
            Action::Burst { browser, requests } => self.schedule_all(*browser, None, requests),
            Action::Ask { browser, purpose, request } => {
                self.schedule_request(*browser, *purpose, None, *request)
            }
            Action::Crash { browser } => self.crash(*browser, self.holders[*browser].life),
            Action::CrashAfterRotation { browser, after } => {
                self.holders[*browser].crash_after = Some(*after);
            }
            Action::CrashReplica { replica } => self.crash_replica(*replica % self.replicas.len()),
            Action::RestartAll { down, is_reboot } => self.stop_all(*down, *is_reboot),
            Action::StepClock { by, only_database } => self.step_clock(*by, *only_database),
            Action::CrashStore { lost } => self.crash_store(*lost),
            Action::StoreDown { until } => self.take_store_down(*until),
            Action::EndExpired { replica } => self.end_expired(*replica % self.replicas.len()),
            Action::Steal { browser } => self.steal_cookies(*browser),
            Action::Thief { thief, requests } => self.schedule_all(self.thief(), Some(*thief), requests),
        }
        self.schedule_action(action + 1);
    }

    pub(super) fn thief(&self) -> usize {
        self.holders.len() - 1
    }

    fn schedule_all(&mut self, holder: usize, thief: Option<Thief>, requests: &[Request]) {
        for request in requests {
            self.schedule_request(holder, Purpose::Page, thief, *request);
        }
    }

    fn schedule_request(&mut self, holder: usize, purpose: Purpose, thief: Option<Thief>, plan: Request) {
        self.requests.push(InFlightRequest {
            holder,
            life: self.holders[holder].life,
            purpose,
            plan,
            thief,
            sent: self.now,
            cookies: None,
            has_valid_token: false,
            attempts: 0,
            replica_life: 0,
            done: false,
            cookie_change: CookieChange::Nothing,
            minted: 0,
            response: None,
            password: 0,
        });
        self.after(plan.after, Event::Send(self.requests.len() - 1));
    }

    pub(super) fn send(&mut self, request: usize) {
        let now = self.now;
        let in_flight = &mut self.requests[request];
        let holder = &self.holders[in_flight.holder];
        if in_flight.life != holder.life {
            return;
        }
        in_flight.sent = now;
        in_flight.cookies = holder.jar;
        let up = in_flight.plan.up;
        let thief = in_flight.thief;
        let would_confirm = holder.jar.is_some_and(|cookies| self.settings.would_confirm(cookies, now));
        if thief == Some(Thief::Brief) && would_confirm {
            return;
        }
        if let (Some(thief), Some(cookies)) = (thief, holder.jar)
            && self.store.rows[cookies.session].ended.is_none()
        {
            self.record(thief.seen());
        }
        self.after(up, Event::Arrive(request));
    }

    pub(super) fn crash(&mut self, browser: usize, life: u32) {
        let holder = &mut self.holders[browser];
        if holder.life != life {
            return;
        }
        let (jar, disk) = (holder.jar, holder.disk);
        *holder = CookieHolder { jar: disk, disk, life: life + 1, ..CookieHolder::default() };
        if jar != disk {
            self.record(CoverageEvent::BrowserCrashed);
        }
        if let (Some(jar), Some(disk)) = (jar, disk)
            && jar.session == disk.session
            && jar.generation > disk.generation
        {
            self.record(CoverageEvent::OldCookiesRestored);
        }
    }

    fn crash_replica(&mut self, replica: usize) {
        if !self.is_stopped() {
            self.restart_clock(replica);
            self.restart_replica(replica);
        }
    }

    /// Drops the memory of a replica, whose clock was set.
    pub(super) fn restart_replica(&mut self, replica: usize) {
        let Replica { clock, set_at, life, ref flights, .. } = self.replicas[replica];
        let lost = flights.iter().any(|&number| self.flights[number].completed.is_none());
        self.replicas[replica] = Replica { clock, set_at, life: life + 1, ..Replica::default() };
        // It polls before it is ready.
        self.add_all_revocations(replica);
        self.record_event(replica, TraceEvent::ReplicaCrashed);
        if lost {
            self.record(CoverageEvent::ReplicaCrashed);
        }
    }

    fn crash_store(&mut self, lost: i64) {
        if self.store.crash(self.now, lost) > 0 {
            self.record(CoverageEvent::StoreCrashed);
        }
        self.record_event(0, TraceEvent::StoreCrashed { lost });
        self.check_audit();
    }

    fn take_store_down(&mut self, until: i64) {
        // After a shorter time, not every replica has polled since the last outage.
        if self.now >= self.down.1 + POLL_INTERVAL {
            self.down.0 = self.now;
        }
        self.down.1 = until;
    }

    pub(super) fn is_down(&self) -> bool {
        self.now < self.down.1
    }

    fn steal_cookies(&mut self, browser: usize) {
        let Some(cookies) = self.holders[browser].jar else { return };
        let row = &mut self.store.rows[cookies.session];
        if row.ended.is_none() {
            row.stolen = true;
            self.outcome.stolen = true;
            self.theft.get_or_insert((cookies.session, self.now));
            let thief = self.thief();
            self.holders[thief].jar = Some(cookies);
        }
    }
}
