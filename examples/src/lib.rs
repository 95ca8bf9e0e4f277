//! What the runnable programs share.

pub mod pi_service;
