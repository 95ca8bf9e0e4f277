//! Who is least loaded, without looking at everyone: a tournament that is played again only where something changed.
//!
//! Leaves hold a rank each (smaller is better). Eight of them play for a place in the level above, and so on, until
//! at most sixteen are left; those are compared at each pick. An inner place holds only *who* won it; the ranks stay
//! in the leaves. When a rank changes, its path is played again from the leaf upwards, and stops where somebody else
//! won before and still does. With 1000 backends that is two levels.
//!
//! Threads do this at once without a lock. The rule that keeps the tree right is the one of f-arrays (Jayanti:
//! f-arrays: implementation and applications, PODC 2002) in a simpler form: whoever changes a place looks at its
//! players *again* after the change and repeats until what stands there is what they say. So of all that write a
//! place, the last to write has seen players at least as new as the writing, and whoever changes a player later
//! comes by itself. In between a pick may see a backend that was least loaded a moment ago, which is all that
//! several threads can ever know.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::select_unpredictable;

use lb_core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Players of one game. Loom explores every interleaving, so its trees must be small.
const FAN: usize = if cfg!(loom) { 2 } else { 8 };

/// Winners that are left for the pick to compare.
const TOP: usize = if cfg!(loom) { 2 } else { 16 };

/// A write before this and a read after it are seen in this order by all. That is what `SeqCst` on both means
/// already; loom takes `SeqCst` for acquire and release, but knows the fence.
#[inline]
fn settle() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// A tournament tree over a fixed number of leaves.
#[derive(Debug, Default)]
pub(crate) struct Tournament {
    ranks: Box<[AtomicU64]>,
    /// From the games of leaves upwards: the leaf that won each.
    levels: Box<[Box<[AtomicU32]>]>,
}

impl Tournament {
    /// A tree over leaves of these ranks.
    pub(crate) fn new(ranks: impl Iterator<Item = u64>) -> Self {
        let ranks: Box<[AtomicU64]> = ranks.map(AtomicU64::new).collect();
        let mut levels = Vec::new();
        let mut players = ranks.len();
        while players > TOP {
            players = players.div_ceil(FAN);
            levels.push((0..players).map(|_| AtomicU32::new(0)).collect());
        }
        let tree = Self { ranks, levels: levels.into_boxed_slice() };
        for level in 0..tree.levels.len() {
            for game in 0..tree.levels[level].len() {
                tree.levels[level][game].store(tree.winner(level, game) as u32, Ordering::Relaxed);
            }
        }
        tree
    }

    /// The leaf of the smallest rank, the first of several.
    #[inline]
    pub(crate) fn best(&self) -> Option<usize> {
        let best = match self.levels.last() {
            Some(winners) => {
                self.best_of(winners.iter().map(|winner| winner.load(Ordering::SeqCst) as usize))
            }
            None => self.best_of(0..self.ranks.len()),
        };
        (best < self.ranks.len()).then_some(best)
    }

    /// The leaves in the order of their ranks, the first of several first; for when the best is not wanted.
    pub(crate) fn best_where(&self, mut wanted: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut best = None;
        for leaf in 0..self.ranks.len() {
            let rank = self.rank(leaf);
            if best.is_none_or(|(least, _)| rank < least) && wanted(leaf) {
                best = Some((rank, leaf));
            }
        }
        best.map(|(_, leaf)| leaf)
    }

    /// Sets the rank of `leaf` to what `read` says, and plays again what that decides. `read` is called again after
    /// each write: if two threads set the same leaf, what stands there in the end is what was read last. It may read more
    /// than one word: a mixture of old and new ones does not stay, as who changed the last of them reads all of them later.
    #[inline]
    pub(crate) fn refresh(&self, leaf: usize, read: impl Fn() -> u64) {
        let Some(rank) = self.ranks.get(leaf) else { return };
        settle();
        let mut now = read();
        if rank.load(Ordering::SeqCst) == now {
            return;
        }
        loop {
            rank.swap(now, Ordering::SeqCst);
            settle();
            let then = core::mem::replace(&mut now, read());
            if now == then {
                break;
            }
        }
        let mut game = leaf;
        for level in 0..self.levels.len() {
            game /= FAN;
            if !self.play(level, game, leaf) {
                break;
            }
        }
    }

    /// Plays one game again, as `leaf` has changed. Says whether the level above may have changed too.
    #[inline]
    fn play(&self, level: usize, game: usize, leaf: usize) -> bool {
        let place = &self.levels[level][game];
        let mut involved = false;
        loop {
            let stands = place.load(Ordering::SeqCst);
            let winner = self.winner(level, game) as u32;
            involved |= stands as usize == leaf || winner as usize == leaf;
            if stands == winner {
                // The same winner with the same rank as before decides nothing anew above.
                return involved;
            }
            let _ = place.compare_exchange(stands, winner, Ordering::SeqCst, Ordering::SeqCst);
            settle();
            involved = true;
        }
    }

    /// The leaf that wins a game, by the ranks as they are now.
    #[inline]
    fn winner(&self, level: usize, game: usize) -> usize {
        let first = game * FAN;
        match level.checked_sub(1) {
            Some(below) => {
                let players = &self.levels[below];
                let players = &players[first..players.len().min(first + FAN)];
                self.best_of(players.iter().map(|player| player.load(Ordering::SeqCst) as usize))
            }
            None => self.best_of(first..self.ranks.len().min(first + FAN)),
        }
    }

    /// The first of the smallest rank, which is below `u64::MAX`. Players come in list order, so of equals the first
    /// wins.
    #[inline]
    fn best_of(&self, leaves: impl Iterator<Item = usize>) -> usize {
        let mut best = (u64::MAX, usize::MAX);
        for leaf in leaves {
            let rank = self.rank(leaf);
            // Whose turn it is next, no processor predicts.
            best = select_unpredictable(rank < best.0, (rank, leaf), best);
        }
        best.1
    }

    #[inline]
    pub(crate) fn rank(&self, leaf: usize) -> u64 {
        self.ranks.get(leaf).map_or(u64::MAX, |rank| rank.load(Ordering::SeqCst))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_scan(ranks: &[u64]) -> Option<usize> {
        (0..ranks.len()).min_by_key(|&leaf| (ranks[leaf], leaf))
    }

    proptest! {
        #[test]
        fn the_best_is_that_of_a_scan(
            mut ranks in prop::collection::vec(0u64..20, 1..700),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0u64..20), 1..200),
        ) {
            let tree = Tournament::new(ranks.iter().copied());
            prop_assert_eq!(tree.best(), by_scan(&ranks));
            for (leaf, rank) in changes {
                let leaf = leaf.index(ranks.len());
                ranks[leaf] = rank;
                tree.refresh(leaf, || rank);
                prop_assert_eq!(tree.best(), by_scan(&ranks));
                let odd = (0..ranks.len()).filter(|leaf| leaf % 2 == 1).min_by_key(|&leaf| (ranks[leaf], leaf));
                prop_assert_eq!(tree.best_where(|leaf| leaf % 2 == 1), odd);
            }
        }
    }

    #[test]
    fn an_empty_tree_has_no_best() {
        let tree = Tournament::new(core::iter::empty());
        assert_eq!(tree.best(), None);
        tree.refresh(0, || 1);
        assert_eq!(tree.best_where(|_| true), None);
    }

    #[test]
    fn threads_leave_a_right_tree() {
        for round in 0..20 {
            let loads: Vec<_> = (0..300).map(|_| AtomicU64::new(0)).collect();
            let tree = Tournament::new(loads.iter().map(|_| 0));
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (tree, loads) = (&tree, &loads);
                    scope.spawn(move || {
                        let mut leaf = round * 7 + thread;
                        for step in 0..5_000 {
                            leaf = if step % 3 == 0 { tree.best().unwrap() } else { (leaf * 31 + 7) % 300 };
                            loads[leaf].fetch_add(1, Ordering::SeqCst);
                            tree.refresh(leaf, || loads[leaf].load(Ordering::SeqCst));
                        }
                    });
                }
            });
            let loads: Vec<_> = loads.iter().map(|load| load.load(Ordering::SeqCst)).collect();
            assert_eq!(tree.best(), by_scan(&loads));
            for (level, games) in tree.levels.iter().enumerate() {
                for (game, place) in games.iter().enumerate() {
                    assert_eq!(place.load(Ordering::SeqCst) as usize, tree.winner(level, game));
                }
            }
        }
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p lb-sched --lib`
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    struct Loads {
        /// What has begun and what has ended, which only grow.
        loads: Vec<[AtomicU64; 2]>,
        tree: Tournament,
    }

    impl Loads {
        fn new(loads: &[u64]) -> Arc<Self> {
            let tree = Tournament::new(loads.iter().copied());
            let counted = |&load: &u64| [AtomicU64::new(load), AtomicU64::new(0)];
            Arc::new(Self { loads: loads.iter().map(counted).collect(), tree })
        }

        fn load(&self, leaf: usize) -> u64 {
            let [begun, ended] = &self.loads[leaf];
            let ended = ended.load(Ordering::SeqCst);
            begun.load(Ordering::SeqCst) - ended
        }

        fn add(&self, leaf: usize, difference: i64) {
            let word = usize::from(difference < 0);
            self.loads[leaf][word].fetch_add(difference.unsigned_abs(), Ordering::SeqCst);
            self.tree.refresh(leaf, || self.load(leaf));
        }

        fn check(&self) {
            let loads: Vec<u64> = (0..self.loads.len()).map(|leaf| self.load(leaf)).collect();
            let least = (0..loads.len()).min_by_key(|&leaf| (loads[leaf], leaf));
            assert_eq!(self.tree.best(), least, "{loads:?}");
        }
    }

    fn check(loads: &'static [u64], changes: [&'static [(usize, i64)]; 2]) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let shared = Loads::new(loads);
            let threads = changes.map(|changes| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || changes.iter().for_each(|&(leaf, by)| shared.add(leaf, by)))
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            shared.check();
        });
    }

    #[test]
    fn two_threads_on_one_leaf() {
        check(&[1, 2, 2], [&[(0, 1)], &[(0, 2)]]);
        check(&[5, 2, 4], [&[(0, -2)], &[(0, -2)]]);
        check(&[2, 2, 4], [&[(0, -2)], &[(0, 1)]]);
    }

    #[test]
    fn one_goes_down_and_up_while_its_neighbour_changes() {
        check(&[2, 3, 9, 9], [&[(1, -3), (1, 3)], &[(0, -1)]]);
        check(&[1, 2, 9, 9], [&[(1, -2), (1, 2)], &[(0, 1)]]);
    }

    #[test]
    fn the_best_leaves_while_another_branch_becomes_best() {
        check(&[0, 3, 4, 5, 6], [&[(0, 9)], &[(3, -4)]]);
        check(&[0, 3, 4, 5, 6], [&[(0, 9), (0, -9)], &[(4, -6), (4, 1)]]);
    }
}
