//! No algorithm allocates on the way of a request: counted, for every one by name.

use std::net::SocketAddr;
use std::time::Duration;

use lb_sched::{Algorithm, Balancer, Outcome, Request, Spec, Weight};

/// How often `body` allocates, and frees what it did not allocate or keeps what it did.
fn calls(body: impl FnOnce()) -> u64 {
    let counted = allocation_counter::measure(body);
    counted.count_total + counted.count_current.unsigned_abs()
}

fn balancer(algorithm: Algorithm, limit: u32) -> Balancer<usize> {
    let balancer = Balancer::new(algorithm);
    let spec =
        |i: usize| Spec::new(format!("10.0.0.{i}:80"), i).weight(Weight::new(i as u16 % 4)).limit(limit);
    balancer.update((0..50).map(spec)).expect("names differ");
    balancer
}

/// One request each of many clients; every third holds on to its lease for a while.
fn requests(balancer: &Balancer<usize>, request: Request<'_>) {
    let mut held = [const { None }; 8];
    for i in 0..2_000u32 {
        let client = SocketAddr::from((i.wrapping_mul(0x9E37_79B9).to_be_bytes(), i as u16));
        let key = i.to_be_bytes();
        let request = if i % 2 == 0 { request.source(client) } else { request.key(&key) };
        match balancer.pick(&request) {
            Ok(lease) if i % 3 == 0 => held[i as usize % 8] = Some(lease),
            Ok(lease) if i % 3 == 1 => lease.finish(Outcome::Success { latency: Duration::from_micros(7) }),
            Ok(lease) => drop(lease.close(Some(Outcome::Failure))),
            Err(error) => std::mem::drop(std::hint::black_box(error)),
        }
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(calls(|| drop(std::hint::black_box(Box::new(1)))), 1, "the allocator counts");
}

#[test]
fn no_algorithm_allocates_for_a_request() {
    for &algorithm in Algorithm::ALL {
        let open = balancer(algorithm, u32::MAX);
        // The first read of a snapshot gives the thread a place of its own with the publisher.
        drop(open.pick(&Request::new()));
        assert_eq!(calls(|| requests(&open, Request::new())), 0, "{algorithm}");

        let avoid: Vec<_> = open.snapshot().set().iter().step_by(2).map(|member| member.id).collect();
        let refuse = |member: &lb_sched::Member| !member.name.ends_with("1:80");
        let conditions = Request::new().avoid(&avoid).accept(&refuse);
        assert_eq!(calls(|| requests(&open, conditions)), 0, "{algorithm} with conditions");

        let tight = balancer(algorithm, 1);
        drop(tight.pick(&Request::new()));
        assert_eq!(calls(|| requests(&tight, Request::new())), 0, "{algorithm} with limits");

        let id = open.snapshot().set()[1].id;
        assert_eq!(calls(|| drop(open.lease(id).unwrap())), 0, "{algorithm} by id");
    }
}
