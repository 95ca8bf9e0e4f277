//! From one state to another, and what each way brings with it.

use core::time::Duration;

use super::{Timers, VirtualRouter};
use crate::config::{LateWake, OWNER};
use crate::event::{Faults, Notification, Reason, State};
use crate::time::Timestamp;

impl VirtualRouter {
    /// Out of Initialize, if nothing holds it there.
    pub(super) fn begin(&mut self, now: Timestamp, reason: Reason) {
        // In Initialize, the main timer is the startup delay.
        let delayed = self.timers.main.is_some();
        if !self.started || delayed || !self.faults.is_empty() || self.state != State::Initialize {
            return;
        }
        self.interval = self.config.interval;
        self.active = None;
        if self.priority == OWNER {
            self.become_active(now, Reason::Owner);
        } else {
            let delay = self.config.preempt_delay;
            self.timers.preempt = (!delay.is_zero()).then(|| now + delay);
            self.become_backup(now, reason);
        }
    }

    pub(super) fn become_backup(&mut self, now: Timestamp, reason: Reason) {
        let from = self.state;
        self.retire();
        self.state = State::Backup;
        self.wait(now, self.master_down_interval(), Reason::MasterDown);
        self.notify(Notification::State { from, to: State::Backup, reason });
    }

    /// In Backup: take over after `duration`, if nothing else comes.
    pub(super) fn wait(&mut self, now: Timestamp, duration: Duration, reason: Reason) {
        self.waiting = reason;
        self.timers.main = Some(now + duration);
    }

    pub(super) fn become_active(&mut self, now: Timestamp, reason: Reason) {
        let from = self.state;
        let garp = self.config.garp;
        self.state = State::Active;
        self.interval = self.config.interval;
        self.active = None;
        self.timers = Timers {
            main: Some(now + self.config.interval.duration()),
            announce: (!garp.delay.is_zero() && garp.repeat > 0).then(|| (now + garp.delay, garp.repeat)),
            refresh: (!garp.refresh.is_zero()).then(|| now + garp.refresh),
            retry: self.timers.retry,
            preempt: None,
            calm: None,
        };
        self.counters.became_active = self.counters.became_active.wrapping_add(1);
        // Nobody waits for a first advert.
        self.advertised = now;
        self.advertise(now, self.priority);
        self.addresses.want(true, garp.repeat);
        self.notify(Notification::State { from, to: State::Active, reason });
    }

    /// From Active with a word of farewell, or from Backup without one.
    pub(super) fn leave(&mut self, now: Timestamp, to: State, reason: Reason) {
        let from = self.state;
        if from == State::Active {
            self.advertise(now, 0);
        }
        if to == State::Backup {
            self.become_backup(now, reason);
            return;
        }
        self.retire();
        self.timers.main = None;
        self.state = State::Initialize;
        if from != State::Initialize {
            self.notify(Notification::State { from, to, reason });
        }
    }

    /// Ends everything that an active router does, and what a backup waits for.
    pub(super) fn retire(&mut self) {
        if self.state == State::Active {
            self.counters.left_active = self.counters.left_active.wrapping_add(1);
            // A farewell stays, an advert that was not sent yet must not be.
            self.pending = self.pending.filter(|&(priority, ..)| priority == 0);
            self.addresses.want(false, 0);
        }
        self.timers.announce = None;
        self.timers.refresh = None;
        self.timers.calm = None;
    }

    pub(super) fn advertise(&mut self, now: Timestamp, priority: u8) {
        if self.pending.is_none() {
            self.advertised_before = self.advertised;
        }
        self.advertised = now;
        self.pending = Some((priority, now, 0));
    }

    /// An active router that wakes after the others have stopped waiting steps down without a word. Whether it did.
    pub(super) fn step_down_if_late(&mut self, now: Timestamp) -> bool {
        let late = self.state == State::Active
            && self.config.late_wake == LateWake::Listen
            && now.since(self.advertised) > self.patience();
        if late {
            self.step_down_late(now);
        }
        late
    }

    pub(super) fn step_down_late(&mut self, now: Timestamp) {
        self.note_late_wake(now);
        self.pending = None;
        self.become_backup(now, Reason::LateWake);
    }

    /// In Backup, a wait begins anew at `now`, the end of a sleep.
    pub(super) fn listen_anew(&mut self, now: Timestamp) {
        self.note_late_wake(now);
        self.wait(now, self.master_down_interval(), Reason::MasterDown);
    }

    fn note_late_wake(&mut self, now: Timestamp) {
        self.counters.late_wakes = self.counters.late_wakes.wrapping_add(1);
        self.woken = self.woken.max(now);
    }

    /// The program wakes so much later than it should have.
    pub(super) fn wake_late(&mut self, now: Timestamp, late: Duration) {
        if self.config.late_wake == LateWake::Advertise {
            return;
        }
        match self.state {
            State::Active if late > self.patience() => self.step_down_late(now),
            State::Backup if late > 3 * self.interval.duration() => self.listen_anew(now),
            _ => {}
        }
    }

    /// Whether a backup wakes so late after its wait was over that it can't know who has advertised meanwhile. It listens anew
    /// then; what waits in its socket would have told it, but a machine that stood still has nothing there.
    pub(super) fn slept_through(&self, now: Timestamp, deadline: Timestamp) -> bool {
        self.config.late_wake == LateWake::Listen && now.since(deadline) > 3 * self.interval.duration()
    }

    pub(super) fn raise(&mut self, now: Timestamp, faults: Faults) {
        let before = self.faults;
        self.faults |= faults;
        if self.faults == before {
            return;
        }
        self.notify(Notification::Faults(self.faults));
        if self.state != State::Initialize {
            self.leave(now, State::Initialize, Reason::Fault(faults));
        }
        // What can't be sent is no farewell.
        if faults.intersects(Faults::LINK | Faults::SOURCE | Faults::TRANSMIT) {
            self.pending = None;
        }
    }

    pub(super) fn clear(&mut self, now: Timestamp, faults: Faults) {
        let before = self.faults;
        self.faults -= faults;
        self.faults |= self.lacking();
        if self.faults != before {
            self.notify(Notification::Faults(self.faults));
            self.begin(now, Reason::Recovered);
        }
    }
}
