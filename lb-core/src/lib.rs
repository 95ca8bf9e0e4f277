//! The shared model of a load balancer.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod clock;
pub mod session;
