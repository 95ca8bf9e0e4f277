//! Proxies under load: the director and its peers as processes, the servers behind them, Debian's `wrk` before them, and who of
//! them runs on which processor.

mod cpu;
mod director;
mod error;
mod package;
mod process;
mod proxy;
mod server;
mod stop;
mod wrk;

pub(crate) use cpu::Places;
pub(crate) use director::{Affinity, Setup, binary};
pub(crate) use error::ServingError;
pub(crate) use package::{Directory, find};
pub(crate) use process::output_within;
pub(crate) use proxy::{Proxy, free_address};
pub(crate) use server::Servers;
pub(crate) use stop::Stop;
pub(crate) use wrk::{Figure, Run, Wrk};
