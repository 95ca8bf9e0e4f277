//! The workload: π by the midpoint rule, the sum that `pi.php` computes for each request.
//!
//! 4/(1+x²) is integrated from 0 to 1 by n rectangles, each as high as the function in its middle. The work grows
//! with n and with nothing else, which makes it a fair load for comparing balancers. The rule itself is off π by
//! 1/(12·n²); what is left beyond that is rounding.
//!
//! * [`midpoint`] gives, bit for bit, what the PHP loop gives, about twenty times as fast;
//! * [`midpoint_fast`] gives the same sum in another order, another seven times as fast, within 10⁻¹² of the rule's
//!   exact value.
//!
//! Both use the widest vector instructions that the processor has, found at run time (feature `simd`), else those
//! of the compilation target.
//!
//! ```
//! use lb_core::pi;
//!
//! assert_eq!(pi::midpoint(1)?, 3.2);
//! assert!((pi::midpoint_fast(1_000_000)? - core::f64::consts::PI).abs() < 1e-12);
//! assert!(pi::midpoint(0).is_err());
//! # Ok::<(), pi::PiError>(())
//! ```

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use crate::clock::Clock;

/// The greatest n, 2⁵²: up to there every midpoint's numerator i + ½ is a number that an `f64` holds exactly.
///
/// One sum of that length takes weeks; a server sets a bound of its own far below.
pub const MAX: u64 = 1 << 52;

/// Why there is no sum of n rectangles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PiError {
    /// No rectangles, no area.
    #[error("n = 0 gives no rectangle to sum; ask for n from 1 to {MAX}")]
    Zero,
    /// More than [`MAX`].
    #[error("n = {n} is more than the sum can number exactly; ask for n from 1 to {MAX}")]
    TooLarge {
        /// What was asked for.
        n: u64,
    },
}

/// The sum of n rectangles as PHP's loop computes it, to the last bit.
///
/// ```php
/// for ($i = 0; $i < $n; $i++) { $x = ($i + 0.5) / $n; $area += 4 / (1 + $x * $x); }
/// $result = $area / $n;
/// ```
///
/// The terms are independent, so they are computed side by side; only their addition keeps the loop's order.
///
/// # Errors
/// [`PiError`] when n is 0 or above [`MAX`].
pub fn midpoint(n: u64) -> Result<f64, PiError> {
    check(n)?;
    Ok(widest(Sum::InOrder, n))
}

/// The sum of n rectangles in the order that suits the processor: four terms share one division, and each lane of
/// the vectors has an accumulator of its own. The order is fixed, so the result is the same on every processor.
///
/// # Errors
/// [`PiError`] when n is 0 or above [`MAX`].
pub fn midpoint_fast(n: u64) -> Result<f64, PiError> {
    check(n)?;
    Ok(widest(Sum::AnyOrder, n))
}

fn check(n: u64) -> Result<(), PiError> {
    match n {
        0 => Err(PiError::Zero),
        1..=MAX => Ok(()),
        _ => Err(PiError::TooLarge { n }),
    }
}

#[derive(Clone, Copy)]
enum Sum {
    InOrder,
    AnyOrder,
}

impl Sum {
    // Inlined wherever it is called, so that its loops become vectors of the caller's instruction set.
    #[inline(always)]
    fn compute(self, n: u64) -> f64 {
        match self {
            Self::InOrder => in_order(n),
            Self::AnyOrder => any_order(n),
        }
    }
}

#[cfg(feature = "simd")]
fn widest(sum: Sum, n: u64) -> f64 {
    fearless_simd::dispatch!(fearless_simd::Level::new(), _simd => sum.compute(n))
}

#[cfg(not(feature = "simd"))]
fn widest(sum: Sum, n: u64) -> f64 {
    sum.compute(n)
}

#[inline(always)]
fn in_order(n: u64) -> f64 {
    /// Terms computed side by side: four of the widest vectors, enough to keep the divider busy while the one
    /// chain of additions goes on.
    const BATCH: usize = 32;
    let width = n as f64;
    // i + ½ is exact (see `MAX`), however it is put together, so x rounds once, as in PHP.
    let term = |first: f64, lane: usize| {
        let x = (first + (lane as f64 + 0.5)) / width;
        4.0 / (1.0 + x * x)
    };
    let whole = n - n % BATCH as u64;
    let mut area = 0.0;
    for first in (0..whole).step_by(BATCH) {
        let terms: [f64; BATCH] = core::array::from_fn(|lane| term(first as f64, lane));
        for term in terms {
            area += term;
        }
    }
    for last in whole..n {
        area += term(last as f64, 0);
    }
    area / width
}

#[inline(always)]
fn any_order(n: u64) -> f64 {
    /// Accumulators: two of the widest vectors, enough to hide an addition's latency.
    const LANES: usize = 16;
    /// Terms of one lane under one division.
    const SHARED: usize = 4;
    const BATCH: u64 = (LANES * SHARED) as u64;
    /// Terms after which the accumulators start anew, so that their rounding does not grow with n.
    const BLOCK: u64 = 1024 * BATCH;

    let step = 1.0 / n as f64;
    // 1 + x², what 4 is divided by.
    let divisor = |first: f64, place: usize| {
        let x = (first + (place as f64 + 0.5)) * step;
        1.0 + x * x
    };
    let whole = n - n % BATCH;
    let mut area = 0.0;
    for block in (0..whole).step_by(BLOCK as usize) {
        let mut lanes = [0.0; LANES];
        for first in (block..whole.min(block + BLOCK)).step_by(BATCH as usize) {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                let [a, b, c, d] = core::array::from_fn(|i: usize| divisor(first as f64, i * LANES + lane));
                // 1/a + 1/b + 1/c + 1/d; all are between 1 and 2, so nothing overflows or cancels.
                *sum += ((a + b) * (c * d) + (c + d) * (a * b)) / ((a * b) * (c * d));
            }
        }
        area += lanes.iter().sum::<f64>();
    }
    for last in whole..n {
        area += 1.0 / divisor(last as f64, 0);
    }
    4.0 * area * step
}

/// What one request for π came to: what `pi.php` prints.
///
/// ```
/// use core::time::Duration;
/// use lb_core::pi::Report;
///
/// let report = Report {
///     n: 100_000,
///     result: 3.14159265359816,
///     time: Duration::from_micros(50_017),
///     server: ([127, 0, 0, 1], 8081).into(),
/// };
/// assert_eq!(
///     report.to_string(),
///     "Pi by the midpoint rule\nn: 100000\npi: 3.141593\ntime: 0.05002 s\nserver: 127.0.0.1:8081\n"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Report {
    /// Rectangles summed.
    pub n: u64,
    /// Their area: π and a little more.
    pub result: f64,
    /// How long the sum took; in JSON, `seconds` as a number.
    #[cfg_attr(feature = "serde", serde(rename = "seconds", with = "seconds"))]
    pub time: Duration,
    /// The server that summed: the address at which it was asked.
    pub server: SocketAddr,
}

impl Report {
    /// Computes the sum with `rule` ([`midpoint`] or [`midpoint_fast`]) and measures it with `clock`.
    ///
    /// # Errors
    /// What `rule` says of `n`.
    pub fn measure<R>(n: u64, server: SocketAddr, clock: &impl Clock, rule: R) -> Result<Self, PiError>
    where
        R: FnOnce(u64) -> Result<f64, PiError>,
    {
        let start = clock.now();
        let result = rule(n)?;
        Ok(Self { n, result, time: clock.now() - start, server })
    }
}

/// The lines of `pi.php`: a heading, n, the value with six decimals (`%f`), the time in seconds with five, the
/// server's address.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, result, time, server } = self;
        let seconds = time.as_secs_f64();
        writeln!(
            f,
            "Pi by the midpoint rule\nn: {n}\npi: {result:.6}\ntime: {seconds:.5} s\nserver: {server}"
        )
    }
}

/// A duration as a number of seconds, which every reader of JSON understands.
#[cfg(feature = "serde")]
mod seconds {
    use core::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use core::f64::consts::PI;

    use super::*;
    use crate::clock::ManualClock;

    /// The loop as PHP runs it, one operation after the other.
    fn php_loop(n: u64) -> f64 {
        let mut area = 0.0;
        for i in 0..n {
            let x = (i as f64 + 0.5) / n as f64;
            area += 4.0 / (1.0 + x * x);
        }
        area / n as f64
    }

    /// The rule's value with compensated (Neumaier's) addition: exact but for the rounding of its terms.
    fn compensated(n: u64) -> f64 {
        let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
        for i in 0..n {
            let x = (i as f64 + 0.5) / n as f64;
            let term = 4.0 / (1.0 + x * x);
            let next = sum + term;
            lost += if sum.abs() >= term { (sum - next) + term } else { (term - next) + sum };
            sum = next;
        }
        (sum + lost) / n as f64
    }

    #[test]
    fn midpoint_is_the_loop_to_the_last_bit() {
        // Every length of a batch's rest, then lengths of all sizes.
        for n in (1..=130).chain([999, 1000, 1001, 65_535, 100_000, 999_983]) {
            assert_eq!(midpoint(n).map(f64::to_bits), Ok(php_loop(n).to_bits()), "n = {n}");
        }
    }

    #[test]
    fn known_sums() {
        // By hand: 4/(1+¼) for n = 1, (64/17 + 64/25)/2 for n = 2. The others are what PHP 8.2 prints.
        for (n, sum) in
            [(1, 3.2), (2, (64.0 / 17.0 + 64.0 / 25.0) / 2.0), (1_000_000, 3.141_592_653_589_764_3)]
        {
            assert_eq!(midpoint(n), Ok(sum), "n = {n}");
        }
    }

    #[test]
    fn midpoint_fast_is_the_rule() {
        for n in (1..=300).chain([4095, 65_535, 65_536, 65_537, 1_000_000, 3_000_017]) {
            let error = (midpoint_fast(n).expect("n is in range") - compensated(n)).abs();
            assert!(error < 1e-12, "n = {n}: off by {error:e}");
        }
    }

    #[test]
    fn the_instruction_set_changes_no_bit() {
        for n in [1, 63, 64, 1000, 65_537, 1_000_003] {
            assert_eq!(midpoint(n), Ok(in_order(n)), "n = {n}");
            assert_eq!(midpoint_fast(n), Ok(any_order(n)), "n = {n}");
        }
    }

    #[test]
    fn the_rule_is_off_pi_by_a_twelfth_of_the_step_squared() {
        for n in [100, 1000, 10_000, 20_000_000_u64] {
            let wanted = PI + 1.0 / (12.0 * (n as f64) * (n as f64));
            let error = (midpoint_fast(n).expect("n is in range") - wanted).abs();
            assert!(error < 1e-12, "n = {n}: off by {error:e}");
        }
    }

    #[test]
    fn n_out_of_range_is_an_error() {
        for rule in [midpoint, midpoint_fast] {
            assert_eq!(rule(0), Err(PiError::Zero));
            assert_eq!(rule(MAX + 1), Err(PiError::TooLarge { n: MAX + 1 }));
        }
        let last = (MAX - 1) as f64;
        assert_eq!((last + 0.5) - last, 0.5, "the last midpoint is exact");
    }

    #[test]
    fn a_report_measures_its_rule() {
        let clock = ManualClock::new();
        let server = SocketAddr::from(([127, 0, 0, 1], 8081));
        let slow = |n| {
            clock.advance(Duration::from_millis(40));
            midpoint(n)
        };
        let report = Report::measure(1000, server, &clock, slow).expect("1000 is in range");
        assert_eq!(report.time, Duration::from_millis(40));
        assert_eq!((report.n, report.result, report.server), (1000, php_loop(1000), server));
        assert_eq!(Report::measure(0, server, &clock, midpoint), Err(PiError::Zero));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_report_is_json() {
        let server = SocketAddr::from(([127, 0, 0, 1], 8081));
        let report = Report { n: 1, result: 3.2, time: Duration::from_millis(1500), server };
        let json = serde_json::to_string(&report).expect("a report has nothing that JSON lacks");
        assert_eq!(json, r#"{"n":1,"result":3.2,"seconds":1.5,"server":"127.0.0.1:8081"}"#);
        assert_eq!(serde_json::from_str::<Report>(&json).expect("it reads back"), report);
        let negative = json.replace("1.5", "-1.5");
        assert!(serde_json::from_str::<Report>(&negative).is_err());
    }
}
