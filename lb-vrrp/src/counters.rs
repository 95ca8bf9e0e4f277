//! What a virtual router has counted.

use crate::wire::Discards;

/// Counters of one virtual router, with the names of VRRPv3-MIB (RFC 6527) where it has one. They wrap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Transitions to Active (`vrrpv3StatisticsMasterTransitions`).
    pub became_active: u32,
    /// Transitions from Active.
    pub left_active: u32,
    /// Adverts that were accepted (`vrrpv3StatisticsRcvdAdvertisements`).
    pub adverts_received: u64,
    /// Adverts that were handed to the driver.
    pub adverts_sent: u64,
    /// Accepted adverts of priority 0 (`vrrpv3StatisticsRcvdPriZeroPackets`).
    pub priority_zero_received: u32,
    /// Sent adverts of priority 0 (`vrrpv3StatisticsSentPriZeroPackets`).
    pub priority_zero_sent: u32,
    /// Adverts that could not be sent.
    pub transmit_failures: u32,
    /// Addresses that could not be added or removed.
    pub address_failures: u32,
    /// Announcements (gratuitous ARP, neighbour advertisements) that could not be sent.
    pub announcement_failures: u32,
    /// Virtual addresses that another program removed and that were put back.
    pub addresses_restored: u32,
    /// Adverts of another active router that this one holds its own against.
    pub split_brain: u32,
    /// Adverts without a signature that a router with keys took, because its mode lets it.
    pub unsigned_received: u32,
    /// Late wakes after which this router, active, stepped down or, in Backup, listened anew.
    pub late_wakes: u32,
    /// Dropped adverts by reason.
    pub discards: Discards,
}
