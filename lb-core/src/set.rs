//! The view of a pool that schedulers work on: no payloads, compact where it is read at every pick.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::ops::Deref;

use crate::backend::{Admin, BackendId, Health, Weight};
use crate::load::Load;

/// Full weight in [`Settings::share`].
pub const FULL_SHARE: u16 = 256;

/// What can be changed about one backend of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The configured share of the work.
    pub weight: Weight,
    /// What the operator wants of it.
    pub admin: Admin,
    /// Whether it answers.
    pub health: Health,
    /// How much of its weight counts, in 256ths: slow start raises it to [`FULL_SHARE`].
    pub share: u16,
    /// Its tier: only the lowest that has a usable backend gets work.
    pub priority: u8,
    /// Where it stands.
    pub zone: u16,
    /// The most requests it takes at once.
    pub limit: u32,
    /// Its address, for the algorithms that hash it.
    pub address: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            weight: Weight::ONE,
            admin: Admin::Ready,
            health: Health::Up,
            share: FULL_SHARE,
            priority: 0,
            zone: 0,
            limit: u32::MAX,
            address: None,
        }
    }
}

impl Settings {
    /// Whether it may be given new work, its tier aside.
    pub fn takes_new_work(&self) -> bool {
        self.weight > Weight::ZERO && self.admin == Admin::Ready && self.health == Health::Up
    }

    /// Whether a session that it has already may go on there.
    pub fn keeps_sessions(&self) -> bool {
        self.admin != Admin::Maintenance && self.health == Health::Up
    }
}

/// One backend in a snapshot. It derefs to its [`Settings`].
#[derive(Debug, Clone)]
pub struct Member {
    /// Who it is.
    pub id: BackendId,
    /// Its name in the pool.
    pub name: Arc<str>,
    /// What is set about it.
    pub settings: Settings,
    /// The weight that counts for new work: the configured one, or 0 where it gets none (drained, down, in a tier
    /// that is not in use). Slow start is not in it; see [`Set::weights`].
    pub weight: u32,
    /// The last configured weight that was not 0, for algorithms whose tables keep a quiesced backend's place.
    pub last_weight: Weight,
    /// Its counters.
    pub load: Arc<Load>,
}

impl Deref for Member {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// The members of a snapshot in list order, and what is derived from them once.
#[derive(Debug, Default)]
pub struct Set {
    version: u64,
    members: Box<[Member]>,
    weights: Box<[u32]>,
    index: Index,
    limited: bool,
}

impl Set {
    /// Derives the view of `members`; the effective weights are computed here, whatever they were.
    pub fn new(version: u64, mut members: Vec<Member>) -> Self {
        let tier = members.iter().filter(|m| m.takes_new_work()).map(|m| m.priority).min();
        for member in &mut members {
            let open = member.takes_new_work() && Some(member.priority) == tier;
            member.weight = if open { member.settings.weight.get().into() } else { 0 };
        }
        // Shares of a small weight need finer steps than whole numbers, so while any backend ramps up all are scaled.
        let ramping = members.iter().any(|m| m.weight > 0 && m.share < FULL_SHARE);
        let weights = members
            .iter()
            .map(|m| match (m.weight, ramping) {
                (0, _) => 0,
                (weight, false) => weight,
                (weight, true) => {
                    (weight * u32::from(m.share.min(FULL_SHARE)) * RAMP_SCALE / u32::from(FULL_SHARE)).max(1)
                }
            })
            .collect();
        Self {
            version,
            index: Index::new(&members),
            limited: members.iter().any(|m| m.limit != u32::MAX),
            members: members.into_boxed_slice(),
            weights,
        }
    }

    /// Counts the changes of the pool; a larger one is newer.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The effective weights in list order, slow start included, in a common scale: only their ratios mean anything.
    /// 0 gets no new work.
    #[inline]
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Whether any member has a limit on its active requests.
    #[inline]
    pub fn limited(&self) -> bool {
        self.limited
    }

    /// The place of a backend in list order.
    #[inline]
    pub fn position(&self, id: BackendId) -> Option<usize> {
        self.index.find(&self.members, id)
    }
}

impl Deref for Set {
    type Target = [Member];

    #[inline]
    fn deref(&self) -> &[Member] {
        &self.members
    }
}

/// Sixteenths, as HAProxy's slow start has them.
const RAMP_SCALE: u32 = 16;

/// Finds a member by its id: open addressing over a table at most half full.
#[derive(Debug, Default)]
struct Index {
    slots: Box<[u32]>,
    shift: u32,
}

impl Index {
    const FREE: u32 = u32::MAX;

    fn new(members: &[Member]) -> Self {
        let size = (members.len() * 2).next_power_of_two().max(2);
        let mut index = Self {
            slots: alloc::vec![Self::FREE; size].into_boxed_slice(),
            shift: u64::BITS - size.trailing_zeros(),
        };
        for (position, member) in members.iter().enumerate() {
            let mut slot = index.home(member.id);
            while index.slots[slot] != Self::FREE {
                slot = (slot + 1) & (size - 1);
            }
            index.slots[slot] = u32::try_from(position).unwrap_or(Self::FREE);
        }
        index
    }

    /// Ids count upwards, so a multiplicative hash spreads them evenly (Knuth, vol. 3, 6.4).
    #[inline]
    fn home(&self, id: BackendId) -> usize {
        (id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    #[inline]
    fn find(&self, members: &[Member], id: BackendId) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = self.home(id);
        loop {
            let position = *self.slots.get(slot & mask)? as usize;
            if members.get(position)?.id == id {
                return Some(position);
            }
            slot += 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn member(settings: Settings) -> Member {
        Member {
            id: BackendId::next(),
            name: "any".into(),
            weight: 0,
            last_weight: settings.weight,
            load: Arc::default(),
            settings,
        }
    }

    #[test]
    fn only_the_lowest_usable_tier_gets_work() {
        let spare = Settings { priority: 1, ..Settings::default() };
        let down = Settings { health: Health::Down, ..Settings::default() };
        let drain = Settings { admin: Admin::Drain, ..Settings::default() };
        for (list, expected) in [
            (vec![Settings::default(), spare.clone()], vec![1, 0]),
            (vec![down.clone(), spare.clone()], vec![0, 1]),
            (vec![drain, down.clone(), spare.clone(), spare], vec![0, 0, 1, 1]),
            (vec![down], vec![0]),
            (vec![], vec![]),
        ] {
            let set = Set::new(0, list.into_iter().map(member).collect());
            assert_eq!(set.weights(), expected);
        }
    }

    #[test]
    fn a_ramp_scales_all_so_that_ratios_are_kept() {
        let ramp =
            |weight, share| member(Settings { weight: Weight::new(weight), share, ..Settings::default() });
        assert_eq!(Set::new(0, vec![ramp(3, 256), ramp(1, 256)]).weights(), [3, 1]);
        assert_eq!(Set::new(0, vec![ramp(3, 256), ramp(1, 64)]).weights(), [48, 4]);
        assert_eq!(Set::new(0, vec![ramp(3, 256), ramp(1, 0)]).weights(), [48, 1], "never nothing at all");
        assert_eq!(
            Set::new(0, vec![ramp(0, 64), ramp(2, 256)]).weights(),
            [0, 2],
            "who is out does not ramp"
        );
        let largest = Set::new(0, vec![ramp(u16::MAX, 256), ramp(1, 1)]);
        assert_eq!(largest.weights(), [65_535 * 16, 1]);
    }

    #[test]
    fn every_member_is_found_and_no_other() {
        for count in [0, 1, 2, 3, 100, 1000] {
            let members: Vec<_> = (0..count).map(|_| member(Settings::default())).collect();
            let ids: Vec<_> = members.iter().map(|m| m.id).collect();
            let set = Set::new(0, members);
            for (position, id) in ids.iter().enumerate() {
                assert_eq!(set.position(*id), Some(position));
            }
            assert_eq!(set.position(BackendId::next()), None);
        }
        assert_eq!(Set::default().position(BackendId::next()), None);
    }
}
