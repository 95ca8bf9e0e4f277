//! The connection table: every packet of a connection goes to the same server.

use alloc::vec::Vec;
use core::time::Duration;

use super::flow::Flow;
use super::shard::{Entry, Life, Origin};
use super::sharded::{Cursor, Sharded};
use super::state::{Packet, State, Timeouts, View};
use super::tcp::TcpState;
use super::{Counters, LONGEST, Merged, Seed, Swept};
use crate::clock::Timestamp;

/// What a full [`ConnectionTable`] does with a new connection.
///
/// Connections that have timed out always make room first. Active ones never go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum WhenFull {
    /// It refuses the new one.
    Refuse,
    /// The embryonic connection that ends first makes room: a SYN flood pushes out its own.
    EvictEmbryonic,
    /// As before, and when there is none, the inactive one (closing, UDP, ICMP) that ends first.
    #[default]
    EvictInactive,
}

/// How a [`ConnectionTable`] is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConnectionConfig {
    capacity: usize,
    timeouts: Timeouts,
    view: View,
    when_full: WhenFull,
    shards: usize,
}

impl ConnectionConfig {
    /// A table of at most `capacity` connections that sees both sides, with IPVS's timeouts.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            timeouts: Timeouts::default(),
            view: View::default(),
            when_full: WhenFull::default(),
            shards: 64,
        }
    }

    /// Other timeouts than IPVS's. Lives are cut to 146 years.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Which packets pass the director; default both sides'.
    #[must_use]
    pub fn view(mut self, view: View) -> Self {
        self.view = view;
        self
    }

    /// What a full table does; default [`WhenFull::EvictInactive`].
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// How many shards to spread the connections over, rounded up to a power of two; default 64. A small
    /// table takes fewer by itself, so that each has room for at least 256.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }
}

/// A connection was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The table is full, and nothing in it may make room.
    #[error(
        "no room for {flow} in the connection table of {capacity}: raise its capacity, shorten its timeouts, \
         or let it evict"
    )]
    Full {
        /// The connection.
        flow: Flow,
        /// How many connections the table can hold.
        capacity: usize,
    },
}

/// One connection as a plain value, to show, to count, or to send to a peer.
///
/// It carries spans rather than moments: clocks of two machines have nothing to do with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Connection<V> {
    /// Its 5-tuple.
    pub flow: Flow,
    /// Its state.
    pub state: State,
    /// What it belongs to.
    pub value: V,
    /// Time until it ends, unless another packet comes; zero for one that has ended.
    pub remaining: Duration,
    /// Time since its last packet.
    pub idle: Duration,
}

impl<V> Connection<V> {
    /// The same connection with another value, or `None` if `f` knows none: a peer sends a server's name,
    /// this process keeps its identifier.
    pub fn try_map<W>(self, f: impl FnOnce(V) -> Option<W>) -> Option<Connection<W>> {
        let Self { flow, state, value, remaining, idle } = self;
        Some(Connection { flow, state, value: f(value)?, remaining, idle })
    }
}

/// A connection that has come into the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined<V> {
    /// The state in which it begins.
    pub state: State,
    /// The one that is not in the table any more: evicted to make room, or one with the same flow. Count it
    /// out.
    pub displaced: Option<Connection<V>>,
}

/// What a packet met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<V> {
    /// What its connection belongs to.
    pub value: V,
    /// The connection's state before the packet.
    pub before: State,
    /// The connection's state after it.
    pub after: State,
}

impl<V> Seen<V> {
    /// Whether the packet moved the connection between active and inactive; move the value's load counters
    /// likewise.
    pub fn shift(&self) -> Option<Shift> {
        match (self.before.is_active(), self.after.is_active()) {
            (false, true) => Some(Shift::Activated),
            (true, false) => Some(Shift::Deactivated),
            _ => None,
        }
    }

    /// Whether the packet opens a new connection where an old one had ended: the client uses its port again.
    /// The value is the old one's; to choose anew, insert.
    pub fn reopened(&self) -> bool {
        use TcpState::{Close, FinWait, Listen, SynRecv, TimeWait};
        matches!(
            (self.before, self.after),
            (State::Tcp(Close | FinWait | Listen | TimeWait), State::Tcp(SynRecv))
                | (State::Sctp(super::SctpState::Closed), State::Sctp(super::SctpState::Setup))
        )
    }
}

/// A connection's move between the two counts that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// From inactive to active.
    Activated,
    /// From active to inactive.
    Deactivated,
}

/// How many connections there are of each kind, those that have ended but are not yet swept included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Still being opened.
    pub embryonic: usize,
    /// Neither embryonic nor active: closing, UDP, ICMP.
    pub inactive: usize,
    /// Established.
    pub active: usize,
}

/// Connection → value, with the connection's state.
///
/// Every packet moves the state ([`TcpState::next`], [`SctpState::next`](super::SctpState::next)) and
/// prolongs the entry by the timeout of the state that it leads to. Whatever enters, moves or leaves is given
/// to the caller, so that counts of active and inactive connections can be kept beside each value and are
/// never off by one: [`Joined`] on entering, [`Seen::shift`] on moving, the callbacks of
/// [`expire`](Self::expire) and [`remove_value`](Self::remove_value) on leaving.
///
/// Shared by reference between threads; see the [module](super) for locks, memory and order.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use lb_core::clock::Timestamp;
/// use lb_core::session::*;
///
/// let table = ConnectionTable::new(ConnectionConfig::new(1000));
/// let flow = Flow::new(Protocol::Tcp, "192.0.2.7:40000".parse()?, "198.51.100.1:80".parse()?);
/// let now = Timestamp::ZERO;
///
/// table.insert(flow, "web1", Packet::from_client(Segment::Tcp(TcpFlags::SYN)), now).expect("room");
/// table.packet(&flow, Packet::from_server(Segment::Tcp(TcpFlags::SYN | TcpFlags::ACK)), now);
/// let seen = table.packet(&flow, Packet::from_client(Segment::Tcp(TcpFlags::ACK)), now).expect("known");
/// assert_eq!((seen.value, seen.shift()), ("web1", Some(Shift::Activated)));
/// # }
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct ConnectionTable<V> {
    config: ConnectionConfig,
    shards: Sharded<Flow, State, V, 3>,
}

/// The queue of a state: 0 makes room first, 2 never.
const fn class(state: State) -> u8 {
    if state.is_active() {
        2
    } else if state.is_embryonic() {
        0
    } else {
        1
    }
}

impl<V: Clone> ConnectionTable<V> {
    /// An empty table whose hash is seeded by the operating system's randomness.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn new(config: ConnectionConfig) -> Self {
        Self::with_seed(config, Seed::random())
    }

    /// An empty table with a given seed: the same calls then give the same results.
    #[must_use]
    pub fn with_seed(config: ConnectionConfig, seed: Seed) -> Self {
        Self { shards: Sharded::new(config.capacity, config.shards, seed), config }
    }

    fn hash(&self, flow: &Flow) -> u64 {
        self.shards.hash(flow.protocol() as u8, flow.as_bytes())
    }

    fn timeout(&self, state: State) -> Duration {
        self.config.timeouts.of(state).min(LONGEST)
    }

    /// A packet of a connection: where it goes. Moves the connection's state and prolongs its life. `None` if
    /// the table does not know the connection. Allocates nothing.
    pub fn packet(&self, flow: &Flow, packet: Packet, now: Timestamp) -> Option<Seen<V>> {
        let hash = self.hash(flow);
        let mut shard = self.shards.shard(hash);
        let slot = shard.find(hash, |known| known == flow).filter(|&slot| shard.entry(slot).is_live(now));
        let Some(slot) = slot else {
            shard.counters.misses += 1;
            return None;
        };
        shard.counters.hits += 1;
        let entry = shard.entry(slot);
        let (value, before) = (entry.value.clone(), entry.state);
        let after = before.next(packet, self.config.view);
        if before == after {
            shard.refresh(slot, now, self.timeout(after));
        } else {
            shard.change(slot, after, class(after), now, self.timeout(after));
        }
        Some(Seen { value, before, after })
    }

    /// The connection as it is; neither moves, prolongs nor counts.
    pub fn peek(&self, flow: &Flow, now: Timestamp) -> Option<Connection<V>> {
        let hash = self.hash(flow);
        let shard = self.shards.shard(hash);
        let slot = shard.find(hash, |known| known == flow)?;
        live(shard.entry(slot), now)
    }

    /// Puts in the connection that this packet opens, or takes up in the middle; one with the same flow gives
    /// way.
    ///
    /// # Errors
    /// [`ConnectionError::Full`] when nothing may make room; the table stays as it was.
    pub fn insert(
        &self,
        flow: Flow,
        value: V,
        packet: Packet,
        now: Timestamp,
    ) -> Result<Joined<V>, ConnectionError> {
        let state = State::initial(flow.protocol()).next(packet, self.config.view);
        let life = Life { used: now, expires: now + self.timeout(state), class: class(state) };
        match self.store(flow, state, value, life, Origin::Here, now) {
            (Merged::Refused, _) => Err(ConnectionError::Full { flow, capacity: self.config.capacity }),
            (_, displaced) => Ok(Joined { state, displaced }),
        }
    }

    /// Takes out a connection. It may have ended, but was in the table until now: count it out.
    ///
    /// Peers do not hear of it: theirs ends by itself.
    pub fn remove(&self, flow: &Flow, now: Timestamp) -> Option<Connection<V>> {
        let hash = self.hash(flow);
        let mut shard = self.shards.shard(hash);
        let slot = shard.find(hash, |known| known == flow)?;
        Some(plain(shard.remove(slot), now))
    }

    /// Takes out every connection of one value, since its server is gone, and gives each to `gone`, with no
    /// lock held.
    ///
    /// Looks at every connection; one shard is locked at a time.
    pub fn remove_value(&self, value: &V, now: Timestamp, mut gone: impl FnMut(Connection<V>)) -> usize
    where
        V: PartialEq,
    {
        self.shards.remove_where(|entry| entry.value == *value, |entry| gone(plain(entry, now)))
    }

    /// Takes out connections that have ended by `now`, with at most `budget` steps of work, and gives each to
    /// `gone`, with no lock held; the next call goes on.
    ///
    /// A step is a connection that is taken out, or one that has had a packet since it was queued and is
    /// queued anew.
    pub fn expire(&self, now: Timestamp, budget: usize, mut gone: impl FnMut(Connection<V>)) -> Swept {
        self.shards.expire(now, budget, |entry| gone(plain(entry, now)))
    }

    /// Every connection that has not ended by `now`, in no particular order.
    ///
    /// Each shard is copied when the iterator comes to it: connections that change meanwhile may show either
    /// way.
    pub fn entries(&self, now: Timestamp) -> impl Iterator<Item = Connection<V>> + '_ {
        self.shards.entries(move |entry| live(entry, now))
    }

    /// How many connections there are, those that have ended but are not yet swept included.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many connections the table can hold; see [`StickTable::capacity`](super::StickTable::capacity).
    pub fn capacity(&self) -> usize {
        self.shards.capacity()
    }

    /// How many connections there are of each kind.
    pub fn census(&self) -> Census {
        let [embryonic, inactive, active] = [0, 1, 2].map(|class| self.shards.len_of(class));
        Census { embryonic, inactive, active }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.shards.counters()
    }

    /// A cursor before all connections: a peer that knows nothing is first taught everything.
    pub fn cursor(&self) -> Cursor {
        self.shards.cursor(false)
    }

    /// A cursor after all connections: only what changes from now on.
    pub fn cursor_at_end(&self) -> Cursor {
        self.shards.cursor(true)
    }

    /// The next connections that a peer has to hear of, at most `max`; none when it has heard of all.
    ///
    /// As [`StickTable::changes`](super::StickTable::changes); a new state is a change as well.
    pub fn changes(&self, cursor: &mut Cursor, now: Timestamp, max: usize) -> Vec<Connection<V>> {
        let mut changed = Vec::new();
        while self.shards.changes(cursor, max, |entry| changed.extend(live(entry, now))) > 0
            && changed.is_empty()
        {}
        changed
    }

    /// Takes over what a peer knows of one connection. The one with the more recent packet wins.
    ///
    /// It ends when the peer's does, but no later than this table's timeout of its state allows. Beside the
    /// outcome comes the connection that is not in the table any more, as with [`Joined::displaced`].
    pub fn merge(&self, connection: Connection<V>, now: Timestamp) -> (Merged, Option<Connection<V>>) {
        let Connection { flow, state, value, remaining, idle } = connection;
        if state.protocol() != flow.protocol() {
            return (Merged::Refused, None);
        }
        let life =
            Life { used: now - idle, expires: now + remaining.min(self.timeout(state)), class: class(state) };
        if life.expires <= now {
            return (Merged::Ended, None);
        }
        self.store(flow, state, value, life, Origin::Peer, now)
    }

    /// Stores a connection; one from a peer gives way to what is as recent, and pushes out nothing that ends
    /// later.
    fn store(
        &self,
        flow: Flow,
        state: State,
        value: V,
        life: Life,
        origin: Origin,
        now: Timestamp,
    ) -> (Merged, Option<Connection<V>>) {
        let hash = self.hash(&flow);
        let mut shard = self.shards.shard(hash);
        if let Some(slot) = shard.find(hash, |known| *known == flow) {
            let was_live = shard.entry(slot).is_live(now);
            if origin == Origin::Peer && was_live && shard.outdates(slot, life.used) {
                return (Merged::Older, None);
            }
            let mut displaced = snapshot(shard.entry(slot), now);
            (displaced.state, displaced.value) = shard.replace(slot, state, value, life, origin);
            return (if was_live { Merged::Replaced } else { Merged::Added }, Some(displaced));
        }
        let may_go = match self.config.when_full {
            WhenFull::Refuse => 0,
            WhenFull::EvictEmbryonic => 1,
            WhenFull::EvictInactive => 2,
        };
        let before = if origin == Origin::Here { Timestamp::MAX } else { life.expires };
        match shard.make_room(now, may_go, before) {
            Err(_) => (Merged::Refused, None),
            Ok(evicted) => {
                shard.insert(hash, flow, state, value, life, origin);
                (Merged::Added, evicted.map(|entry| plain(entry, now)))
            }
        }
    }
}

fn plain<V>(entry: Entry<Flow, State, V>, now: Timestamp) -> Connection<V> {
    let (remaining, idle) = (entry.expires.saturating_since(now), now.saturating_since(entry.used));
    Connection { flow: entry.key, state: entry.state, value: entry.value, remaining, idle }
}

fn snapshot<V: Clone>(entry: &Entry<Flow, State, V>, now: Timestamp) -> Connection<V> {
    let (remaining, idle) = (entry.expires.saturating_since(now), now.saturating_since(entry.used));
    Connection { flow: entry.key, state: entry.state, value: entry.value.clone(), remaining, idle }
}

fn live<V: Clone>(entry: &Entry<Flow, State, V>, now: Timestamp) -> Option<Connection<V>> {
    entry.is_live(now).then(|| snapshot(entry, now))
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::super::{Protocol, Segment, TcpFlags};
    use super::*;

    fn table(view: View) -> ConnectionTable<u8> {
        ConnectionTable::with_seed(ConnectionConfig::new(10).view(view), Seed::new(1, 2))
    }

    fn flow() -> Flow {
        Flow::new(Protocol::Tcp, "192.0.2.1:5".parse().unwrap(), "192.0.2.2:80".parse().unwrap())
    }

    const SYN: Packet = Packet::from_client(Segment::Tcp(TcpFlags::SYN));
    const ACK: Packet = Packet::from_client(Segment::Tcp(TcpFlags::ACK));
    const RST: Packet = Packet::from_client(Segment::Tcp(TcpFlags::RST));

    #[test]
    fn moments_that_cross_keep_the_later() {
        let (table, at) = (table(View::ClientOnly), Timestamp::from_secs);
        table.insert(flow(), 1, SYN, at(20)).unwrap();
        assert!(table.packet(&flow(), ACK, at(12)).unwrap().after.is_active());
        let connection = table.peek(&flow(), at(25)).unwrap();
        assert_eq!((connection.idle.as_secs(), connection.remaining.as_secs()), (5, 895));
    }

    #[test]
    fn a_peer_cannot_keep_a_connection_longer_than_its_state_allows() {
        let (table, now) = (table(View::BothWays), Timestamp::from_secs(20));
        let state = State::Tcp(TcpState::Close);
        let (remaining, idle) = (Duration::MAX, Duration::ZERO);
        let connection = Connection { flow: flow(), state, value: 1, remaining, idle };
        assert_eq!(table.merge(connection, now), (Merged::Added, None));
        assert_eq!(table.peek(&flow(), now).unwrap().remaining.as_secs(), 10);
    }

    #[test]
    fn a_port_used_again_is_a_new_connection() {
        let (table, now) = (table(View::ClientOnly), Timestamp::ZERO);
        table.insert(flow(), 1, ACK, now).unwrap();
        for (packet, reopened) in
            [(ACK, false), (SYN, false), (RST, false), (ACK, false), (SYN, true), (SYN, false)]
        {
            assert_eq!(table.packet(&flow(), packet, now).unwrap().reopened(), reopened, "{packet:?}");
        }
        // The caller chooses anew, and hears of what it has to count out.
        let joined = table.insert(flow(), 2, SYN, now).unwrap();
        assert_eq!(joined.displaced.map(|before| (before.value, before.state)), Some((1, joined.state)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn other_timeouts_are_taken() {
        let timeouts = Timeouts { established: Duration::MAX, close: Duration::ZERO, ..Timeouts::default() };
        let config = ConnectionConfig::new(10).timeouts(timeouts);
        let table = ConnectionTable::with_seed(config, Seed::new(1, 2));
        table.insert(flow(), 1, ACK, Timestamp::ZERO).unwrap();
        assert!(table.peek(&flow(), Timestamp::from_secs(4_000_000_000)).is_some());
        table.packet(&flow(), RST, Timestamp::from_secs(1)).unwrap();
        assert!(table.packet(&flow(), RST, Timestamp::from_secs(1)).is_none());
        assert_eq!(table.expire(Timestamp::from_secs(1), 9, drop).removed, 1);
    }
}
