//! What the driver and its instances are told.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::Config;
use crate::track::Check;

/// What holds for a whole [`Driver`](super::Driver).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the driver writes down what it is about to change on the system, so that the next start cleans up what a killed
    /// one left. `None`: nowhere; then only what the next start's own configuration names is cleaned up. Default:
    /// `/run/lb-vrrp`.
    /// It must belong to root or to the user that the program runs as, and others must not be able to write to it: what its
    /// files say is undone.
    pub run_directory: Option<PathBuf>,
    /// The priority (1 to 99) under `SCHED_RR` that the thread which makes the driver gets, keepalived's `vrrp_rt_priority`. For a
    /// machine whose processors others keep busy: the thread has one at once, where it else may have to wait for a few
    /// milliseconds. What it starts does not inherit it. Needs `CAP_SYS_NICE`. Default: none, the thread stays as it is.
    pub realtime_priority: Option<u8>,
    /// Whether to lock the program's memory (`mlockall`), so that no page fault delays an advert. Needs `CAP_IPC_LOCK`.
    /// Default: no.
    pub lock_memory: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { run_directory: Some("/run/lb-vrrp".into()), realtime_priority: None, lock_memory: false }
    }
}

/// One virtual router on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Instance {
    /// The state machine's configuration.
    pub config: Config,
    /// The interface's name, `eth0`. It need not exist yet.
    pub interface: String,
    /// Where adverts come from. Default: the interface's first global IPv4 address that is not virtual; with IPv6 its first
    /// link-local one. It is followed when it changes.
    #[cfg_attr(feature = "serde", serde(default))]
    pub source: Option<IpAddr>,
    /// Gives the addresses the virtual MAC `00:00:5e:00:01:VRID` (IPv6: `00:00:5e:00:02:VRID`), on a macvlan interface of
    /// their own. Default: they go onto `interface`, with its MAC.
    #[cfg_attr(feature = "serde", serde(default))]
    pub vmac: Option<Vmac>,
    /// Interfaces whose link counts for the priority, beside `interface`, whose own always is the router's.
    #[cfg_attr(feature = "serde", serde(default))]
    pub track_interfaces: Vec<TrackInterface>,
}

impl Instance {
    /// A router on `interface` with every default.
    #[must_use]
    pub fn new(config: Config, interface: impl Into<String>) -> Self {
        Self { config, interface: interface.into(), source: None, vmac: None, track_interfaces: Vec::new() }
    }
}

/// A macvlan interface with the virtual router's MAC (keepalived's `use_vmac`).
///
/// It is up only while the router is active: a router in Backup sends nothing from the virtual MAC, so no switch learns the
/// wrong port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", default, deny_unknown_fields)
)]
pub struct Vmac {
    /// Its name, at most 15 bytes. Default: `vrrp4.VRID.INDEX` (IPv6: `vrrp6.VRID.INDEX`) with the interface's index.
    pub name: Option<String>,
    /// Whether adverts leave with the interface's own MAC (keepalived's `vmac_xmit_base`). Default: no, with the virtual MAC
    /// (RFC 9568 §7.2). Unicast adverts always leave with the interface's own.
    pub transmit_from_interface: bool,
}

/// An interface whose link moves the priority.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct TrackInterface {
    /// Its name. While it does not exist, it is down.
    pub name: String,
    /// What its link weighs.
    #[cfg_attr(feature = "serde", serde(default))]
    pub check: Check,
}
