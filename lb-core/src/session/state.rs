//! The states of a connection, what moves them, and how long each lasts.

use core::time::Duration;

use super::flow::Protocol;
use super::tcp::{TcpFlags, TcpState};

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client, who connects to the virtual service.
    Client,
    /// The server behind it.
    Server,
}

/// Which packets of a connection pass the director.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum View {
    /// Those of both sides: address translation, a proxy.
    #[default]
    BothWays,
    /// The client's alone; servers answer directly: direct routing, tunnelling.
    ClientOnly,
}

/// The part of a packet that moves a connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Segment {
    /// A TCP segment with these flags.
    Tcp(TcpFlags),
    /// A UDP datagram.
    Udp,
    /// An SCTP packet, by its first chunk that counts.
    Sctp(SctpChunk),
    /// An ICMP message.
    Icmp,
}

/// One packet of a connection, as far as the table is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Who sent it.
    pub from: Side,
    /// What it says.
    pub segment: Segment,
}

impl Packet {
    /// A packet from the client.
    #[must_use]
    pub const fn from_client(segment: Segment) -> Self {
        Self { from: Side::Client, segment }
    }

    /// A packet from the server.
    #[must_use]
    pub const fn from_server(segment: Segment) -> Self {
        Self { from: Side::Server, segment }
    }
}

/// The chunks of SCTP that open and close an association
/// ([RFC 9260, section 3.2](https://www.rfc-editor.org/rfc/rfc9260#section-3.2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SctpChunk {
    /// INIT (1).
    Init,
    /// INIT ACK (2).
    InitAck,
    /// COOKIE ECHO (10).
    CookieEcho,
    /// COOKIE ACK (11).
    CookieAck,
    /// SHUTDOWN (7).
    Shutdown,
    /// SHUTDOWN ACK (8).
    ShutdownAck,
    /// SHUTDOWN COMPLETE (14).
    ShutdownComplete,
    /// ABORT (6).
    Abort,
    /// Any other: DATA, SACK, HEARTBEAT…
    Other,
}

/// The state of an SCTP association, in four steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum SctpState {
    /// The four-way handshake is under way.
    Setup,
    /// Both sides can send.
    Established,
    /// One side has asked to finish.
    Shutdown,
    /// Over.
    Closed,
}

impl SctpState {
    /// The state after a packet with this chunk.
    ///
    /// The server's COOKIE ACK establishes an association, since only the server can tell a good cookie ([RFC
    /// 9260, section 5.1](https://www.rfc-editor.org/rfc/rfc9260#section-5.1)); when the server is not seen,
    /// the client's COOKIE ECHO has to do. An INIT in an established association is a restart, which keeps it
    /// established.
    #[must_use]
    pub fn next(self, from: Side, chunk: SctpChunk, view: View) -> Self {
        match (self, chunk) {
            (_, SctpChunk::Abort | SctpChunk::ShutdownComplete) => Self::Closed,
            (Self::Closed, SctpChunk::Init) => Self::Setup,
            (Self::Setup, SctpChunk::CookieAck) => Self::Established,
            (Self::Setup, SctpChunk::CookieEcho) if from == Side::Client && view == View::ClientOnly => {
                Self::Established
            }
            (Self::Setup | Self::Established, SctpChunk::Shutdown | SctpChunk::ShutdownAck) => Self::Shutdown,
            _ => self,
        }
    }
}

/// The state of a connection of any protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum State {
    /// A TCP connection's.
    Tcp(TcpState),
    /// UDP has one state.
    Udp,
    /// An SCTP association's.
    Sctp(SctpState),
    /// ICMP has one state.
    Icmp,
}

impl State {
    /// The state of a connection of which nothing was seen.
    #[must_use]
    pub const fn initial(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => State::Tcp(TcpState::None),
            Protocol::Udp => State::Udp,
            Protocol::Sctp => State::Sctp(SctpState::Setup),
            Protocol::Icmp => State::Icmp,
        }
    }

    /// The protocol whose state this is.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        match self {
            State::Tcp(_) => Protocol::Tcp,
            State::Udp => Protocol::Udp,
            State::Sctp(_) => Protocol::Sctp,
            State::Icmp => Protocol::Icmp,
        }
    }

    /// The state after a packet. A packet of another protocol changes nothing.
    #[must_use]
    pub fn next(self, packet: Packet, view: View) -> Self {
        match (self, packet.segment) {
            (State::Tcp(state), Segment::Tcp(flags)) => State::Tcp(state.next(packet.from, flags, view)),
            (State::Sctp(state), Segment::Sctp(chunk)) => State::Sctp(state.next(packet.from, chunk, view)),
            _ => self,
        }
    }

    /// Whether the connection counts as active: established. All others are inactive, UDP and ICMP always:
    /// IPVS's rule, which its schedulers' loads (`wlc`: active × 256 + inactive) build on.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, State::Tcp(TcpState::Established) | State::Sctp(SctpState::Established))
    }

    /// Whether the connection is still being opened: the client has yet to prove that it is where it says it
    /// is.
    #[must_use]
    pub const fn is_embryonic(self) -> bool {
        matches!(
            self,
            State::Tcp(
                TcpState::None | TcpState::SynSent | TcpState::SynRecv | TcpState::SynAck | TcpState::Listen
            ) | State::Sctp(SctpState::Setup)
        )
    }
}

/// How long a connection stays in each state without a packet.
///
/// The default is IPVS's. `ipvsadm --set 900 120 300` is `established`, `fin_wait` and `udp`. Set what you
/// need:
///
/// ```
/// use core::time::Duration;
/// use lb_core::session::Timeouts;
///
/// let mut timeouts = Timeouts::default();
/// timeouts.udp = Duration::from_secs(30);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Timeouts {
    /// TCP, nothing seen that counts: 2 s.
    pub none: Duration,
    /// TCP established: 15 min.
    pub established: Duration,
    /// TCP, opened by the server: 2 min.
    pub syn_sent: Duration,
    /// TCP, opened by the client: 1 min.
    pub syn_recv: Duration,
    /// TCP, the server has finished, or only the client is seen and has: 2 min.
    pub fin_wait: Duration,
    /// TCP, both have finished, the server first: 2 min.
    pub time_wait: Duration,
    /// TCP, over: 10 s.
    pub close: Duration,
    /// TCP, the client has finished: 1 min.
    pub close_wait: Duration,
    /// TCP, both have finished, the client first: 30 s.
    pub last_ack: Duration,
    /// TCP, the client reset a handshake: 2 min.
    pub listen: Duration,
    /// TCP, answered by the server: 2 min.
    pub syn_ack: Duration,
    /// UDP: 5 min.
    pub udp: Duration,
    /// ICMP: 1 min.
    pub icmp: Duration,
    /// SCTP, being opened: 1 min.
    pub sctp_setup: Duration,
    /// SCTP established: 15 min.
    pub sctp_established: Duration,
    /// SCTP, being closed: 1 min.
    pub sctp_shutdown: Duration,
    /// SCTP, over: 1 min.
    pub sctp_closed: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            none: Duration::from_secs(2),
            established: minutes(15),
            syn_sent: minutes(2),
            syn_recv: minutes(1),
            fin_wait: minutes(2),
            time_wait: minutes(2),
            close: Duration::from_secs(10),
            close_wait: minutes(1),
            last_ack: Duration::from_secs(30),
            listen: minutes(2),
            syn_ack: minutes(2),
            udp: minutes(5),
            icmp: minutes(1),
            sctp_setup: minutes(1),
            sctp_established: minutes(15),
            sctp_shutdown: minutes(1),
            sctp_closed: minutes(1),
        }
    }
}

impl Timeouts {
    /// How long a connection stays in that state without a packet.
    #[must_use]
    pub const fn of(&self, state: State) -> Duration {
        match state {
            State::Tcp(TcpState::None) => self.none,
            State::Tcp(TcpState::Established) => self.established,
            State::Tcp(TcpState::SynSent) => self.syn_sent,
            State::Tcp(TcpState::SynRecv) => self.syn_recv,
            State::Tcp(TcpState::FinWait) => self.fin_wait,
            State::Tcp(TcpState::TimeWait) => self.time_wait,
            State::Tcp(TcpState::Close) => self.close,
            State::Tcp(TcpState::CloseWait) => self.close_wait,
            State::Tcp(TcpState::LastAck) => self.last_ack,
            State::Tcp(TcpState::Listen) => self.listen,
            State::Tcp(TcpState::SynAck) => self.syn_ack,
            State::Udp => self.udp,
            State::Icmp => self.icmp,
            State::Sctp(SctpState::Setup) => self.sctp_setup,
            State::Sctp(SctpState::Established) => self.sctp_established,
            State::Sctp(SctpState::Shutdown) => self.sctp_shutdown,
            State::Sctp(SctpState::Closed) => self.sctp_closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_ipvs() {
        let seconds = [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120];
        let timeouts = Timeouts::default();
        for (state, seconds) in TcpState::ALL.into_iter().zip(seconds) {
            assert_eq!(timeouts.of(State::Tcp(state)), Duration::from_secs(seconds), "{state:?}");
        }
        assert_eq!(timeouts.of(State::Udp), Duration::from_secs(300));
        assert_eq!(timeouts.of(State::Icmp), Duration::from_secs(60));
    }

    #[test]
    fn a_state_is_not_both_active_and_embryonic() {
        let tcp = TcpState::ALL.into_iter().map(State::Tcp);
        for state in tcp.chain([State::Udp, State::Icmp, State::Sctp(SctpState::Setup)]) {
            assert!(!(state.is_active() && state.is_embryonic()), "{state:?}");
        }
    }

    #[test]
    fn an_association_opens_and_closes() {
        use SctpChunk::*;
        use Side::{Client as C, Server as V};
        let both = [
            (C, Init, SctpState::Setup),
            (V, InitAck, SctpState::Setup),
            (C, CookieEcho, SctpState::Setup),
            (V, CookieAck, SctpState::Established),
            (C, Init, SctpState::Established),
            (V, Other, SctpState::Established),
            (V, Shutdown, SctpState::Shutdown),
            (C, ShutdownAck, SctpState::Shutdown),
            (C, Init, SctpState::Shutdown),
            (V, ShutdownComplete, SctpState::Closed),
            (C, Other, SctpState::Closed),
            (C, Init, SctpState::Setup),
            (V, Abort, SctpState::Closed),
        ];
        let one = [
            (C, Init, SctpState::Setup),
            (C, CookieEcho, SctpState::Established),
            (C, ShutdownAck, SctpState::Shutdown),
            (C, Abort, SctpState::Closed),
        ];
        for (view, packets) in [(View::BothWays, &both[..]), (View::ClientOnly, &one[..])] {
            let mut state = SctpState::Setup;
            for &(from, chunk, after) in packets {
                let next = state.next(from, chunk, view);
                assert_eq!(next, after, "{state:?} and {chunk:?} from {from:?}");
                state = next;
            }
        }
    }

    #[test]
    fn a_packet_of_another_protocol_changes_nothing() {
        let udp = Packet::from_client(Segment::Udp);
        for protocol in [Protocol::Tcp, Protocol::Sctp, Protocol::Icmp] {
            let state = State::initial(protocol);
            assert_eq!(state.next(udp, View::BothWays), state);
            assert_eq!(state.protocol(), protocol);
        }
    }
}
