//! Time as an argument.
//!
//! Nothing in the family reads the time by itself: what depends on time takes a [`Timestamp`], so that every
//! behaviour can be tested at any moment and replayed. A driver at the edge owns a [`Clock`]: the machine's own
//! (`MonotonicClock`, feature `std`), or one that a test turns by hand ([`ManualClock`]).
//!
//! ```
//! use core::time::Duration;
//! use lb_core::clock::{Clock, ManualClock};
//!
//! let clock = ManualClock::new();
//! let started = clock.now();
//! clock.advance(Duration::from_millis(250));
//! assert_eq!(clock.now() - started, Duration::from_millis(250));
//! ```

use alloc::sync::Arc;
use core::fmt;
use core::ops::{Add, AddAssign, Sub};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// A moment of a monotonic clock: nanoseconds since an origin that the clock chooses.
///
/// Moments of one clock compare and subtract; those of two clocks have nothing to do with each other. Its 64 bits
/// last 584 years. All arithmetic saturates: a moment after the last is the last, and the time since a later
/// moment is zero, so that two threads whose readings cross never make a subtraction panic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Timestamp(u64);

impl Timestamp {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);
    /// The last moment; as a deadline it means *never*.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment `millis` milliseconds after the origin.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// The moment `secs` seconds after the origin.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero when `earlier` is in fact the later one.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time from `earlier` to `self`, or `None` when `earlier` is in fact the later one.
    #[must_use]
    pub const fn checked_since(self, earlier: Self) -> Option<Duration> {
        match self.0.checked_sub(earlier.0) {
            Some(nanos) => Some(Duration::from_nanos(nanos)),
            None => None,
        }
    }

    /// The moment `span` after `self`, or `None` when that lies after [`Timestamp::MAX`].
    #[must_use]
    pub fn checked_add(self, span: Duration) -> Option<Self> {
        let nanos = u64::try_from(span.as_nanos()).ok()?;
        self.0.checked_add(nanos).map(Self)
    }
}

/// Saturates at [`Timestamp::MAX`].
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        self.checked_add(span).unwrap_or(Self::MAX)
    }
}

/// Saturates at [`Timestamp::MAX`].
impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

/// The moment `span` before; saturates at [`Timestamp::ZERO`].
impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The same as [`Timestamp::saturating_since`].
impl Sub for Timestamp {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

/// Seconds since the origin, as in `12.034s`.
impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Duration::from_nanos(self.0), f)
    }
}

/// Something that tells the time and never goes back.
pub trait Clock {
    /// The present moment. Two calls in a row never give a smaller one second, on whatever thread they happen.
    fn now(&self) -> Timestamp;
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// The machine's monotonic clock, counted from the moment at which this value was made.
///
/// Copies share their origin, so their timestamps compare. One reading costs about 25 ns on a present server.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    origin: std::time::Instant,
}

#[cfg(feature = "std")]
impl MonotonicClock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// The timestamp of a moment read elsewhere; a moment before the origin is [`Timestamp::ZERO`].
    #[must_use]
    pub fn at(&self, moment: std::time::Instant) -> Timestamp {
        Timestamp::ZERO + moment.saturating_duration_since(self.origin)
    }
}

#[cfg(feature = "std")]
impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "std")]
impl Clock for MonotonicClock {
    fn now(&self) -> Timestamp {
        self.at(std::time::Instant::now())
    }
}

/// A clock that stands still until somebody turns it.
///
/// Clones are hands of the same clock: turn one in the test's thread, and all others show the new time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock at [`Timestamp::ZERO`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A clock at `start`.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self { nanos: Arc::new(AtomicU64::new(start.0)) }
    }

    /// Turns the clock forward by `span` and returns the new time; stops at [`Timestamp::MAX`].
    pub fn advance(&self, span: Duration) -> Timestamp {
        // Release pairs with the load in `now`: who sees the new time also sees what was written before it.
        let turn = |nanos| Some((Timestamp(nanos) + span).0);
        let before =
            self.nanos.fetch_update(Ordering::AcqRel, Ordering::Acquire, turn).unwrap_or_else(|now| now);
        Timestamp(before) + span
    }

    /// Turns the clock forward to `moment`; a moment in its past changes nothing, for no clock goes back.
    pub fn advance_to(&self, moment: Timestamp) {
        self.nanos.fetch_max(moment.0, Ordering::AcqRel);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.nanos.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let second = Duration::from_secs(1);
        let at = Timestamp::from_nanos;
        for (got, wanted) in [
            (Timestamp::ZERO + second, at(1_000_000_000)),
            (Timestamp::MAX + second, Timestamp::MAX),
            (Timestamp::ZERO + Duration::MAX, Timestamp::MAX),
            (Timestamp::from_secs(3) - second, Timestamp::from_millis(2000)),
            (Timestamp::ZERO - second, Timestamp::ZERO),
            (Timestamp::MAX - Duration::MAX, Timestamp::ZERO),
            (Timestamp::from_secs(u64::MAX), Timestamp::MAX),
        ] {
            assert_eq!(got, wanted);
        }
        assert_eq!(at(5) - at(3), Duration::from_nanos(2));
        assert_eq!(at(3) - at(5), Duration::ZERO);
        assert_eq!(at(3).checked_since(at(5)), None);
        assert_eq!(Timestamp::MAX.checked_add(Duration::from_nanos(1)), None);
    }

    #[test]
    fn hands_of_a_manual_clock_show_the_same_time() {
        let clock = ManualClock::starting_at(Timestamp::from_secs(10));
        let other = clock.clone();
        assert_eq!(clock.advance(Duration::from_secs(2)), Timestamp::from_secs(12));
        assert_eq!(other.now(), Timestamp::from_secs(12));
        other.advance_to(Timestamp::from_secs(11));
        assert_eq!(clock.now(), Timestamp::from_secs(12));
        other.advance_to(Timestamp::from_secs(13));
        assert_eq!(clock.now(), Timestamp::from_secs(13));
    }

    #[cfg(feature = "std")]
    #[test]
    fn turns_of_several_threads_all_count() {
        let clock = ManualClock::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        clock.advance(Duration::from_nanos(3));
                    }
                });
            }
        });
        assert_eq!(clock.now().as_nanos(), 4 * 1000 * 3);
    }

    #[cfg(feature = "std")]
    #[test]
    fn monotonic_time_never_goes_back() {
        let clock = MonotonicClock::new();
        let readings: alloc::vec::Vec<_> = (0..1000).map(|_| clock.now()).collect();
        assert!(readings.is_sorted());
        let moment = std::time::Instant::now();
        assert_eq!(clock.at(moment + Duration::from_secs(1)) - clock.at(moment), Duration::from_secs(1));
    }

    #[test]
    fn prints_in_readable_units() {
        assert_eq!(alloc::format!("{:?}", Timestamp::from_millis(1500)), "1.5s");
    }
}
