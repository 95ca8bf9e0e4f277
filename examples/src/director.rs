//! The parts of the director that read what others wrote: bytes from the network and configuration files.
//!
//! They decide without I/O and trust nothing, so they stand in the library, where fuzzing reaches them. The rest of
//! this folder is the program around them.
//!
//! | module | what it reads |
//! |---|---|
//! | [`config`] | a configuration file |
//! | [`proxy_protocol`] | the header in which a proxy names its client |
//! | [`scanner`] | a client's HTTP/1 requests, before the HTTP engine does |

pub mod config;
pub mod proxy_protocol;
pub mod scanner;
