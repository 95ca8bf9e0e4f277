//! What the runnable programs share.
//!
//! | module | what it gives |
//! |---|---|
//! | [`status`] | the state of a director as plain data, and its page, JSON, CSV and Prometheus forms |
#![forbid(unsafe_code)]

pub mod status;
