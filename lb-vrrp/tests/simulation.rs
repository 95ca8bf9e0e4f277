//! Ten thousand random set-ups, each with random faults: after the faults cease, exactly one router is active within the
//! computed bound, and the rules hold at every step before and after.
//!
//! A seed that fails prints the command that repeats it alone, with a table of all that happened. `SIM_SEEDS=1000000` tries that
//! many.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lb_vrrp::Config;
use lb_vrrp::sim::{Clock, Scenario, Simulation, Summary};
use lb_vrrp::wire::Version;

const SEEDS: u64 = 10_000;

/// Runs one seed; if it fails, says how to repeat it.
fn run(seed: u64) -> Result<Summary, String> {
    Scenario::random(seed).run().map_err(|failure| {
        format!("seed {seed}: {failure}\nto repeat: SIM_SEED={seed} cargo test -p lb-vrrp --test simulation -- --nocapture")
    })
}

#[test]
fn one_router_is_active_within_the_bound_after_the_faults() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        let scenario = Scenario::random(seed.parse().expect("SIM_SEED is a number"));
        let (result, trace) = scenario.run_recorded();
        for (index, (config, source, clock)) in scenario.routers.iter().enumerate() {
            println!("r{index} {source} {clock:?} {config:?}");
        }
        println!("{trace}\n{result:?}");
        result.map_err(|failure| failure.to_string()).unwrap();
        return;
    }
    let seeds =
        std::env::var("SIM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SIM_SEEDS is a number"));
    let next = AtomicU64::new(0);
    let worker = || {
        let (mut steps, mut tightest, mut failures) = (0, Duration::ZERO, Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return (steps, tightest, failures);
            }
            match run(seed) {
                Ok(summary) => {
                    steps += summary.steps;
                    let share = summary.settled.as_micros() * 1_000_000 / summary.bound.as_micros().max(1);
                    tightest = tightest.max(Duration::from_micros(share as u64));
                }
                Err(failure) => failures.push(failure),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let steps: u64 = results.iter().map(|(steps, ..)| steps).sum();
    let tightest = results.iter().map(|&(_, tightest, _)| tightest).max().unwrap();
    let failures: Vec<_> = results.iter().flat_map(|(.., failures)| failures).collect();
    println!(
        "{seeds} seeds, {steps} packets and timers; the slowest took {:.1} % of its bound",
        tightest.as_secs_f64() * 100.0
    );
    assert!(
        failures.is_empty(),
        "{} of {seeds} seeds failed, the first:\n{}",
        failures.len(),
        failures.iter().take(5).map(|failure| failure.as_str()).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn a_seed_repeats_to_the_bit() {
    for seed in 0..20 {
        let scenario = Scenario::random(seed);
        assert_eq!(scenario, Scenario::random(seed));
        assert_eq!(scenario.run_recorded().1, scenario.run_recorded().1);
    }
}

/// A hundred times: the active router's program is stopped, at any moment and in the midst of whatever it does, for one to ten
/// seconds; what it says after it goes on is never stale, and the routers agree again.
#[test]
fn a_router_that_is_stopped_and_goes_on_says_nothing_stale() {
    let mut listened = 0;
    for seed in 0..100 {
        let mut sim = Simulation::new(seed);
        let ids = [(150, 111), (100, 121), (90, 131)].map(|(priority, host)| {
            let mut config = Config::new(11, ["192.168.250.250/24".parse().unwrap()]);
            (config.version, config.priority) = (Version::V2, priority);
            sim.add(config, IpAddr::from([192, 168, 250, host]), Clock::default()).unwrap()
        });
        ids.into_iter().for_each(|id| sim.start(id));
        sim.run_for(Duration::from_millis(4_000 + seed * 37));
        assert_eq!(sim.active(), [ids[0]]);
        sim.pause(ids[0], seed % 3 > 0, (seed % 2 == 0).then_some(seed as u32 / 2 % 2));
        sim.run_for(Duration::from_millis(1_000 + seed * 90));
        sim.resume(ids[0]);
        sim.run_for(sim.settle_bound());
        assert_eq!((sim.active(), sim.violations()), (vec![ids[0]], &[][..]), "seed {seed}");
        listened += sim.router(ids[0]).unwrap().counters().late_wakes;
    }
    assert!(listened > 50, "only {listened} stops were long");
}
