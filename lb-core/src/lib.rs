//! The shared model of a load balancer: who can serve, how loaded they are, and which of them may be asked now.
//!
//! ```
//! use lb_core::{Admin, Pool, Spec, Weight};
//!
//! let pool: Pool<&str> = Pool::new();
//! pool.update([("10.0.0.1:80", Weight::new(3)), ("10.0.0.2:80", Weight::new(1))])?;
//! pool.edit(|edit| edit.entry("10.0.0.2:80").map(|entry| entry.admin = Admin::Drain))?;
//!
//! let snapshot = pool.snapshot();
//! let open: Vec<_> = snapshot.set().iter().filter(|member| member.weight > 0).collect();
//! assert_eq!(open.len(), 1);
//! assert_eq!(&*open[0].name, "10.0.0.1:80");
//! # Ok::<(), lb_core::UpdateError>(())
//! ```
//!
//! | module | what is inside |
//! |---|---|
//! | [`backend`] | [`Backend`], its [`Weight`], [`Admin`] and [`Health`] state, and the [`Spec`] that a pool is filled from |
//! | [`load`] | [`Load`]: the counters of one backend, which survive every change of the pool |
//! | [`Lease`] | a request on a backend: counted while it lives, its outcome told at its end |
//! | [`lane`] | which copy of a shared counter a thread uses |
//! | [`set`] | [`Set`] and [`Member`]: the payload-free view of a snapshot that a scheduler works on |
//! | [`pool`] | [`Pool`]: publishes immutable [`Snapshot`]s, changes them whole or not at all |
//! | [`health`] | checks (rise, fall, flapping), probes, slow start, outlier ejection: who is up, and with what share |
//! | [`session`] | who belongs where: a stick table and a connection table, their expiry, and their form between peers |
//! | [`clock`] | [`Timestamp`](clock::Timestamp) and the clocks that make it: everything timed takes it as an argument |
//! | [`hash`] | stable hashes by their names: xxh3, crc32, sdbm, djb2, wt6, SipHash-1-3, avalanche |
//! | [`pi`] | a workload to balance: π by the midpoint rule, to the bit what PHP computes, and as fast as can be |
//!
//! Without its default feature `std` the crate needs only `alloc`.
#![cfg_attr(not(feature = "std"), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
#[macro_use]
extern crate std;

pub mod backend;
pub mod clock;
pub mod hash;
pub mod health;
mod kept;
pub mod lane;
mod lease;
pub mod load;
pub mod pi;
pub mod pool;
pub mod session;
pub mod set;
#[doc(hidden)]
pub mod sync;

pub use backend::{Admin, Backend, BackendId, Health, Spec, Weight};
pub use lease::{Lease, Lingering};
pub use load::{Load, Outcome};
pub use pool::{Pool, Snapshot, UpdateError};
pub use set::{Member, Set};
