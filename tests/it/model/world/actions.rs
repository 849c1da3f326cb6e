//! What the script says.

use super::*;

impl World<'_> {
    pub(super) fn act_next(&mut self, action: usize) {
        if let Some(&(time, _)) = self.script.actions.get(action) {
            self.after(time - self.now, Event::Act(action));
        }
    }

    pub(super) fn act(&mut self, action: usize) {
        let script = self.script;
        match &script.actions[action].1 {
            Action::Burst { browser, requests } => self.ask_all(*browser, None, requests),
            Action::Ask { browser, purpose, request } => self.ask(*browser, *purpose, None, *request),
            Action::Crash { browser } => self.crash(*browser, self.holders[*browser].life),
            Action::CrashAfterRotation { browser, after } => {
                self.holders[*browser].crash_after = Some(*after);
            }
            Action::CrashReplica { replica } => self.crash_replica(*replica % self.replicas.len()),
            Action::CrashStore { lost } => self.crash_store(*lost),
            Action::StoreDown { until } => self.take_store_down(*until),
            Action::EndExpired { replica } => self.end_expired(*replica % self.replicas.len()),
            Action::Steal { browser } => self.steal(*browser),
            Action::Thief { thief, requests } => self.ask_all(self.thief(), Some(*thief), requests),
        }
        self.act_next(action + 1);
    }

    pub(super) fn thief(&self) -> usize {
        self.holders.len() - 1
    }

    fn ask_all(&mut self, who: usize, thief: Option<Thief>, requests: &[Request]) {
        for request in requests {
            self.ask(who, Purpose::Page, thief, *request);
        }
    }

    fn ask(&mut self, who: usize, purpose: Purpose, thief: Option<Thief>, plan: Request) {
        self.asking.push(InFlightRequest {
            who,
            life: self.holders[who].life,
            purpose,
            plan,
            thief,
            sent: self.now,
            cookies: None,
            held: false,
            attempts: 0,
            boot: 0,
            done: false,
            reply: Reply::Nothing,
            minted: 0,
            told: None,
            password: 0,
        });
        self.after(plan.after, Event::Send(self.asking.len() - 1));
    }

    pub(super) fn send(&mut self, ask: usize) {
        let now = self.now;
        let asking = &mut self.asking[ask];
        let holder = &self.holders[asking.who];
        if asking.life != holder.life {
            return;
        }
        asking.sent = now;
        asking.cookies = holder.jar;
        let (up, thief) = (asking.plan.up, asking.thief);
        let lasting = holder.jar.is_some_and(|cookies| self.settings.lasting(cookies, now));
        if thief == Some(Thief::Brief) && lasting {
            return;
        }
        if let (Some(thief), Some(cookies)) = (thief, holder.jar)
            && self.store.rows[cookies.session].ended.is_none()
        {
            self.see(thief.seen());
        }
        self.after(up, Event::Arrive(ask));
    }

    pub(super) fn crash(&mut self, browser: usize, life: u32) {
        let holder = &mut self.holders[browser];
        if holder.life != life {
            return;
        }
        let (jar, disk) = (holder.jar, holder.disk);
        *holder = CookieHolder { jar: disk, disk, life: life + 1, ..CookieHolder::default() };
        if jar != disk {
            self.see(Seen::BrowserCrashed);
        }
        if let (Some(jar), Some(disk)) = (jar, disk)
            && jar.session == disk.session
            && jar.generation > disk.generation
        {
            self.see(Seen::BackWithOldCookies);
        }
    }

    fn crash_replica(&mut self, replica: usize) {
        let Replica { clock, life, ref flights, .. } = self.replicas[replica];
        let lost = flights.iter().any(|&number| self.flights[number].landed.is_none());
        self.replicas[replica] = Replica { clock, life: life + 1, ..Replica::default() };
        self.hear_all(replica); // Before it is ready again.
        self.write_down(replica, TraceEvent::ReplicaCrashed);
        if lost {
            self.see(Seen::ReplicaCrashed);
        }
    }

    fn crash_store(&mut self, lost: i64) {
        if self.store.crash(self.now, lost) > 0 {
            self.see(Seen::StoreCrashed);
        }
        self.write_down(0, TraceEvent::StoreCrashed { lost });
        self.check_audit();
    }

    fn take_store_down(&mut self, until: i64) {
        // Sooner, not every replica has heard of everything since the last time.
        if self.now >= self.down.1 + POLL {
            self.down.0 = self.now;
        }
        self.down.1 = until;
    }

    pub(super) fn is_down(&self) -> bool {
        self.now < self.down.1
    }

    fn steal(&mut self, browser: usize) {
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
