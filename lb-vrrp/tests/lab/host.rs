//! A host on a [`Lan`](super::Lan)'s bridge, and what can be asked and done there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::PathBuf;

use super::{directory, inside, run, try_run};

/// A host: 192.0.2.N and fe80::N on `eth0`, N from 1.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its place, from 0.
    pub(crate) index: usize,
}

impl Host {
    /// Its own IPv4 address, in a network of 24 bits.
    pub(crate) fn v4(&self) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, self.index as u8 + 1).into()
    }

    /// Its own link-local address.
    pub(crate) fn v6(&self) -> IpAddr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, self.index as u16 + 1).into()
    }

    /// The port of the bridge that an interface of it is connected to.
    pub(crate) fn port(&self, interface: &str) -> String {
        let index = self.index;
        if interface == "eth0" { format!("p{index}") } else { format!("p{index}{interface}") }
    }

    /// Where what runs there writes; it goes with the bridge.
    pub(crate) fn directory(&self) -> PathBuf {
        directory().join(&self.namespace)
    }

    /// Where drivers there write down what they change.
    pub(crate) fn run_directory(&self) -> PathBuf {
        self.directory().join("run")
    }

    /// Whether no driver has left something there to clean up.
    pub(crate) fn is_clean(&self) -> bool {
        std::fs::read_dir(self.run_directory()).is_ok_and(|files| files.count() == 0)
    }

    /// `ip` there.
    pub(crate) fn ip(&self, line: &str) -> String {
        run(&format!("ip -n {} {line}", self.namespace))
    }

    /// Any program there.
    pub(crate) fn exec(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.namespace))
    }

    /// Runs `work` on a thread there: what it opens stays there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespace, work)
    }

    /// The addresses on its interfaces, as `ip` prints them.
    pub(crate) fn addresses(&self) -> String {
        self.ip("-brief address")
    }

    /// Whether an interface is there and has an address, which is written with its length.
    pub(crate) fn has(&self, interface: &str, address: &str) -> bool {
        let (found, text) = try_run(&format!("ip -n {} -o address show dev {interface}", self.namespace));
        found && text.split_whitespace().any(|word| word == address)
    }

    /// A sysctl of its own.
    pub(crate) fn get(&self, path: &str) -> String {
        self.exec(&format!("cat /proc/sys/{path}")).trim().to_owned()
    }

    /// Sets it.
    pub(crate) fn set(&self, path: &str, value: &str) {
        self.inside(|| std::fs::write(format!("/proc/sys/{path}"), value).expect("root may set it"));
    }

    /// Where the addresses of router `vrid` are: on its VMAC, if `vmac` says anything. `digit`: 4 or 6, the family's.
    pub(crate) fn place(&self, digit: u8, vrid: u8, vmac: &str) -> String {
        if vmac.is_empty() {
            return "eth0".into();
        }
        let link = self.ip("-o link show dev eth0");
        format!("vrrp{digit}.{vrid}.{}", link.split(':').next().expect("it begins with the index"))
    }

    /// Sends a datagram to nobody in particular at `address` (IPv6 in brackets), so that the host asks for its MAC.
    pub(crate) fn probe(&self, address: &str) {
        let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        self.inside(|| {
            let socket = UdpSocket::bind(any).expect("a port");
            socket.send_to(b"?", format!("{address}:9")).expect("a route");
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
