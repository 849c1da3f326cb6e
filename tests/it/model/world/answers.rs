//! Answers: when they leave, whether they arrive, and when the browser's disk has what they brought.

use super::*;

impl World<'_> {
    pub(super) fn leave(&mut self, ask: usize) {
        if self.is_dead(ask) {
            return;
        }
        self.keep_back(ask);
        let InFlightRequest { plan, sent, reply, .. } = self.asking[ask];
        if reply == Reply::Nothing {
            return;
        }
        if plan.hang_up.is_some_and(|patience| self.now > sent + patience) {
            self.see(Seen::HungUp);
        } else if plan.lost {
            self.see(Seen::AnswerLost);
        } else {
            self.after(plan.down, Event::Deliver(ask));
        }
    }

    /// Cookies stay behind if their session has ended, or if they are too old by now.
    fn keep_back(&mut self, ask: usize) {
        let replica = self.replica(ask);
        let InFlightRequest { minted, reply: Reply::Set(cookies), .. } = self.asking[ask] else { return };
        let late = self.now > minted + self.settings.fresh_for();
        if late {
            self.see(Seen::AnswerTooLate);
        }
        if late || self.replicas[replica].ended.contains_key(&cookies.session) {
            self.asking[ask].reply = Reply::Nothing;
        }
    }

    pub(super) fn deliver(&mut self, ask: usize) {
        let InFlightRequest { who, life, reply, minted, plan, .. } = self.asking[ask];
        if self.holders[who].life != life {
            return;
        }
        if plan.down > 1_000 {
            self.see(Seen::AnswerDelayed);
        }
        if reply != Reply::Clear && minted < self.holders[who].minted {
            self.see(Seen::AnswerOvertaken);
        }
        let holder = &mut self.holders[who];
        holder.minted = minted;
        let fresh = match reply {
            Reply::Nothing => return,
            Reply::Set(cookies) => Some(cookies),
            Reply::Clear => None,
        };
        let generation = |cookies: Cookies| (cookies.session, cookies.generation);
        let moved = holder.jar.map(generation) != fresh.map(generation);
        holder.jar = fresh;
        let armed = if moved { holder.crash_after.take() } else { None };
        if !std::mem::replace(&mut holder.to_disk, true) {
            self.after(DISK, Event::Disk(who, life));
        }
        if let Some(delay) = armed {
            self.after(delay, Event::Crash(who, life));
        }
    }

    pub(super) fn write_disk(&mut self, who: usize, life: u32) {
        let holder = &mut self.holders[who];
        if holder.life == life {
            holder.disk = holder.jar;
            holder.to_disk = false;
        }
    }
}
