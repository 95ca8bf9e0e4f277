//! Recorded choices of the kernel's own schedulers, replayed through a [`Balancer`].
//!
//! `data/ipvs.jsonl` is this project's recording; `LB_IPVS_GOLDEN` names another file of the same form, or several,
//! separated by colons. One line is one run: servers with weights and connections, then steps. A line of a scheduler
//! that this crate does not have yet is counted and named.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_sched::scheduler::Scheduler;
use lb_sched::{
    Balancer, Lease, LeastConnections, Lingering, Overhead, Request, RoundRobin, SourceHash, Spec, Weight,
    WeightedRoundRobin,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    scheduler: String,
    flags: String,
    overhead: String,
    servers: Vec<Server>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    address: SocketAddr,
    weight: u16,
    last_weight: u16,
    active: u32,
    inactive: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Step {
    Pick { source: SocketAddr, destination: SocketAddr, chosen: Option<usize> },
    Close(usize),
    Expire(usize),
    Weight(usize, u16),
}

/// The scheduler of a run, or `None` if this crate does not have it.
fn scheduler(run: &Run) -> Option<Box<dyn Scheduler>> {
    let flag = |name: &str| run.flags.split(',').any(|flag| flag == name);
    let overhead = match run.overhead.as_str() {
        "" | "256a+i" => Overhead::Times256,
        "257a+i" => Overhead::Times257,
        other => panic!("overhead {other:?} is not one of 256a+i, 257a+i"),
    };
    let known_flags: &[&str] = match run.scheduler.as_str() {
        "sh" => &["", "sh-fallback", "sh-port"],
        _ => &[""],
    };
    let scheduler: Box<dyn Scheduler> = match run.scheduler.as_str() {
        "rr" => Box::new(RoundRobin::new()),
        "wrr" => Box::new(WeightedRoundRobin::new()),
        "lc" => Box::new(LeastConnections::new().overhead(overhead)),
        "wlc" => Box::new(LeastConnections::weighted().overhead(overhead)),
        "sh" => Box::new(SourceHash::new().fallback(flag("sh-fallback")).port(flag("sh-port"))),
        _ => return None,
    };
    for flag in run.flags.split(',') {
        assert!(known_flags.contains(&flag), "{} has no flag {flag:?}", run.scheduler);
    }
    Some(scheduler)
}

/// One server's connections, as leases.
#[derive(Default)]
struct Connections {
    active: Vec<Lease<SocketAddr>>,
    inactive: Vec<Lingering<SocketAddr>>,
}

impl Connections {
    fn close(&mut self) {
        if let Some(lease) = self.active.pop() {
            self.inactive.push(lease.close(None));
        }
    }
}

/// Replays a run; the number of picks, or what went wrong.
fn replay(run: &Run, scheduler: Box<dyn Scheduler>) -> Result<usize, String> {
    let balancer = Balancer::with_scheduler(scheduler);
    // Named by their place: a recording may have an address twice.
    let update = |weight: fn(&Server) -> u16| {
        let spec = |(place, server): (usize, &Server)| {
            Spec::new(place.to_string(), server.address).address(server.address).weight(weight(server))
        };
        balancer.update(run.servers.iter().enumerate().map(spec)).map_err(|error| error.to_string())
    };
    // The last weight that was not 0 comes before the weight.
    update(|server| server.last_weight)?;
    let ids: Vec<_> = balancer.snapshot().set().iter().map(|member| member.id).collect();
    let mut connections: Vec<Connections> = Vec::new();
    for (&id, server) in ids.iter().zip(&run.servers) {
        let mut these = Connections::default();
        for _ in 0..server.active + server.inactive {
            these.active.push(balancer.lease(id).map_err(|error| error.to_string())?);
        }
        for _ in 0..server.inactive {
            these.close();
        }
        connections.push(these);
    }
    if run.servers.iter().any(|server| server.weight != server.last_weight) {
        update(|server| server.weight)?;
    }

    let mut picks = 0;
    for (number, step) in run.steps.iter().enumerate() {
        match *step {
            Step::Pick { source, destination, chosen } => {
                let lease = balancer.pick(&Request::from_source(source).destination(destination)).ok();
                let got =
                    lease.as_ref().and_then(|lease| ids.iter().position(|&id| id == lease.backend().id()));
                if got != chosen {
                    return Err(format!("step {number}: chose {got:?}, the kernel {chosen:?}"));
                }
                if let (Some(server), Some(lease)) = (got, lease) {
                    connections[server].active.push(lease);
                }
                picks += 1;
            }
            Step::Close(server) => connections[server].close(),
            Step::Expire(server) => drop(connections[server].inactive.pop()),
            Step::Weight(server, weight) => balancer
                .set_weight(&server.to_string(), Weight::new(weight))
                .map_err(|error| error.to_string())?,
        }
    }
    Ok(picks)
}

#[derive(Default)]
struct Tally {
    runs: usize,
    picks: usize,
    failures: Vec<String>,
    missing: bool,
}

#[test]
fn every_recorded_choice_is_made_again() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ipvs.jsonl");
    let files = std::env::var("LB_IPVS_GOLDEN").unwrap_or_else(|_| own.into());
    let mut tallies = BTreeMap::<String, Tally>::new();
    for file in files.split(':') {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("{file}:{}", number + 1);
            let run: Run = serde_json::from_str(line).unwrap_or_else(|error| panic!("{place}: {error}"));
            let tally = tallies.entry(run.scheduler.clone()).or_default();
            tally.runs += 1;
            match scheduler(&run) {
                None => tally.missing = true,
                Some(scheduler) => match replay(&run, scheduler) {
                    Ok(picks) => tally.picks += picks,
                    Err(error) => {
                        tally.failures.push(format!("{place} ({} {}): {error}", run.scheduler, run.flags))
                    }
                },
            }
        }
    }
    for (name, tally) in &tallies {
        match tally.missing {
            true => {
                println!("{name}: {} runs NOT replayed: this crate has no such scheduler yet", tally.runs)
            }
            false => println!(
                "{name}: {} runs, {} picks, {} differ",
                tally.runs,
                tally.picks,
                tally.failures.len()
            ),
        }
    }
    let failures: Vec<_> = tallies.values().flat_map(|tally| &tally.failures).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(tallies.values().any(|tally| tally.picks > 0), "{files}: no line could be replayed");
}
