//! Moving a machine to another host: while it runs, or at rest.
//!
//! What a hypervisor has to offer for it are five methods of [`Hypervisor`](crate::Hypervisor), alike for all:
//!
//! | method | host | what happens |
//! |---|---|---|
//! | [`receive`](crate::Hypervisor::receive) | target | an empty copy waits; it does not run |
//! | [`send`](crate::Hypervisor::send) | source | memory begins to go over, while the machine runs on |
//! | [`migration`](crate::Hypervisor::migration) | both | says how far it is |
//! | [`control_migration`](crate::Hypervisor::control_migration) | source | cancels it, throttles the guest, lets it go over at once |
//! | [`conclude`](crate::Hypervisor::conclude) | both | first one copy is given up for good, then the other runs |
//!
//! A machine that runs on the target before all has gone over (post-copy) has its memory on both hosts, and neither copy is whole. If
//! the connection breaks then, it stands still as soon as it needs what is still on the source ([`Phase::Stalled`]); both copies are
//! left as they are, and [`Migration::recover`] connects them anew:
//!
//! | method | host | what happens |
//! |---|---|---|
//! | [`receive_rest`](crate::Hypervisor::receive_rest) | target | it waits for what is missing |
//! | [`send_rest`](crate::Hypervisor::send_rest) | source | that goes over |
//!
//! Between the end of the transfer and [`conclude`](crate::Hypervisor::conclude) both copies stand still, and each can go on. So
//! whatever fails, and whenever, one and only one runs afterwards: the one that is not given up.

mod course;
mod estimate;
mod migrate;
mod monitor;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use estimate::{Demand, Estimate, Link};
pub use migrate::{IfLost, Migration, MigrationError, Report, Side, Whereabouts, Why};
pub use monitor::{Monitor, Policy, PolicyError, Progress, Reason, Resort};

/// How far a migration is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Phase {
    /// Both sides get ready. On the target: it waits for the other.
    Setup,
    /// Memory goes over in rounds, while the machine runs on the source: each round what was written in the one before.
    PreCopy,
    /// It stands still on both sides, and the last of it goes over.
    Handover,
    /// It runs on the target, and what it needs and does not have it fetches from the source. It cannot go back.
    PostCopy,
    /// As [`PostCopy`](Self::PostCopy), but the connection broke: it stands still, as soon as it needs what is still on the source, until
    /// there is another ([`Migration::recover`]).
    Stalled,
    /// All has gone over. Both copies stand still until one is given up (after post-copy, the target's runs).
    Completed,
    /// It failed, in the hypervisor's own words; the source's copy is as it was.
    Failed(String),
    /// It was cancelled; the source's copy is as it was.
    Cancelled,
}

impl Phase {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed(_) | Self::Cancelled)
    }

    /// Whether it can be cancelled, and be on the source as before.
    #[must_use]
    pub const fn can_go_back(&self) -> bool {
        matches!(self, Self::Setup | Self::PreCopy | Self::Handover)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup => f.write_str("setup"),
            Self::PreCopy => f.write_str("pre-copy"),
            Self::Handover => f.write_str("handover"),
            Self::PostCopy => f.write_str("post-copy"),
            Self::Stalled => f.write_str("stalled"),
            Self::Completed => f.write_str("completed"),
            Self::Failed(words) => write!(f, "failed: {words}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// What a hypervisor says of a migration. Amounts are bytes, rates bytes a second; what it does not say is 0 or `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Sample {
    /// How far it is.
    pub phase: Phase,
    /// Since it was sent; once it has ended, how long it took.
    pub elapsed: Duration,
    /// The machine's memory.
    pub total: u64,
    /// What of this round has still to go over.
    pub remaining: u64,
    /// What went over the wire so far.
    pub transferred: u64,
    /// How fast the guest writes to memory: the pages that it has changed, whole.
    pub dirty_rate: u64,
    /// How fast memory goes over.
    pub bandwidth: u64,
    /// Rounds that are over.
    pub rounds: u64,
    /// The share of its time that the guest is kept from running, in percent.
    pub throttle: u8,
    /// How long it would stand still, were the rest to go over now.
    pub expected_downtime: Option<Duration>,
    /// How long it stood still, once it has.
    pub downtime: Option<Duration>,
    /// Whether it began to run on the target before all had gone over: the source's copy is old then, and never goes on.
    pub post_copied: bool,
}

impl Sample {
    /// One of which nothing is known but the phase.
    #[must_use]
    pub const fn new(phase: Phase) -> Self {
        Self {
            phase,
            elapsed: Duration::ZERO,
            total: 0,
            remaining: 0,
            transferred: 0,
            dirty_rate: 0,
            bandwidth: 0,
            rounds: 0,
            throttle: 0,
            expected_downtime: None,
            downtime: None,
            post_copied: false,
        }
    }
}

/// How memory goes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Via {
    /// As the hypervisor does it by itself: between two directories of QEMUs a unix socket, with libvirt what its URI says.
    #[default]
    Own,
    /// Over TCP.
    Tcp {
        /// The target's address, for both sides; port 0 lets the target choose.
        address: IpAddr,
        /// The target's port.
        port: u16,
        /// Encrypted, both sides proving who they are.
        tls: Option<Tls>,
    },
}

/// Certificates for both ends of an encrypted migration, as QEMU and libvirt lay them out: `ca-cert.pem`, and
/// `server-cert.pem`, `server-key.pem` on the target, `client-cert.pem`, `client-key.pem` on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Tls {
    /// Where they are, on both hosts. Empty: where the hypervisor's own configuration says, which libvirt alone has, and has nothing
    /// else (`migrate_tls_x509_cert_dir` in its `qemu.conf`, by default `/etc/pki/qemu`).
    pub directory: PathBuf,
    /// The name in the target's certificate, if it is not the address that is connected to.
    pub hostname: Option<String>,
}

/// Where a machine is to be sent: what [`receive`](crate::Hypervisor::receive) answers, for [`send`](crate::Hypervisor::send).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Destination {
    /// In the hypervisor's own words: `unix:/run/m/web1/incoming.sock`, `tcp:192.0.2.7:49152`, `qemu+ssh://node2/system`, `node2`.
    pub uri: String,
    /// With what it is encrypted.
    pub tls: Option<Tls>,
}

/// What is set before a machine is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Settings {
    /// The fastest that memory may go over, in bytes a second. Default: no limit.
    pub bandwidth: Option<u64>,
    /// How long the machine may stand still at the most; of this it depends when the rest is little enough. Default: 300 ms.
    pub downtime: Duration,
    /// Lets the hypervisor throttle a guest that writes faster than its memory goes over. Default: no.
    pub auto_converge: bool,
    /// Makes ready for [`Control::PostCopy`]. Default: no.
    pub post_copy: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { bandwidth: None, downtime: Duration::from_millis(300), auto_converge: false, post_copy: false }
    }
}

/// What can be asked of a migration on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Control {
    /// It stays where it is.
    Cancel,
    /// It may stand still so long.
    Downtime(Duration),
    /// So many bytes a second may go over.
    Bandwidth(u64),
    /// It runs on the target from now on, whatever has still to go over.
    PostCopy,
    /// It stands still until all has gone over: that ends, but may take long.
    Stop,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancel => f.write_str("cancel"),
            Self::Downtime(time) => write!(f, "downtime {time:?}"),
            Self::Bandwidth(rate) => write!(f, "bandwidth {rate} B/s"),
            Self::PostCopy => f.write_str("post-copy"),
            Self::Stop => f.write_str("stop"),
        }
    }
}

/// What becomes of one of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// It is the machine, and runs.
    Run,
    /// It is the machine, and stands still, as it did before.
    Pause,
    /// It is none: it never runs again, and its definition is gone from this host.
    GiveUp,
}
