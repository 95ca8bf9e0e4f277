//! Why an advert was dropped: one name and one counter for each reason.

use core::fmt;

/// Why an advert was dropped. The first that applies, in the order of RFC 9568 §7.1.
///
/// The names in brackets are the counters of VRRP-MIB (RFC 2787) and VRRPv3-MIB (RFC 6527), where they have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
#[repr(u8)]
pub enum Discard {
    /// It came from this router's own address: a looped packet, or a second host with that address.
    #[error("sent from this router's own address")]
    OwnPacket,
    /// TTL or hop limit other than 255, or out of a unicast peer's bounds (`vrrpv3StatisticsIpTtlErrors`).
    #[error("TTL or hop limit is not 255")]
    Ttl,
    /// Not version 2 or 3, or not the router's, or 2 over IPv6 (`vrrpv3RouterVersionErrors`).
    #[error("version is not this router's")]
    Version,
    /// Not an advertisement (`vrrpv3StatisticsRcvdInvalidTypePkts`).
    #[error("type is not 1 (advertisement)")]
    Type,
    /// Shorter than its count of addresses says (`vrrpv3StatisticsPacketLengthErrors`). CARP's packets end here.
    #[error("shorter than its address count says")]
    Length,
    /// The checksum is wrong (`vrrpv3RouterChecksumErrors`).
    #[error("checksum is wrong")]
    Checksum,
    /// The checksum would be right in the mode that this router does not accept.
    #[error("checksum is right only in the mode that is not accepted (see checksum mode)")]
    ChecksumMode,
    /// After the message comes what is neither padding nor a signature.
    #[error("bytes after the message that are neither padding nor a signature")]
    Trailer,
    /// No addresses (`vrrpv3StatisticsAddressListErrors`).
    #[error("no addresses")]
    NoAddresses,
    /// Another virtual router's: of another VRID, or of the other address family (`vrrpv3RouterVrIdErrors`).
    #[error("VRID or address family is not this router's")]
    Vrid,
    /// An interval of zero; in version 2 any that is not the router's own (`vrrpv3StatisticsAdvIntervalErrors`).
    #[error("advertisement interval is zero or, in version 2, not this router's")]
    Interval,
    /// The first IPv6 address is not link-local (RFC 9568 §5.2.9).
    #[error("first IPv6 address is not link-local")]
    LinkLocal,
    /// An authentication type that no RFC has (`vrrpStatsInvalidAuthType`).
    #[error("authentication type is not known")]
    AuthType,
    /// An authentication type that is not the router's (`vrrpStatsAuthTypeMismatch`).
    #[error("authentication type is not this router's")]
    AuthMismatch,
    /// The password or the signature is wrong (`vrrpStatsAuthFailures`).
    #[error("authentication failed")]
    AuthFailure,
    /// Not signed, and this router takes only what is.
    #[error("not signed")]
    Unsigned,
    /// A signed advert that is too old or from the future, or was seen before.
    #[error("signature was used before, or was not made just now (compare the routers' clocks)")]
    Replay,
    /// The addresses are not the router's, and it is to drop such adverts (`vrrpv3StatisticsAddressListErrors`).
    #[error("addresses are not this router's")]
    AddressList,
    /// From a host that is not among the unicast peers.
    #[error("sender is not a unicast peer")]
    UnknownPeer,
    /// This router owns the addresses and was told to listen to nobody
    /// ([`Owners::Ignore`](crate::config::Owners::Ignore)).
    #[error("this router owns the addresses")]
    Owner,
    /// The router is not running.
    #[error("this router is not running")]
    Initialize,
}

impl Discard {
    /// Every reason, in the order in which they are tried.
    pub const ALL: [Self; 21] = [
        Self::OwnPacket,
        Self::Ttl,
        Self::Version,
        Self::Type,
        Self::Length,
        Self::Checksum,
        Self::ChecksumMode,
        Self::Trailer,
        Self::NoAddresses,
        Self::Vrid,
        Self::Interval,
        Self::LinkLocal,
        Self::AuthType,
        Self::AuthMismatch,
        Self::AuthFailure,
        Self::Unsigned,
        Self::Replay,
        Self::AddressList,
        Self::UnknownPeer,
        Self::Owner,
        Self::Initialize,
    ];

    /// Its name in tables and machine-readable output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnPacket => "own-packet",
            Self::Ttl => "ttl",
            Self::Version => "version",
            Self::Type => "type",
            Self::Length => "length",
            Self::Checksum => "checksum",
            Self::ChecksumMode => "checksum-mode",
            Self::Trailer => "trailer",
            Self::NoAddresses => "no-addresses",
            Self::Vrid => "vrid",
            Self::Interval => "interval",
            Self::LinkLocal => "link-local",
            Self::AuthType => "auth-type",
            Self::AuthMismatch => "auth-mismatch",
            Self::AuthFailure => "auth-failure",
            Self::Unsigned => "unsigned",
            Self::Replay => "replay",
            Self::AddressList => "address-list",
            Self::UnknownPeer => "unknown-peer",
            Self::Owner => "owner",
            Self::Initialize => "initialize",
        }
    }
}

/// How many adverts were dropped for each reason. They wrap after 2³² − 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discards([u32; Discard::ALL.len()]);

impl Discards {
    pub(crate) fn count(&mut self, reason: Discard) {
        let counter = &mut self.0[reason as usize];
        *counter = counter.wrapping_add(1);
    }

    /// How many were dropped for `reason`.
    #[must_use]
    pub const fn of(&self, reason: Discard) -> u32 {
        self.0[reason as usize]
    }

    /// How many were dropped.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|&count| u64::from(count)).sum()
    }

    /// Each reason with its count, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = (Discard, u32)> + '_ {
        Discard::ALL.into_iter().zip(self.0)
    }
}

impl fmt::Display for Discards {
    /// Those that are not zero, `name count` each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (reason, count) in self.iter().filter(|&(_, count)| count > 0) {
            write!(f, "{separator}{} {count}", reason.name())?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let mut discards = Discards::default();
        for (index, reason) in Discard::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "ALL is in the order of the variants");
            discards.count(reason);
            assert_eq!(discards.of(reason), 1);
            assert_eq!(Discard::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
        assert_eq!(discards.total(), Discard::ALL.len() as u64);
    }
}
