//! What a virtual router is told: identity, timing, addresses, policies. Names and defaults are keepalived's.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::wire::{ChecksumMode, Family, Interval, TTL, Version};

mod address;
mod interface;

pub use address::{ParseAddressError, VirtualAddress};
pub use interface::{InterfaceName, ParseInterfaceNameError};

/// The priority of a router that owns the addresses.
pub const OWNER: u8 = 255;

/// The configuration of one virtual router.
///
/// ```
/// use lb_vrrp::{Config, ConfigError};
///
/// let mut config = Config::new(51, ["192.168.250.250/24".parse()?]);
/// config.priority = 150;
/// config.validate()?;
/// config.vrid = 0;
/// assert_eq!(config.validate(), Err(ConfigError::Vrid));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Config {
    /// 2 or 3. Default: 3.
    #[cfg_attr(feature = "serde", serde(default = "defaults::version"))]
    pub version: Version,
    /// The virtual router, 1 to 255, unique on its link.
    pub vrid: u8,
    /// 1 to 254; 255 if this router owns the addresses. Default: 100.
    #[cfg_attr(feature = "serde", serde(default = "defaults::priority"))]
    pub priority: u8,
    /// The advertisement interval. Default: 1 s.
    #[cfg_attr(feature = "serde", serde(default))]
    pub interval: Interval,
    /// The floating addresses, in the order in which they are advertised. At least one is advertised, and all that are have
    /// one family.
    pub addresses: Vec<VirtualAddress>,
    /// Whether to take over from an active router of lower priority. Default: yes.
    #[cfg_attr(feature = "serde", serde(default = "defaults::yes"))]
    pub preempt: bool,
    /// How long after the start, or after the first advert of lower priority, to wait with it. Default: 0.
    #[cfg_attr(feature = "serde", serde(default))]
    pub preempt_delay: Duration,
    /// Whether packets for the addresses are taken (`Accept_Mode`, RFC 9568 §6.1). Default: yes, as programs serve on them;
    /// the RFC's own is no. Neighbours are answered either way, and an owner (priority 255) always takes them. The state machine
    /// leaves it to the driver.
    #[cfg_attr(feature = "serde", serde(default = "defaults::yes"))]
    pub accept: bool,
    /// How long to stay in Initialize after the start. Default: 0.
    #[cfg_attr(feature = "serde", serde(default))]
    pub startup_delay: Duration,
    /// Gratuitous ARP and unsolicited neighbour advertisements.
    #[cfg_attr(feature = "serde", serde(default))]
    pub garp: Garp,
    /// Unicast: where adverts go instead of the group, and from whom they are taken. Empty: multicast.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unicast_peers: Vec<IpAddr>,
    /// Which TTLs or hop limits are accepted. Default: 255 alone, for multicast the only choice.
    #[cfg_attr(feature = "serde", serde(default = "defaults::ttl"))]
    pub accepted_ttl: RangeInclusive<u8>,
    /// How version 3 over IPv4 is summed.
    #[cfg_attr(feature = "serde", serde(default))]
    pub checksum: ChecksumMode,
    /// Version 2's authentication.
    #[cfg_attr(feature = "serde", serde(default))]
    pub auth: Auth,
    /// Signed adverts, of either version. Default: none.
    #[cfg(feature = "auth-hmac")]
    #[cfg_attr(feature = "serde", serde(default))]
    pub hmac: Option<crate::hmac::Hmac>,
    /// What to do when an active router wakes so late that others must have taken over.
    #[cfg_attr(feature = "serde", serde(default))]
    pub late_wake: LateWake,
    /// Whether an owner (priority 255) hears other owners.
    #[cfg_attr(feature = "serde", serde(default))]
    pub owners: Owners,
    /// What an active router does with an advert that loses against it. Default: as the version's RFC says.
    #[cfg_attr(feature = "serde", serde(default))]
    pub losing_advert: LosingAdvert,
    /// What to do with adverts that list other addresses.
    #[cfg_attr(feature = "serde", serde(default))]
    pub address_check: AddressCheck,
    /// Whether the first IPv6 address, sent or received, must be link-local (RFC 9568 §5.2.9). Default: yes.
    #[cfg_attr(feature = "serde", serde(default = "defaults::yes"))]
    pub require_link_local: bool,
}

mod defaults {
    use super::{RangeInclusive, TTL, Version};

    pub(super) const fn version() -> Version {
        Version::V3
    }

    pub(super) const fn priority() -> u8 {
        100
    }

    pub(super) const fn yes() -> bool {
        true
    }

    pub(super) const fn ttl() -> RangeInclusive<u8> {
        TTL..=TTL
    }
}

impl Config {
    /// Virtual router `vrid` with `addresses` and every default: version 3, priority 100, an advert a second, preempting.
    pub fn new(vrid: u8, addresses: impl IntoIterator<Item = VirtualAddress>) -> Self {
        Self {
            version: defaults::version(),
            vrid,
            priority: defaults::priority(),
            interval: Interval::DEFAULT,
            addresses: addresses.into_iter().collect(),
            preempt: defaults::yes(),
            preempt_delay: Duration::ZERO,
            accept: defaults::yes(),
            startup_delay: Duration::ZERO,
            garp: Garp::default(),
            unicast_peers: Vec::new(),
            accepted_ttl: defaults::ttl(),
            checksum: ChecksumMode::default(),
            auth: Auth::default(),
            #[cfg(feature = "auth-hmac")]
            hmac: None,
            late_wake: LateWake::default(),
            owners: Owners::default(),
            losing_advert: LosingAdvert::default(),
            address_check: AddressCheck::default(),
            require_link_local: defaults::yes(),
        }
    }

    /// The family of the advertised addresses, IPv4 if there is none.
    #[must_use]
    pub fn family(&self) -> Family {
        self.advertised().next().map_or(Family::Ipv4, Family::of)
    }

    /// The addresses that adverts list.
    pub fn advertised(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().filter(|address| address.advertised).map(|address| address.address)
    }

    /// Whether adverts may come from `source`: an address of the family and, to the group of IPv6, a link-local one (RFC 9568
    /// §5.1.2.1).
    #[must_use]
    pub fn sends_from(&self, source: IpAddr) -> bool {
        Family::of(source) == self.family()
            && match source {
                IpAddr::V6(source) => source.is_unicast_link_local() || !self.unicast_peers.is_empty(),
                IpAddr::V4(_) => true,
            }
    }

    /// Whether the router can be what is said here.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let family = self.family();
        let advertised = self.advertised().count();
        if self.vrid == 0 {
            return Err(ConfigError::Vrid);
        }
        if self.priority == 0 {
            return Err(ConfigError::Priority);
        }
        if advertised == 0 {
            return Err(ConfigError::NoAddresses);
        }
        if advertised > 255 {
            return Err(ConfigError::TooManyAddresses { count: advertised });
        }
        if self.version == Version::V2 && family == Family::Ipv6 {
            return Err(ConfigError::V2OverIpv6);
        }
        if !self.interval.fits(self.version) {
            return Err(ConfigError::Interval { interval: self.interval, version: self.version });
        }
        for (index, address) in self.addresses.iter().enumerate() {
            if address.prefix_len > 8 * Family::of(address.address).octets() as u8 {
                return Err(ConfigError::PrefixLength { address: *address });
            }
            if address.advertised && Family::of(address.address) != family {
                return Err(ConfigError::MixedFamilies { address: address.address, family });
            }
            let unusable = address.address.is_unspecified() || address.address.is_multicast();
            if unusable || address.address.is_loopback() && address.advertised {
                return Err(ConfigError::UnusableAddress { address: address.address });
            }
            if self.addresses[..index].iter().any(|earlier| earlier.address == address.address) {
                return Err(ConfigError::DuplicateAddress { address: address.address });
            }
        }
        if let (true, Some(IpAddr::V6(first))) = (self.require_link_local, self.advertised().next())
            && !first.is_unicast_link_local()
        {
            return Err(ConfigError::LinkLocal { address: first.into() });
        }
        for peer in &self.unicast_peers {
            if Family::of(*peer) != family {
                return Err(ConfigError::PeerFamily { peer: *peer, family });
            }
            if peer.is_unspecified() || peer.is_multicast() {
                return Err(ConfigError::Peer { peer: *peer });
            }
        }
        if self.unicast_peers.is_empty() && self.accepted_ttl != (TTL..=TTL) {
            return Err(ConfigError::MulticastTtl);
        }
        if self.accepted_ttl.is_empty() {
            return Err(ConfigError::TtlRange);
        }
        if self.version == Version::V3 && self.auth != Auth::None {
            return Err(ConfigError::V3Auth);
        }
        #[cfg(feature = "auth-hmac")]
        if let Some(hmac) = &self.hmac {
            if self.auth != Auth::None {
                return Err(ConfigError::TwoAuthentications);
            }
            hmac.validate()?;
        }
        Ok(())
    }
}

/// When neighbours are told of the addresses' new place, beyond the first round at once.
///
/// The names are keepalived's `garp_master_*`; they hold for neighbour advertisements too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", default, deny_unknown_fields)
)]
pub struct Garp {
    /// Rounds at the takeover, and again after `delay`. Default: 5.
    pub repeat: u8,
    /// When the second lot follows; zero: never. Default: 5 s.
    pub delay: Duration,
    /// How often an active router tells them again; zero: never. Default: never.
    pub refresh: Duration,
    /// Rounds of each refresh. Default: 1.
    pub refresh_repeat: u8,
    /// Rounds after an advert that lost against this router: its sender may have told the neighbours. Default: 5.
    pub lower_priority_repeat: u8,
    /// When the second lot after such an advert follows; zero: never. Default: 5 s.
    pub lower_priority_delay: Duration,
}

impl Default for Garp {
    fn default() -> Self {
        let delay = Duration::from_secs(5);
        Self {
            repeat: 5,
            delay,
            refresh: Duration::ZERO,
            refresh_repeat: 1,
            lower_priority_repeat: 5,
            lower_priority_delay: delay,
        }
    }
}

/// The authentication that adverts of version 2 carry and must carry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Auth {
    /// None: the only type that RFC 3768 knows.
    #[default]
    None,
    /// Eight bytes in the clear, shorter ones filled up with zeros (RFC 2338; keepalived's `auth_type PASS`). It guards
    /// against mistakes and protects against nobody: it can be read on the wire.
    SimpleText([u8; 8]),
}

impl Auth {
    /// The password `text`, of which the first eight bytes count, as with keepalived.
    #[must_use]
    pub fn simple_text(text: &str) -> Self {
        let mut password = [0; 8];
        for (to, from) in password.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self::SimpleText(password)
    }
}

impl fmt::Debug for Auth {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::SimpleText(_) => "SimpleText(…)",
        })
    }
}

/// What a router does that wakes too late to know of others (a stopped process, a paused machine): an active one later than
/// three of its intervals after its last advert, when others must have taken over; one in Backup later than three intervals
/// after its wait was over, when another may long be active; and either when it is told that it was
/// [held up](crate::Event::HeldUp) for three intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum LateWake {
    /// Step down to Backup without a word, or stay there, and listen for a master-down interval. Nothing stale gets on the
    /// wire.
    #[default]
    Listen,
    /// Go on as if nothing had been, as the RFCs have it.
    Advertise,
}

/// Whether an owner of the addresses (priority 255) hears others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Owners {
    /// Yes, as RFC 9568 §7.1 has it since erratum 8298: of two owners, which is a mistake in their configuration, the greater
    /// address stays.
    #[default]
    Hear,
    /// No, as RFC 3768 §7.1 has it, and RFC 9568 §7.1 had it when it was published: two owners both stay active.
    Ignore,
}

/// What an active router does with an advert that loses against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum LosingAdvert {
    /// By the version: 3 answers (RFC 9568 §6.4.3), 2 discards (RFC 3768 §6.4.3).
    #[default]
    ByVersion,
    /// Advertise at once, so that its sender steps down.
    Answer,
    /// Discard it: its sender hears the next advert.
    Discard,
}

/// What to do with adverts of one's own virtual router that list other addresses than one's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum AddressCheck {
    /// Nothing.
    Ignore,
    /// Process them, and report it once.
    #[default]
    Report,
    /// Drop them, unless they are the owner's (RFC 3768 §7.1; keepalived does so).
    Drop,
}

/// A configuration that no virtual router can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// VRID 0.
    #[error("VRID 0 is not allowed: choose 1 to 255, unique on the link")]
    Vrid,
    /// Priority 0.
    #[error(
        "priority 0 is reserved for an active router that leaves: choose 1 to 254, or 255 for the owner of the addresses"
    )]
    Priority,
    /// Nothing to advertise.
    #[error("no address is advertised: give at least one virtual address that is not excluded from adverts")]
    NoAddresses,
    /// More than fit into an advert.
    #[error(
        "{count} advertised addresses: an advert has room for 255; exclude some from adverts, they move all the same"
    )]
    TooManyAddresses {
        /// How many are advertised.
        count: usize,
    },
    /// Version 2 with IPv6.
    #[error("version 2 has no IPv6: choose version 3")]
    V2OverIpv6,
    /// An interval that the version can't say.
    #[error(
        "version {version} can't advertise every {interval}: version 2 takes whole seconds from 1 to 255, version 3 takes 0.01 s to 40.95 s"
    )]
    Interval {
        /// What was asked for.
        interval: Interval,
        /// Of which version.
        version: Version,
    },
    /// A prefix that is longer than the address.
    #[error(
        "{address} has a prefix length that is longer than the address: choose at most 32 (IPv4) or 128 (IPv6)"
    )]
    PrefixLength {
        /// The address.
        address: VirtualAddress,
    },
    /// Advertised addresses of both families.
    #[error(
        "{address} is not {family} like the first address: a virtual router has one family; make a second one with the same VRID, or exclude the address from adverts"
    )]
    MixedFamilies {
        /// The first that differs.
        address: IpAddr,
        /// The family of the first address.
        family: Family,
    },
    /// An address that no host can have.
    #[error("{address} can't be a virtual address: choose a unicast address")]
    UnusableAddress {
        /// The address.
        address: IpAddr,
    },
    /// The same address twice.
    #[error("{address} is listed twice: remove one")]
    DuplicateAddress {
        /// The address.
        address: IpAddr,
    },
    /// The first IPv6 address is not link-local.
    #[error(
        "the first IPv6 address, {address}, is not link-local: put a link-local address (fe80::/10) first, as RFC 9568 §5.2.9 asks, or set require-link-local to false"
    )]
    LinkLocal {
        /// The first address.
        address: IpAddr,
    },
    /// A unicast peer of the other family.
    #[error("unicast peer {peer} is not {family} like the addresses")]
    PeerFamily {
        /// The peer.
        peer: IpAddr,
        /// The family of the addresses.
        family: Family,
    },
    /// A unicast peer that is none.
    #[error("{peer} can't be a unicast peer: give a host's own address")]
    Peer {
        /// The peer.
        peer: IpAddr,
    },
    /// A TTL other than 255 with multicast.
    #[error("adverts to the group must have TTL 255: accepted TTLs can be set with unicast peers only")]
    MulticastTtl,
    /// No TTL at all is accepted.
    #[error("no TTL is accepted: the lower bound is above the upper")]
    TtlRange,
    /// Version 3 with version 2's authentication.
    #[error("version 3 has no simple authentication: leave it out, or choose version 2")]
    V3Auth,
    /// A password beside keys.
    #[cfg(feature = "auth-hmac")]
    #[error("adverts carry either a password or a signature: leave the password out")]
    TwoAuthentications,
    /// Keys that can't be.
    #[cfg(feature = "auth-hmac")]
    #[error(transparent)]
    Hmac(#[from] crate::hmac::HmacError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(addresses: &[&str]) -> Config {
        Config::new(7, addresses.iter().map(|address| address.parse().unwrap()))
    }

    #[test]
    fn what_can_not_be_is_named() {
        let four = || config(&["10.0.0.1/24"]);
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = four();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert_eq!(four().validate(), Ok(()));
        assert_eq!(refused(&|c| c.vrid = 0), ConfigError::Vrid);
        assert_eq!(refused(&|c| c.priority = 0), ConfigError::Priority);
        assert_eq!(refused(&|c| c.addresses.clear()), ConfigError::NoAddresses);
        assert_eq!(refused(&|c| c.addresses[0].advertised = false), ConfigError::NoAddresses);
        assert!(matches!(refused(&|c| c.addresses[0].prefix_len = 33), ConfigError::PrefixLength { .. }));
        assert!(matches!(
            refused(&|c| c.addresses.push("fe80::1".parse().unwrap())),
            ConfigError::MixedFamilies { .. }
        ));
        assert!(matches!(
            refused(&|c| c.addresses.push("10.0.0.1/8".parse().unwrap())),
            ConfigError::DuplicateAddress { .. }
        ));
        for unusable in ["0.0.0.0", "224.0.0.1", "127.0.0.1"] {
            assert!(matches!(config(&[unusable]).validate(), Err(ConfigError::UnusableAddress { .. })));
        }
        assert!(matches!(
            refused(&|c| c.interval = Interval::from_seconds(41).unwrap()),
            ConfigError::Interval { .. }
        ));
        assert!(matches!(
            refused(&|c| {
                c.version = Version::V2;
                c.interval = Interval::from_centiseconds(50).unwrap();
            }),
            ConfigError::Interval { .. }
        ));
        assert_eq!(refused(&|c| c.auth = Auth::simple_text("pass")), ConfigError::V3Auth);
        assert_eq!(refused(&|c| c.accepted_ttl = 1..=255), ConfigError::MulticastTtl);
        assert!(matches!(
            refused(&|c| c.unicast_peers = vec!["fe80::2".parse().unwrap()]),
            ConfigError::PeerFamily { .. }
        ));
        let mut six = config(&["fe80::7/64", "2001:db8::7/64"]);
        assert_eq!(six.validate(), Ok(()));
        six.version = Version::V2;
        assert_eq!(six.validate(), Err(ConfigError::V2OverIpv6));
        let mut global = config(&["2001:db8::7/64"]);
        assert!(matches!(global.validate(), Err(ConfigError::LinkLocal { .. })));
        global.require_link_local = false;
        assert_eq!(global.validate(), Ok(()));
        let many = (0..256_u32).map(|host| IpAddr::from((0x0a00_0000 + host).to_be_bytes()).into());
        assert_eq!(Config::new(1, many).validate(), Err(ConfigError::TooManyAddresses { count: 256 }));
    }

    #[test]
    fn a_password_is_not_printed() {
        assert!(!format!("{:?}", Auth::simple_text("geheim")).contains("geheim"));
    }
}
