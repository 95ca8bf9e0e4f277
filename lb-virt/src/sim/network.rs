//! The network between simulated hosts, and what is on its way over it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::DomainSpec;
use crate::migration::{Control, Phase, Sample, Settings};

/// A network that simulated hosts are [on](super::Sim::on): machines are moved between those of one network.
#[derive(Clone, Debug, Default)]
pub struct Network {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Bytes a second for all that is on its way together; 0: 1 Gbit/s.
    bandwidth: u64,
    /// Nothing goes over, and nobody is told.
    stalled: bool,
    transfers: BTreeMap<String, Transfer>,
    /// For destinations' names.
    count: u64,
}

/// 1 Gbit/s.
const GIGABIT: u64 = 125_000_000;

/// Time between looks at whether a round is over.
const TICK: Duration = Duration::from_millis(5);

/// A page.
const PAGE: f64 = 4096.0;

impl Network {
    /// One of 1 Gbit/s on which no machine is on its way.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it so fast, in bytes a second; at least one.
    pub fn set_bandwidth(&self, bandwidth: u64) {
        self.lock().bandwidth = bandwidth.max(1);
    }

    /// Lets nothing more go over, without anybody's being told; or lets it go on.
    pub fn stall(&self, stalled: bool) {
        self.lock().stalled = stalled;
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        for transfer in self.lock().transfers.values_mut() {
            transfer.fail("the connection was reset");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No call in here panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place to send a machine to.
    pub(super) fn listen(&self, host: &str, running: &DomainSpec) -> String {
        let mut inner = self.lock();
        inner.count += 1;
        let uri = format!("sim://{host}/{}/{}", running.name, inner.count);
        let transfer = Transfer::new(running.clone());
        inner.transfers.insert(uri.clone(), transfer);
        uri
    }

    pub(super) fn with<T>(&self, uri: &str, work: impl FnOnce(&mut Transfer) -> T) -> Option<T> {
        self.lock().transfers.get_mut(uri).map(work)
    }

    /// One side no longer has to do with it.
    pub(super) fn leave(&self, uri: &str, source: bool) {
        let mut inner = self.lock();
        let Some(transfer) = inner.transfers.get_mut(uri) else { return };
        if source {
            transfer.source = false;
        } else {
            transfer.target = false;
        }
        if !transfer.phase.has_ended() {
            transfer.fail("the other side closed the connection");
        }
        if !transfer.source && !transfer.target {
            inner.transfers.remove(uri);
        }
    }

    /// Lets time pass for what is on its way to here.
    pub(super) fn advance(&self, uri: &str, time: Duration) {
        let mut inner = self.lock();
        let (bandwidth, stalled) =
            (if inner.bandwidth == 0 { GIGABIT } else { inner.bandwidth }, inner.stalled);
        if let Some(transfer) = inner.transfers.get_mut(uri) {
            transfer.advance(time, if stalled { 0 } else { bandwidth });
        }
    }
}

/// A machine on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    /// As the target was told that it is.
    pub(super) expected: DomainSpec,
    pub(super) phase: Phase,
    settings: Settings,
    elapsed: Duration,
    total: f64,
    /// Of this round.
    remaining: f64,
    /// Written since the round began, and not sent.
    dirty: f64,
    dirty_rate: f64,
    working_set: f64,
    transferred: f64,
    rounds: u64,
    /// The share of its time that the guest does not run, in percent.
    throttle: u8,
    downtime: Duration,
    pub(super) post_copied: bool,
    /// Whether the guest runs on the source.
    pub(super) runs: bool,
    /// The volume of the round before.
    volume: f64,
    /// Whether each side has to do with it. Before it is sent, the source does not.
    source: bool,
    target: bool,
    sent: bool,
    /// Whether the target waits for what a broken connection has not brought.
    awaits_rest: bool,
}

impl Transfer {
    fn new(expected: DomainSpec) -> Self {
        Self {
            expected,
            phase: Phase::Setup,
            settings: Settings::default(),
            elapsed: Duration::ZERO,
            total: 0.0,
            remaining: 0.0,
            dirty: 0.0,
            dirty_rate: 0.0,
            working_set: 0.0,
            transferred: 0.0,
            rounds: 0,
            throttle: 0,
            downtime: Duration::ZERO,
            post_copied: false,
            runs: false,
            volume: f64::INFINITY,
            source: false,
            target: true,
            sent: false,
            awaits_rest: false,
        }
    }

    /// Waits for the rest of a post-copy; false if it is none, or all of it is there.
    pub(super) fn await_rest(&mut self) -> bool {
        let broken = matches!(self.phase, Phase::PostCopy | Phase::Stalled);
        if broken {
            (self.phase, self.awaits_rest) = (Phase::Stalled, true);
        }
        broken
    }

    /// Goes on with it; false if nobody waits for it.
    pub(super) fn go_on(&mut self) -> bool {
        let waits = self.phase == Phase::Stalled && std::mem::take(&mut self.awaits_rest) && self.target;
        if waits {
            self.phase = Phase::PostCopy;
        }
        waits
    }

    /// Begins; false if it was begun before.
    pub(super) fn begin(
        &mut self,
        settings: &Settings,
        total: u64,
        rate: u64,
        working_set: u64,
        runs: bool,
    ) -> bool {
        if self.sent || self.phase.has_ended() {
            return false;
        }
        self.settings = settings.clone();
        (self.total, self.remaining) = (total as f64, total as f64);
        (self.dirty_rate, self.working_set) = (rate as f64, working_set.min(total) as f64);
        (self.source, self.sent, self.runs) = (true, true, runs);
        true
    }

    pub(super) fn fail(&mut self, words: &str) {
        self.phase = match self.phase {
            Phase::Completed | Phase::Cancelled | Phase::Failed(_) | Phase::Stalled => return,
            Phase::PostCopy => Phase::Stalled,
            _ => Phase::Failed(words.into()),
        };
    }

    pub(super) fn control(&mut self, control: Control) -> Result<(), &'static str> {
        match control {
            Control::Cancel if self.phase.can_go_back() => self.phase = Phase::Cancelled,
            Control::Downtime(time) => self.settings.downtime = time,
            Control::Bandwidth(bandwidth) => self.settings.bandwidth = Some(bandwidth),
            Control::PostCopy if !self.settings.post_copy => {
                return Err("post-copy was not set before the start");
            }
            Control::PostCopy if self.phase == Phase::PreCopy => {
                self.phase = Phase::PostCopy;
                (self.post_copied, self.runs) = (true, false);
                self.remaining += self.dirty;
                self.dirty = 0.0;
            }
            Control::Stop if self.phase.can_go_back() => self.runs = false,
            _ => {}
        }
        Ok(())
    }

    fn advance(&mut self, time: Duration, bandwidth: u64) {
        let bandwidth = bandwidth.min(self.settings.bandwidth.unwrap_or(u64::MAX)) as f64;
        let mut left = time;
        while !left.is_zero() && self.sent && !self.phase.has_ended() && self.phase != Phase::Stalled {
            let tick = left.min(TICK);
            left -= tick;
            self.elapsed += tick;
            self.tick(tick.as_secs_f64(), bandwidth);
        }
    }

    fn tick(&mut self, seconds: f64, bandwidth: f64) {
        let sent = (bandwidth * seconds).min(self.remaining);
        match self.phase {
            Phase::Setup if bandwidth > 0.0 => self.phase = Phase::PreCopy,
            Phase::PreCopy => {
                self.transferred += sent;
                self.remaining -= sent;
                if self.runs {
                    let runs = 1.0 - f64::from(self.throttle) / 100.0;
                    self.dirty = (self.dirty + self.dirty_rate * runs * seconds).min(self.working_set);
                }
                if self.remaining < PAGE {
                    self.end_round(bandwidth);
                }
            }
            Phase::Handover | Phase::PostCopy => {
                self.transferred += sent;
                self.remaining -= sent;
                if self.phase == Phase::Handover {
                    self.downtime += Duration::from_secs_f64(seconds);
                }
                if self.remaining < PAGE {
                    self.remaining = 0.0;
                    self.phase = Phase::Completed;
                }
            }
            _ => {}
        }
    }

    fn end_round(&mut self, bandwidth: f64) {
        self.rounds += 1;
        self.remaining = std::mem::take(&mut self.dirty);
        if !self.runs || self.remaining <= bandwidth * self.settings.downtime.as_secs_f64() {
            self.phase = Phase::Handover;
        } else if self.settings.auto_converge && self.remaining > 0.5 * self.volume {
            // As QEMU does: 20 % at first, and 10 more each time.
            self.throttle = if self.throttle == 0 { 20 } else { (self.throttle + 10).min(99) };
        }
        self.volume = self.remaining;
    }

    pub(super) fn sample(&self) -> Sample {
        let ended = matches!(self.phase, Phase::Completed | Phase::Handover);
        let bandwidth =
            if self.elapsed.is_zero() { 0.0 } else { self.transferred / self.elapsed.as_secs_f64() };
        Sample {
            elapsed: self.elapsed,
            total: self.total as u64,
            remaining: self.remaining as u64,
            transferred: self.transferred as u64,
            dirty_rate: self.dirty_rate as u64,
            bandwidth: bandwidth as u64,
            rounds: self.rounds,
            throttle: self.throttle,
            expected_downtime: (bandwidth >= 1.0)
                .then(|| Duration::from_secs_f64((self.remaining + self.dirty) / bandwidth)),
            downtime: ended.then_some(self.downtime),
            post_copied: self.post_copied,
            ..Sample::new(self.phase.clone())
        }
    }
}
