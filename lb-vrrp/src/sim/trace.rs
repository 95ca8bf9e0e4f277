//! What happened in a simulation, as a table.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use super::RouterId;
use crate::event::{Action, Event, Notification, Transmit};
use crate::time::Timestamp;
use crate::wire::Discard;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The router's program was started.
    Started,
    /// The machine died, with its addresses.
    Crashed,
    /// The program was stopped and handles nothing. Whether packets wait for it.
    Paused {
        /// They wait in the socket; otherwise they are lost, as with a machine that is stopped as a whole.
        queues: bool,
    },
    /// The program goes on.
    Resumed,
    /// The router was told something.
    Told(Event),
    /// It sent an advert.
    Sent(Transmit),
    /// An advert that was too old to be sent was dropped.
    Stale(Transmit),
    /// Its kernel did not carry out what it wanted.
    Refused(Action),
    /// A copy was lost on its way to this router.
    Lost(RouterId),
    /// It heard an advert.
    Heard {
        /// Whose.
        source: IpAddr,
        /// Of which priority; none if it can't be read.
        priority: Option<u8>,
        /// What it made of it.
        outcome: Result<(), Discard>,
    },
    /// It added an address.
    Added(IpAddr),
    /// It removed an address.
    Removed(IpAddr),
    /// It announced an address to its neighbours.
    Announced(IpAddr),
    /// It said something.
    Said(Notification),
    /// Loss, and longest delay, of the link changed.
    Link {
        /// Lost packets in a hundred.
        loss_percent: u32,
        /// The longest delay.
        delay: Duration,
    },
    /// Nothing passes from here to this router.
    Cut(RouterId),
    /// All faults of the link and of clocks' wakes are over.
    Healed,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("start"),
            Self::Crashed => f.write_str("CRASH"),
            Self::Paused { queues: true } => f.write_str("PAUSE"),
            Self::Paused { queues: false } => f.write_str("PAUSE, deaf"),
            Self::Resumed => f.write_str("RESUME"),
            Self::Told(event) => write!(f, "told {event:?}"),
            Self::Sent(transmit) => write!(f, "-> {} priority {}", transmit.destination, transmit.priority),
            Self::Stale(transmit) => write!(f, "dropped as stale: priority {}", transmit.priority),
            Self::Refused(action) => write!(f, "refused: {action:?}"),
            Self::Lost(to) => write!(f, "lost on the way to {to}"),
            Self::Heard { source, priority, outcome } => {
                write!(f, "<- {source}")?;
                if let Some(priority) = priority {
                    write!(f, " priority {priority}")?;
                }
                match outcome {
                    Ok(()) => Ok(()),
                    Err(discard) => write!(f, " dropped: {}", discard.name()),
                }
            }
            Self::Added(address) => write!(f, "add {address}"),
            Self::Removed(address) => write!(f, "remove {address}"),
            Self::Announced(address) => write!(f, "announce {address}"),
            Self::Said(Notification::State { from, to, reason }) => {
                write!(f, "{from} => {to} ({reason:?})")
            }
            Self::Said(notification) => write!(f, "{notification:?}"),
            Self::Link { loss_percent, delay } => {
                write!(f, "LINK loss {loss_percent} %, delay up to {delay:?}")
            }
            Self::Cut(to) => write!(f, "CUT to {to}"),
            Self::Healed => f.write_str("HEALED"),
        }
    }
}

/// One row of a [`Trace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When, in true time.
    pub at: Timestamp,
    /// At which router; none if at the link.
    pub router: Option<RouterId>,
    /// What.
    pub what: What,
}

/// What happened, in order. Prints as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    entries: Vec<Entry>,
}

impl Trace {
    /// The rows.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn push(&mut self, at: Timestamp, router: Option<RouterId>, what: What) {
        self.entries.push(Entry { at, router, what });
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { at, router, what } in &self.entries {
            let router = router.map_or_else(|| "link".into(), |router| router.to_string());
            writeln!(
                f,
                "{:>12}.{:06}  {router:<5} {what}",
                at.as_micros() / 1_000_000,
                at.as_micros() % 1_000_000
            )?;
        }
        Ok(())
    }
}
