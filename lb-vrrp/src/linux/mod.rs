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

mod arp;
mod driver;
mod error;
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
