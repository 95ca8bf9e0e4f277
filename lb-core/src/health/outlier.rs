//! Outlier ejection: servers that answer worse than they should, or worse than the others, leave for a while.
//!
//! Active checks ask one question now and then; real requests see more. [`Counters`] takes the outcome of every
//! request, without a lock. From time to time, [`Detector::sweep`] judges the counters of the whole set and gives what
//! changed. The rules and names are Envoy's:
//!
//! * **Consecutive failures**: [`consecutive_failures`](Config::consecutive_failures) or
//!   [`consecutive_gateway`](Config::consecutive_gateway) in a row, however few requests there are. Judged at every
//!   sweep; [`Counters::record`] gives the length of the run, so that a caller may sweep at once.
//! * **Success rate**: after each [`interval`](Config::interval), among the servers with at least
//!   [`request_volume`](SuccessRate::request_volume) requests in it, if they are at least
//!   [`minimum_hosts`](SuccessRate::minimum_hosts): those below mean − [`factor`](SuccessRate::factor) × standard
//!   deviation of their success rates.
//! * **Failure percentage**: likewise, those with at least [`threshold`](FailurePercentage::threshold) percent failed.
//!
//! An ejected server stays away for [`base_ejection_time`](Config::base_ejection_time) times its number of
//! ejections, at most [`max_ejection_time`](Config::max_ejection_time); each interval that it then behaves takes one
//! from that number. It comes back by itself, through slow start if the caller has one.
//! Never more than [`max_ejection_percent`](Config::max_ejection_percent) of the set are away at a time: when all
//! are bad, it is not the servers that are outliers. When the set shrinks below that, those ejected first come back
//! early.
//!
//! ```
//! use lb_core::clock::Timestamp;
//! use lb_core::health::outlier::{Config, Counters, Detector, Event, Response};
//!
//! let servers = [("web1", Counters::new()), ("web2", Counters::new()), ("web3", Counters::new())];
//! let config = Config { max_ejection_percent: 50, ..Config::default() };
//! let mut detector = Detector::new(config, Timestamp::ZERO)?;
//!
//! for _ in 0..5 {
//!     servers[0].1.record(Response::Success);
//!     servers[1].1.record(Response::ServerError);
//! }
//! let counters = || servers.iter().map(|(name, counters)| (*name, counters));
//! let events = detector.sweep(Timestamp::from_secs(1), counters());
//! assert!(matches!(events[..], [Event::Ejected { key: "web2", .. }]));
//!
//! let back = detector.next_return().unwrap();
//! assert_eq!(back, Timestamp::from_secs(31));
//! assert_eq!(detector.sweep(back, counters()), [Event::Returned { key: "web2" }]);
//! # Ok::<(), lb_core::health::ConfigError>(())
//! ```

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use super::ConfigError;
use crate::clock::Timestamp;

mod config;
mod counters;
mod statistics;

pub use config::{Config, FailurePercentage, SuccessRate};
use counters::Sample;
pub use counters::{Counters, Response};

/// Why a server was ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cause {
    /// So many failures of any kind in a row.
    ConsecutiveFailures(u32),
    /// So many gateway failures in a row.
    ConsecutiveGateway(u32),
    /// A success rate (percent) below the threshold that the set's own rates gave (percent).
    SuccessRate {
        /// The server's.
        rate: f64,
        /// Mean − factor × standard deviation, or mean − tolerance if that is lower.
        threshold: f64,
    },
    /// This percentage of its requests failed.
    FailurePercentage(f64),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(run) => write!(f, "{run} requests in a row failed"),
            Self::ConsecutiveGateway(run) => write!(f, "{run} requests in a row failed at the gateway"),
            Self::SuccessRate { rate, threshold } => {
                write!(f, "its success rate of {rate:.1} % is below the set's threshold of {threshold:.1} %")
            }
            Self::FailurePercentage(percent) => write!(f, "{percent:.1} % of its requests failed"),
        }
    }
}

/// What a sweep changed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<K> {
    /// A server leaves.
    Ejected {
        /// Which.
        key: K,
        /// When it comes back, unless the set shrinks before.
        until: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// A server comes back.
    Returned {
        /// Which.
        key: K,
    },
}

#[derive(Clone, Debug, Default)]
struct Host {
    /// Since the current interval began.
    succeeded: u64,
    failed: u64,
    /// When it was ejected and when it comes back.
    away: Option<(Timestamp, Timestamp)>,
    /// Ejections, less the intervals of good behaviour since.
    ejections: u32,
}

/// Judges the servers of one set. A pure state machine: counters and time come in, events go out. See the
/// [module](self).
///
/// `K` names a server: its name, or its id. Servers are judged in the order of their runs and rates, the worst first,
/// and where these are equal in the order of `K`; so the same history gives the same events.
#[derive(Clone, Debug)]
pub struct Detector<K> {
    config: Config,
    hosts: BTreeMap<K, Host>,
    interval_began: Timestamp,
}

impl<K: Ord + Clone> Detector<K> {
    /// A detector whose first interval begins at `now`.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] when a number lies outside the range that [`Config`] gives for it.
    pub fn new(config: Config, now: Timestamp) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, hosts: BTreeMap::new(), interval_began: now })
    }

    /// Takes other settings from now on; who is away stays so, as long as was said.
    ///
    /// # Errors
    /// As for [`new`](Self::new); then the old settings stay.
    pub fn reconfigure(&mut self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.config = config;
        Ok(())
    }

    /// Whether this server is away.
    #[must_use]
    pub fn is_ejected(&self, key: &K) -> bool {
        self.hosts.get(key).is_some_and(|host| host.away.is_some())
    }

    /// How many servers are away.
    #[must_use]
    pub fn ejected(&self) -> usize {
        self.hosts.values().filter(|host| host.away.is_some()).count()
    }

    /// When the next of them comes back: a good moment for a sweep.
    #[must_use]
    pub fn next_return(&self) -> Option<Timestamp> {
        self.hosts.values().filter_map(|host| host.away).map(|(_, until)| until).min()
    }

    /// When the running interval ends and rates are judged: the other good moment for a sweep.
    #[must_use]
    pub fn next_interval(&self) -> Timestamp {
        self.interval_began + self.config.interval
    }

    /// Judges the whole set at `now`, as often as the caller likes: what each server counted since the last sweep is
    /// taken from `counters`, which lists every server of the set. One that is no longer listed is forgotten, with
    /// its ejections. What a server answers while it is away does not count.
    pub fn sweep<'a, I>(&mut self, now: Timestamp, counters: I) -> Vec<Event<K>>
    where
        I: IntoIterator<Item = (K, &'a Counters)>,
    {
        let mut runs = self.take(counters);
        let mut events = Vec::new();
        self.bring_back(now, &mut events);

        // The longest run first, since the limit may not leave room for all.
        runs.sort_by(|(a, run, _), (b, other, _)| other.cmp(run).then_with(|| a.cmp(b)));
        for (key, _, cause) in runs {
            self.eject(now, key, cause, &mut events);
        }
        if now >= self.next_interval() {
            for (key, cause) in self.judge_rates() {
                self.eject(now, key, cause, &mut events);
            }
            self.begin_interval(now, &events);
        }
        events
    }

    /// Adds what was counted since the last sweep; gives the servers with too long a run.
    fn take<'a>(&mut self, counters: impl IntoIterator<Item = (K, &'a Counters)>) -> Vec<(K, u32, Cause)> {
        let mut known = core::mem::take(&mut self.hosts);
        let mut runs = Vec::new();
        for (key, counters) in counters {
            let mut host = known.remove(&key).unwrap_or_default();
            let sample = counters.take();
            if host.away.is_some() {
                counters.end_runs();
            } else {
                host.succeeded += sample.succeeded;
                host.failed += sample.failed;
                if let Some((run, cause)) = self.too_long(&sample) {
                    counters.end_runs();
                    runs.push((key.clone(), run, cause));
                }
            }
            self.hosts.insert(key, host);
        }
        runs
    }

    fn too_long(&self, sample: &Sample) -> Option<(u32, Cause)> {
        let over = |run: u32, limit: Option<u32>| limit.is_some_and(|limit| run >= limit);
        if over(sample.failures, self.config.consecutive_failures) {
            Some((sample.failures, Cause::ConsecutiveFailures(sample.failures)))
        } else if over(sample.gateway, self.config.consecutive_gateway) {
            Some((sample.gateway, Cause::ConsecutiveGateway(sample.gateway)))
        } else {
            None
        }
    }

    /// Those whose time is over, and as many of the others as a smaller set no longer lets be away, the longest away
    /// first.
    fn bring_back(&mut self, now: Timestamp, events: &mut Vec<Event<K>>) {
        let mut away: Vec<_> =
            self.hosts.iter().filter_map(|(key, host)| Some((host.away?, key.clone()))).collect();
        let (over, mut staying): (Vec<_>, Vec<_>) = away.drain(..).partition(|((_, until), _)| now >= *until);
        staying.sort();
        let too_many = staying.len().saturating_sub(self.most_away());
        for (_, key) in over.into_iter().chain(staying.into_iter().take(too_many)) {
            if let Some(host) = self.hosts.get_mut(&key) {
                (host.away, host.succeeded, host.failed) = (None, 0, 0);
            }
            events.push(Event::Returned { key });
        }
    }

    /// How many may be away at a time.
    fn most_away(&self) -> usize {
        let hosts = self.hosts.len();
        let share = hosts * usize::from(self.config.max_ejection_percent) / 100;
        if self.config.always_eject_one && hosts > 1 { share.max(1) } else { share }
    }

    fn eject(&mut self, now: Timestamp, key: K, cause: Cause, events: &mut Vec<Event<K>>) {
        let room = self.ejected() < self.most_away();
        let longest = self.config.max_ejection_time.max(self.config.base_ejection_time);
        let Some(host) = self.hosts.get_mut(&key).filter(|host| room && host.away.is_none()) else { return };
        host.ejections = host.ejections.saturating_add(1);
        let until = now + self.config.base_ejection_time.saturating_mul(host.ejections).min(longest);
        host.away = Some((now, until));
        events.push(Event::Ejected { key, until, cause });
    }

    /// The outliers of the interval that ends, the worst first.
    fn judge_rates(&self) -> Vec<(K, Cause)> {
        let present = || self.hosts.iter().filter(|(_, host)| host.away.is_none());
        // Key and success rate in percent of those with enough requests.
        let rates = |volume: u64| -> Vec<(&K, f64)> {
            present()
                .map(|(key, host)| (key, host.succeeded, host.succeeded + host.failed))
                .filter(|(_, _, total)| *total >= volume)
                .map(|(key, succeeded, total)| (key, succeeded as f64 * 100.0 / total as f64))
                .collect()
        };
        let mut outliers = Vec::new();
        if let Some(rule) = self.config.success_rate {
            let rates = rates(rule.request_volume);
            if rates.len() >= rule.minimum_hosts as usize {
                let (mean, deviation) = statistics::mean_and_deviation(rates.iter().map(|(_, rate)| *rate));
                let threshold = mean - (rule.factor * deviation).max(rule.tolerance);
                outliers.extend(
                    rates
                        .into_iter()
                        .filter(|(_, rate)| *rate < threshold)
                        .map(|(key, rate)| (key, rate, Cause::SuccessRate { rate, threshold })),
                );
            }
        }
        if let Some(rule) = self.config.failure_percentage {
            let rates = rates(rule.request_volume);
            if rates.len() >= rule.minimum_hosts as usize {
                outliers.extend(
                    rates
                        .into_iter()
                        .filter(|(_, rate)| 100.0 - rate >= rule.threshold)
                        .map(|(key, rate)| (key, rate, Cause::FailurePercentage(100.0 - rate))),
                );
            }
        }
        outliers.sort_by(|(a, rate, _), (b, other, _)| rate.total_cmp(other).then_with(|| a.cmp(b)));
        outliers.into_iter().map(|(key, _, cause)| (key.clone(), cause)).collect()
    }

    /// Forgets the counts of the interval, and one ejection of each server that behaved in it.
    fn begin_interval(&mut self, now: Timestamp, events: &[Event<K>]) {
        self.interval_began = now;
        for (key, host) in &mut self.hosts {
            (host.succeeded, host.failed) = (0, 0);
            let changed =
                events.iter().any(|event| matches!(event, Event::Returned { key: back } if back == key));
            if host.away.is_none() && !changed {
                host.ejections = host.ejections.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
