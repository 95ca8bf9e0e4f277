//! The parts of vrrpd that read what others wrote: configuration files and captures.
//!
//! They decide without I/O and trust nothing, so they stand in the library, where fuzzing reaches them. The rest of
//! this folder is the program around them.
//!
//! | module | what it reads |
//! |---|---|
//! | [`config`] | a configuration: TOML, or the VRRP parts of a keepalived.conf |
//! | [`decode`] | adverts in a capture file |

pub mod config;
pub mod decode;
