//! `pick`: nanoseconds of one choice, own algorithms beside those of other crates.

mod own;
mod peers;
mod tower;

use crate::measure::{Plan, interleaved, two_threads};
use crate::row::Row;
use lb_benches::fleet::SIZES;
use lb_benches::requests::{Keys, STRIPED};
use lb_sched::Algorithm;
use std::collections::HashMap;

/// How far a peer's call goes, and so what of ours it is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// It says who, and no more.
    Choice,
    /// It also counts the request and its end.
    Whole,
    /// It has one call for a request, and so stands beside both.
    Either,
}

/// Who is measured against whom: our algorithm, the peer's subject, the peer's reach.
const COMPARISONS: &[(&str, &str, Reach)] = &[
    ("rr", "pingora RoundRobin", Reach::Either),
    ("rr striped", "pingora RoundRobin", Reach::Either),
    ("wrr", "pingora RoundRobin, weighted", Reach::Either),
    ("wrr striped", "pingora RoundRobin, weighted", Reach::Either),
    ("wrr", "weighted-rs round robin", Reach::Choice),
    ("swrr", "pingora RoundRobin, weighted", Reach::Either),
    ("swrr", "weighted-rs smooth", Reach::Choice),
    ("swrr striped", "pingora RoundRobin, weighted", Reach::Either),
    ("lc", "linear scan", Reach::Choice),
    ("lc", "linear scan, counted", Reach::Whole),
    ("wlc", "linear scan", Reach::Choice),
    ("wlc", "linear scan, counted", Reach::Whole),
    ("lc striped", "linear scan", Reach::Choice),
    ("lc striped", "linear scan, counted", Reach::Whole),
    ("wlc striped", "linear scan", Reach::Choice),
    ("wlc striped", "linear scan, counted", Reach::Whole),
    ("random", "pingora Random", Reach::Either),
    ("random", "weighted-rs random", Reach::Choice),
    ("p2c", "tower p2c, pending", Reach::Either),
    ("p2c", "tower p2c, peak ewma", Reach::Whole),
    ("p2c striped", "tower p2c, pending", Reach::Either),
    ("sh", "pingora FNVHash", Reach::Either),
    ("maglev", "maglev crate", Reach::Choice),
    ("maglev", "pingora-ketama", Reach::Choice),
    ("maglev", "pingora Consistent", Reach::Either),
    ("rendezvous", "hashring crate", Reach::Choice),
    ("rendezvous", "anchorhash crate", Reach::Choice),
    ("rendezvous", "jumphash crate", Reach::Choice),
    ("rendezvous", "pingora Consistent", Reach::Either),
];

/// Measures everything at every size.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    let keys = Keys::new();
    SIZES.into_iter().flat_map(|n| measured_at(n, &keys, plan)).collect()
}

fn measured_at(n: usize, keys: &Keys, plan: Plan) -> Vec<Row> {
    let mut subjects = own::all(n, keys);
    subjects.extend(peers::all(n, keys));
    let figures = interleaved(&mut subjects, plan);
    let figures: HashMap<&str, f64> = subjects.iter().map(|subject| subject.name()).zip(figures).collect();
    let mut rows = against_peers(n, &figures);
    rows.extend(scaling(n, &figures));
    rows
}

/// One row a peer and length of path; a second one with two threads, where the peer can be shared.
fn against_peers(n: usize, figures: &HashMap<&str, f64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for &(algorithm, peer, reach) in COMPARISONS {
        let lengths = [(Reach::Choice, own::choice(algorithm)), (Reach::Whole, own::whole(algorithm))];
        for (_, ours) in lengths.into_iter().filter(|&(length, _)| reach == length || reach == Reach::Either)
        {
            let (ours_shared, peer_shared) = (two_threads(&ours), two_threads(peer));
            rows.push(Row::new(&ours, n as u64, "ns", figures[&*ours], figures[peer], peer));
            if let Some(&shared) = figures.get(&*peer_shared) {
                rows.push(Row::new(&ours_shared, n as u64, "ns", figures[&*ours_shared], shared, peer));
            }
        }
    }
    rows
}

/// What a second thread brings: picks a second of two threads that share one balancer, against those of one.
fn scaling(n: usize, figures: &HashMap<&str, f64>) -> Vec<Row> {
    let rate = |name: &str| 1e9 / figures[name];
    Algorithm::ALL
        .iter()
        .map(|algorithm| algorithm.name())
        .chain(STRIPED)
        .map(own::whole)
        .map(|name| {
            let shared = two_threads(&name);
            Row::new(&shared, n as u64, "picks/s", rate(&shared), rate(&name), "itself on one thread")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new algorithm needs a peer here; the rows' look-ups then find every subject.
    #[test]
    fn every_algorithm_has_peers_for_both_lengths() {
        for algorithm in Algorithm::ALL.iter().map(|algorithm| algorithm.name()).chain(STRIPED) {
            for length in [Reach::Choice, Reach::Whole] {
                let peered = |&(ours, _, reach): &(&str, &str, Reach)| {
                    ours == algorithm && (reach == length || reach == Reach::Either)
                };
                assert!(COMPARISONS.iter().any(peered), "{algorithm} has no peer for {length:?}");
            }
        }
    }

    #[test]
    fn every_comparison_has_its_subjects() {
        let keys = Keys::new();
        let mut subjects = own::all(10, &keys);
        subjects.extend(peers::all(10, &keys));
        let figures = subjects.iter().map(|subject| (subject.name(), 1.0)).collect();
        assert!(against_peers(10, &figures).len() > COMPARISONS.len());
        assert_eq!(scaling(10, &figures).len(), Algorithm::ALL.len() + STRIPED.len());
    }
}
