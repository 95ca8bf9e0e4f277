//! A pool's snapshot while a thread reads it, and what the thread keeps beside it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::ops::Deref;

use super::{Seat, Snapshot};
use crate::backend::Backend;
use crate::lane::{self, Alone};
use crate::lease::{Held, Lease, Place};
use crate::load::Outcome;
use crate::sync::{Local, Reading};

/// A [`Snapshot`] while a thread reads it: to the one that is [`Alone`] on its lane, starting a request costs less.
#[derive(Debug)]
pub struct View<'a, T, D = ()> {
    pub(super) reading: Reading<'a, Snapshot<T, D>, Spares<T>>,
    /// Who hears of ends may keep an order by load, and reads the counters after publishing it. A plain store may be seen too
    /// late for that.
    pub(super) heard: bool,
}

impl<T, D> Deref for View<'_, T, D> {
    type Target = Snapshot<T, D>;

    #[inline]
    fn deref(&self) -> &Snapshot<T, D> {
        &self.reading
    }
}

impl<T, D> View<'_, T, D> {
    /// The lane, if the thread is alone there.
    #[inline]
    pub fn alone(&self) -> Option<Alone<'_>> {
        if self.heard { None } else { self.reading.alone() }
    }

    /// As [`Snapshot::start`].
    #[inline(always)]
    pub fn start(&self, position: usize) -> Option<Lease<T>> {
        match (self.alone(), self.reading.local()) {
            (Some(_), Some(spares)) if !spares.held.is_empty() => {
                let seat = spares.seats.get(position)?;
                seat.counters.start_alone();
                Some(Lease::new(spares.hold(seat, position), Place::Active))
            }
            (Some(alone), _) => {
                let seat = self.list.seat(alone.lane(), position)?;
                seat.counters.start_alone();
                Some(Lease::new(Held::of(&seat.reference, position), Place::Active))
            }
            (None, _) => Snapshot::start(self, position),
        }
    }

    /// As [`Snapshot::start_shared`].
    #[inline]
    pub fn start_shared(&self, position: usize) -> Option<Lease<T>> {
        // With limits each start is an addition: what it adds to is what it decides by.
        match (self.alone(), self.reading.local()) {
            (Some(alone), _) if alone.lane() == lane::SHARED && !self.set.limited() => self.start(position),
            (_, Some(spares)) if !spares.held.is_empty() => {
                let seat = spares.seats.get(position)?;
                self.start_shared_on(seat, position, |seat| spares.hold(seat, position))
            }
            _ => Snapshot::start_shared(self, position),
        }
    }
}

/// What a thread has kept of leases that it has finished, for those that it gives next: holding on to a backend takes an
/// atomic addition, and letting go another.
pub(crate) struct Spares<T> {
    /// The thread's own.
    lane: Option<usize>,
    backends: Arc<[Arc<Backend<T>>]>,
    /// Those of the lane, by position among the backends.
    seats: Arc<[Seat<T>]>,
    /// The same; none, if the thread has no lane.
    held: Vec<Cell<Option<Held<T>>>>,
}

impl<T> Default for Spares<T> {
    fn default() -> Self {
        Self { lane: None, backends: Arc::default(), seats: Arc::default(), held: Vec::new() }
    }
}

impl<T> fmt::Debug for Spares<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spares").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl<T: 'static, D> Local<Snapshot<T, D>> for Spares<T> {
    fn renew(&mut self, snapshot: &Snapshot<T, D>, lane: Option<usize>) {
        if self.lane == lane && Arc::ptr_eq(&self.backends, &snapshot.list.backends) {
            return;
        }
        self.held.clear();
        self.backends = Arc::clone(&snapshot.list.backends);
        self.lane = lane;
        self.seats = lane.and_then(|lane| snapshot.list.seats(lane)).cloned().unwrap_or_default();
        self.held.resize_with(self.seats.len(), Cell::default);
    }
}

impl<T> Spares<T> {
    /// Holds on to a seat, with what is spare there.
    #[inline(always)]
    fn hold(&self, seat: &Seat<T>, position: usize) -> Held<T> {
        let spare = self.held.get(position).and_then(Cell::take);
        spare.unwrap_or_else(|| Held::of(&seat.reference, position))
    }

    /// Ends a request that began here, and keeps what it held; gives back one that did not.
    #[inline]
    pub(crate) fn finish(&self, mut held: Held<T>, outcome: Outcome) -> Option<Held<T>> {
        let position = held.position();
        match (self.seats.get(position), self.held.get(position)) {
            (Some(seat), Some(spare)) if held.holds(&seat.reference) => {
                held.end_alone(outcome);
                // One that is there already is let go of; the list holds on to what it held.
                drop(spare.replace(Some(held)));
                None
            }
            _ => Some(held),
        }
    }
}
