//! Sets of CPUs and of NUMA nodes, and the two formats in which the kernel writes them.
//!
//! * The *list* (`0-3,8`): `/sys/devices/system/cpu/online`, `smp_affinity_list`. Also with strides, `0-31:2/8`: of every
//!   8 the first 2 (`Documentation/admin-guide/kernel-parameters.rst`, "CPU lists").
//! * The *mask* (`00000001,00000003`): hexadecimal in groups of 32 bits, the most significant first: `rps_cpus`,
//!   `smp_affinity`. As many groups as the machine has CPU ids; the kernel answers more with `EOVERFLOW`.

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, BitXor, Sub, SubAssign};

mod text;

pub use text::{Mask, ParseSetError};

/// The highest id that a set holds. Linux has at most 8192 CPUs and 1024 nodes; the bound keeps a garbled file from taking the
/// memory.
pub const MAX_ID: u32 = 65_535;

/// Words without an allocation: 1024 ids. All of them are always worked on, which is one short run without a branch.
const INLINE: usize = 16;
const BITS: u32 = u64::BITS;

/// What a set's ids number. Only this crate's [`Cpus`] and [`Nodes`] are kinds.
pub trait Kind: Copy + Eq + Ord + Hash + fmt::Debug + sealed::Sealed {
    /// One of them, as messages name it.
    const NAME: &'static str;
}

mod sealed {
    pub trait Sealed {}
}

/// The ids are the kernel's numbers of logical CPUs (hardware threads).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cpus {}
/// The ids are the kernel's numbers of NUMA nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nodes {}

impl sealed::Sealed for Cpus {}
impl sealed::Sealed for Nodes {}

impl Kind for Cpus {
    const NAME: &'static str = "CPU";
}

impl Kind for Nodes {
    const NAME: &'static str = "NUMA node";
}

/// CPUs by their kernel numbers. Prints and parses as a list; [`mask`](IdSet::mask) and [`parse_mask`](IdSet::parse_mask) are the
/// other format.
///
/// ```
/// use lb_affinity::CpuSet;
///
/// let node: CpuSet = "4-7".parse()?;
/// let mut network = CpuSet::parse_mask("008c")?;
/// network -= &CpuSet::from(7);
/// assert_eq!((&node | &network).to_string(), "2-7");
/// assert_eq!(network.mask(16).to_string(), "000c");
/// # Ok::<(), lb_affinity::cpu_set::ParseSetError>(())
/// ```
pub type CpuSet = IdSet<Cpus>;

/// NUMA nodes by their kernel numbers.
pub type NodeSet = IdSet<Nodes>;

/// A set of ids from 0 to [`MAX_ID`]. Up to 1024 of them it allocates nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdSet<K> {
    words: Words,
    kind: PhantomData<K>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Words {
    Inline([u64; INLINE]),
    /// More than fit inline, and the last is not zero: so equal sets are equal here too.
    Heap(Box<[u64]>),
}

impl Words {
    fn new(words: &[u64]) -> Self {
        let used = words.iter().rposition(|&word| word != 0).map_or(0, |last| last + 1);
        if used > INLINE {
            return Self::Heap(words[..used].into());
        }
        let mut inline = [0; INLINE];
        inline[..used].copy_from_slice(&words[..used]);
        Self::Inline(inline)
    }

    fn get(&self) -> &[u64] {
        match self {
            Self::Inline(words) => words,
            Self::Heap(words) => words,
        }
    }
}

impl<K: Kind> IdSet<K> {
    /// No id.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: Words::Inline([0; INLINE]), kind: PhantomData }
    }

    /// The ids 0 to `count` − 1; at most up to [`MAX_ID`].
    #[must_use]
    pub fn first_n(count: u32) -> Self {
        let mut set = Self::new();
        if let Some(last) = count.checked_sub(1) {
            set.insert_range(0, last.min(MAX_ID));
        }
        set
    }

    /// Adds an id; says whether it was not there.
    ///
    /// # Panics
    /// If the id is above [`MAX_ID`].
    pub fn insert(&mut self, id: u32) -> bool {
        assert!(id <= MAX_ID, "{} {id} is above {MAX_ID}", K::NAME);
        let (word, bit) = place(id);
        let word = &mut self.reach(word)[word];
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes an id out; says whether it was there.
    pub fn remove(&mut self, id: u32) -> bool {
        let (word, bit) = place(id);
        match &mut self.words {
            Words::Inline(words) => {
                let Some(word) = words.get_mut(word) else { return false };
                let there = *word & bit != 0;
                *word &= !bit;
                there
            }
            Words::Heap(words) => {
                let Some(word) = words.get_mut(word).filter(|word| **word & bit != 0) else { return false };
                *word &= !bit;
                self.words = Words::new(words);
                true
            }
        }
    }

    /// Whether an id is in it.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        let (word, bit) = place(id);
        self.words.get().get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many ids it has.
    #[must_use]
    pub fn len(&self) -> usize {
        let words = self.words.get();
        // With the processor's own instruction: half the time of what every processor of the target has.
        fearless_simd::dispatch!(fearless_simd::Level::new(), _simd => count(words))
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.get().iter().fold(0, |all, word| all | word) == 0
    }

    /// The lowest id.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    /// The highest id.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        let words = self.words.get();
        let last = words.iter().rposition(|&word| word != 0)?;
        Some(last as u32 * BITS + words[last].ilog2())
    }

    /// Whether every id of it is in `other` too.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        match (&self.words, &other.words) {
            (Words::Inline(one), Words::Inline(other)) => {
                one.iter().zip(other).fold(0, |left, (one, other)| left | one & !other) == 0
            }
            _ => (self - other).is_empty(),
        }
    }

    /// Whether no id of it is in `other`.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        let pairs = self.words.get().iter().zip(other.words.get());
        pairs.fold(0, |common, (one, other)| common | one & other) == 0
    }

    /// The ids from low to high.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        let words = self.words.get();
        Iter { words, at: 0, word: words[0] }
    }

    fn insert_range(&mut self, first: u32, last: u32) {
        let (first_word, last_word) = ((first / BITS) as usize, (last / BITS) as usize);
        let words = self.reach(last_word);
        let low = u64::MAX << (first % BITS);
        let high = u64::MAX >> (BITS - 1 - last % BITS);
        if first_word == last_word {
            words[first_word] |= low & high;
            return;
        }
        words[first_word] |= low;
        words[first_word + 1..last_word].fill(u64::MAX);
        words[last_word] |= high;
    }

    /// The words, so many that there is one at `word`, in which the caller sets a bit.
    fn reach(&mut self, word: usize) -> &mut [u64] {
        if word >= self.words.get().len() {
            let mut words = vec![0; word + 1];
            words[..self.words.get().len()].copy_from_slice(self.words.get());
            self.words = Words::Heap(words.into());
        }
        match &mut self.words {
            Words::Inline(words) => words,
            Words::Heap(words) => words,
        }
    }

    /// Word by word.
    #[inline]
    fn combine(&self, other: &Self, operation: impl Fn(u64, u64) -> u64) -> Self {
        let mut result = Self::new();
        match (&self.words, &other.words, &mut result.words) {
            // Into its place: to move an array costs more than to make it.
            (Words::Inline(one), Words::Inline(other), Words::Inline(words)) => {
                let both = one.iter().zip(other);
                words.iter_mut().zip(both).for_each(|(word, (one, other))| *word = operation(*one, *other));
            }
            (one, other, words) => *words = combine_long(one.get(), other.get(), operation),
        }
        result
    }

    #[inline]
    fn combine_assign(&mut self, other: &Self, operation: impl Fn(u64, u64) -> u64) {
        match (&mut self.words, &other.words) {
            (Words::Inline(words), Words::Inline(other)) => {
                words.iter_mut().zip(other).for_each(|(word, other)| *word = operation(*word, *other));
            }
            (one, other) => *one = combine_long(one.get(), other.get(), operation),
        }
    }
}

#[cold]
fn combine_long(one: &[u64], other: &[u64], operation: impl Fn(u64, u64) -> u64) -> Words {
    let word = |words: &[u64], at: usize| words.get(at).copied().unwrap_or(0);
    let all = 0..one.len().max(other.len());
    Words::new(&all.map(|at| operation(word(one, at), word(other, at))).collect::<Vec<_>>())
}

const fn place(id: u32) -> (usize, u64) {
    ((id / BITS) as usize, 1 << (id % BITS))
}

impl<K: Kind> Default for IdSet<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Kind> From<u32> for IdSet<K> {
    /// The set of one id.
    ///
    /// # Panics
    /// If it is above [`MAX_ID`].
    fn from(id: u32) -> Self {
        Self::from_iter([id])
    }
}

impl<K: Kind> Extend<u32> for IdSet<K> {
    /// # Panics
    /// If an id is above [`MAX_ID`].
    fn extend<I: IntoIterator<Item = u32>>(&mut self, ids: I) {
        ids.into_iter().for_each(|id| {
            self.insert(id);
        });
    }
}

impl<K: Kind> FromIterator<u32> for IdSet<K> {
    /// # Panics
    /// If an id is above [`MAX_ID`].
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut set = Self::new();
        set.extend(ids);
        set
    }
}

impl<'a, K: Kind> IntoIterator for &'a IdSet<K> {
    type Item = u32;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// A set's ids, from low to high.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    words: &'a [u64],
    at: usize,
    /// What is left of the word at `at`.
    word: u64,
}

impl Iterator for Iter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while self.word == 0 {
            self.at += 1;
            self.word = *self.words.get(self.at)?;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word - 1;
        Some(self.at as u32 * BITS + bit)
    }
}

impl<K: Kind> BitAnd for &IdSet<K> {
    type Output = IdSet<K>;

    fn bitand(self, other: Self) -> IdSet<K> {
        self.combine(other, |one, other| one & other)
    }
}

impl<K: Kind> BitOr for &IdSet<K> {
    type Output = IdSet<K>;

    fn bitor(self, other: Self) -> IdSet<K> {
        self.combine(other, |one, other| one | other)
    }
}

impl<K: Kind> BitXor for &IdSet<K> {
    type Output = IdSet<K>;

    fn bitxor(self, other: Self) -> IdSet<K> {
        self.combine(other, |one, other| one ^ other)
    }
}

impl<K: Kind> Sub for &IdSet<K> {
    type Output = IdSet<K>;

    fn sub(self, other: Self) -> IdSet<K> {
        self.combine(other, |one, other| one & !other)
    }
}

impl<K: Kind> BitAndAssign<&Self> for IdSet<K> {
    fn bitand_assign(&mut self, other: &Self) {
        self.combine_assign(other, |one, other| one & other);
    }
}

impl<K: Kind> BitOrAssign<&Self> for IdSet<K> {
    fn bitor_assign(&mut self, other: &Self) {
        self.combine_assign(other, |one, other| one | other);
    }
}

impl<K: Kind> SubAssign<&Self> for IdSet<K> {
    fn sub_assign(&mut self, other: &Self) {
        self.combine_assign(other, |one, other| one & !other);
    }
}

// Inlined wherever it is called, so that it has the caller's instruction set.
#[inline(always)]
fn count(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    pub(super) fn list(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    #[test]
    fn sets_are_equal_whatever_they_once_held() {
        let mut set = list("1,700");
        assert!(set.remove(700) && !set.remove(700) && !set.remove(5000));
        assert_eq!(set, CpuSet::from(1));
        assert_eq!((set.first(), set.last(), set.len()), (Some(1), Some(1), 1));
        assert!(set.insert(5000) && set.remove(5000) && set == CpuSet::from(1));
        set -= &CpuSet::from(1);
        assert!(set.is_empty() && set.first().is_none() && set.last().is_none());
        assert_eq!(CpuSet::first_n(130), list("0-129"));
        assert_eq!(CpuSet::first_n(64).len(), 64);
    }

    pub(super) fn ids() -> impl Strategy<Value = BTreeSet<u32>> {
        prop_oneof![
            prop::collection::btree_set(0..200_u32, 0..40),
            prop::collection::btree_set(0..=MAX_ID, 0..20),
        ]
    }

    pub(super) fn set(ids: &BTreeSet<u32>) -> CpuSet {
        ids.iter().copied().collect()
    }

    proptest! {
        #[test]
        fn a_set_is_a_set(one in ids(), other in ids()) {
            let (a, b) = (set(&one), set(&other));
            prop_assert!(a.iter().eq(one.iter().copied()));
            prop_assert_eq!(&a & &b, set(&(&one & &other)));
            prop_assert_eq!(&a | &b, set(&(&one | &other)));
            prop_assert_eq!(&a - &b, set(&(&one - &other)));
            prop_assert_eq!(&a ^ &b, set(&(&one ^ &other)));
            prop_assert_eq!(a.is_subset(&b), one.is_subset(&other));
            prop_assert_eq!(a.is_disjoint(&b), one.is_disjoint(&other));
            prop_assert_eq!((a.len(), a.first(), a.last()), (one.len(), one.first().copied(), one.last().copied()));
            let mut joined = a.clone();
            joined |= &b;
            prop_assert_eq!(joined, &a | &b);
        }
    }
}
