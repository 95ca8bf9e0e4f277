//! The backends that everything is measured over.

use std::net::{Ipv4Addr, SocketAddr};

use lb_core::Pool;
use lb_sched::{Balancer, Scheduler, Spec, Weight};

/// The sizes of the fleet.
pub const SIZES: [usize; 3] = [10, 100, 1000];

/// Address of backend `i`: 10.0.0.1:80 and on.
#[must_use]
pub fn address(i: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0001 + i as u32), 80))
}

/// Weight of backend `i` where weights are used: 1, 2, 3, 4, 1, ….
#[must_use]
pub fn weight(i: usize) -> u8 {
    1 + (i % 4) as u8
}

/// Specs of the first `n` backends, with their weights.
pub fn specs(n: usize) -> impl Iterator<Item = Spec<SocketAddr>> {
    (0..n).map(|i| Spec::from((address(i), Weight::new(weight(i).into()))))
}

/// A balancer over the first `n` backends.
///
/// # Panics
/// Never: the names differ.
#[must_use]
pub fn balancer<S: Scheduler>(scheduler: S, n: usize) -> Balancer<SocketAddr, S> {
    let balancer = Balancer::with_scheduler(scheduler);
    balancer.update(specs(n)).expect("backends with names of their own");
    balancer
}

/// What a balancer chooses in, for choices alone: the first `n` backends, and a scheduler for them.
///
/// # Panics
/// Never: the names differ.
#[must_use]
pub fn pool<S: Scheduler>(scheduler: S, n: usize) -> Pool<SocketAddr, S> {
    let pool = Pool::deriving(scheduler, S::rebuild);
    pool.update(specs(n)).expect("backends with names of their own");
    pool
}
