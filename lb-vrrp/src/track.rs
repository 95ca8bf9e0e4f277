//! Tracking: what interfaces, scripts, processes and files do to a router's priority.
//!
//! ```
//! use lb_vrrp::track::{Check, Tracker, Weight};
//! use lb_vrrp::{Event, event::Faults};
//!
//! let mut tracker = Tracker::new();
//! let proxy = tracker.add(Check { weight: Weight::new(-60)?, fall: 2, ..Check::default() });
//! let uplink = tracker.add(Check::default()); // weight 0: its failure is the router's
//! assert_eq!(tracker.priority(150), 150);
//!
//! tracker.report(proxy, true);
//! tracker.report(proxy, false);
//! assert_eq!(tracker.priority(150), 150, "two failures in a row make a fall");
//! tracker.report(proxy, false);
//! assert_eq!(tracker.priority(150), 90);
//!
//! tracker.report(uplink, false);
//! assert_eq!(tracker.events(150), [Event::Priority(90), Event::Fault(Faults::TRACK)]);
//! # Ok::<(), lb_vrrp::track::WeightError>(())
//! ```
//!
//! The rules are keepalived's: weight 0 makes a failure the router's own fault; a positive weight is added while the thing
//! is up, a negative one while it is down; a file's number is multiplied by its weight, and brings the fault if that is
//! −254 or less. The sum stays within 1 to 254, and an owner's priority is never moved.

use alloc::vec::Vec;

use crate::config::OWNER;
use crate::event::{Event, Faults};

/// What a tracked thing weighs: −253 to 253, 0 for a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "i32", into = "i32")
)]
pub struct Weight(i16);

impl Weight {
    /// The failure is the router's own.
    pub const FAULT: Self = Self(0);

    /// `weight` points of priority.
    ///
    /// # Errors
    /// If it is not within −253 to 253.
    pub const fn new(weight: i32) -> Result<Self, WeightError> {
        if weight < -253 || weight > 253 {
            return Err(WeightError(weight));
        }
        Ok(Self(weight as i16))
    }

    /// Points of priority.
    #[must_use]
    pub const fn points(self) -> i32 {
        self.0 as i32
    }
}

impl TryFrom<i32> for Weight {
    type Error = WeightError;

    fn try_from(weight: i32) -> Result<Self, WeightError> {
        Self::new(weight)
    }
}

impl From<Weight> for i32 {
    fn from(weight: Weight) -> Self {
        weight.points()
    }
}

/// A weight that no tracked thing can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("weight {0} is not allowed: choose -253 to 253, or 0 to make a failure the router's own")]
pub struct WeightError(pub i32);

/// How one thing is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", default, deny_unknown_fields)
)]
pub struct Check {
    /// What it weighs. Default: 0, a fault.
    pub weight: Weight,
    /// Whether it is good news when the thing is down (keepalived's `reverse`). Default: no.
    pub reverse: bool,
    /// Reports of success in a row until it is up. Default: 1; 0 counts as 1.
    pub rise: u8,
    /// Reports of failure in a row until it is down. Default: 1; 0 counts as 1.
    pub fall: u8,
    /// Whether it counts as down before the first report (keepalived's `init_fail`). Default: no.
    pub initially_down: bool,
}

impl Default for Check {
    fn default() -> Self {
        Self { weight: Weight::FAULT, reverse: false, rise: 1, fall: 1, initially_down: false }
    }
}

/// A thing that a [`Tracker`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrackId(usize);

#[derive(Clone, Debug)]
enum Tracked {
    Check {
        check: Check,
        up: bool,
        /// Reports in a row against `up`; `None` before the first report, which decides alone.
        against: Option<u8>,
    },
    File {
        weight: Weight,
        value: i32,
    },
    /// It was removed; its number is not given again.
    Gone,
}

impl Tracked {
    /// Points of priority; `None` for a fault.
    fn points(&self) -> Option<i32> {
        match *self {
            Self::Check { check, up, .. } => {
                let good = up != check.reverse;
                match check.weight.points() {
                    0 => good.then_some(0),
                    weight if weight > 0 => Some(if good { weight } else { 0 }),
                    weight => Some(if good { 0 } else { weight }),
                }
            }
            Self::File { weight, value } => {
                let points = value.saturating_mul(weight.points());
                (points > -254).then_some(points)
            }
            Self::Gone => Some(0),
        }
    }
}

/// All that is tracked for one router: reports go in, [`Event`]s for the router come out.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    tracked: Vec<Tracked>,
}

impl Tracker {
    /// Nothing is tracked.
    #[must_use]
    pub const fn new() -> Self {
        Self { tracked: Vec::new() }
    }

    /// Tracks an interface, a script, or a process: something that is up or down.
    pub fn add(&mut self, check: Check) -> TrackId {
        self.tracked.push(Tracked::Check { check, up: !check.initially_down, against: None });
        TrackId(self.tracked.len() - 1)
    }

    /// Tracks a number in a file, 0 at first. `weight` 1 adds the number itself.
    pub fn add_file(&mut self, weight: Weight) -> TrackId {
        self.tracked.push(Tracked::File { weight, value: 0 });
        TrackId(self.tracked.len() - 1)
    }

    /// Tracks it no longer: it neither weighs nor is a fault. Whether that changed what [`Self::events`] says.
    pub fn remove(&mut self, id: TrackId) -> bool {
        let Some(tracked) = self.tracked.get_mut(id.0) else { return false };
        core::mem::replace(tracked, Tracked::Gone).points() != Some(0)
    }

    /// Takes note of a check's result. Whether that changed what [`Self::events`] says. The first result decides at once,
    /// later ones after `rise` or `fall` in a row.
    ///
    /// A file, and what this tracker does not know, is left alone.
    pub fn report(&mut self, id: TrackId, success: bool) -> bool {
        let Some(tracked) = self.tracked.get_mut(id.0) else { return false };
        let before = tracked.points();
        let Tracked::Check { check, up, against } = tracked else { return false };
        let needed = if success { check.rise } else { check.fall };
        let count = match *against {
            _ if success == *up => 0,
            None => u8::MAX,
            Some(count) => count.saturating_add(1),
        };
        *against = Some(count);
        if count >= needed.max(1) {
            (*up, *against) = (success, Some(0));
        }
        tracked.points() != before
    }

    /// Takes note of a file's number. Whether that changed what [`Self::events`] says.
    pub fn set_value(&mut self, id: TrackId, number: i32) -> bool {
        let Some(tracked) = self.tracked.get_mut(id.0) else { return false };
        let before = tracked.points();
        if let Tracked::File { value, .. } = tracked {
            *value = number;
        }
        tracked.points() != before
    }

    /// Whether a check counts as up; `None` for a file or what this tracker does not know.
    #[must_use]
    pub fn is_up(&self, id: TrackId) -> Option<bool> {
        match self.tracked.get(id.0)? {
            Tracked::Check { up, .. } => Some(*up),
            Tracked::File { .. } | Tracked::Gone => None,
        }
    }

    /// Whether something that is tracked is the router's fault.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.tracked.iter().any(|tracked| tracked.points().is_none())
    }

    /// The effective priority of a router that is configured with `base`.
    #[must_use]
    pub fn priority(&self, base: u8) -> u8 {
        if base == OWNER {
            return OWNER;
        }
        let points = self.tracked.iter().filter_map(Tracked::points).fold(0_i32, i32::saturating_add);
        i32::from(base).saturating_add(points).clamp(1, i32::from(OWNER) - 1) as u8
    }

    /// What a router that is configured with `base` is to be told. To tell it again does no harm.
    #[must_use]
    pub fn events(&self, base: u8) -> [Event; 2] {
        let fault = if self.is_fault() { Event::Fault(Faults::TRACK) } else { Event::Cleared(Faults::TRACK) };
        [Event::Priority(self.priority(base)), fault]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_moves_the_priority_as_keepalived_says() {
        // Weight, reverse, up; effective priority of 100, or a fault.
        let table = [
            (0, false, true, Some(100)),
            (0, false, false, None),
            (0, true, true, None),
            (0, true, false, Some(100)),
            (20, false, true, Some(120)),
            (20, false, false, Some(100)),
            (20, true, true, Some(100)),
            (20, true, false, Some(120)),
            (-20, false, true, Some(100)),
            (-20, false, false, Some(80)),
            (-20, true, true, Some(80)),
            (253, false, true, Some(254)),
            (-253, false, false, Some(1)),
        ];
        for (weight, reverse, up, expected) in table {
            let mut tracker = Tracker::new();
            let check = Check { weight: Weight::new(weight).unwrap(), reverse, ..Check::default() };
            let id = tracker.add(check);
            tracker.report(id, up);
            let got = (!tracker.is_fault()).then(|| tracker.priority(100));
            assert_eq!(got, expected, "weight {weight} reverse {reverse} up {up}");
            assert_eq!(tracker.priority(OWNER), OWNER);
        }
    }

    #[test]
    fn what_is_removed_weighs_no_more() {
        let mut tracker = Tracker::new();
        let check = tracker.add(Check { weight: Weight::new(20).unwrap(), ..Check::default() });
        let fault = tracker.add(Check::default());
        tracker.report(fault, false);
        assert_eq!((tracker.is_fault(), tracker.priority(100)), (true, 120));
        assert!(tracker.remove(fault) && !tracker.remove(fault));
        assert!(tracker.remove(check));
        assert!(!tracker.report(fault, false));
        assert_eq!((tracker.is_fault(), tracker.priority(100)), (false, 100));
        let next = tracker.add(Check::default());
        assert!(next != fault && next != check);
    }

    #[test]
    fn rise_and_fall_count_in_a_row_and_the_first_report_decides() {
        let mut tracker = Tracker::new();
        let id = tracker.add(Check { rise: 3, fall: 2, initially_down: true, ..Check::default() });
        assert!(tracker.is_fault());
        assert!(tracker.report(id, true));
        let steps = [
            (false, true),
            (true, true),
            (false, true),
            (false, false),
            (true, false),
            (true, false),
            (false, false),
            (true, false),
            (true, false),
            (true, true),
        ];
        for (at, (success, up)) in steps.into_iter().enumerate() {
            tracker.report(id, success);
            assert_eq!(tracker.is_up(id), Some(up), "step {at}");
        }
    }

    #[test]
    fn a_files_number_is_weighed() {
        for (weight, value, expected) in [
            (1, 20, Some(120)),
            (2, -30, Some(40)),
            (1, -253, Some(1)),
            (1, -254, None),
            (-1, 254, None),
            (0, -300, Some(100)),
            (253, i32::MIN, None),
            (253, i32::MAX, Some(254)),
        ] {
            let mut tracker = Tracker::new();
            let id = tracker.add_file(Weight::new(weight).unwrap());
            tracker.set_value(id, value);
            let got = (!tracker.is_fault()).then(|| tracker.priority(100));
            assert_eq!(got, expected, "{weight} × {value}");
        }
        assert_eq!(Weight::new(254), Err(WeightError(254)));
    }
}
