//! The address floats: VRRP versions 2 and 3 as a state machine without I/O.
//!
//! ```
//! use lb_vrrp::wire::Meta;
//! use lb_vrrp::{Action, Config, Event, State, Timestamp, VirtualRouter};
//!
//! let mut now = Timestamp::ZERO;
//! let config = Config::new(51, ["192.168.250.250/24".parse()?]);
//! let mut router = VirtualRouter::new(config, Some("192.168.250.121".parse()?))?;
//! router.handle_event(now, Event::Startup);
//! assert_eq!(router.state(), State::Backup);
//!
//! // Nobody advertises for three intervals and the skew time: it takes over.
//! now = router.poll_timeout().unwrap();
//! router.handle_timeout(now);
//! while let Some(action) = router.poll_action() {
//!     match action {
//!         Action::Transmit(transmit) => drop(router.encode(&transmit, &mut [0; 64])?), // send it
//!         Action::AddAddress(address) => assert_eq!(address.to_string(), "192.168.250.250/24"),
//!         _ => {} // tell the neighbours, write a log
//!     }
//! }
//! assert_eq!(router.state(), State::Active);
//!
//! // A better one appears.
//! let advert = [0x31, 51, 150, 1, 0, 100, 0xe1, 0x1b, 192, 168, 250, 250];
//! let meta = Meta::new("192.168.250.111".parse()?, "224.0.0.18".parse()?, 255);
//! router.handle_packet(now, &meta, &advert)?;
//! assert_eq!(router.state(), State::Backup);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what is inside |
//! |---|---|
//! | [`VirtualRouter`] | the state machine: packets, events and the time go in, [`Action`]s come out |
//! | [`config`] | [`Config`]: what a router is told, with keepalived's names and defaults |
//! | [`event`] | [`State`], [`Event`], [`Action`], [`Notification`](event::Notification) |
//! | [`group`] | [`SyncGroup`](group::SyncGroup): routers that are active together or not at all |
//! | [`track`] | [`Tracker`](track::Tracker): what interfaces, scripts, processes and files do to the priority |
//! | [`wire`] | adverts as bytes: decode, encode, checksums, and each reason to drop one |
//! | [`timer`] | skew time and master-down interval |
//! | [`counters`] | what a router has counted, by the MIB's names |
//! | `linux` (feature `linux`) | the Linux driver: raw sockets, netlink, virtual MACs, many routers in one thread; `examples/float.rs` floats an address with it |
//!
//! Without its default feature `std` the crate needs only `alloc`.
#![cfg_attr(not(feature = "std"), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)] // system calls alone are allowed it, in linux/sys.rs

#[cfg(all(feature = "linux", not(target_os = "linux")))]
compile_error!("the feature `linux` is the driver for Linux: leave it out on other systems");

extern crate alloc;
#[cfg(any(test, feature = "linux"))]
#[macro_use]
extern crate std;

mod addresses;
pub mod config;
pub mod counters;
pub mod event;
pub mod group;
#[cfg(all(feature = "linux", target_os = "linux"))]
#[cfg_attr(docsrs, doc(cfg(feature = "linux")))]
pub mod linux;
mod router;
mod time;
pub mod timer;
pub mod track;
pub mod wire;

pub use config::{Config, ConfigError, VirtualAddress};
pub use counters::Counters;
pub use event::{Action, Event, State};
pub use router::{ReconfigureError, VirtualRouter};
pub use time::Timestamp;
