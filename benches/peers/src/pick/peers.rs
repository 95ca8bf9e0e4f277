//! The peers, each with what its users call for one choice and nothing around it.

use crate::measure::Subject;
use hashring::HashRing;
use jumphash::JumpHasher;
use lb_benches::fleet::{address, weight};
use lb_benches::requests::{Keys, over};
use maglev::{ConsistentHasher, Maglev};
use pingora_ketama::{Bucket, Continuum};
use pingora_load_balancing::discovery::Static;
use pingora_load_balancing::selection::{
    BackendIter, BackendSelection, Consistent, FNVHash, Random, RoundRobin,
};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use weighted_rs::{RandWeight, RoundrobinWeight, SmoothWeight, Weight};

/// All peers over `n` backends; those that threads can share also with two threads.
pub(crate) fn all(n: usize, keys: &Keys) -> Vec<Subject<'_>> {
    let mut subjects = Vec::new();
    pingora::<RoundRobin>(&mut subjects, "pingora RoundRobin", n, false, keys);
    pingora::<RoundRobin>(&mut subjects, "pingora RoundRobin, weighted", n, true, keys);
    pingora::<Random>(&mut subjects, "pingora Random", n, true, keys);
    pingora::<FNVHash>(&mut subjects, "pingora FNVHash", n, true, keys);
    pingora::<Consistent>(&mut subjects, "pingora Consistent", n, false, keys);
    hashing(&mut subjects, n, keys);
    rotating(&mut subjects, n);
    super::tower::all(&mut subjects, n);
    scanning(&mut subjects, n);
    subjects
}

/// `LoadBalancer::select`, which a Pingora proxy calls for each request: the choice, the health check's
/// verdict and a clone of the backend. It counts no load, so it peers both with the choice alone and with the
/// whole path.
fn pingora<'a, S>(subjects: &mut Vec<Subject<'a>>, name: &str, n: usize, weighted: bool, keys: &'a Keys)
where
    S: BackendSelection + Send + Sync + 'static,
    S::Iter: BackendIter,
{
    let backends: BTreeSet<Backend> = (0..n)
        .map(|i| {
            let weight = if weighted { weight(i) } else { 1 };
            Backend::new_with_weight(&address(i).to_string(), weight.into())
                .expect("an address with its port")
        })
        .collect();
    let balancer = LoadBalancer::<S>::from_backends(Backends::new(Static::new(backends)));
    futures::executor::block_on(balancer.update()).expect("a static list does not fail");
    Subject::both(subjects, name, move |thread, count| {
        over(&keys.bytes, thread, count, |key| {
            black_box(balancer.select(key, 8));
        });
    });
}

fn hashing<'a>(subjects: &mut Vec<Subject<'a>>, n: usize, keys: &'a Keys) {
    let nodes: Vec<SocketAddr> = (0..n).map(address).collect();

    let buckets: Vec<Bucket> = nodes.iter().map(|&node| Bucket::new(node, 1)).collect();
    let continuum = Continuum::new(&buckets);
    Subject::both(subjects, "pingora-ketama", move |thread, count| {
        over(&keys.bytes, thread, count, |key| {
            black_box(continuum.node(key));
        });
    });

    // The table of our own Maglev: 65537 slots. The crate takes the first prime from the capacity on.
    let maglev = Maglev::with_capacity(nodes.clone(), 65537);
    assert_eq!(
        maglev.capacity(),
        65537,
        "the crate `maglev` no longer builds the table that it was asked for"
    );
    Subject::both(subjects, "maglev crate", move |thread, count| {
        over(&keys.numbers, thread, count, |key| {
            black_box(maglev.get(key));
        });
    });

    // One point a node unless a user adds more; 160 is what ketama has for a weight of 1.
    let mut ring = HashRing::new();
    ring.batch_add(nodes.iter().flat_map(|&node| (0..160_u32).map(move |point| (node, point))).collect());
    Subject::both(subjects, "hashring crate", move |thread, count| {
        over(&keys.numbers, thread, count, |key| {
            black_box(ring.get(key));
        });
    });

    let capacity = u16::try_from(n).expect("at most 1000 backends");
    let anchor = anchorhash::Builder::default().with_resources(nodes.clone()).build::<&u64>(capacity);
    Subject::both(subjects, "anchorhash crate", move |thread, count| {
        over(&keys.numbers, thread, count, |key| {
            black_box(anchor.get_resource(key));
        });
    });

    let jump = JumpHasher::new_with_keys(1, 2);
    Subject::both(subjects, "jumphash crate", move |thread, count| {
        over(&keys.numbers, thread, count, |key| {
            black_box(nodes[jump.slot(key, n as u32) as usize]);
        });
    });
}

/// `weighted-rs`: `next` takes `&mut self`, so one thread only.
fn rotating(subjects: &mut Vec<Subject<'_>>, n: usize) {
    fn push<'a>(
        subjects: &mut Vec<Subject<'a>>,
        name: &str,
        n: usize,
        mut items: impl Weight<Item = SocketAddr> + 'a,
    ) {
        (0..n).for_each(|i| items.add(address(i), weight(i).into()));
        subjects.push(Subject::new(name, move |count| {
            (0..count).for_each(|_| {
                black_box(items.next());
            });
        }));
    }
    push(subjects, "weighted-rs round robin", n, RoundrobinWeight::new());
    push(subjects, "weighted-rs smooth", n, SmoothWeight::new());
    push(subjects, "weighted-rs random", n, RandWeight::new());
}

/// What least connections cost without a tree, and what the kernel and every proxy without one do: look at
/// each counter. No crate offers it, so the loop is here.
fn scanning(subjects: &mut Vec<Subject<'_>>, n: usize) {
    struct Server {
        active: AtomicU32,
        weight: u32,
    }
    fn least(servers: &[Server]) -> &Server {
        let mut best = &servers[0];
        let mut best_active = best.active.load(Ordering::Relaxed);
        for server in &servers[1..] {
            let active = server.active.load(Ordering::Relaxed);
            // load/weight of both, compared without dividing.
            if u64::from(best_active) * u64::from(server.weight) > u64::from(active) * u64::from(best.weight)
            {
                (best, best_active) = (server, active);
            }
        }
        best
    }
    let fleet = || -> Vec<Server> {
        (0..n).map(|i| Server { active: AtomicU32::new(0), weight: weight(i).into() }).collect()
    };
    let servers = fleet();
    Subject::both(subjects, "linear scan", move |_, count| {
        (0..count).for_each(|_| {
            black_box(least(black_box(&servers)));
        });
    });
    let servers = fleet();
    Subject::both(subjects, "linear scan, counted", move |_, count| {
        (0..count).for_each(|_| {
            let chosen = least(black_box(&servers));
            chosen.active.fetch_add(1, Ordering::Relaxed);
            black_box(chosen).active.fetch_sub(1, Ordering::Relaxed);
        });
    });
}
