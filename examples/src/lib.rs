//! What the runnable programs share.
//!
//! | module | what it gives |
//! |---|---|
//! | [`pi_service`] | the thesis's workload as an HTTP service: a program of its own, or embedded |
//! | [`status`] | the state of a director as plain data, and its page, JSON, CSV and Prometheus forms |
#![forbid(unsafe_code)]

pub mod pi_service;
pub mod status;
