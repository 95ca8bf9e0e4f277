//! Draws from a weighted list in constant time.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::select_unpredictable;

/// Walker's alias table, built by Vose's method (A linear algorithm for generating random numbers with a given
/// distribution, IEEE TSE 1991), in whole numbers, so that it is the same on every machine.
///
/// It draws *columns*, one for each position of positive weight, in list order.
#[derive(Debug, Default)]
pub(crate) struct Alias {
    columns: Box<[Column]>,
    positions: Box<[u32]>,
    /// All weights are the same: every column is its own.
    even: bool,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// The share of this column that is its own, of 2³².
    own: u32,
    /// The column that has the rest.
    other: u32,
}

impl Alias {
    pub(crate) fn new(weights: &[u32]) -> Self {
        let (positions, weights): (Vec<u32>, Vec<u64>) =
            (0..).zip(weights).filter(|&(_, w)| *w > 0).map(|(i, w)| (i, u64::from(*w))).unzip();
        let (count, total) = (weights.len() as u64, weights.iter().sum::<u64>());
        let even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        // What each column holds, in units where a full column is `total`.
        let mut left: Vec<u64> = weights.iter().map(|weight| weight * count).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..left.len()).partition(|&i| left[i] < total);
        let mut columns: Vec<Column> =
            (0..).take(left.len()).map(|column| Column { own: u32::MAX, other: column }).collect();
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            // left < total, so the quotient is below 2³².
            let own = ((u128::from(left[poor]) << 32) / u128::from(total)) as u32;
            columns[poor] = Column { own, other: rich as u32 };
            left[rich] -= total - left[poor];
            if left[rich] < total {
                large.pop();
                small.push(rich);
            }
        }
        Self { columns: columns.into_boxed_slice(), positions: positions.into_boxed_slice(), even }
    }

    /// How many columns there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether all weights are the same.
    #[inline]
    pub(crate) fn even(&self) -> bool {
        self.even
    }

    /// The position of a column.
    #[inline]
    pub(crate) fn position(&self, column: usize) -> Option<usize> {
        self.positions.get(column).map(|&position| position as usize)
    }

    /// All positions, in column order.
    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> {
        self.positions.iter().map(|&position| position as usize)
    }

    /// The column that 32 random bits draw: they pick one by their upper part, and its share by what is left of them,
    /// so shares are exact to `len / 2³²`.
    #[inline]
    pub(crate) fn draw(&self, random: u32) -> Option<usize> {
        let product = u64::from(random) * self.columns.len() as u64;
        let index = (product >> 32) as usize;
        let column = self.columns.get(index)?;
        // By chance, so no processor predicts it.
        Some(select_unpredictable(product as u32 <= column.own, index, column.other as usize))
    }

    /// All positions, beginning with a column and going round.
    pub(crate) fn round_from(&self, column: usize) -> impl Iterator<Item = usize> {
        let (before, after) = self.positions.split_at(column.min(self.positions.len()));
        after.iter().chain(before).map(|&position| position as usize)
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
            let column = alias.draw(random.next(None) as u32).expect("some weight is not 0");
            counts[alias.position(column).expect("a column that was drawn")] += 1;
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
            assert_eq!((alias.draw(u32::MAX), alias.len(), alias.position(0)), (None, 0, None));
            assert_eq!(alias.round_from(5).count(), 0);
        }
    }
}
