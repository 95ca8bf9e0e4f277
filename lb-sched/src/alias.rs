//! Draws from a weighted list in constant time.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::mix::below;

/// Walker's alias table, built by Vose's method (A linear algorithm for generating random numbers with a given
/// distribution, IEEE TSE 1991), in whole numbers, so that it is the same on every machine.
///
/// Only positions of positive weight are in it.
#[derive(Debug, Default)]
pub(crate) struct Alias {
    columns: Box<[Column]>,
    /// All weights are the same: the column is the answer.
    even: bool,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// The share of this column that is its own, of 2³².
    own: u32,
    position: u32,
    other: u32,
}

impl Alias {
    pub(crate) fn new(weights: &[u32]) -> Self {
        let open: Vec<(u32, u64)> =
            (0..).zip(weights).filter(|&(_, w)| *w > 0).map(|(i, w)| (i, u64::from(*w))).collect();
        let (count, total) = (open.len() as u64, open.iter().map(|&(_, w)| w).sum::<u64>());
        let even = open.windows(2).all(|pair| pair[0].1 == pair[1].1);
        // What each column holds, in units where a full column is `total`.
        let mut left: Vec<u64> = open.iter().map(|&(_, w)| w * count).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..open.len()).partition(|&i| left[i] < total);
        let mut columns: Vec<Column> =
            open.iter().map(|&(position, _)| Column { own: u32::MAX, position, other: position }).collect();
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            // left < total, so the quotient is below 2³².
            columns[poor].own = ((u128::from(left[poor]) << 32) / u128::from(total)) as u32;
            columns[poor].other = open[rich].0;
            left[rich] -= total - left[poor];
            if left[rich] < total {
                large.pop();
                small.push(rich);
            }
        }
        Self { columns: columns.into_boxed_slice(), even }
    }

    /// How many positions can be drawn.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether all weights are the same.
    #[inline]
    pub(crate) fn even(&self) -> bool {
        self.even
    }

    /// The position in a column, whatever its weight.
    #[inline]
    pub(crate) fn column(&self, column: u32) -> Option<usize> {
        self.columns.get(column as usize).map(|c| c.position as usize)
    }

    /// The position that 64 random bits draw.
    #[inline]
    pub(crate) fn draw(&self, random: u64) -> Option<usize> {
        let column = self.columns.get(below((random >> 32) as u32, self.columns.len() as u32) as usize)?;
        Some(if random as u32 <= column.own { column.position } else { column.other } as usize)
    }

    /// All positions, beginning with a column and going round.
    pub(crate) fn round_from(&self, column: u32) -> impl Iterator<Item = usize> {
        let (before, after) = self.columns.split_at((column as usize).min(self.columns.len()));
        after.iter().chain(before).map(|c| c.position as usize)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Counts how often each of `weights` is drawn.
    fn shares(weights: &[u32], draws: u32) -> Vec<u32> {
        let alias = Alias::new(weights);
        let random = crate::mix::Random::new(3);
        let mut counts = vec![0; weights.len()];
        for _ in 0..draws {
            counts[alias.draw(random.next()).expect("some weight is not 0")] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_weights() {
        for weights in [&[1u32][..], &[1, 1, 1], &[5, 1, 1], &[0, 3, 0, 1], &[65_535 * 16, 1, 700_000]] {
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            for (&weight, count) in weights.iter().zip(shares(weights, 100_000)) {
                let expected = 100_000.0 * f64::from(weight) / total as f64;
                assert!((f64::from(count) - expected).abs() <= 5.0 * expected.sqrt(), "{weights:?}");
            }
        }
    }

    #[test]
    fn nothing_is_drawn_from_nothing() {
        for weights in [&[][..], &[0, 0]] {
            let alias = Alias::new(weights);
            assert_eq!((alias.draw(u64::MAX), alias.len(), alias.column(0)), (None, 0, None));
            assert_eq!(alias.round_from(5).count(), 0);
        }
    }
}
