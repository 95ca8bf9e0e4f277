//! What the runnable programs share.
//!
//! | module | what it gives |
//! |---|---|
//! | [`pi_service`] | the web workload, as a service that any program can embed |
//! | [`status`] | the state of a director as plain data, and its page, JSON, CSV and Prometheus forms |
#![forbid(unsafe_code)]

pub mod pi_service;
pub mod status;
