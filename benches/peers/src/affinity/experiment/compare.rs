//! What a layout is worth beside the workers that the system places, and how much of that is chance.

use crate::measure::median;
use crate::row::Row;
use crate::serving::{Figure, Run};

/// The throughput beside another's, of rounds in which both were measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Comparison {
    /// The median of the rounds' ratios.
    pub(super) ratio: f64,
    /// Twice the standard error of that median.
    pub(super) noise: f64,
}

/// Fewer rounds say nothing of the noise.
const ENOUGH: usize = 5;

/// A figure of ours and of the peer's, in the round whose ratio is the median one: what a busy machine does to a round it does to
/// both, so this differs less from run to run than two medians do.
fn median_round(ours: &[Run], peer: &[Run], of: Figure) -> (f64, f64) {
    let mut rounds: Vec<(f64, f64)> =
        ours.iter().zip(peer).map(|(ours, peer)| (of(ours), of(peer))).collect();
    rounds.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
    rounds.get(rounds.len() / 2).copied().unwrap_or((f64::NAN, f64::NAN))
}

impl Comparison {
    pub(super) fn new(ours: &[Run], peer: &[Run]) -> Self {
        let (rate, peers) = median_round(ours, peer, |run| run.rate);
        let ratio = rate / peers;
        let ratios: Vec<f64> = ours.iter().zip(peer).map(|(ours, peer)| ours.rate / peer.rate).collect();
        if ratios.len() < ENOUGH {
            return Self { ratio, noise: f64::INFINITY };
        }
        let deviation = median(ratios.iter().map(|one| (one - ratio).abs()).collect());
        // Of a normal distribution the standard deviation is 1.4826 times the median deviation, and the standard error of a median
        // 1.2533 times that of a mean. Outliers, which a busy machine has, do not count for more than others.
        let error = 1.4826 * 1.2533 * deviation / (ratios.len() as f64).sqrt();
        Self { ratio, noise: 2.0 * error }
    }

    /// In words, when equals differ by `least` in the same run.
    pub(super) fn verdict(self, least: f64) -> &'static str {
        let noise = self.noise.max(least);
        match self.ratio {
            _ if noise.is_infinite() => "too few rounds to tell",
            ratio if ratio + noise < 1.0 => "slower",
            ratio if ratio - noise > 1.0 => "faster",
            _ => "no difference beyond the noise",
        }
    }
}

/// The figures of a layout beside the peer's, each of the round in which their ratio was the median one.
pub(super) fn rows(name: &str, workers: usize, ours: &[Run], peer: &[Run], peer_name: &str) -> [Row; 3] {
    let figures: [(&str, &'static str, Figure); 3] = [
        ("throughput", "requests/s", |run| run.rate),
        ("latency, p99", "us", |run| run.p99),
        ("CPU time of a million requests", "s", |run| run.cpu),
    ];
    figures.map(|(what, unit, of)| {
        let (ours, peer) = median_round(ours, peer, of);
        Row::new(&format!("{name}: {what}"), workers as u64, unit, ours, peer, peer_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(rates: &[f64]) -> Vec<Run> {
        rates.iter().map(|&rate| Run { rate, p50: 1.0, p99: 2.0, cpu: 3.0 }).collect()
    }

    #[test]
    fn a_difference_is_told_from_chance() {
        let peer = runs(&[100.0, 200.0, 100.0, 200.0, 100.0, 200.0]);
        let steps = [0.99, 1.0, 1.01, 0.99, 1.0, 1.01];
        for (factor, least, verdict) in [
            (1.0, 0.0, "no difference beyond the noise"),
            (1.1, 0.0, "faster"),
            (0.9, 0.0, "slower"),
            // Equals differ as much in this run.
            (1.1, 0.2, "no difference beyond the noise"),
            (0.9, 0.2, "no difference beyond the noise"),
        ] {
            let rates: Vec<f64> =
                peer.iter().zip(steps).map(|(run, step)| run.rate * step * factor).collect();
            let comparison = Comparison::new(&runs(&rates), &peer);
            assert!((comparison.ratio - factor).abs() < 0.001, "{comparison:?}");
            // Rounds differ twofold, but for both alike.
            assert!(comparison.noise < 0.02, "{comparison:?}");
            assert_eq!(comparison.verdict(least), verdict, "{factor} {least}");
        }
        let few = Comparison::new(&runs(&[1.0, 2.0]), &runs(&[1.0, 1.0]));
        assert_eq!(few.verdict(0.0), "too few rounds to tell");
    }

    #[test]
    fn rows_name_what_they_compare() {
        // Of the ratios 1, 1.5 and 4 the second round's.
        let (ours, peer) = (runs(&[9.0, 3.0, 4.0]), runs(&[9.0, 2.0, 1.0]));
        let rows = rows("1 worker on 2 CPUs, pinned", 1, &ours, &peer, "placed by the OS");
        assert_eq!(rows[0].name, "1 worker on 2 CPUs, pinned: throughput");
        assert_eq!((rows[0].n, rows[0].unit, rows[0].ours, rows[0].ratio), (1, "requests/s", 3.0, 1.5));
        assert_eq!((rows[1].unit, rows[2].ours), ("us", 3.0));
    }
}
