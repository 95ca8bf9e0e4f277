//! Algorithms that go by how much each backend has to do.

mod connections;
mod p2c;
mod tree;

pub use connections::{LeastConnections, Overhead};
pub use p2c::PowerOfTwo;
