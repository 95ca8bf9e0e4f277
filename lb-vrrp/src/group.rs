//! Sync groups: routers that are active together or not at all (keepalived's `vrrp_sync_group`).
//!
//! A proxy with an outer and an inner address must have both. When one member becomes active, all become so; when one
//! yields, all do, with a farewell; while one is at fault, none takes part. Give the members of a group the same priority
//! on a host, or two hosts may each be the better one for a part of the group and pull it to and fro.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::event::{Event, Faults, State};
use crate::router::VirtualRouter;

/// Which routers go together. It holds no routers: tell it what each has become ([`Self::observe`]), and tell the routers what
/// it asks ([`Self::poll`]), until it asks no more.
///
/// ```
/// use lb_vrrp::group::SyncGroup;
/// use lb_vrrp::{Config, Event, State, Timestamp, VirtualRouter};
///
/// let source = Some("10.0.0.5".parse()?);
/// let mut routers = [
///     VirtualRouter::new(Config::new(1, ["10.0.0.1/24".parse()?]), source)?,
///     VirtualRouter::new(Config::new(2, ["10.1.0.1/24".parse()?]), source)?,
/// ];
/// let mut group = SyncGroup::new(routers.len());
/// let mut now = Timestamp::ZERO;
/// routers.iter_mut().for_each(|router| router.handle_event(now, Event::Startup));
///
/// now = routers[0].poll_timeout().unwrap();
/// routers[0].handle_timeout(now); // the first takes over
/// group.settle(now, &mut routers); // and takes the second along
/// assert_eq!(routers[1].state(), State::Active);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SyncGroup {
    members: Vec<Member>,
    /// What the members are to be together.
    state: State,
    /// Whether the members were told of a fault among them.
    faulty: bool,
    asks: VecDeque<(usize, Event)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Member {
    state: State,
    /// At fault by itself, not by the group.
    faulty: bool,
}

impl SyncGroup {
    /// A group of `members`, none of which is started.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self {
            members: core::iter::repeat_n(Member::default(), members).collect(),
            state: State::Initialize,
            faulty: false,
            asks: VecDeque::new(),
        }
    }

    /// What the members are together.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Takes note of what member number `member` is now. To say the same again does no harm; a number that the group does not
    /// have is left alone.
    pub fn observe(&mut self, member: usize, router: &VirtualRouter) {
        let Some(known) = self.members.get_mut(member) else { return };
        let before = known.state;
        *known = Member { state: router.state(), faulty: !(router.faults() - Faults::GROUP).is_empty() };
        let after = known.state;

        let faulty = self.members.iter().any(|member| member.faulty);
        if faulty != self.faulty {
            self.faulty = faulty;
            let event = if faulty { Event::Fault(Faults::GROUP) } else { Event::Cleared(Faults::GROUP) };
            self.asks.clear();
            self.ask_all(|_| Some(event));
        }
        match (self.state, after) {
            (State::Active, State::Backup) if before == State::Active => {
                self.state = State::Backup;
                self.ask_all(|member| (member.state == State::Active).then_some(Event::StandDown));
            }
            (State::Active, State::Backup) if before == State::Initialize => {
                self.asks.push_back((member, Event::TakeOver));
            }
            (State::Initialize | State::Backup, State::Active) if before != State::Active => {
                self.state = State::Active;
                self.ask_all(|member| (member.state == State::Backup).then_some(Event::TakeOver));
            }
            (State::Initialize, State::Backup) => self.state = State::Backup,
            _ => {}
        }
        if self.members.iter().all(|member| member.state == State::Initialize) {
            self.state = State::Initialize;
        }
    }

    fn ask_all(&mut self, event: impl Fn(&Member) -> Option<Event>) {
        let asks = self.members.iter().enumerate();
        self.asks.extend(asks.filter_map(|(at, member)| event(member).map(|event| (at, event))));
    }

    /// What to tell whom next, by the member's number. Observe the member again afterwards.
    pub fn poll(&mut self) -> Option<(usize, Event)> {
        self.asks.pop_front()
    }

    /// Observes all `routers`, the group's members in their order, and tells them what the group asks, until it asks no more.
    pub fn settle(&mut self, now: crate::Timestamp, routers: &mut [VirtualRouter]) {
        for (at, router) in routers.iter().enumerate() {
            self.observe(at, router);
        }
        while let Some((at, event)) = self.poll() {
            if let Some(router) = routers.get_mut(at) {
                router.handle_event(now, event);
                self.observe(at, router);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::event::Action;
    use crate::wire::{MAX_MESSAGE, Meta};
    use crate::{Timestamp, VirtualAddress};

    fn routers(priority: u8) -> Vec<VirtualRouter> {
        (1..=3)
            .map(|vrid| {
                let address = VirtualAddress::new([10, vrid, 0, 1].into(), 24);
                let config = Config { priority, ..Config::new(vrid, [address]) };
                let mut router = VirtualRouter::new(config, Some([10, vrid, 0, 5].into())).unwrap();
                router.handle_event(Timestamp::ZERO, Event::Startup);
                router
            })
            .collect()
    }

    fn states(routers: &[VirtualRouter]) -> Vec<State> {
        routers.iter().map(VirtualRouter::state).collect()
    }

    fn active(group: &mut SyncGroup, routers: &mut [VirtualRouter]) -> Timestamp {
        let now = routers[0].poll_timeout().unwrap();
        routers[0].handle_timeout(now);
        group.settle(now, routers);
        assert_eq!(states(routers), [State::Active; 3]);
        now
    }

    #[test]
    fn one_takes_all_along_and_one_that_yields_too() {
        let mut group = SyncGroup::new(3);
        let mut routers = routers(100);
        group.settle(Timestamp::ZERO, &mut routers);
        assert_eq!(group.state(), State::Backup);
        let now = active(&mut group, &mut routers);

        let better = Config { priority: 200, ..routers[1].config().clone() };
        let mut peer = VirtualRouter::new(better, Some([10, 2, 0, 6].into())).unwrap();
        peer.handle_event(now, Event::Startup);
        peer.handle_event(now, Event::TakeOver);
        let Some(Action::Transmit(transmit)) = peer.poll_action() else { panic!() };
        let mut buffer = [0; MAX_MESSAGE];
        let message = peer.encode(&transmit, &mut buffer).unwrap();
        routers[1]
            .handle_packet(now, &Meta::new(transmit.source, transmit.destination, 255), message)
            .unwrap();
        group.settle(now, &mut routers);
        assert_eq!(states(&routers), [State::Backup; 3]);
        assert_eq!(group.state(), State::Backup);
        let farewell = |router: &mut VirtualRouter| {
            core::iter::from_fn(|| router.poll_action())
                .any(|action| matches!(action, Action::Transmit(transmit) if transmit.priority == 0))
        };
        assert_eq!(routers.iter_mut().map(farewell).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn a_fault_of_one_holds_all_until_it_is_over() {
        let mut group = SyncGroup::new(3);
        let mut routers = routers(100);
        let now = active(&mut group, &mut routers);
        routers[2].handle_event(now, Event::Fault(Faults::LINK));
        group.settle(now, &mut routers);
        assert_eq!(states(&routers), [State::Initialize; 3]);
        routers[1].handle_event(now, Event::Fault(Faults::TRACK));
        group.settle(now, &mut routers);
        routers[2].handle_event(now, Event::Cleared(Faults::LINK));
        group.settle(now, &mut routers);
        assert_eq!(states(&routers), [State::Initialize; 3]);
        routers[1].handle_event(now, Event::Cleared(Faults::TRACK));
        group.settle(now, &mut routers);
        assert_eq!(states(&routers), [State::Backup; 3]);
        for router in &mut routers {
            assert_eq!(router.faults(), Faults::empty());
            while router.poll_action().is_some() {}
        }
        active(&mut group, &mut routers);
    }

    #[test]
    fn a_member_that_comes_late_joins_the_others() {
        let mut group = SyncGroup::new(3);
        let mut routers = routers(100);
        routers[2].handle_event(Timestamp::ZERO, Event::Shutdown);
        let now = routers[0].poll_timeout().unwrap();
        routers[0].handle_timeout(now);
        group.settle(now, &mut routers);
        assert_eq!(states(&routers), [State::Active, State::Active, State::Initialize]);
        routers[2].handle_event(now, Event::Startup);
        group.settle(now, &mut routers);
        assert_eq!(states(&routers), [State::Active; 3]);
        // A late wake of one is a yield of all.
        let later = now + Duration::from_secs(4);
        for router in &mut routers[1..] {
            router.handle_timeout(router.poll_timeout().unwrap());
        }
        routers[0].handle_timeout(later);
        group.settle(later, &mut routers);
        assert_eq!(states(&routers), [State::Backup; 3]);
    }
}
