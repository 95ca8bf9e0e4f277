//! What a machine is on the network with.

use std::fmt;
use std::str::FromStr;

use super::disk::named;

/// A network interface of a machine.
///
/// ```
/// use lb_virt::domain::{Nic, NicModel};
///
/// let outside = Nic::bridge("virbr1").model(NicModel::E1000).vlan(129);
/// assert_eq!(outside.vlan, Some(129));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Nic {
    /// What it is connected to.
    pub network: Network,
    /// What the guest sees. Default: virtio.
    #[cfg_attr(feature = "serde", serde(default))]
    pub model: NicModel,
    /// Its address; `None` lets the hypervisor choose one.
    #[cfg_attr(feature = "serde", serde(default))]
    pub mac: Option<Mac>,
    /// The VLAN that its packets are in, 1 to 4094; `None`: they are not tagged.
    #[cfg_attr(feature = "serde", serde(default))]
    pub vlan: Option<u16>,
    /// Where it sits on its machine's bus, among the places for network interfaces; `None`: as its number in the list, from 0. Written
    /// down when one comes or goes while the machine runs: the guest must find the others where they are, on another host too. Only
    /// QEMU's own backend goes by it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub place: Option<u8>,
}

impl Nic {
    const fn new(network: Network) -> Self {
        Self { network, model: NicModel::Virtio, mac: None, vlan: None, place: None }
    }

    /// Where it sits as the `number`th of its machine's.
    pub(crate) fn place_as(&self, number: usize) -> usize {
        self.place.map_or(number, usize::from)
    }

    /// On a bridge of the host.
    #[must_use]
    pub fn bridge(name: &str) -> Self {
        Self::new(Network::Bridge(name.into()))
    }

    /// Behind the host's address: it reaches out, and nothing reaches it.
    #[must_use]
    pub const fn nat() -> Self {
        Self::new(Network::Nat)
    }

    /// As another model.
    #[must_use]
    pub const fn model(mut self, model: NicModel) -> Self {
        self.model = model;
        self
    }

    /// With an address.
    #[must_use]
    pub const fn mac(mut self, mac: Mac) -> Self {
        self.mac = Some(mac);
        self
    }

    /// In a VLAN.
    #[must_use]
    pub const fn vlan(mut self, vlan: u16) -> Self {
        self.vlan = Some(vlan);
        self
    }
}

/// What a network interface is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Network {
    /// A bridge of the host.
    Bridge(String),
    /// Addresses of the hypervisor's own, translated into the host's.
    Nat,
    /// A network that the hypervisor knows by name.
    Named(String),
}

named! {
    /// What the guest sees.
    #[derive(Default)]
    NicModel {
        /// Paravirtual.
        #[default]
        Virtio = "virtio",
        /// Intel 82540EM.
        E1000 = "e1000",
        /// Intel 82574L.
        E1000e = "e1000e",
        /// Realtek 8139.
        Rtl8139 = "rtl8139",
        /// AMD PCnet, for old guests.
        Pcnet = "pcnet",
        /// Xen's paravirtual one.
        Netfront = "netfront",
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no Ethernet address: write six bytes in hexadecimal, like 52:54:00:12:34:56")]
pub struct ParseMacError {
    text: String,
}

impl FromStr for Mac {
    type Err = ParseMacError;

    /// Six bytes with `:` or `-` between, or twelve digits as `VBoxManage` writes them.
    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let error = || ParseMacError { text: text.chars().take(64).collect() };
        let digits: Vec<u8> = match text.len() {
            12 => text.bytes().collect(),
            17 => {
                let separators = text.bytes().skip(2).step_by(3);
                if !(separators.clone().all(|byte| byte == b':')
                    || separators.clone().all(|byte| byte == b'-'))
                {
                    return Err(error());
                }
                text.bytes().enumerate().filter(|(at, _)| at % 3 != 2).map(|(_, byte)| byte).collect()
            }
            _ => return Err(error()),
        };
        let mut mac = [0; 6];
        for (byte, pair) in mac.iter_mut().zip(digits.chunks(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).ok_or_else(error);
            *byte = (value(pair[0])? * 16 + value(pair[1])?) as u8;
        }
        Ok(Self(mac))
    }
}

text_by_serde!(Mac);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_three_forms() {
        let mac = Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        for text in ["52:54:00:ab:cd:ef", "52-54-00-AB-CD-EF", "525400ABCDEF"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        for text in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:eg",
            "52:54-00:ab:cd:ef",
            "5254:00:ab:cd:ef0",
            "52540\u{e9}ABCDE",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    }
}
