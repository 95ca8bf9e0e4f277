//! What the runnable programs share, and what of them is fuzzed.
//!
//! | module | what it gives |
//! |---|---|
//! | [`director`] | what the director makes of bytes from the network and of configuration files |
//! | [`pi_service`] | the web workload, as a service that any program can embed |
//! | [`status`] | the state of a director as plain data, and its page, JSON, CSV and Prometheus forms |
//! | [`vrrpd`] | what vrrpd makes of configuration files and of captures |
#![forbid(unsafe_code)]

pub mod director;
pub mod pi_service;
pub mod status;
pub mod vrrpd;
