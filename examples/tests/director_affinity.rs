//! The director puts its workers in their places, and serves where that can't be had.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::collections::BTreeMap;

use director::{Director, Origin, client, simple};
use lb_affinity::{CpuSet, thread};

/// The CPUs that each worker may run on.
fn workers(director: &Director) -> BTreeMap<String, CpuSet> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", director.pid())).unwrap();
    let named = tasks.map(|task| {
        let task = task.unwrap();
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
        let id = task.file_name().to_str().unwrap().parse().unwrap();
        (name.trim().to_owned(), thread::affinity_of(id).unwrap())
    });
    named.filter(|(name, _)| name.starts_with("worker-")).collect()
}

#[test]
fn each_worker_has_a_cpu_of_its_own() {
    let origin = Origin::start("a");
    let config = format!("[affinity]\nstrategy = \"balanced\"\n{}", simple(&[&origin], ""));
    let director = Director::start(&config);
    let placed = workers(&director);
    assert_eq!(placed.len(), 2, "{placed:?}");
    assert!(placed.values().all(|cpus| cpus.len() == 1), "{placed:?}");
    let used: CpuSet = placed.values().flat_map(CpuSet::iter).collect();
    assert_eq!(used.len(), thread::affinity().unwrap().len().min(2), "{placed:?}");
    assert!(director.stderr().contains("director: affinity: "), "{}", director.stderr());
    assert_eq!(client::get(director.http, "/").status, 200);

    // Threads stay where they are put at the start.
    director.configure(&simple(&[&origin], ""));
    let said = director.reload();
    assert!(said.contains("[affinity] cannot change by a reload"), "{said}");
}

#[test]
fn a_director_that_is_placed_badly_serves() {
    let origin = Origin::start("a");
    let config = format!("[affinity]\ninterface = \"no-such-nic\"\n{}", simple(&[&origin], ""));
    let director = Director::start(&config);
    let said = director.stderr();
    assert!(said.contains("no-such-nic") && said.contains("; the system places the workers"), "{said}");
    assert!(workers(&director).values().all(|cpus| *cpus == thread::affinity().unwrap()));
    assert_eq!(client::get(director.http, "/").status, 200);
}

#[test]
fn a_director_that_has_nothing_to_steer_by_says_so_and_serves() {
    let origin = Origin::start("a");
    let director = Director::start(&format!("[affinity]\nsteering = true\n{}", simple(&[&origin], "")));
    let said = director.stderr();
    assert!(said.contains("no steering: it takes several workers, an `interface`"), "{said}");
    assert!(workers(&director).values().all(|cpus| cpus.len() == 1), "{said}");
    assert_eq!(client::get(director.http, "/").status, 200);
}
