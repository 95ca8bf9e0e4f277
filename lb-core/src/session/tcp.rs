//! TCP's states as a director sees them go by.
//!
//! The state is the *server's* ([RFC 9293, section
//! 3.3.2](https://www.rfc-editor.org/rfc/rfc9293#section-3.3.2)), as far as the packets tell: a SYN from the
//! client makes it SYN-RECEIVED, a FIN from the client CLOSE-WAIT. Two refinements and three liberties are a
//! director's:
//! * SYN-RECEIVED is split: once the server's SYN+ACK went by the state is [`TcpState::SynAck`], and only
//!   then can a client's ACK complete the handshake. So a flood of bare ACKs makes no established connection.
//! * FIN-WAIT-1, FIN-WAIT-2 and CLOSING are one [`TcpState::FinWait`]: they differ in who acknowledged what.
//! * Sequence numbers are not followed. A forged RST ends an entry early here though the server ignores it;
//!   the entry then stays [`TcpState::Close`] for as long as packets keep coming, so the connection keeps its
//!   server.
//! * A packet of a connection whose start nobody saw (a director that has just taken over) adopts it.
//! * With direct routing the server's half is invisible ([`View::ClientOnly`]): the client's ACK completes a
//!   handshake, and after the client's FIN the entry waits as long as the server may still take to finish.

use super::state::{Side, View};

bitflags::bitflags! {
    /// The control bits of a TCP header that move a connection's state; the header's byte 13.
    ///
    /// ```
    /// use lb_core::session::TcpFlags;
    ///
    /// // Byte 13 of a SYN+ACK with ECN-Echo; bits without a name here are left out.
    /// assert_eq!(TcpFlags::from_bits_truncate(0x52), TcpFlags::SYN | TcpFlags::ACK);
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct TcpFlags: u8 {
        /// No more data from the sender.
        const FIN = 0x01;
        /// Synchronize sequence numbers.
        const SYN = 0x02;
        /// Reset the connection.
        const RST = 0x04;
        /// The acknowledgement number counts.
        const ACK = 0x10;
    }
}

/// The state of a TCP connection, by IPVS's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TcpState {
    /// Nothing seen that counts.
    None,
    /// Both sides can send.
    Established,
    /// The server opens a connection to the client, and waits for the answer.
    SynSent,
    /// The client's SYN went by; no answer yet.
    SynRecv,
    /// The server has finished, the client has not (FIN-WAIT-1, FIN-WAIT-2, CLOSING); when only the client is
    /// seen: the client has finished.
    FinWait,
    /// Both have finished, the server first.
    TimeWait,
    /// Over: reset, or closed by both.
    Close,
    /// The client has finished, the server has not.
    CloseWait,
    /// Both have finished, the client first; its last ACK is awaited.
    LastAck,
    /// The client reset a handshake; the server listens again.
    Listen,
    /// The server's SYN+ACK went by; the client's ACK is awaited.
    SynAck,
}

impl TcpState {
    /// Every state, in IPVS's order.
    pub const ALL: [Self; 11] = [
        Self::None,
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::SynAck,
    ];

    /// The state after a packet with these flags from that side.
    ///
    /// What no sound stack sends (SYN with FIN, no flag at all) and what does not fit the state changes
    /// nothing, as the RFC has the receiver drop it.
    ///
    /// ```
    /// use lb_core::session::{Side, TcpFlags, TcpState, View};
    ///
    /// let packets = [
    ///     (Side::Client, TcpFlags::SYN, TcpState::SynRecv),
    ///     (Side::Server, TcpFlags::SYN | TcpFlags::ACK, TcpState::SynAck),
    ///     (Side::Client, TcpFlags::ACK, TcpState::Established),
    /// ];
    /// let mut state = TcpState::None;
    /// for (side, flags, after) in packets {
    ///     state = state.next(side, flags, View::BothWays);
    ///     assert_eq!(state, after);
    /// }
    /// ```
    #[must_use]
    pub fn next(self, from: Side, flags: TcpFlags, view: View) -> Self {
        let has = |flag| flags.contains(flag);
        if has(TcpFlags::RST) {
            self.reset(from)
        } else if has(TcpFlags::SYN | TcpFlags::FIN) {
            self
        } else if has(TcpFlags::SYN | TcpFlags::ACK) {
            self.syn_ack(from)
        } else if has(TcpFlags::SYN) {
            self.syn(from, view)
        } else if has(TcpFlags::FIN) {
            self.fin(from, view)
        } else if has(TcpFlags::ACK) {
            self.ack(from, view)
        } else {
            self
        }
    }

    fn reset(self, from: Side) -> Self {
        match (self, from) {
            // RFC 1337: a reset must not cut TIME-WAIT short.
            (Self::TimeWait, _) => self,
            // RFC 9293, 3.10.7.2: LISTEN ignores a reset; 3.10.7.4: one in SYN-RECEIVED leads back to it.
            (Self::Listen | Self::SynRecv | Self::SynAck, Side::Client) => Self::Listen,
            _ => Self::Close,
        }
    }

    fn syn_ack(self, from: Side) -> Self {
        match (self, from) {
            (Self::None | Self::Listen | Self::SynRecv, Side::Server) => Self::SynAck,
            (Self::SynSent, Side::Client) => Self::Established,
            _ => self,
        }
    }

    fn syn(self, from: Side, view: View) -> Self {
        match (self, from) {
            // A port used again: RFC 9293, 3.6.1 lets TIME-WAIT accept it.
            (Self::None | Self::Listen | Self::Close | Self::TimeWait, Side::Client) => Self::SynRecv,
            (Self::None | Self::Listen | Self::Close | Self::TimeWait, Side::Server) => Self::SynSent,
            // The client had finished, and would not open again before the server had too.
            (Self::FinWait, Side::Client) if view == View::ClientOnly => Self::SynRecv,
            // Both open at once: RFC 9293, figure 7.
            (Self::SynSent, Side::Client) => Self::SynRecv,
            // In a synchronized state the server answers with a challenge ACK and goes on: RFC 5961, 4.2.
            _ => self,
        }
    }

    fn fin(self, from: Side, view: View) -> Self {
        match (self, from, view) {
            (Self::None | Self::Established | Self::SynAck, Side::Client, View::BothWays) => Self::CloseWait,
            (Self::FinWait, Side::Client, View::BothWays) => Self::TimeWait,
            (
                Self::None | Self::Established | Self::SynRecv | Self::SynAck,
                Side::Client,
                View::ClientOnly,
            ) => Self::FinWait,
            (Self::None | Self::Established | Self::SynRecv | Self::SynAck, Side::Server, _) => Self::FinWait,
            (Self::CloseWait, Side::Server, _) => Self::LastAck,
            // Sent again, or out of place.
            _ => self,
        }
    }

    fn ack(self, from: Side, view: View) -> Self {
        match (self, from, view) {
            (Self::None, ..) | (Self::SynAck, Side::Client, _) => Self::Established,
            (Self::SynRecv, Side::Client, View::ClientOnly) => Self::Established,
            (Self::LastAck, Side::Client, _) => Self::Close,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TcpState::*;
    use super::*;

    const S: TcpFlags = TcpFlags::SYN;
    const F: TcpFlags = TcpFlags::FIN;
    const R: TcpFlags = TcpFlags::RST;
    const A: TcpFlags = TcpFlags::ACK;

    fn run(view: View, packets: &[(Side, TcpFlags, TcpState)]) {
        let mut state = None;
        for (i, &(side, flags, after)) in packets.iter().enumerate() {
            let next = state.next(side, flags, view);
            assert_eq!(next, after, "packet {i}: {state:?} and {flags:?} from {side:?} in {packets:?}");
            state = next;
        }
    }

    #[test]
    fn whole_connections_seen_both_ways() {
        use Side::{Client as C, Server as V};
        let open = [(C, S, SynRecv), (V, S | A, SynAck), (C, A, Established)];
        let lives: [&[_]; 7] = [
            // The client closes first.
            &[
                (C, F | A, CloseWait),
                (V, A, CloseWait),
                (V, F | A, LastAck),
                (C, A, Close),
                (C, A, Close),
                (C, S, SynRecv),
            ],
            // The server closes first.
            &[(V, F | A, FinWait), (C, A, FinWait), (C, F | A, TimeWait), (V, A, TimeWait), (C, S, SynRecv)],
            // Both at once.
            &[(V, F | A, FinWait), (C, F | A, TimeWait), (C, A, TimeWait), (V, A, TimeWait)],
            // Half closed: the server sends on.
            &[(C, F | A, CloseWait), (V, A, CloseWait), (C, A, CloseWait), (V, A, CloseWait)],
            // Retransmissions change nothing.
            &[
                (V, S | A, Established),
                (C, A, Established),
                (C, S, Established),
                (C, F | A, CloseWait),
                (C, F | A, CloseWait),
            ],
            // Resets.
            &[(C, R, Close), (V, A, Close), (C, A, Close)],
            &[(V, R | A, Close), (C, S, SynRecv)],
        ];
        for life in lives {
            run(View::BothWays, &[&open, life].concat());
        }
    }

    #[test]
    fn openings_seen_both_ways() {
        use Side::{Client as C, Server as V};
        let cases: [&[_]; 7] = [
            // Refused.
            &[(C, S, SynRecv), (V, R | A, Close)],
            // A scan, or a client that gives up.
            &[(C, S, SynRecv), (V, S | A, SynAck), (C, R, Listen), (C, R, Listen), (C, S, SynRecv)],
            // ACKs and FINs without the server's word establish nothing.
            &[(C, S, SynRecv), (C, A, SynRecv), (C, F | A, SynRecv), (V, A, SynRecv)],
            // The server opens (active FTP).
            &[(V, S, SynSent), (V, S, SynSent), (C, S | A, Established)],
            // Both open at once.
            &[(V, S, SynSent), (C, S, SynRecv), (V, S | A, SynAck), (C, A, Established)],
            // Adopted in the middle.
            &[(V, A, Established)],
            &[(C, F | A, CloseWait)],
        ];
        for case in cases {
            run(View::BothWays, case);
        }
    }

    #[test]
    fn connections_seen_one_way() {
        use Side::Client as C;
        let cases: [&[_]; 4] = [
            &[
                (C, S, SynRecv),
                (C, S, SynRecv),
                (C, A, Established),
                (C, F | A, FinWait),
                (C, A, FinWait),
                (C, S, SynRecv),
            ],
            &[(C, S, SynRecv), (C, F | A, FinWait), (C, F | A, FinWait), (C, R, Close)],
            &[(C, S, SynRecv), (C, R, Listen), (C, S, SynRecv)],
            &[(C, A, Established), (C, R, Close), (C, A, Close)],
        ];
        for case in cases {
            run(View::ClientOnly, case);
        }
    }

    /// Over every state, side, set of flags and view.
    fn everything(mut check: impl FnMut(TcpState, Side, TcpFlags, View, TcpState)) {
        for state in TcpState::ALL {
            for side in [Side::Client, Side::Server] {
                for view in [View::BothWays, View::ClientOnly] {
                    for bits in 0..=u8::MAX {
                        let flags = TcpFlags::from_bits_truncate(bits);
                        check(state, side, flags, view, state.next(side, flags, view));
                    }
                }
            }
        }
    }

    #[test]
    fn nonsense_changes_nothing() {
        everything(|state, _, flags, _, after| {
            if !flags.contains(R) && (flags.contains(S | F) || flags.is_empty()) {
                assert_eq!(state, after, "{flags:?}");
            }
        });
    }

    #[test]
    fn the_same_packet_again_changes_nothing() {
        everything(|_, side, flags, view, after| {
            assert_eq!(after.next(side, flags, view), after, "{flags:?} from {side:?} twice, {view:?}");
        });
    }

    #[test]
    fn both_ways_only_a_completed_handshake_or_adoption_establishes() {
        everything(|state, side, flags, view, after| {
            if view == View::BothWays && after == Established && state != Established {
                let fits =
                    matches!((state, side), (None, _) | (SynAck, Side::Client) | (SynSent, Side::Client));
                assert!(fits, "{state:?} became established by {flags:?} from {side:?}");
            }
        });
    }

    #[test]
    fn a_reset_never_opens() {
        everything(|state, _, flags, _, after| {
            if flags.contains(R) {
                assert!(matches!(after, Close | Listen | TimeWait), "{state:?} and {flags:?} gave {after:?}");
            }
        });
    }
}
