//! Load-balancing algorithms behind one trait.
//!
//! ```
//! use lb_sched::{Algorithm, Balancer, Outcome, Request, Weight};
//! use std::time::Duration;
//!
//! let balancer = Balancer::new("wlc".parse::<Algorithm>()?);
//! balancer.update([("10.0.0.1:80", Weight::new(3)), ("10.0.0.2:80", Weight::new(1))])?;
//!
//! let lease = balancer.pick(&Request::from_source("192.0.2.7:40000".parse()?))?;
//! let answered = *lease == "10.0.0.1:80"; // forward the request to *lease
//! lease.finish(if answered { Outcome::Success { latency: Duration::from_millis(3) } } else { Outcome::Failure });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Balancer`] is shared by all threads. [`pick`](Balancer::pick) waits for nobody, allocates nothing, and gives a
//! [`Lease`]: it derefs to what you keep with a backend and counts the request while it lives.
//!
//! | algorithm | names | chooses | cost of a choice |
//! |---|---|---|---|
//! | [`RoundRobin`] | `rr` | the next in turn | constant |
//! | [`WeightedRoundRobin`] | `wrr` | in turn, the heavier more often (IPVS's order) | constant |
//! | [`SmoothWeightedRoundRobin`] | `swrr` | the same, spread out (nginx's order) | constant |
//! | [`LeastConnections`] | `lc`, `wlc` | who has the least to do, by weight or not | logarithmic |
//! | [`Draw`] | `random` | by chance, by weight | constant |
//! | [`PowerOfTwo`] | `p2c` | the less loaded of two drawn by chance | constant |
//! | [`SourceHash`] | `sh` | by the client's address (IPVS's table) | constant |
//! | [`Maglev`] | `maglev` | by a key, few moves when the set changes | constant |
//! | [`Rendezvous`] | `rendezvous` | by a key, no needless move at all | linear |
//!
//! Weight 0, a drained backend and an empty pool are ordinary results. A retry names what it has tried with
//! [`Request::avoid`] and gets the algorithm's next best choice. Limits and backups are settings of the backends
//! ([`Spec`]) and work under every algorithm; slow start ([`Balancer::set_share`]) under those that choose by weight
//! (not `rr`, `lc`, and the three that hash). A session goes back to its backend by [`Balancer::lease`]. Read
//! [`scheduler`] to write one of your own.
//!
//! Concurrency is honest: one thread sees the algorithm exactly, several see it within the races of their counters,
//! and no request is ever lost or counted twice.
//!
//! Without its default feature `std` the crate needs only `alloc`; threads then share what they would otherwise have
//! stripes of.
#![cfg_attr(not(feature = "std"), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

extern crate alloc;

mod algorithm;
mod alias;
mod balancer;
mod hashing;
mod least_loaded;
mod mix;
mod order;
mod request;
mod rotation;
pub mod scheduler;

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use balancer::{Balancer, PickError};
pub use hashing::{Maglev, Rendezvous, SourceHash, UnsuitableSize};
pub use lb_core::lane::Alone;
pub use lb_core::{
    Admin, Backend, BackendId, Health, Lease, Lingering, Load, Member, Outcome, Set, Snapshot, Spec,
    UpdateError, Weight,
};
pub use least_loaded::{LeastConnections, Overhead, PowerOfTwo};
pub use order::Draw;
pub use request::{Accept, Request};
pub use rotation::{RoundRobin, SmoothWeightedRoundRobin, WeightedRoundRobin};
pub use scheduler::{Answer, Scheduler};
