//! The state of a director, shown: [`model`] is plain data that the engine fills in.
//!
//! Everything here is a pure function of a [`Status`]: no clock, no socket, no lock.

pub mod model;

pub use model::Status;
