//! Requests that wait because every server has as many as it may have.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Why waiting ended without a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// As many wait already as may.
    Full,
    /// No server became free in time.
    TimedOut,
}

/// A bounded queue of one farm, shared by the workers. First come, first served, except that who waits for one
/// certain server lets others pass.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    /// Those of them that only one certain server can help.
    bound: AtomicUsize,
    freed: Notify,
}

impl Queue {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// A request ended: its place is free for one that waits.
    pub(crate) fn one_ended(&self) {
        // SeqCst here and in `wait`: the end was counted before this look, and who waits counts itself before its
        // last look at the counters, so one of both sees the other.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            if self.bound.load(Ordering::SeqCst) > 0 {
                self.freed.notify_waiters();
            } else {
                self.freed.notify_one();
            }
        }
    }

    /// Servers came or went: everyone looks again.
    pub(crate) fn all_changed(&self) {
        self.freed.notify_waiters();
    }

    /// Waits until `attempt` gives something, at most `limit` others waiting and at most for `timeout`.
    /// `bound` says that only one certain server will do.
    pub(crate) async fn wait<T>(
        &self,
        limit: usize,
        timeout: Duration,
        bound: bool,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, Waited> {
        let _place = Place::take(self, limit, bound).ok_or(Waited::Full)?;
        let waiting = async {
            loop {
                let mut freed = std::pin::pin!(self.freed.notified());
                freed.as_mut().enable();
                if let Some(got) = attempt() {
                    return got;
                }
                freed.await;
            }
        };
        tokio::time::timeout(timeout, waiting).await.map_err(|_| Waited::TimedOut)
    }
}

/// One that waits; given back when it is dropped, as when its client goes away.
struct Place<'q> {
    queue: &'q Queue,
    bound: bool,
}

impl<'q> Place<'q> {
    fn take(queue: &'q Queue, limit: usize, bound: bool) -> Option<Self> {
        if queue.waiting.fetch_add(1, Ordering::SeqCst) >= limit {
            queue.waiting.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        queue.bound.fetch_add(usize::from(bound), Ordering::SeqCst);
        Some(Self { queue, bound })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::SeqCst);
        self.queue.bound.fetch_sub(usize::from(self.bound), Ordering::SeqCst);
        // A wake-up that reached this one and was not used goes to the next.
        self.queue.one_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_in_length_and_time() {
        let queue = Queue::default();
        let second = Duration::from_secs(1);
        assert_eq!(queue.wait(0, second, false, || Some(())).await, Err(Waited::Full));
        assert_eq!(queue.wait(1, second, false, || None::<()>).await, Err(Waited::TimedOut));
        assert_eq!(queue.len(), 0);
        let first = queue.wait(1, second, false, || None::<()>);
        let other = queue.wait(1, second, false, || Some(()));
        let (first, other) = tokio::join!(biased; first, other);
        assert_eq!((first, other), (Err(Waited::TimedOut), Err(Waited::Full)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waited_longest_gets_the_place() {
        let queue = Queue::default();
        let free = Cell::new(0);
        let order = Cell::new(0);
        let take = || {
            if free.get() > 0 {
                free.set(free.get() - 1);
                order.set(order.get() + 1);
                return Some(order.get());
            }
            None
        };
        let second = Duration::from_secs(1);
        let end = async {
            for _ in 0..2 {
                tokio::task::yield_now().await;
                free.set(free.get() + 1);
                queue.one_ended();
            }
        };
        let (first, other, ()) =
            tokio::join!(biased; queue.wait(9, second, false, take), queue.wait(9, second, false, take), end);
        assert_eq!((first, other), (Ok(1), Ok(2)));
        assert_eq!(queue.len(), 0);
    }
}
