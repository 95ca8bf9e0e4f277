//! The Linux driver: carries out what [`VirtualRouter`](crate::VirtualRouter)s want, with raw sockets, netlink and one epoll.
//!
//! ```no_run
//! use lb_vrrp::Config;
//! use lb_vrrp::linux::{Driver, Instance, Settings};
//!
//! let mut driver = Driver::new(Settings::default())?;
//! let config = Config::new(51, ["192.168.250.250/24".parse()?]);
//! driver.add("HA1", Instance::new(config, "eth0"))?;
//! loop {
//!     driver.turn(None)?;
//!     while let Some((_, notification)) = driver.next_notification() {
//!         println!("{notification:?}");
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/float.rs` is that as a program, with an end. A [`Driver`] has many instances on one thread, and fits into an
//! event loop of one's own: it is a descriptor that becomes readable, and [`Driver::turn`].
//!
//! # What it needs
//! `CAP_NET_RAW` and `CAP_NET_ADMIN`, which [`Driver::new`] checks by name, and a run directory; `CAP_SYS_NICE` and
//! `CAP_IPC_LOCK` for what [`Settings`] offers beyond.
//!
//! # What an instance does on the system
//! | what | when |
//! |---|---|
//! | a raw socket for each interface and family, joined to the VRRP group; a packet socket for announcements | while the interface exists |
//! | its addresses on the interface, or on the one that is named with them, tagged `proto 112`; IPv6 without duplicate address detection | while it is active |
//! | `promote_secondaries` 1 on these interfaces, if it was 0 (IPv4): else the kernel removes a network's other addresses with its first | while bound |
//! | a table of nf_tables for each family, `lb-vrrp-…`, that drops packets for the addresses | with [`Config::accept`](crate::Config::accept) off; while the instance exists |
//! | with [`Vmac`]: a private macvlan with the virtual MAC, `arp_ignore` 1 and `arp_filter` 1 on the interface if they were 0 | while bound; up only while active |
//!
//! The source of adverts is never a virtual address, but for an owner that has no other.
//!
//! # What goes wrong, and what follows
//! | what | what follows |
//! |---|---|
//! | the interface is gone, down, or without carrier | fault `LINK`; bound anew when it is back, also under another index |
//! | another interface that has some of its addresses is gone, down, or without carrier | fault `TRACK`, with a farewell; the addresses leave the others too |
//! | it has no address to send from; IPv6: none that is link-local and not tentative | fault `SOURCE` |
//! | its address changes | adverts come from the new one |
//! | another program removes a virtual address | it is put back and announced; if that fails, fault `ADDRESS` |
//! | netlink refuses an address | fault `ADDRESS`; tried again after 1 s to 32 s |
//! | an advert can't be sent | for lack of room tried again five times, a millisecond apart; then fault `TRANSMIT` |
//! | the VMAC can't be made | fault `LINK`; [`Driver::trouble`] says why; tried again every second |
//! | netlink's events overflow | everything is listed anew, and what is missing is put back |
//! | the program is stopped and goes on later than others wait | it listens; adverts and announcements that were decided before are dropped |
//! | the program is killed | the next start cleans up, see below |
//! | two programs are the same virtual router in one network namespace, on one interface or on two of one link | neither hears the other, and both are active, as two keepalived are: the kernel gives nobody a packet from the host's own address. Give each router to one program |
//!
//! # After a `kill -9`
//! Addresses, VMACs and sysctls stay behind. Before the driver changes anything it writes it down in a file of its own in
//! [`Settings::run_directory`] that it holds locked. The next driver of the same network namespace that finds the file
//! unlocked undoes what it says, with whatever configuration: of the addresses only those with the driver's tag, on
//! kernels that have tags (Linux 5.18). A tag alone would not do, as two programs may each float addresses on one
//! interface; a file alone would not do, as an operator may since have given the host an address for good. An address of a new
//! instance's own configuration that is on its interface already is removed without a file, too: a backup must not have it.

mod arp;
mod cleanup;
mod driver;
mod error;
mod filter;
mod frame;
mod journal;
mod links;
mod ndp;
mod netlink;
mod pace;
mod preflight;
mod settings;
mod socket;
mod sys;
mod sysctl;
mod vmac;
mod worker;

pub use driver::{Driver, InstanceId, InterfaceCounters};
pub use error::DriverError;
pub use preflight::check_capabilities;
pub use settings::{Instance, Settings, TrackInterface, Vmac};
