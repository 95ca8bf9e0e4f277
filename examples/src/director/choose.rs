//! Which server works on a request: its session's, else the algorithm's choice, else the first that becomes free.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lb_core::BackendId;
use lb_sched::{Lease, PickError, Request};

use crate::answer::Failure;
use crate::exchange::Exchange;
use crate::queue::Waited;
use crate::site::{Farm, Server};

type Chosen = Lease<Arc<Server>>;

/// Chooses a server, waits in the queue if all are full, and says why there is none.
///
/// `pinned` is the server of the request's session; `avoid` are those that failed it already.
pub(crate) async fn choose(
    exchange: &mut Exchange,
    pinned: Option<BackendId>,
    avoid: &mut Vec<BackendId>,
) -> Result<Chosen, Failure> {
    let frontend = Rc::clone(&exchange.frontend);
    let farm = &frontend.farm;
    let pinned = pinned.filter(|id| !avoid.contains(id));
    // Nobody overtakes those that wait.
    let nobody_waits = farm.state.queue.len() == 0;
    let first = if nobody_waits { attempt(exchange, farm, pinned, avoid) } else { Err(PickError::Full) };
    let error = match first {
        Ok(lease) => return Ok(lease),
        Err(PickError::Refused) if !avoid.is_empty() => {
            // All others failed too, or there are none: the best of them gets another chance.
            avoid.clear();
            match attempt(exchange, farm, None, avoid) {
                Ok(lease) => return Ok(lease),
                Err(error) => error,
            }
        }
        Err(error) => error,
    };
    match error {
        PickError::Full => wait(exchange, farm, pinned, avoid).await,
        _ => Err(Failure::NoServer),
    }
}

fn attempt(
    exchange: &Exchange,
    farm: &Farm,
    pinned: Option<BackendId>,
    avoid: &[BackendId],
) -> Result<Chosen, PickError> {
    if let Some(id) = pinned {
        match farm.balancer.lease(id) {
            // Its session's server is full: it waits for that one.
            Err(PickError::Full) => return Err(PickError::Full),
            Ok(lease) => return Ok(lease),
            Err(_) => {}
        }
    }
    let request = Request::from_source(exchange.client.address).destination(exchange.client.local);
    farm.balancer.pick(&request.avoid(avoid))
}

async fn wait(
    exchange: &mut Exchange,
    farm: &Farm,
    pinned: Option<BackendId>,
    avoid: &[BackendId],
) -> Result<Chosen, Failure> {
    let started = Instant::now();
    let frontend = Rc::clone(&exchange.frontend);
    let _queued = Queued::count(&frontend.state.counters.of(exchange.client.worker.id).queued);
    let limit = farm.config.queue_length;
    let timeout = farm.config.timeouts.queue;
    // What cannot be served any more does not wait for its timeout: all servers may have gone down meanwhile.
    let waited = farm.state.queue.wait(limit, timeout, pinned.is_some(), || {
        match attempt(exchange, farm, pinned, avoid) {
            Ok(lease) => Some(Ok(lease)),
            Err(PickError::Full) => None,
            Err(_) => Some(Err(Failure::NoServer)),
        }
    });
    let result = match waited.await {
        Ok(result) => result,
        Err(Waited::Full) => Err(Failure::QueueFull),
        Err(Waited::TimedOut) => Err(Failure::QueueTimeout),
    };
    if let Some(record) = &mut exchange.record {
        record.queued = Some(started.elapsed());
    }
    result
}

/// Counts one that waits for as long as it lives.
struct Queued<'c>(&'c crate::counters::Counter);

impl<'c> Queued<'c> {
    fn count(counter: &'c crate::counters::Counter) -> Self {
        counter.one();
        Self(counter)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.less_one();
    }
}
