//! What goes into a virtual router beside packets and time, and what comes out of it.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use crate::config::VirtualAddress;
use crate::time::Timestamp;
use crate::wire::Interval;

/// The state of a virtual router (RFC 9568 §6.4).
///
/// [`State::Active`] is version 2's *Master*; both parse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum State {
    /// Not started, or at fault.
    #[default]
    Initialize,
    /// Another router is active, or the time to find out is running.
    Backup,
    /// This router has the addresses.
    Active,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Initialize => "Initialize",
            Self::Backup => "Backup",
            Self::Active => "Active",
        })
    }
}

impl FromStr for State {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        let is = |name| text.eq_ignore_ascii_case(name);
        if is("initialize") || is("init") {
            Ok(Self::Initialize)
        } else if is("backup") {
            Ok(Self::Backup)
        } else if is("active") || is("master") {
            Ok(Self::Active)
        } else {
            Err(ParseStateError)
        }
    }
}

/// A text that names no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a VRRP state: write initialize, backup, or active (master)")]
pub struct ParseStateError;

bitflags::bitflags! {
    /// Why a virtual router can't take part. It stays in Initialize while there is any.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Faults: u16 {
        /// The interface is gone, down, or without carrier.
        const LINK = 1;
        /// The interface has no address to send from (IPv6 to the group: none that is link-local and no longer tentative).
        const SOURCE = 1 << 1;
        /// Something tracked with weight 0 is down.
        const TRACK = 1 << 2;
        /// Another member of the sync group is at fault.
        const GROUP = 1 << 3;
        /// An advert could not be sent. The router tries again by itself.
        const TRANSMIT = 1 << 4;
        /// An address could not be added or removed. The router tries again by itself.
        const ADDRESS = 1 << 5;
        /// An operator, or the program around the router, said so.
        const ADMIN = 1 << 6;
        /// Adverts are to be signed, and the router has not been told the wall clock.
        const CLOCK = 1 << 7;
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, _) in self.iter_names() {
            f.write_str(separator)?;
            for letter in name.chars() {
                write!(f, "{}", letter.to_ascii_lowercase())?;
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// What a virtual router is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Begin: to Backup, or to Active if this router owns the addresses.
    Startup,
    /// End: an active router says so by priority 0 and removes its addresses.
    Shutdown,
    /// These faults are there. An active router steps down.
    Fault(Faults),
    /// These faults are over. When none is left the router begins anew.
    Cleared(Faults),
    /// The priority that tracking makes of the configured one; it is brought into 1 to 254. An owner's stays 255.
    Priority(u8),
    /// The interface's own address that adverts come from, and that decides between equal priorities. `None`, and an address
    /// that [can't be one](crate::Config::sends_from), is the fault [`Faults::SOURCE`].
    Source(Option<IpAddr>),
    /// What the wall clock says now: the time since 1970. Routers that sign adverts need it before they start, and again
    /// whenever the clock may have been set; often does no harm. Between, they go on from it by the time they are given.
    #[cfg(feature = "auth-hmac")]
    WallClock(core::time::Duration),
    /// The program around the router was stopped, or the machine: it should have looked at its sockets so long ago. Told before the
    /// packets that have come since, if they are handed over with the time when they came: by that alone, a router can't tell
    /// (see [`LateWake`](crate::config::LateWake)).
    HeldUp(core::time::Duration),
    /// Another program removed this virtual address. An active router puts it back.
    AddressLost(IpAddr),
    /// The sync group wants this router to be active, now.
    TakeOver,
    /// The sync group wants this router not to be active.
    StandDown,
}

/// What a virtual router wants done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send an advert: [`VirtualRouter::encode`](crate::VirtualRouter::encode) writes it.
    Transmit(Transmit),
    /// Add the address to the interface; IPv6 without duplicate address detection.
    AddAddress(VirtualAddress),
    /// Remove the address from the interface.
    RemoveAddress(VirtualAddress),
    /// Broadcast a gratuitous ARP request for the address (RFC 9568 §8.1.2 and §6.4.2).
    GratuitousArp(Ipv4Addr),
    /// Send an unsolicited neighbour advertisement with the override flag for the address to all nodes (RFC 9568 §6.4.2).
    UnsolicitedNeighborAdvertisement(Ipv6Addr),
    /// Tell whoever wants to know.
    Notify(Notification),
}

/// An advert to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The address to send from.
    pub source: IpAddr,
    /// The group, or one unicast peer.
    pub destination: IpAddr,
    /// The priority that it carries; 0 when the router leaves.
    pub priority: u8,
    /// When the router decided to send it. A driver that was stopped since must ask
    /// [`VirtualRouter::withdraw_if_stale`](crate::VirtualRouter::withdraw_if_stale) before it sends.
    pub decided: Timestamp,
    /// What its signature says of when it was made, if it is to be signed.
    #[cfg(feature = "auth-hmac")]
    pub sequence: crate::wire::auth::Sequence,
}

impl Transmit {
    /// An advert that was decided then, and is not signed.
    #[must_use]
    pub const fn new(source: IpAddr, destination: IpAddr, priority: u8, decided: Timestamp) -> Self {
        Self {
            source,
            destination,
            priority,
            decided,
            #[cfg(feature = "auth-hmac")]
            sequence: crate::wire::auth::Sequence::ZERO,
        }
    }
}

/// What happened, for logs, scripts, and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notification {
    /// The state changed.
    State {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// Why.
        reason: Reason,
    },
    /// The set of faults changed.
    Faults(Faults),
    /// The effective priority changed.
    Priority(u8),
    /// In Backup: another router is active than before.
    NewActive {
        /// Its address.
        address: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// Version 3: the active router's interval is not what was learned before.
    IntervalLearned(Interval),
    /// Something that operators must look at. Said once, and again when it comes back after a calm time.
    Conflict {
        /// What it is.
        kind: Conflict,
        /// Whose advert showed it.
        address: IpAddr,
    },
    /// Another program removed the address; it was put back.
    AddressRestored(IpAddr),
}

/// Why the state changed. Versions 2's and 3's MIBs call it *new master reason*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Reason {
    /// It was started or stopped.
    Operator,
    /// It owns the addresses.
    Owner,
    /// The active router was silent for the master-down interval.
    MasterDown,
    /// The active router left by priority 0.
    MasterLeft,
    /// The active router's priority was lower.
    Preempted,
    /// A router of higher priority advertises.
    HigherPriority(IpAddr),
    /// A router of equal priority and greater address advertises.
    GreaterAddress(IpAddr),
    /// It woke later than the others wait ([`LateWake::Listen`](crate::config::LateWake::Listen)).
    LateWake,
    /// A fault came up.
    Fault(#[cfg_attr(feature = "serde", serde(skip))] Faults),
    /// The last fault went away.
    Recovered,
    /// The sync group wanted it.
    Group,
}

/// Something that only a mistake or a broken network makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Conflict {
    /// This router is active, and so is another that should hear it: split brain.
    SplitBrain,
    /// Two active routers have the same priority.
    EqualPriority,
    /// Two routers say that they own the addresses.
    TwoOwners,
    /// An advert came from this router's own address.
    SameAddress,
    /// A checksum is right in the mode that is not accepted.
    ChecksumMode,
    /// Version 2: another interval than this router's.
    Interval,
    /// The adverts list other addresses than this router's.
    AddressList,
    /// Version 2: another authentication than this router's. With keys: a wrong signature, or none.
    Authentication,
    /// A signature's time and this router's clock differ by more than half of what is allowed.
    ClockSkew,
}

impl Conflict {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = Self::ClockSkew as usize + 1;
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SplitBrain => "split brain: a second active router, which does not hear this one",
            Self::EqualPriority => "a second active router has the same priority: give each its own",
            Self::TwoOwners => "two routers have priority 255: only the addresses' owner may",
            Self::SameAddress => {
                "an advert came from this router's own address: a loop, or a duplicate address"
            }
            Self::ChecksumMode => "a peer sums its adverts in the other way: set the same checksum mode",
            Self::Interval => {
                "a peer has another advertisement interval: version 2 needs the same everywhere"
            }
            Self::AddressList => "a peer lists other addresses: give all routers the same",
            Self::Authentication => "a peer has another authentication: give all routers the same",
            Self::ClockSkew => {
                "a peer's signatures are of another time: synchronise the clocks (if they agree, someone sends old adverts again)"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_parse_as_they_print_and_by_their_old_names() {
        for state in [State::Initialize, State::Backup, State::Active] {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert_eq!("MASTER".parse(), Ok(State::Active));
        assert_eq!("INIT".parse(), Ok(State::Initialize));
        assert!("fault".parse::<State>().is_err());
    }

    #[test]
    fn faults_print_by_name() {
        assert_eq!((Faults::LINK | Faults::TRACK).to_string(), "link, track");
    }
}
