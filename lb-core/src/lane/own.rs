//! Lanes that are some thread's own.

use alloc::boxed::Box;
use alloc::sync::Arc;

#[cfg(not(loom))]
use super::Alone;
use super::imp;
use crate::lane;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The lanes of one pool, and which of them are some thread's own.
#[derive(Debug)]
pub(crate) struct Lanes {
    taken: Box<[AtomicBool]>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { taken: (0..lane::count()).map(|_| AtomicBool::new(false)).collect() }
    }
}

/// A lane that is one thread's own, until this is dropped.
#[derive(Debug)]
pub(crate) struct Own {
    lanes: Arc<Lanes>,
    lane: usize,
}

impl Own {
    /// The first lane that is free.
    pub(crate) fn of(lanes: &Arc<Lanes>) -> Option<Self> {
        // Acquire: who had it before has written all that it wrote.
        let take = |lane: &AtomicBool| {
            lane.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let lane = lanes.taken.iter().position(take)?;
        imp::settle(lane);
        Some(Self { lanes: Arc::clone(lanes), lane })
    }

    /// The thread whose it is reads here. (It neither gives this to another thread nor lets go of it meanwhile.)
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn alone(&self) -> Alone<'_> {
        Alone::on(self.lane)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(taken) = self.lanes.taken.get(self.lane) {
            taken.store(false, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn each_lane_is_one_threads_until_it_lets_go() {
        let lanes = Arc::default();
        let mut owns: Vec<_> = (0..lane::count()).map(|_| Own::of(&lanes).unwrap()).collect();
        assert!(owns.iter().map(|own| own.alone().lane()).eq(0..lane::count()));
        assert!(lane::used() >= lane::count());
        assert!(Own::of(&lanes).is_none(), "all are taken");
        let last = owns.pop().map(|own| own.alone().lane());
        assert_eq!(Own::of(&lanes).map(|own| own.alone().lane()), last);
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p lb-core --lib`
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::load::{Load, Outcome};
    use core::time::Duration;
    use loom::thread;

    const SUCCESS: Outcome = Outcome::Success { latency: Duration::from_nanos(1) };

    /// One request, counted as a thread does that tries to have the lane for its own.
    fn request(load: &Load, lanes: &Arc<Lanes>) {
        let counters = load.lane(lane::SHARED);
        match Own::of(lanes) {
            Some(_own) => {
                counters.start_alone();
                counters.end_alone(Some(SUCCESS));
            }
            None => {
                counters.start();
                counters.end(Some(SUCCESS));
            }
        }
    }

    #[test]
    fn a_lane_that_goes_from_thread_to_thread_loses_no_count() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let (load, lanes) = (Arc::new(Load::new()), Arc::<Lanes>::default());
            let threads = [1, 2].map(|times| {
                let (load, lanes) = (Arc::clone(&load), Arc::clone(&lanes));
                thread::spawn(move || (0..times).for_each(|_| request(&load, &lanes)))
            });
            assert!(load.active() <= 3, "no end is seen without its start");
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!((load.active(), load.succeeded(), load.finished()), (0, 3, 3));
        });
    }
}
