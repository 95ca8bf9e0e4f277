//! tower's `Balance`, the power of two choices. It has no choice apart from its call: `poll_ready` chooses,
//! `call` counts the request, the response's future ends it; so its peer is the whole path.

use crate::measure::Subject;
use futures::FutureExt;
use futures::future::{Ready, ready};
use std::convert::Infallible;
use std::hint::black_box;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, Load, PeakEwma, PendingRequests};

/// A service that answers at once.
struct Instant;

impl Service<()> for Instant {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

/// Both loads that tower measures. One thread: `Balance` takes `&mut self`, and shared users queue for it.
pub(crate) fn all(subjects: &mut Vec<Subject<'_>>, n: usize) {
    subjects.push(balance("tower p2c, pending", n, |service| {
        PendingRequests::new(service, CompleteOnResponse::default())
    }));
    subjects.push(balance("tower p2c, peak ewma", n, |service| {
        // A decay of 10 s in nanoseconds, as in tower's own documentation.
        PeakEwma::new(service, Duration::from_millis(1), 10e9, CompleteOnResponse::default())
    }));
}

fn balance<'a, S>(name: &str, n: usize, measured: impl Fn(Instant) -> S) -> Subject<'a>
where
    S: Service<(), Response = (), Error = Infallible> + Load + 'a,
    S::Metric: std::fmt::Debug,
{
    let services: Vec<S> = (0..n).map(|_| measured(Instant)).collect();
    let mut balance = Balance::new(ServiceList::new::<()>(services));
    Subject::new(name, move |count| {
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..count {
            assert!(balance.poll_ready(&mut context).is_ready(), "services that are always ready");
            black_box(balance.call(()).now_or_never());
        }
    })
}
