//! From all that is known of one server to what a pool does with it.
//!
//! Three voices speak of a server: its [`Checker`](super::Checker), the set's outlier
//! [`Detector`](super::outlier::Detector), and an operator ([`Admin`]). [`Condition`] hears them and gives the
//! [`Standing`] that the pool applies: whether it gets new work, whether its sessions stay, and with which share.
//!
//! ## Quiesce or remove
//! A server that fails can leave in two ways; ldirectord calls the choice `quiescent`, and both have their users:
//!
//! | | [`OnDown::Remove`] (`quiescent=no`) | [`OnDown::Quiesce`] (`quiescent=yes`) |
//! |---|---|---|
//! | new clients | go elsewhere | go elsewhere |
//! | clients bound to it (persistence) | are bound anew | keep going to it |
//! | established connections | are cut where the pool's user acts on it | go on until they end |
//! | good when | the server is dead | the check is wrong more often than the server, or only new work hurts |
//! | in IPVS | the entry is deleted | weight 0 |
//! | in a [`Pool`](crate::Pool) | [`Health::Down`] | [`Health::Up`] with [`Admin::Drain`] |
//!
//! ## When every real server failed
//! ldirectord's `fallback=` is a server that takes work only while no real one does. In a [`Pool`](crate::Pool) it is a
//! backend of the last tier (`Spec::priority(u8::MAX)`), unchecked: the pool comes to it by itself. Who keeps no such
//! tier asks [`every_real_failed`].
//!
//! ```
//! use lb_core::clock::Timestamp;
//! use lb_core::health::{Condition, Curve, OnDown, SlowStart, every_real_failed};
//! use lb_core::{Health, Pool};
//! # use core::time::Duration;
//!
//! let pool: Pool<&str> = Pool::new();
//! pool.update(["web1", "web2"].map(|name| (name, Default::default())))?;
//!
//! let slow_start = SlowStart::new(Duration::from_secs(16), Curve::Sixteenths)?;
//! let mut web1 = Condition::new(OnDown::Remove, Some(slow_start), true);
//! web1.set_checked(Timestamp::from_secs(5), false);
//! assert!(every_real_failed([web1.standing(Timestamp::from_secs(5))]));
//! web1.set_checked(Timestamp::from_secs(60), true);
//!
//! let now = Timestamp::from_secs(63);
//! let standing = web1.standing(now);
//! assert_eq!((standing.health, standing.share), (Health::Up, 256 * 4 / 16));
//! assert_eq!(web1.next_change(now), Some(Timestamp::from_secs(64)));
//! pool.edit(|edit| edit.entry("web1").map(|entry| standing.apply(entry)))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::SlowStart;
use crate::clock::Timestamp;
use crate::set::{FULL_SHARE, Settings};
use crate::{Admin, Health};

/// How a server that fails leaves; ldirectord's `quiescent`. See the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum OnDown {
    /// It gets no new clients; those bound to it, and established connections, go on.
    Quiesce,
    /// It gets nothing at all.
    #[default]
    Remove,
}

/// What a pool is to do with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The operator's wish, and [`Admin::Drain`] for a server that failed and is quiesced.
    pub admin: Admin,
    /// Whether it may be given anything.
    pub health: Health,
    /// The share of its weight, from 1 to [`FULL_SHARE`], in 256ths.
    pub share: u16,
}

impl Standing {
    /// Whether it gets new work (as far as health goes: its weight may still be 0).
    #[must_use]
    pub fn takes_new_work(&self) -> bool {
        self.admin == Admin::Ready && self.health == Health::Up
    }

    /// Whether clients that are bound to it still go there.
    #[must_use]
    pub fn keeps_sessions(&self) -> bool {
        self.admin != Admin::Maintenance && self.health == Health::Up
    }

    /// Writes it into a pool's settings of the server; weight, tier, zone, limit and address stay.
    pub fn apply(&self, settings: &mut Settings) {
        (settings.admin, settings.health, settings.share) = (self.admin, self.health, self.share);
    }
}

/// Whether no real server takes new work, so that the fallback has to: true of an empty set, too.
#[must_use]
pub fn every_real_failed(reals: impl IntoIterator<Item = Standing>) -> bool {
    !reals.into_iter().any(|standing| standing.takes_new_work())
}

/// All that is known of one server, and what follows from it. See the [module](self).
///
/// Slow start begins when a server that had served comes back: after failed checks, after an ejection, or after
/// maintenance. The first time that a server comes up it takes its full share at once, as all do when HAProxy starts:
/// were they all to crawl, nobody would serve. One that joins a set in full work is [`cold`](Self::cold).
#[derive(Clone, Debug)]
pub struct Condition {
    on_down: OnDown,
    slow_start: Option<SlowStart>,
    checked: bool,
    ejected: bool,
    admin: Admin,
    /// It was up before, so coming up is coming back.
    served: bool,
    /// When it last came back.
    back: Option<Timestamp>,
}

impl Condition {
    /// A server that is `up` or not as its checker says at the beginning, neither ejected nor drained.
    #[must_use]
    pub fn new(on_down: OnDown, slow_start: Option<SlowStart>, up: bool) -> Self {
        Self { on_down, slow_start, checked: up, ejected: false, admin: Admin::Ready, served: up, back: None }
    }

    /// The same for a server that joins, at `now`, a set which serves already: its first time is slow, too.
    #[must_use]
    pub fn cold(mut self, now: Timestamp) -> Self {
        (self.served, self.back) = (true, Some(now));
        self
    }

    /// What the checks say: [`Checker::is_up`](super::Checker::is_up).
    pub fn set_checked(&mut self, now: Timestamp, up: bool) {
        self.change(now, |condition| condition.checked = up);
    }

    /// What outlier detection says: [`Detector::is_ejected`](super::outlier::Detector::is_ejected).
    pub fn set_ejected(&mut self, now: Timestamp, ejected: bool) {
        self.change(now, |condition| condition.ejected = ejected);
    }

    /// What the operator wants.
    pub fn set_admin(&mut self, now: Timestamp, admin: Admin) {
        self.change(now, |condition| condition.admin = admin);
    }

    /// Whether it can serve: its checks pass and it is not ejected, whatever the operator wants.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.checked && !self.ejected
    }

    /// What the operator wants.
    #[must_use]
    pub fn admin(&self) -> Admin {
        self.admin
    }

    /// What the pool is to do at `now`; good until any voice speaks again, or until
    /// [`next_change`](Self::next_change).
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        let (admin, health) = match (self.is_up(), self.on_down, self.admin) {
            (true, _, admin) => (admin, Health::Up),
            (false, OnDown::Remove, admin) => (admin, Health::Down),
            (false, OnDown::Quiesce, Admin::Maintenance) => (Admin::Maintenance, Health::Up),
            (false, OnDown::Quiesce, _) => (Admin::Drain, Health::Up),
        };
        Standing { admin, health, share: self.share(now) }
    }

    /// When slow start next changes the standing; `None` when it stays as it is.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let (slow_start, back) = self.slow_start.as_ref().zip(self.back).filter(|_| self.warm())?;
        slow_start.next_change(back, now)
    }

    fn share(&self, now: Timestamp) -> u16 {
        match self.slow_start.as_ref().zip(self.back) {
            Some((slow_start, back)) => {
                let share = libm::round(slow_start.share(back, now) * f64::from(FULL_SHARE));
                (share as u16).clamp(1, FULL_SHARE)
            }
            None => FULL_SHARE,
        }
    }

    /// Whether requests reach it and warm it. Draining it is warm: its sessions go on.
    fn warm(&self) -> bool {
        self.is_up() && self.admin != Admin::Maintenance
    }

    fn change(&mut self, now: Timestamp, change: impl FnOnce(&mut Self)) {
        let was_warm = self.warm();
        change(self);
        if self.warm() && !was_warm {
            self.back = self.served.then_some(now);
            self.served = true;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::health::Curve;
    use alloc::vec::Vec;
    use core::time::Duration;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn slow() -> SlowStart {
        SlowStart::new(Duration::from_secs(16), Curve::Sixteenths).expect("longer than nothing")
    }

    #[test]
    fn standing_table() {
        use Admin::{Drain, Maintenance, Ready};
        use Health::{Down, Up};
        use OnDown::{Quiesce, Remove};
        // Checked, ejected, the operator's wish; what Remove makes of it, what Quiesce does; new work? sessions?
        for (checked, ejected, admin, remove, quiesce) in [
            (true, false, Ready, (Ready, Up, "new, kept"), (Ready, Up, "new, kept")),
            (true, false, Drain, (Drain, Up, "kept"), (Drain, Up, "kept")),
            (true, false, Maintenance, (Maintenance, Up, ""), (Maintenance, Up, "")),
            (false, false, Ready, (Ready, Down, ""), (Drain, Up, "kept")),
            (true, true, Ready, (Ready, Down, ""), (Drain, Up, "kept")),
            (false, true, Drain, (Drain, Down, ""), (Drain, Up, "kept")),
            (false, false, Maintenance, (Maintenance, Down, ""), (Maintenance, Up, "")),
        ] {
            for (on_down, (expected_admin, health, work)) in [(Remove, remove), (Quiesce, quiesce)] {
                let mut condition = Condition::new(on_down, None, true);
                condition.set_checked(seconds(1), checked);
                condition.set_ejected(seconds(1), ejected);
                condition.set_admin(seconds(1), admin);
                let standing = condition.standing(seconds(2));
                let case = (on_down, checked, ejected, admin);
                assert_eq!(standing, Standing { admin: expected_admin, health, share: 256 }, "{case:?}");
                assert_eq!(standing.takes_new_work(), work.contains("new"), "{case:?}");
                assert_eq!(standing.keeps_sessions(), work.contains("kept"), "{case:?}");
                // The pool reads its settings as we do.
                let mut settings = Settings::default();
                standing.apply(&mut settings);
                assert_eq!(settings.takes_new_work(), standing.takes_new_work());
                assert_eq!(settings.keeps_sessions(), standing.keeps_sessions());
                assert_eq!((condition.is_up(), condition.admin()), (checked && !ejected, admin));
            }
        }
    }

    #[test]
    fn slow_start_follows_a_return_and_not_a_beginning() {
        let share = |condition: &Condition, at| condition.standing(seconds(at)).share;
        let mut first = Condition::new(OnDown::Remove, Some(slow()), false);
        first.set_checked(seconds(10), true);
        assert_eq!((share(&first, 10), first.next_change(seconds(10))), (256, None));

        type Step = fn(&mut Condition, Timestamp);
        let returns: [(Step, Step); 3] = [
            (|c, now| c.set_checked(now, false), |c, now| c.set_checked(now, true)),
            (|c, now| c.set_ejected(now, true), |c, now| c.set_ejected(now, false)),
            (|c, now| c.set_admin(now, Admin::Maintenance), |c, now| c.set_admin(now, Admin::Ready)),
        ];
        for (leave, come_back) in returns {
            leave(&mut first, seconds(100));
            assert_eq!(first.next_change(seconds(100)), None, "nothing changes by itself while it is away");
            come_back(&mut first, seconds(200));
            assert_eq!((share(&first, 200), share(&first, 207), share(&first, 216)), (16, 128, 256));
            assert_eq!(first.next_change(seconds(207)), Some(seconds(208)));
            assert_eq!(first.next_change(seconds(216)), None);
            // A drained server is warm.
            first.set_admin(seconds(300), Admin::Drain);
            first.set_admin(seconds(400), Admin::Ready);
            assert_eq!(share(&first, 400), 256);
        }
        let cold = Condition::new(OnDown::Remove, Some(slow()), true).cold(seconds(50));
        assert_eq!((share(&cold, 50), share(&cold, 66)), (16, 256));
    }

    #[test]
    fn fallback_when_every_real_failed() {
        let of = |ups: &[bool]| -> Vec<Standing> {
            let standing = |&up: &bool| Condition::new(OnDown::Quiesce, None, up).standing(seconds(0));
            ups.iter().map(standing).collect()
        };
        for (ups, failed) in
            [(&[][..], true), (&[false, false], true), (&[false, true], false), (&[true], false)]
        {
            assert_eq!(every_real_failed(of(ups)), failed, "{ups:?}");
        }
    }

    #[test]
    fn a_fallback_of_the_last_tier_takes_over_by_itself() {
        let pool: crate::Pool<u8> = crate::Pool::new();
        let spec = |name, priority| crate::Spec::new(name, priority).priority(priority);
        pool.update([spec("real", 0), spec("fallback", u8::MAX)]).unwrap();
        for (on_down, up, open) in [
            (OnDown::Remove, false, "fallback"),
            (OnDown::Quiesce, false, "fallback"),
            (OnDown::Quiesce, true, "real"),
        ] {
            let standing = Condition::new(on_down, None, up).standing(seconds(0));
            pool.edit(|edit| edit.entry("real").map(|entry| standing.apply(entry))).unwrap();
            let snapshot = pool.snapshot();
            let takes: Vec<_> = snapshot.set().iter().filter(|m| m.weight > 0).map(|m| &*m.name).collect();
            assert_eq!(takes, [open], "{on_down:?}, up: {up}");
        }
    }

    proptest! {
        /// Whatever happens, the share stays in its range, and only what is up and ready takes new work.
        #[test]
        fn any_history(events in proptest::collection::vec((0u64..30, 0u8..3, any::<bool>()), 0..60)) {
            let mut condition = Condition::new(OnDown::Remove, Some(slow()), false);
            let mut now = Timestamp::ZERO;
            for (pause, voice, good) in events {
                now += Duration::from_secs(pause);
                match voice {
                    0 => condition.set_checked(now, good),
                    1 => condition.set_ejected(now, !good),
                    _ => condition.set_admin(now, if good { Admin::Ready } else { Admin::Maintenance }),
                }
                let standing = condition.standing(now);
                prop_assert!((1..=FULL_SHARE).contains(&standing.share));
                prop_assert_eq!(standing.takes_new_work(), condition.is_up() && condition.admin() == Admin::Ready);
                if let Some(next) = condition.next_change(now) {
                    prop_assert!(next > now && condition.standing(next).share > standing.share);
                }
            }
        }
    }
}
