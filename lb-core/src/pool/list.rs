//! The backends of a snapshot, and where threads of each lane start requests on them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::backend::Backend;
use crate::lane;
use crate::lease::{Reference, Reports};
use crate::load::Counters;

/// A backend as threads of one lane start requests on it: how they hold on to it, and where they count.
pub(super) struct Seat<T> {
    pub(super) reference: Arc<Reference<T>>,
    pub(super) counters: Arc<Counters>,
}

impl<T> Clone for Seat<T> {
    fn clone(&self) -> Self {
        Self { reference: Arc::clone(&self.reference), counters: Arc::clone(&self.counters) }
    }
}

/// A backend's seats, one a lane.
pub(super) type Seats<T> = Arc<[Seat<T>]>;

/// The seats of these backends.
pub(super) fn seats<T>(backends: &[Arc<Backend<T>>], reports: &Reports<T>) -> impl Iterator<Item = Seats<T>> {
    let seat = |item: usize, lane| Seat {
        reference: Arc::new(Reference::new(&backends[item], lane, reports)),
        counters: Arc::clone(backends[item].load().lane(lane)),
    };
    lane::by_lane(backends.len(), seat).map(Arc::from)
}

/// What stays while only settings change.
pub(super) struct List<T> {
    pub(super) backends: Arc<[Arc<Backend<T>>]>,
    /// By backend, for the next list.
    pub(super) seats: Arc<[Seats<T>]>,
    /// By lane, so that what a thread reads lies close together, and the first lane's within one step.
    pub(super) first: Arc<[Seat<T>]>,
    others: Arc<[Arc<[Seat<T>]>]>,
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        Self {
            backends: Arc::clone(&self.backends),
            seats: Arc::clone(&self.seats),
            first: Arc::clone(&self.first),
            others: Arc::clone(&self.others),
        }
    }
}

impl<T> List<T> {
    pub(super) fn new(backends: Vec<Arc<Backend<T>>>, seats: Vec<Seats<T>>) -> Self {
        let of_lane = |lane| seats.iter().filter_map(move |lanes: &Seats<T>| lanes.get(lane).cloned());
        Self {
            first: of_lane(lane::SHARED).collect(),
            others: (1..lane::count()).map(|lane| of_lane(lane).collect()).collect(),
            backends: backends.into(),
            seats: seats.into(),
        }
    }

    /// Where threads of `lane` start requests.
    #[inline]
    pub(super) fn seats(&self, lane: usize) -> Option<&Arc<[Seat<T>]>> {
        match lane {
            lane::SHARED => Some(&self.first),
            lane => self.others.get(lane - 1),
        }
    }

    /// Where threads of `lane` start requests on the backend at `position`.
    #[inline]
    pub(super) fn seat(&self, lane: usize, position: usize) -> Option<&Seat<T>> {
        self.seats(lane)?.get(position)
    }
}

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.backends).finish()
    }
}
