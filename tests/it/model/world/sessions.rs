//! Signing in and out, changing the password, and all other ways in which sessions end; which tokens
//! are in lasting use.

use sekisho::models::user::UserId;
use sekisho::services::store::SessionTermination;

use super::*;
use crate::model::script::Fault;
use crate::model::store::{New, user_id};

impl World<'_> {
    /// The user of whoever asks.
    pub(super) fn user(&self, ask: usize) -> usize {
        self.asking[ask].who % USERS
    }

    pub(super) fn handle(&mut self, ask: usize) {
        let InFlightRequest { purpose, cookies, plan, .. } = self.asking[ask];
        if self.is_down() || plan.fault == Some(Fault::Refused) || self.is_dead(ask) {
            return;
        }
        match (purpose, cookies) {
            (Purpose::SignIn, _) => self.sign_in(ask, cookies.map(|cookies| cookies.session)),
            (Purpose::SignOut, Some(cookies)) => self.sign_out(ask, cookies.session),
            (Purpose::SignOutAll, _) => self.sign_out_everywhere(ask),
            (Purpose::ChangePassword, Some(cookies)) => self.change_password(ask, cookies.session),
            _ => {}
        }
        self.check_passwords();
        // Nobody hears what came of it, and nothing is handed out.
        if plan.fault != Some(Fault::Unheard) {
            self.after(0, Event::Leave(ask));
        }
    }

    /// The replica that hears the store's answer.
    fn heard_by(&self, ask: usize) -> Option<usize> {
        (self.asking[ask].plan.fault != Some(Fault::Unheard)).then(|| self.replica(ask))
    }

    fn sign_in(&mut self, ask: usize, replaces: Option<usize>) {
        let Settings { rules, access_ttl, idle_ttl, absolute_ttl, max_per_user, .. } = *self.settings;
        let (user, password, now) = (self.user(ask), self.asking[ask].password, at(self.clock(ask)));
        let (idle, absolute) = (duration(access_ttl + idle_ttl), duration(absolute_ttl));
        let session = self.store.new_session(user, rules.kind(), now, idle, absolute);
        let new = New { session, password: Some(password), replaces, max_per_user };
        let Some(ended) = self.store.insert(self.now, new) else {
            self.see(Seen::SignInRefused);
            let what = TraceEvent::SignedIn { user, password, replaces, fresh: None };
            return self.write_down(self.replica(ask), what);
        };
        self.see(Seen::SignedIn);
        let place = self.store.rows.len() - 1;
        let row = self.store.rows[place].session.clone();
        let cookies = self.mint(ask, place, &row);
        self.asking[ask].reply = Reply::Set(cookies);
        self.asking[ask].minted = self.now;
        let what = TraceEvent::SignedIn { user, password, replaces, fresh: Some(cookies) };
        self.write_down(self.replica(ask), what);
        for &place in &ended {
            let replaced = replaces == Some(place);
            self.see(if replaced { Seen::EndedByReplacement } else { Seen::EndedByLimit });
            self.spread(place);
            if let Some(replica) = self.heard_by(ask) {
                self.hear(replica, place);
            }
        }
    }

    fn sign_out(&mut self, ask: usize, session: usize) {
        self.write_down(self.replica(ask), TraceEvent::SignedOut { session });
        let (heard_by, now) = (self.heard_by(ask), at(self.clock(ask)));
        if self.end(heard_by, session, EndReason::LoggedOut, now) {
            self.see(Seen::SignedOut);
        } else if let Some(replica) = heard_by {
            // The replica reads the end that the row already has.
            self.hear(replica, session);
        }
        self.asking[ask].reply = Reply::Clear;
    }

    fn sign_out_everywhere(&mut self, ask: usize) {
        let (user, now) = (self.user(ask), at(self.clock(ask)));
        self.write_down(self.replica(ask), TraceEvent::SignedOutEverywhere { user });
        let ending = SessionTermination::new(now, EndReason::LoggedOut, ClientInfo::default());
        let ended = self.store.end_all_of(self.now, user_id(user), None, &ending);
        self.note_ended(self.heard_by(ask), &ended);
        self.see(Seen::SignedOutEverywhere);
        self.asking[ask].reply = Reply::Clear;
    }

    fn change_password(&mut self, ask: usize, session: usize) {
        let (user, old, now) = (self.user(ask), self.asking[ask].password, at(self.clock(ask)));
        let ending = SessionTermination::new(now, EndReason::PasswordChanged, ClientInfo::default());
        let ended = self.store.change_password(self.now, user, Some(old), Some(session), &ending);
        let what = TraceEvent::PasswordChanged { session, old, done: ended.is_some() };
        self.write_down(self.replica(ask), what);
        let Some(ended) = ended else { return self.see(Seen::PasswordChangeRefused) };
        self.see(Seen::PasswordChanged);
        self.note_ended(self.heard_by(ask), &ended);
    }

    /// Every session that lives was made with the password of today, or kept by its change. (One that
    /// had expired may come back in a crash with its end undone: it has expired all the same.)
    fn check_passwords(&mut self) {
        let password = |user: UserId| {
            (0..USERS).find(|&number| user_id(number) == user).map(|number| self.store.passwords[number])
        };
        let lives = |row: &Row| row.ended.is_none() && row.session.termination(at(self.now)).is_none();
        let stale = |row: &Row| lives(row) && Some(row.password) != password(row.session.user_id);
        if let Some(place) = self.store.rows.iter().position(stale) {
            self.break_with(|| format!("session {place} lives on a password that was changed"));
        }
    }

    /// Ends a session; the replica that `heard` of it refuses its tokens at once.
    fn end(&mut self, heard: Option<usize>, session: usize, reason: EndReason, now: OffsetDateTime) -> bool {
        let ending = SessionTermination::new(now, reason, ClientInfo::default());
        let ended = self.store.end(self.now, session, &ending);
        if ended {
            self.note_ended(heard, &[session]);
        } else {
            self.see(Seen::EndTooLate);
        }
        ended
    }

    /// Only where there is a thief.
    pub(super) fn end_as_reuse(
        &mut self,
        heard: Option<usize>,
        session: usize,
        now: OffsetDateTime,
        seen: Seen,
    ) -> bool {
        if !self.end(heard, session, EndReason::ReuseDetected, now) {
            return false;
        }
        self.see(seen);
        if !self.store.rows[session].stolen {
            self.break_with(|| format!("session {session} was ended as reuse, and nobody stole it"));
        }
        if let Some((_, stolen)) = self.theft.filter(|&(of, _)| of == session) {
            self.outcome.caught = Some(self.now - stolen);
        }
        true
    }

    fn note_ended(&mut self, heard: Option<usize>, ended: &[usize]) {
        for &place in ended {
            self.spread(place);
            match self.store.rows[place].session.end.map(|end| end.reason) {
                Some(EndReason::LoggedOut) => self.see(Seen::EndedBySignOut),
                Some(EndReason::PasswordChanged) => self.see(Seen::EndedByPassword),
                _ => {}
            }
            if let Some(replica) = heard {
                self.hear(replica, place);
            }
        }
    }

    /// Every replica asks soon.
    fn spread(&mut self, session: usize) {
        let flying = |flight: &&Flight| flight.landed.is_none() && flight.cookies.session == session;
        if self.flights.iter().rev().take(20).any(|flight| flying(&flight)) {
            self.see(Seen::EndedDuringRenewal);
        }
        for replica in 0..self.replicas.len() {
            let delay = POLL - (session as i64 * 337 + replica as i64 * 113) % POLL;
            self.after(delay, Event::Poll(replica));
        }
    }

    /// A replica asks what has ended.
    pub(super) fn poll(&mut self, replica: usize) {
        if self.settings.defect == Some(Mutation::FeedStops) {
            return;
        }
        if self.is_down() {
            let delay = self.down.1 - self.now + 1 + (self.now * 11) % (POLL - 1);
            return self.after(delay, Event::Poll(replica));
        }
        self.write_down(replica, TraceEvent::Polled);
        self.hear_all(replica);
    }

    /// Adds the ends that the replica has not heard of.
    pub(super) fn hear_all(&mut self, replica: usize) {
        for place in 0..self.store.rows.len() {
            let has_ended = self.store.rows[place].session.end.is_some();
            if has_ended && !self.replicas[replica].ended.contains_key(&place) {
                self.hear(replica, place);
            }
        }
    }

    /// Adds an end that the replica wrote or read itself.
    ///
    /// The first reason stays, for access tokens that are still valid. What is shared of the session's
    /// renewals is forgotten each time: a crash of the store may have undone the end that it names.
    fn hear(&mut self, replica: usize, session: usize) {
        let Some(end) = self.store.rows[session].session.end else { return };
        let Replica { ended, flights, .. } = &mut self.replicas[replica];
        ended.entry(session).or_insert(end.reason.event());
        for &mut number in flights {
            let flight = &mut self.flights[number];
            flight.listed &= flight.cookies.session != session;
        }
    }

    /// What the hourly purge does first. It leaves a session the grace, for other replicas' clocks.
    pub(super) fn end_expired(&mut self, replica: usize) {
        if self.is_down() {
            return;
        }
        let now = at(self.now + self.replicas[replica].clock);
        self.write_down(replica, TraceEvent::ExpiredEnded);
        for place in self.store.end_expired(self.now, now - self.settings.grace()) {
            self.see(Seen::EndedByExpiry);
            self.spread(place);
        }
    }

    pub(super) fn note_first_use(&mut self, cookies: Cookies, ask: usize) {
        let now = at(self.clock(ask));
        let row = &mut self.store.rows[cookies.session];
        if row.first_use.is_none_or(|(generation, _)| generation < cookies.generation) {
            row.first_use = Some((cookies.generation, now));
        }
    }

    pub(super) fn note_lasting(&mut self, replica: usize, cookies: Cookies, clock: i64) {
        let token = cookies.access.reference();
        if !self.settings.rules.settle() || !token.older_than(self.settings.grace(), at(clock)) {
            return;
        }
        let note = (cookies.session, cookies.generation, token.id);
        let Replica { notes, writing, life, .. } = &mut self.replicas[replica];
        if !notes.contains(&note) {
            notes.push(note);
        }
        if writing.is_none() {
            *writing = Some(self.now);
            let event = Event::Settle(replica, *life);
            let delay = 1 + (self.now * 7 + 13) % SETTLING;
            self.after(delay, event);
        }
    }

    pub(super) fn settle(&mut self, replica: usize, life: u32) {
        if self.replicas[replica].life != life {
            return;
        }
        if self.is_down() {
            return self.after(SETTLING, Event::Settle(replica, life));
        }
        if self.replicas[replica].writing.take().is_some_and(|since| self.now - since > 900) {
            self.see(Seen::SettledLate);
        }
        self.write_down(replica, TraceEvent::NotesWritten);
        let now = at(self.now + self.replicas[replica].clock);
        let notes = std::mem::take(&mut self.replicas[replica].notes);
        let settled: Vec<_> = notes
            .into_iter()
            .filter(|&(session, generation, token)| self.store.settle(self.now, session, generation, token))
            .collect();
        for (session, ..) in settled {
            if self.settings.rules.ends_second_jar(&self.store.rows[session].session) {
                self.end_as_reuse(Some(replica), session, now, Seen::ReuseAtSettling);
            }
        }
    }
}
