//! How long routers may take to agree, once their link is in order.

use core::time::Duration;

use crate::config::Config;
use crate::timer::{master_down_interval, skew_time};
use crate::wire::Interval;

/// A router that takes part.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// Its lowest effective priority of late: its timer may still run with that one's skew time.
    pub lowest_priority: u8,
}

/// What the link and the machines are like after the faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The longest delay of a packet that is sent from now on.
    pub delay: Duration,
    /// How long packets of before may still arrive.
    pub in_flight: Duration,
    /// How late a timer's wake is at most.
    pub lateness: Duration,
    /// By how much a clock runs wrong at most, in parts in a million.
    pub drift_ppm: u32,
    /// When the last router tries again what failed, by its own clock.
    pub retry: Duration,
    /// The longest interval that anybody may have learned of late, from whomever.
    pub longest_interval: Option<Interval>,
}

impl Conditions {
    /// How long `local`, by a clock as slow as they come, takes at most.
    fn stretch(&self, local: Duration) -> Duration {
        let rate = 1_000_000_u128.saturating_sub(u128::from(self.drift_ppm)).max(1);
        let micros = (local.as_micros() * 1_000_000).div_ceil(rate);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// How long two active routers stay so once each can hear the other: until the better one's next advert. Where intervals
    /// are mixed, a backup may have learned the worse one's shorter interval last, and take over before the better one's
    /// advert comes: as long again.
    fn resolve(&self, members: &[Member<'_>]) -> Duration {
        let interval = self.interval(members);
        let mixed = members.iter().any(|member| member.config.interval != interval);
        let intervals = if mixed { 2 } else { 1 };
        intervals * (self.stretch(interval.duration()) + self.lateness + 2 * self.delay)
    }

    fn interval(&self, members: &[Member<'_>]) -> Interval {
        let longest = members.iter().map(|member| member.config.interval).max().unwrap_or_default();
        longest.max(self.longest_interval.unwrap_or(longest))
    }
}

/// After how long, counted from the end of the faults, exactly one of `members` is active and stays so; and if one of those
/// of the highest priority preempts, an active one of that priority.
///
/// It holds for routers that hear one another, agree on version, VRID, authentication and (version 2) interval, and whose
/// intervals are well above the delay. Where intervals are mixed, adverts must not overtake one another, and an active router
/// must answer those that lose against it, as in version 3 by default: else backups can go on to learn the wrong interval last.
///
/// | what | why |
/// |---|---|
/// | packets in flight | the last advert of a router that is gone may start a wait anew |
/// | startup delay | a router may just have been started |
/// | retry | a router whose kernel refused something tries again |
/// | master-down, of the longest interval that anybody may have learned | then someone is active, and the best if it preempts without delay |
/// | preempt delay and master-down | if anybody has one: an active router of lower priority keeps the wait going until the delay is over |
/// | interval (two if they are mixed), and a delay each time | of two active routers one hears the other's next advert |
#[must_use]
pub fn settle_bound(members: &[Member<'_>], conditions: &Conditions) -> Duration {
    let interval = conditions.interval(members);
    let longest =
        |duration: &dyn Fn(&Member<'_>) -> Duration| members.iter().map(duration).max().unwrap_or_default();
    let down =
        longest(&|member| master_down_interval(member.config.version, member.lowest_priority, interval));
    let startup = longest(&|member| member.config.startup_delay);
    let preempt_delay = longest(&|member| {
        if member.config.preempt { member.config.preempt_delay } else { Duration::ZERO }
    });
    let resolve = conditions.resolve(members);
    let wait = conditions.stretch(down) + conditions.lateness + conditions.delay;
    let mut bound = conditions.in_flight
        + conditions.stretch(startup + conditions.retry)
        + conditions.lateness
        + wait
        + resolve;
    if !preempt_delay.is_zero() {
        bound += conditions.stretch(preempt_delay) + wait + resolve;
    }
    bound
}

/// After how long, counted from the shutdown of a sole active router, exactly one of `members`, those that stay, is active: the
/// longest skew time, and what it takes to agree if two were equally quick.
///
/// It holds if no advert overtakes the farewell: one that comes after it starts a whole master-down interval.
#[must_use]
pub fn handover_bound(members: &[Member<'_>], conditions: &Conditions) -> Duration {
    let interval = conditions.interval(members);
    let skew = members
        .iter()
        .map(|member| skew_time(member.config.version, member.lowest_priority, interval))
        .max()
        .unwrap_or_default();
    conditions.stretch(skew) + conditions.lateness + conditions.delay + conditions.resolve(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_faults_the_bound_is_little_more_than_the_master_down_interval() {
        let config = Config::new(1, ["10.0.0.1".parse().unwrap()]);
        let member = Member { config: &config, lowest_priority: 100 };
        let bound = settle_bound(&[member], &Conditions::default());
        assert_eq!(bound.as_micros(), 3_609_375 + 1_000_000);
        assert_eq!(handover_bound(&[member], &Conditions::default()).as_micros(), 609_375 + 1_000_000);
        let slow = Conditions { drift_ppm: 10_000, ..Conditions::default() };
        assert_eq!(
            settle_bound(&[member], &slow).as_micros(),
            (3_609_375 * 100_u128).div_ceil(99) + 1_010_102
        );
    }
}
