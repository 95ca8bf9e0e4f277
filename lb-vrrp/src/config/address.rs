//! An address that floats, and its text.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use super::InterfaceName;
use crate::wire::Family;

/// An address that floats.
///
/// Parses from and prints `192.0.2.1/24`, or `192.0.2.1` for the whole address (/32 or /128); `192.0.2.1/24 dev eth1` for one
/// that is not on the router's own interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct VirtualAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix_len: u8,
    /// Whether adverts list it (keepalived: `virtual_ipaddress`), or it just moves with the others
    /// (`virtual_ipaddress_excluded`).
    #[cfg_attr(feature = "serde", serde(default = "super::defaults::yes"))]
    pub advertised: bool,
    /// The interface that it floats on, if that is not the router's own (keepalived: `dev`). The router needs its link like
    /// that of its own. The state machine leaves it to the driver.
    #[cfg_attr(feature = "serde", serde(default))]
    pub interface: Option<InterfaceName>,
}

impl VirtualAddress {
    /// `address`, advertised, in a network of `prefix_len` bits, on the router's own interface.
    #[must_use]
    pub const fn new(address: IpAddr, prefix_len: u8) -> Self {
        Self { address, prefix_len, advertised: true, interface: None }
    }
}

impl From<IpAddr> for VirtualAddress {
    /// The whole address: /32 or /128.
    fn from(address: IpAddr) -> Self {
        Self::new(address, 8 * Family::of(address).octets() as u8)
    }
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)?;
        self.interface.map_or(Ok(()), |interface| write!(f, " dev {interface}"))
    }
}

impl FromStr for VirtualAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let (text, interface) = match text.split_once(" dev ") {
            None => (text, None),
            Some((text, interface)) => (text, Some(interface.parse().map_err(|_| ParseAddressError)?)),
        };
        let (address, prefix_len) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix_len)) => (address, Some(prefix_len)),
        };
        let address: IpAddr = address.parse().map_err(|_| ParseAddressError)?;
        let mut virtual_address = Self { interface, ..Self::from(address) };
        if let Some(prefix_len) = prefix_len {
            let prefix_len = prefix_len.parse().map_err(|_| ParseAddressError)?;
            if prefix_len > virtual_address.prefix_len {
                return Err(ParseAddressError);
            }
            virtual_address.prefix_len = prefix_len;
        }
        Ok(virtual_address)
    }
}

/// A text that is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an address with an optional prefix length and interface: write it like 192.0.2.1/24, fe80::1/64, or \
     192.0.2.1/24 dev eth1"
)]
pub struct ParseAddressError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for text in ["10.0.0.1/24", "fe80::1/64", "10.0.0.1/32", "10.0.0.1/24 dev eth0.7"] {
            assert_eq!(text.parse::<VirtualAddress>().unwrap().to_string(), text);
        }
        assert_eq!("fe80::1".parse::<VirtualAddress>().unwrap().prefix_len, 128);
        for text in [
            "",
            "10.0.0.1/",
            "10.0.0.1/33",
            "10.0.0.1/-1",
            "fe80::1/129",
            "host",
            "10.0.0.1 dev",
            "10.0.0.1 dev a/b",
        ] {
            assert!(text.parse::<VirtualAddress>().is_err(), "{text}");
        }
    }
}
