//! Algorithms that send the same client, or the same key, to the same backend.

mod maglev;
mod rendezvous;
mod sh;

pub use maglev::{Maglev, UnsuitableSize};
pub use rendezvous::Rendezvous;
pub use sh::SourceHash;
