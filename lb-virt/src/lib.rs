//! Drives virtual machines.
pub mod domain;
pub mod state;

pub use domain::{DomainSpec, Memory};
pub use state::{Operation, State, WrongState};
