//! Own schedulers beside the live peers that they are named after: Debian's nginx and HAProxy.
//!
//! `cargo test -p lb-sched --test live_peers -- --include-ignored` after
//! `apt-get install haproxy nginx-light`. A peer that is missing fails its tests.

mod support {
    pub(crate) mod peer;
}

use lb_sched::{Admin, Algorithm, Balancer, Request, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use support::peer::{Ask, Peer, Pool, server_name};

/// What `algorithm` of ours chooses for as many requests, one after the other, over the same servers.
fn own_sequence(algorithm: Algorithm, pool: &Pool, count: usize) -> Vec<String> {
    let balancer = Balancer::new(algorithm);
    let specs = pool.weights.iter().enumerate().map(|(i, weight)| {
        let spec = Spec::new(server_name(i), server_name(i));
        match *weight {
            Some(weight) => spec.weight(u16::try_from(weight).expect("a weight that we take")),
            None => spec.admin(Admin::Maintenance),
        }
    });
    balancer.update(specs).expect("servers with names of their own");
    (0..count).map(|_| balancer.pick(&Request::new()).expect("a server that is in service").clone()).collect()
}

/// Three rounds of the rotation and a bit, so that what a round leaves behind shows; at most 2000 requests.
fn three_rounds(pool: &Pool) -> usize {
    let total: u32 = pool.weights.iter().flatten().sum();
    (3 * total as usize + 7).min(2000)
}

/// Fails with the first difference, where there is one.
fn assert_same(what: &str, pool: &Pool, ours: &[String], peers: &[String]) {
    assert_eq!(ours.len(), peers.len());
    let difference = ours.iter().zip(peers).position(|(ours, peer)| ours != peer);
    if let Some(at) = difference {
        let end = ours.len().min(at + 20);
        panic!(
            "{what} {:?} differs at request {at}: ours {:?}, the peer {:?}",
            pool.weights,
            &ours[at..end],
            &peers[at..end]
        );
    }
}

/// SplitMix64, so that the random sets are the same in every run.
struct Seeded(u64);

impl Seeded {
    /// A number from 0 to `bound` − 1.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Recorded on HAProxy 2.6.12; asserted on the peer itself, so that the exact modes have firm ground.
#[test]
#[ignore = "needs haproxy"]
fn haproxy_keeps_its_recorded_sequences() {
    let table = [
        ("balance roundrobin", [4, 3, 2], "ABACBAABC"),
        ("balance static-rr", [4, 3, 2], "ABABCAABC"),
        ("balance roundrobin", [1, 1, 1], "ABCABCABC"),
    ];
    let pools: Vec<Pool> =
        table.iter().map(|(algorithm, weights, _)| Pool::new(algorithm, weights)).collect();
    let peer = Peer::haproxy(&pools);
    for (number, (algorithm, weights, expected)) in table.into_iter().enumerate() {
        assert_eq!(peer.sequence(number, 9).concat(), expected, "{algorithm} {weights:?}");
        assert_eq!(peer.sequence(number, 9).concat(), expected, "{algorithm} {weights:?}, the second period");
    }
}

/// The harness sees what is in flight: each held request makes its server the worst choice, and its end makes
/// it the best.
#[test]
#[ignore = "needs haproxy"]
fn haproxy_leastconn_is_readable() {
    let peer = Peer::haproxy(&[Pool::new("balance leastconn", &[1, 1, 1])]);
    let mut held: BTreeMap<String, _> = BTreeMap::new();
    for _ in 0..3 {
        let request = peer.hold(0, &Ask::default());
        held.insert(request.server.clone(), request);
    }
    assert_eq!(held.keys().map(String::as_str).collect::<String>(), "ABC");
    peer.haproxy_settles_at(0, 3);
    for freed in ["B", "A", "C", "C"] {
        held.remove(freed);
        peer.haproxy_settles_at(0, 2);
        let request = peer.hold(0, &Ask::default());
        assert_eq!(request.server, freed);
        held.insert(freed.to_owned(), request);
        peer.haproxy_settles_at(0, 3);
    }
}

/// The harness can be any client and send any path and header.
#[test]
#[ignore = "needs haproxy"]
fn haproxy_hashing_is_readable() {
    let algorithms =
        ["balance source", "balance uri", "balance url_param user", "balance hdr(user)", "balance random(2)"];
    let pools: Vec<Pool> = algorithms.iter().map(|algorithm| Pool::new(algorithm, &[1; 8])).collect();
    let peer = Peer::haproxy(&pools);
    let asks: Vec<Ask> = (0..40)
        .map(|i| Ask {
            source: Some(SocketAddrV4::new(Ipv4Addr::new(10, 0, i, i), 5000)),
            path: format!("page{i}?user={i}"),
            headers: vec![format!("User: {i}")],
        })
        .collect();
    for (number, algorithm) in algorithms.into_iter().enumerate() {
        let chosen: Vec<String> = asks.iter().map(|ask| peer.ask(number, ask)).collect();
        let again: Vec<String> = asks.iter().map(|ask| peer.ask(number, ask)).collect();
        assert!(chosen.iter().collect::<BTreeSet<_>>().len() >= 6, "{algorithm} spreads: {chosen:?}");
        assert_eq!(chosen == again, algorithm != "balance random(2)", "{algorithm}: {chosen:?} {again:?}");
    }
}

/// Equal weights, whatever they are: HAProxy's `roundrobin` and its `static-rr` are our `rr`.
#[test]
#[ignore = "needs haproxy"]
fn rr_agrees_with_haproxy_at_equal_weights() {
    let pools: Vec<Pool> = (1..=12)
        .flat_map(|servers| [("balance roundrobin", servers, 1), ("balance static-rr", servers, 1)])
        .chain([("balance roundrobin", 5, 7), ("balance roundrobin", 3, 256), ("balance static-rr", 5, 7)])
        .map(|(algorithm, servers, weight)| Pool::new(algorithm, &vec![weight; servers]))
        .collect();
    let peer = Peer::haproxy(&pools);
    for (number, pool) in pools.iter().enumerate() {
        let count = 5 * pool.weights.len() + 3;
        let ours = own_sequence(Algorithm::RoundRobin, pool, count);
        assert_same(&pool.algorithm, pool, &ours, &peer.sequence(number, count));
    }
}

/// The case that nginx's own change log explains, and that its users know.
#[test]
#[ignore = "needs nginx"]
fn nginx_keeps_its_documented_sequence() {
    let pool = Pool::new("", &[5, 1, 1]);
    let peer = Peer::nginx(std::slice::from_ref(&pool));
    assert_eq!(peer.sequence(0, 14).concat(), "AABACAAAABACAA");
    assert_eq!(own_sequence(Algorithm::SmoothWeightedRoundRobin, &pool, 14).concat(), "AABACAAAABACAA");
}

/// `swrr` is nginx's default, choice for choice, over several rounds: sets with a reason, then seeded random ones,
/// some with servers that are down.
#[test]
#[ignore = "needs nginx"]
fn swrr_agrees_with_nginx() {
    let chosen: &[&[u32]] = &[
        &[1],
        &[7],
        &[1, 1],
        &[1, 1, 1, 1, 1],
        &[4, 3, 2],
        &[2, 3, 4],
        &[5, 1, 1],
        &[1, 5, 1],
        &[6, 4, 2],
        &[100, 1],
        &[1, 100],
        &[1000, 1, 1],
        &[10, 10, 10, 3],
        &[1, 2, 3, 4, 5, 6, 7, 8],
        &[13, 11, 7, 5, 3, 2],
        &[255, 254, 253],
    ];
    let mut pools: Vec<Pool> = chosen.iter().map(|weights| Pool::new("", weights)).collect();
    let mut random = Seeded(1);
    for most in [3, 20, 100] {
        for _ in 0..20 {
            let servers = 1 + random.below(12);
            let weights = (0..servers).map(|_| 1 + random.below(most) as u32).collect::<Vec<_>>();
            let mut pool = Pool::new("", &weights);
            for weight in pool.weights.iter_mut().skip(1) {
                if random.below(6) == 0 {
                    *weight = None;
                }
            }
            pools.push(pool);
        }
    }
    pools.push(Pool::new("", &[[1, 2, 3, 1, 2]; 8].concat()));
    let peer = Peer::nginx(&pools);
    let mut requests = 0;
    for (number, pool) in pools.iter().enumerate() {
        let count = three_rounds(pool);
        let ours = own_sequence(Algorithm::SmoothWeightedRoundRobin, pool, count);
        assert_same("swrr", pool, &ours, &peer.sequence(number, count));
        requests += count;
    }
    println!("{requests} choices over {} sets of weights agree with nginx", pools.len());
}
