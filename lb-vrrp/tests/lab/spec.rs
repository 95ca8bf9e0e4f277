//! Routers of ours in a line of words.

use std::time::Duration;

use lb_vrrp::linux::{Instance, Vmac};
use lb_vrrp::wire::{Interval, Version};
use lb_vrrp::{Config, VirtualAddress};

use super::{Host, Program, Router};

impl Host {
    /// Starts a driver there that is what `spec` says: words `name=value`, of which `addresses` must be there, a list with commas;
    /// an `@` in one stands for keepalived's `dev`. Adverts go every 100 ms.
    pub(crate) fn start(&self, spec: &str) -> Router {
        let mut router = self.router(spec);
        router.start();
        router
    }

    /// The same by a command, a line of words with its own options; it is not waited for.
    pub(crate) fn launch(&self, wrapper: &str, spec: &str) -> Router {
        let mut router = self.router(spec);
        router.wrapper = wrapper.into();
        router.launch();
        router
    }

    /// The same, not started yet.
    pub(crate) fn router(&self, spec: &str) -> Router {
        let mut router = Router::new(Program::Ours, self, vec![instance(spec)]);
        let value = |name| value(spec, name);
        router.realtime = value("realtime").map(|priority| priority.parse().expect("a priority"));
        router.lock_memory = value("lock").is_some();
        router
    }
}

fn value<'a>(spec: &'a str, name: &str) -> Option<&'a str> {
    let mut words = spec.split_whitespace().filter_map(|word| word.split_once('='));
    words.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn instance(spec: &str) -> Instance {
    let value = |name| value(spec, name);
    let number = |name, usual: u16| value(name).map_or(usual, |value| value.parse().expect("a number"));
    let addresses = value("addresses").expect("a router has addresses").split(',');
    let address =
        |address: &str| -> VirtualAddress { address.replace('@', " dev ").parse().expect("an address") };
    let mut config = Config::new(number("vrid", 51) as u8, addresses.map(address));
    config.priority = number("priority", 100) as u8;
    config.version = if number("version", 3) == 2 { Version::V2 } else { Version::V3 };
    config.interval = Interval::from_centiseconds(number("cs", 10)).expect("an interval");
    config.preempt = value("nopreempt").is_none();
    config.accept = value("accept") != Some("no");
    config.garp.delay = Duration::from_secs(number("delay", 5).into());
    let peers = value("peers").into_iter().flat_map(|list| list.split(','));
    config.unicast_peers = peers.map(|peer| peer.parse().expect("an address")).collect();
    let mut instance = Instance::new(config, value("interface").unwrap_or("eth0"));
    instance.vmac = value("vmac").map(|_| Vmac::default());
    instance
}
