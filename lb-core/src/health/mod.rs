//! Health of servers: who is up, why not, and with what share of its weight.
//!
//! | part | what it does | known from |
//! |---|---|---|
//! | [`Checker`] ([`state`], [`config`], [`transition`], [`observe`]) | one server's active checks: rise, fall, fast interval while changing, spread, errors of traffic | HAProxy |
//! | [`Flapping`] ([`flapping`]) | holds down, longer each time, a server that falls again and again | RFC 2439 in spirit |
#![cfg_attr(
    feature = "std",
    doc = "| [`Probe`](probe::Probe) ([`probe`], feature `std`) | asks once: connects, requests a page, runs a program | ldirectord, HAProxy, keepalived |"
)]
//! | [`outlier`] | ejects servers that answer real requests worse than they should, or than the others | Envoy |
//! | [`SlowStart`] ([`slow_start`]) | the growing share of one that came back | HAProxy, Envoy |
//! | [`Condition`] ([`policy`]) | all of this and the operator's wish → what a pool does; quiesce or remove; fallback | ldirectord |
#![cfg_attr(
    feature = "std",
    doc = "| [`Monitor`] ([`monitor`], feature `std`) | threads that do the probing, for those without a runtime | |"
)]
//!
//! All but the probes and the monitor are pure: verdicts, counters and time come in as arguments, and what to do
//! comes out as values. So the loop over many servers is the caller's own. This one runs in simulated time, in which
//! `web2` is away from the 10th second to the 20th:
//!
//! ```
//! use core::time::Duration;
//! use lb_core::clock::Timestamp;
//! use lb_core::health::{Checker, Condition, Config, Curve, OnDown, SlowStart, Verdict};
//! use lb_core::{Pool, UpdateError};
//!
//! struct Server {
//!     name: &'static str,
//!     checker: Checker,
//!     condition: Condition,
//! }
//!
//! # fn probe(server: &str, now: Timestamp) -> Verdict {
//! #     let away = server == "web2" && now >= Timestamp::from_secs(10) && now < Timestamp::from_secs(20);
//! #     if away { Verdict::Fail("refused".into()) } else { Verdict::Pass }
//! # }
//! let pool: Pool<&str> = Pool::new();
//! pool.update(["web1", "web2"].map(|name| (name, Default::default())))?;
//! let slow_start = SlowStart::new(Duration::from_secs(16), Curve::Sixteenths)?;
//! let mut servers = Vec::new();
//! for (number, name) in ["web1", "web2"].into_iter().enumerate() {
//!     let checker = Checker::new(Config::default(), Timestamp::ZERO, number as u64)?;
//!     let condition = Condition::new(OnDown::Remove, Some(slow_start), checker.is_up());
//!     servers.push(Server { name, checker, condition });
//! }
//!
//! let mut log = Vec::new();
//! let mut now = Timestamp::ZERO;
//! while now < Timestamp::from_secs(60) {
//!     for Server { name, checker, condition } in &mut servers {
//!         if checker.next_probe() > now {
//!             continue;
//!         }
//!         if let Some(transition) = checker.record(now, probe(name, now)) {
//!             condition.set_checked(now, transition.is_up());
//!             log.push(format!("{name} is {transition}"));
//!         }
//!     }
//!     // Every standing, with the shares of slow start, in one change of the pool.
//!     pool.edit(|edit| {
//!         for server in &servers {
//!             server.condition.standing(now).apply(edit.entry(server.name)?);
//!         }
//!         Ok::<(), UpdateError>(())
//!     })?;
//!     // Sleep until the next probe, or the next step of a slow start.
//!     let wake = |server: &Server| {
//!         let probe = server.checker.next_probe();
//!         server.condition.next_change(now).map_or(probe, |change| change.min(probe))
//!     };
//!     now = servers.iter().map(wake).min().unwrap_or(Timestamp::MAX);
//! }
//! assert_eq!(log, ["web2 is down: 3 checks in a row failed, the last: refused", "web2 is up"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod config;
#[cfg(feature = "serde")]
mod duration;
mod error;
pub mod flapping;
#[cfg(feature = "std")]
pub mod monitor;
pub mod observe;
pub mod outlier;
pub mod policy;
#[cfg(feature = "std")]
pub mod probe;
pub mod slow_start;
mod spread;
pub mod state;
pub mod transition;

pub use config::{Config, Initial};
pub use error::ConfigError;
pub use flapping::Flapping;
#[cfg(feature = "std")]
pub use monitor::{Monitor, MonitorError};
pub use observe::{Observe, OnError};
pub use policy::{Condition, OnDown, Standing, every_real_failed};
pub use slow_start::{Curve, SlowStart};
pub use state::Checker;
pub use transition::{Cause, Phase, Transition, Verdict};
