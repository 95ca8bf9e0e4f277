//! Does a fixed number of picks with every algorithm, for a profiler to count: see `tests/instructions.rs`.
//!
//! Prints one line a call of [`measured`], in order: the algorithm, the length of the path, the number of backends.

use std::hint::black_box;
use std::time::Duration;

use lb_benches::fleet::{self, SIZES};
use lb_benches::requests::{Keys, Make, Visitor, every_algorithm, over};
use lb_sched::{Outcome, Request, Scheduler};

/// Picks of one call: many against a table's rare long way round, few against a profiler's patience.
const PICKS: u64 = 4096;

fn main() {
    println!("rounds {PICKS}");
    every_algorithm(&Keys::new(), &mut Counted);
}

struct Counted;

impl<'k> Visitor<'k> for Counted {
    fn visit<K: Sync>(
        &mut self,
        name: &'static str,
        make: Make<'_>,
        keys: &'k [K],
        request: impl Fn(&'k K) -> Request<'k> + Copy + Send + Sync + 'k,
    ) {
        for n in SIZES {
            let (pool, balancer) = (fleet::pool(make(), n), fleet::balancer(make(), n));
            measured(|| {
                let view = pool.read();
                over(keys, 0, PICKS, |key| {
                    black_box(view.derived().pick_on(view.set(), &request(key), view.alone()));
                });
            });
            println!("{name}|choice|{n}");
            measured(|| {
                over(keys, 0, PICKS, |key| {
                    if let Ok(lease) = balancer.pick(&request(key)) {
                        black_box(*lease);
                        lease.finish(Outcome::Success { latency: Duration::from_millis(1) });
                    }
                });
            });
            println!("{name}|whole|{n}");
        }
    }
}

/// The profiler counts inside of this function only, and writes down the count at its end.
#[inline(never)]
fn measured(work: impl FnOnce()) {
    work();
    // So that the call above is no tail call, which would leave this function before the work.
    black_box(());
}
