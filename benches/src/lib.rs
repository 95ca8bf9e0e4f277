//! What the benchmarks and the comparison programs share: one row a figure, as a table or as JSON; the backends and
//! the requests that all are measured with.

pub mod adverts;
pub mod fleet;
pub mod requests;
pub mod threads;

use std::fmt;

/// One figure of ours beside a peer's.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The size at which: rectangles, backends, requests.
    pub n: u64,
    /// The unit of both figures; smaller is better unless it ends in `/s`.
    pub unit: &'static str,
    /// Our figure.
    pub ours: f64,
    /// The peer's figure.
    pub peer: f64,
    /// Who the peer is, with its version where it has one.
    pub peer_name: String,
    /// `ours / peer`.
    pub ratio: f64,
}

impl Row {
    /// A row; computes the ratio.
    #[must_use]
    pub fn new(name: &str, n: u64, unit: &'static str, ours: f64, peer: f64, peer_name: &str) -> Self {
        Self { name: name.into(), n, unit, ours, peer, peer_name: peer_name.into(), ratio: ours / peer }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, n, unit, ours, peer, peer_name, ratio } = self;
        write!(
            f,
            "{name:<20} n = {n:<9} {ours:>9.3} {unit:<4} {peer:>9.3} {unit:<4} {ratio:>7.3} × {peer_name}"
        )
    }
}

/// Prints the rows: a line each, or with `json` one array.
///
/// # Errors
/// When a figure is no JSON number (infinite, or no number at all).
pub fn print(rows: &[Row], json: bool) -> Result<(), serde_json::Error> {
    if json {
        println!("{}", serde_json::to_string_pretty(rows)?);
    } else {
        rows.iter().for_each(|row| println!("{row}"));
    }
    Ok(())
}

/// As many divisions of `f64` as `count`, rounded up to whole vectors, as fast as this processor divides.
///
/// Sixty-four chains that do not wait for one another, in the widest vectors: the divider never idles. Gives a
/// number that depends on all of them, so that none is left out.
#[must_use]
pub fn divisions(count: u64) -> f64 {
    const CHAINS: usize = 64;

    #[inline(always)]
    fn chains(rounds: u64, dividends: [f64; CHAINS]) -> f64 {
        let mut quotients = dividends;
        for _ in 0..rounds {
            for (quotient, dividend) in quotients.iter_mut().zip(dividends) {
                *quotient = dividend / *quotient;
            }
        }
        quotients.iter().sum()
    }

    let rounds = count.div_ceil(CHAINS as u64);
    // Like 4/(1+x²), quotients that are no powers of two: some dividers finish those early.
    let dividends = std::hint::black_box(std::array::from_fn(|chain| 1.0 + chain as f64 / 1000.0));
    fearless_simd::dispatch!(fearless_simd::Level::new(), _simd => chains(rounds, dividends))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_json_that_scripts_read() {
        let row = Row::new("pi::midpoint", 7, "ms", 1.0, 4.0, "PHP");
        let wanted = r#"{"name":"pi::midpoint","n":7,"unit":"ms","ours":1.0,"peer":4.0,"peer_name":"PHP","ratio":0.25}"#;
        assert_eq!(serde_json::to_string(&row).ok().as_deref(), Some(wanted));
    }

    #[test]
    fn divisions_divide() {
        // An even number of rounds leaves each chain at its dividend or at one: d/d = 1, d/1 = d.
        assert_eq!(divisions(64), 64.0);
        assert!(
            (divisions(128) - (0..64).map(|chain| 1.0 + f64::from(chain) / 1000.0).sum::<f64>()).abs() < 1e-9
        );
    }
}
