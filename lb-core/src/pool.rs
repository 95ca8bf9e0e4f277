//! A set of backends that changes while it is used.
//!
//! Readers see one immutable [`Snapshot`] at a time and take no lock. A change copies the list of members, changes
//! the copy, and publishes it whole; if it fails, nothing has changed. Counters belong to a backend, not to a
//! snapshot, so they go on through every change, and a request that began under an old snapshot ends on the counters
//! that it began on.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};
use thiserror::Error;

use crate::backend::{Backend, BackendId, Spec, Weight};
use crate::lane;
use crate::load::Load;
use crate::set::{Member, Set, Settings};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, Published};

/// Why a pool was not changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Two backends of one update have the same name.
    #[error("backend {name:?} is named twice; give each backend of a pool a name of its own")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// No backend of the pool has this name.
    #[error("no backend is called {name:?}; the pool has {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Some that it has.
        known: String,
    },
    /// More members than a snapshot can number.
    #[error("{count} backends are more than a pool holds; split them over pools of at most {max}")]
    TooMany {
        /// As many as were given.
        count: usize,
        /// As many as may be.
        max: usize,
    },
}

/// A counted reference to a backend, to hold on to it.
///
/// There is one count for each [lane], so that threads on different lanes do not meet, and none of them
/// is near what is read of the backend.
#[derive(Debug)]
pub struct Handle<T>(Arc<Reference<T>>);

#[derive(Debug)]
struct Reference<T> {
    load: Arc<Load>,
    backend: Arc<Backend<T>>,
    /// Keeps the next one's count off this one's cache line, wherever the allocator puts it: both counts of an `Arc`
    /// and these fields are 128 bytes.
    _apart: [u64; 12],
}

/// The references of one backend, one a lane.
type References<T> = Arc<[Arc<Reference<T>>]>;

/// The references of these backends.
fn references<T>(backends: &[Arc<Backend<T>>]) -> impl Iterator<Item = References<T>> {
    let reference = |item: usize| {
        let backend = &backends[item];
        let (load, backend) = (Arc::clone(&backend.load), Arc::clone(backend));
        Arc::new(Reference { load, backend, _apart: [0; 12] })
    };
    lane::by_lane(backends.len(), lane::SHARED, reference).map(Arc::from)
}

impl<T> Handle<T> {
    /// The backend.
    #[inline]
    pub fn backend(&self) -> &Arc<Backend<T>> {
        &self.0.backend
    }

    /// Its counters.
    #[inline]
    pub fn load(&self) -> &Load {
        &self.0.load
    }
}

/// One published state of a [`Pool`]: never changes.
#[derive(Debug)]
pub struct Snapshot<T, D = ()> {
    backends: Box<[Arc<Backend<T>>]>,
    references: Box<[References<T>]>,
    set: Set,
    derived: D,
}

impl<T, D> Snapshot<T, D> {
    /// The backends, in the order of [`set`](Self::set).
    #[inline]
    pub fn backends(&self) -> &[Arc<Backend<T>>] {
        &self.backends
    }

    /// The backend at `position`, to hold on to from `lane`.
    #[inline]
    pub fn handle(&self, position: usize, lane: usize) -> Option<Handle<T>> {
        self.references.get(position)?.get(lane).map(|reference| Handle(Arc::clone(reference)))
    }

    /// The same backends as schedulers see them.
    #[inline]
    pub fn set(&self) -> &Set {
        &self.set
    }

    /// What was built from the set when this state was made.
    #[inline]
    pub fn derived(&self) -> &D {
        &self.derived
    }

    /// The backend of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Backend<T>>> {
        self.backends.iter().find(|backend| backend.name() == name)
    }
}

/// Backends, published as immutable snapshots, each with a `D` built from it (a scheduler's tables).
#[derive(Debug)]
pub struct Pool<T, D = ()> {
    published: Published<Snapshot<T, D>>,
    /// The version of the set that is published, or is about to be.
    version: AtomicU64,
    writer: Mutex<()>,
    derive: fn(&D, &Set) -> D,
}

impl<T> Pool<T> {
    /// An empty pool from which nothing is derived.
    pub fn new() -> Self {
        Self::deriving((), |(), _| ())
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, D> Pool<T, D> {
    /// As many members as a pool can have.
    pub const MAX: usize = 1 << 24;

    /// An empty pool; each new snapshot carries what `derive` builds from the last one's and the new set.
    pub fn deriving(first: D, derive: fn(&D, &Set) -> D) -> Self {
        let set = Set::default();
        let derived = derive(&first, &set);
        Self {
            published: Published::new(Snapshot {
                backends: Box::default(),
                references: Box::default(),
                set,
                derived,
            }),
            version: AtomicU64::new(0),
            writer: Mutex::default(),
            derive,
        }
    }

    /// Whether this is the newest snapshot: cheaper than to look at that.
    #[inline]
    pub fn is_current(&self, snapshot: &Snapshot<T, D>) -> bool {
        self.version.load(Ordering::SeqCst) == snapshot.set.version()
    }

    /// Runs `read` on the current snapshot, without a lock and without counting a reference.
    #[inline]
    pub fn with<R>(&self, read: impl FnOnce(&Snapshot<T, D>) -> R) -> R {
        self.published.with(read)
    }

    /// The current snapshot, to keep.
    pub fn snapshot(&self) -> Arc<Snapshot<T, D>> {
        self.published.get()
    }

    /// Makes the pool hold exactly these backends, in this order. A backend whose name is there already stays the
    /// same node: it keeps its id and its counters, and every setting that its spec leaves out.
    ///
    /// # Errors
    /// [`UpdateError::Duplicate`], [`UpdateError::TooMany`]: the pool is as it was.
    pub fn update<I>(&self, backends: I) -> Result<(), UpdateError>
    where
        I: IntoIterator,
        I::Item: Into<Spec<T>>,
    {
        self.edit(|edit| edit.replace(backends.into_iter().map(Into::into).collect()))
    }

    /// Changes several things at once: readers see all of them or none. If `change` fails, nothing has changed.
    ///
    /// A change that leaves everything as it was is not published, and disturbs no rotation; but see
    /// [`Edit::announce`].
    ///
    /// `change` runs under the lock of all writers: it must not change this pool through another handle.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn edit<R, E>(&self, change: impl FnOnce(&mut Edit<T>) -> Result<R, E>) -> Result<R, E> {
        let alone = self.writer.lock();
        let (next, result) = self.with(|old| {
            let mut edit = Edit::of(old);
            let result = change(&mut edit)?;
            let next = (edit.announced || !edit.is_as(old)).then(|| edit.publishable(old, self.derive));
            Ok((next, result))
        })?;
        let old = next.map(|next| {
            // First: who still sees the old number is seen by whoever reads the loads after publishing.
            self.version.store(next.set.version(), Ordering::SeqCst);
            self.published.replace(next)
        });
        // Payloads that are gone are dropped with the old state, and their destructors may change this very pool.
        drop(alone);
        drop(old);
        Ok(result)
    }
}

/// A pool's list of backends while it is being changed.
#[derive(Debug)]
pub struct Edit<T> {
    entries: Vec<Entry<T>>,
    announced: bool,
}

/// One backend in an [`Edit`]. It derefs to its [`Settings`].
#[derive(Debug)]
pub struct Entry<T> {
    backend: Arc<Backend<T>>,
    references: References<T>,
    last_weight: Weight,
    settings: Settings,
}

impl<T> Entry<T> {
    /// The backend itself.
    pub fn backend(&self) -> &Arc<Backend<T>> {
        &self.backend
    }
}

impl<T> core::ops::Deref for Entry<T> {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl<T> core::ops::DerefMut for Entry<T> {
    fn deref_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

impl<T> Edit<T> {
    fn of<D>(snapshot: &Snapshot<T, D>) -> Self {
        let entries = snapshot.backends.iter().zip(&snapshot.references).zip(snapshot.set.iter());
        Self {
            announced: false,
            entries: entries
                .map(|((backend, references), member)| Entry {
                    backend: Arc::clone(backend),
                    references: Arc::clone(references),
                    last_weight: member.last_weight,
                    settings: member.settings.clone(),
                })
                .collect(),
        }
    }

    /// Publishes even if all stays as it was: to IPVS's `wrr` setting a weight is an event of its own.
    pub fn announce(&mut self) {
        self.announced = true;
    }

    fn is_as<D>(&self, old: &Snapshot<T, D>) -> bool {
        let same = |(entry, (backend, member)): (&Entry<T>, (&Arc<Backend<T>>, &Member))| {
            Arc::ptr_eq(&entry.backend, backend) && entry.settings == member.settings
        };
        self.entries.len() == old.backends.len()
            && self.entries.iter().zip(old.backends.iter().zip(old.set.iter())).all(same)
    }

    /// All entries, in list order.
    pub fn entries(&mut self) -> &mut [Entry<T>] {
        &mut self.entries
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// [`UpdateError::Unknown`], which names some that there are.
    pub fn entry(&mut self, name: &str) -> Result<&mut Entry<T>, UpdateError> {
        match self.entries.iter().position(|entry| entry.backend.name() == name) {
            Some(position) => Ok(&mut self.entries[position]),
            None => Err(self.unknown(name)),
        }
    }

    /// The entry of this id, if it is still there.
    pub fn entry_of(&mut self, id: BackendId) -> Option<&mut Entry<T>> {
        self.entries.iter_mut().find(|entry| entry.backend.id == id)
    }

    /// Adds a backend at the end of the list.
    ///
    /// # Errors
    /// [`UpdateError::Duplicate`], [`UpdateError::TooMany`].
    pub fn insert(&mut self, spec: impl Into<Spec<T>>) -> Result<(), UpdateError> {
        let spec = spec.into();
        check_count(self.entries.len() + 1)?;
        if self.entries.iter().any(|entry| *entry.backend.name == *spec.name) {
            return Err(UpdateError::Duplicate { name: spec.name });
        }
        self.entries.append(&mut entries_for(vec![spec], &HashMap::new()));
        Ok(())
    }

    /// Takes a backend out. Requests that it has go on.
    ///
    /// # Errors
    /// [`UpdateError::Unknown`].
    pub fn remove(&mut self, name: &str) -> Result<Arc<Backend<T>>, UpdateError> {
        match self.entries.iter().position(|entry| entry.backend.name() == name) {
            Some(position) => Ok(self.entries.remove(position).backend),
            None => Err(self.unknown(name)),
        }
    }

    /// Makes these the whole list; see [`Pool::update`].
    ///
    /// # Errors
    /// [`UpdateError::Duplicate`], [`UpdateError::TooMany`].
    pub fn replace(&mut self, specs: Vec<Spec<T>>) -> Result<(), UpdateError> {
        check_count(specs.len())?;
        let mut seen = HashSet::with_capacity(specs.len());
        if let Some(twice) = specs.iter().find(|spec| !seen.insert(spec.name.as_str())) {
            return Err(UpdateError::Duplicate { name: twice.name.clone() });
        }
        drop(seen);
        let old: HashMap<&str, &Entry<T>> = self.entries.iter().map(|e| (e.backend.name(), e)).collect();
        let entries = entries_for(specs, &old);
        drop(old);
        self.entries = entries;
        Ok(())
    }

    fn unknown(&self, name: &str) -> UpdateError {
        let mut known = String::new();
        for entry in self.entries.iter().take(5) {
            known.push_str(entry.backend.name());
            known.push_str(", ");
        }
        match self.entries.len() {
            0 => known.push_str("none"),
            1..=5 => known.truncate(known.len() - 2),
            _ => known.push('…'),
        }
        UpdateError::Unknown { name: name.into(), known }
    }

    fn publishable<D>(self, old: &Snapshot<T, D>, derive: fn(&D, &Set) -> D) -> Snapshot<T, D> {
        let mut backends = Vec::with_capacity(self.entries.len());
        let mut references = Vec::with_capacity(self.entries.len());
        let mut members = Vec::with_capacity(self.entries.len());
        for Entry { backend, references: lanes, last_weight, settings } in self.entries {
            members.push(Member {
                id: backend.id,
                name: Arc::clone(&backend.name),
                weight: 0,
                last_weight: if settings.weight > Weight::ZERO { settings.weight } else { last_weight },
                load: Arc::clone(&backend.load),
                settings,
            });
            backends.push(backend);
            references.push(lanes);
        }
        let set = Set::new(old.set.version() + 1, members);
        let derived = derive(&old.derived, &set);
        Snapshot {
            backends: backends.into_boxed_slice(),
            references: references.into_boxed_slice(),
            set,
            derived,
        }
    }
}

fn check_count(count: usize) -> Result<(), UpdateError> {
    let max = Pool::<()>::MAX;
    if count > max { Err(UpdateError::TooMany { count, max }) } else { Ok(()) }
}

/// The entries for these specs: a node that is known keeps its id, its counters and what its spec leaves out.
fn entries_for<T>(specs: Vec<Spec<T>>, known: &HashMap<&str, &Entry<T>>) -> Vec<Entry<T>> {
    let new = specs.iter().filter(|spec| !known.contains_key(spec.name.as_str())).count();
    let mut loads = Load::several(new);
    let mut backends = Vec::with_capacity(specs.len());
    let mut settings = Vec::with_capacity(specs.len());
    for spec in specs {
        let known = known.get(spec.name.as_str());
        let old = known.map_or_else(Settings::default, |entry| entry.settings.clone());
        settings.push((
            known.map_or(Weight::ONE, |entry| entry.last_weight),
            Settings {
                weight: spec.weight.unwrap_or(old.weight),
                admin: spec.admin.unwrap_or(old.admin),
                health: spec.health.unwrap_or(old.health),
                share: old.share,
                priority: spec.priority.unwrap_or(old.priority),
                zone: spec.zone.unwrap_or(old.zone),
                limit: spec.limit.unwrap_or(old.limit),
                address: spec.address.or(old.address),
            },
        ));
        let (id, name, load) = match known {
            Some(Entry { backend, .. }) => (backend.id, Arc::clone(&backend.name), Arc::clone(&backend.load)),
            None => (BackendId::next(), Arc::from(spec.name), loads.next().unwrap_or_default()),
        };
        backends.push(Arc::new(Backend { id, name, load, payload: spec.payload }));
    }
    let references: Vec<_> = references(&backends).collect();
    let parts = backends.into_iter().zip(references).zip(settings);
    parts
        .map(|((backend, references), (last_weight, settings))| Entry {
            backend,
            references,
            last_weight,
            settings,
        })
        .collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::backend::{Admin, Health};

    fn names<D>(pool: &Pool<&str, D>) -> Vec<String> {
        pool.snapshot().set().iter().map(|m| m.name.as_ref().into()).collect()
    }

    #[test]
    fn a_name_that_stays_keeps_its_node_and_its_settings() {
        let pool = Pool::new();
        pool.update([Spec::new("a", 1), Spec::new("b", 2).weight(5)]).unwrap();
        let before = pool.snapshot();
        assert!(before.backends()[1].load().start_shared(9));
        pool.edit(|edit| edit.entry("b").map(|entry| entry.health = Health::Down)).unwrap();

        pool.update([Spec::new("c", 3), Spec::new("b", 22)]).unwrap();
        let after = pool.snapshot();
        let b = after.find("b").unwrap();
        assert_eq!((b.id(), ***b, b.load().active()), (before.backends()[1].id(), 22, 1));
        let member = &after.set()[1];
        assert_eq!((member.settings.weight, member.health), (Weight::new(5), Health::Down));
        before.backends()[1].load().end(lane::SHARED, None);
        assert_eq!(b.load().active(), 0, "an end under the old snapshot is seen in the new one");
        assert!(after.set().version() > before.set().version());
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let pool = Pool::new();
        pool.update([("a", Weight::ONE), ("b", Weight::ONE)]).unwrap();
        let version = pool.snapshot().set().version();
        let twice = pool.update([("x", Weight::ONE), ("x", Weight::ONE)]);
        assert_eq!(twice, Err(UpdateError::Duplicate { name: "x".into() }));
        let half = pool.edit(|edit| {
            edit.entry("a")?.admin = Admin::Drain;
            edit.remove("z")
        });
        let message = half.unwrap_err().to_string();
        assert_eq!(message, "no backend is called \"z\"; the pool has a, b");
        assert_eq!(pool.edit(|edit| edit.insert(("a", Weight::ONE))).unwrap_err(), duplicate("a"));
        assert_eq!(names(&pool), ["a", "b"]);
        assert_eq!(pool.snapshot().set()[0].admin, Admin::Ready);
        assert_eq!(pool.snapshot().set().version(), version);
    }

    fn duplicate(name: &str) -> UpdateError {
        UpdateError::Duplicate { name: name.into() }
    }

    #[test]
    fn the_last_weight_that_counted_is_remembered() {
        let pool = Pool::new();
        pool.update([("a", Weight::new(7))]).unwrap();
        pool.edit(|edit| edit.entry("a").map(|entry| entry.weight = Weight::ZERO)).unwrap();
        let snapshot = pool.snapshot();
        assert_eq!((snapshot.set()[0].weight, snapshot.set()[0].last_weight), (0, Weight::new(7)));
    }

    #[test]
    fn what_is_derived_is_built_from_the_last_one() {
        let pool: Pool<&str, usize> = Pool::deriving(0, |before, set| before + set.len());
        pool.update([("a", Weight::ONE), ("b", Weight::ONE)]).unwrap();
        pool.edit(|edit| edit.insert(("c", Weight::ONE))).unwrap();
        assert_eq!(*pool.snapshot().derived(), 2 + 3);
        pool.edit(|edit| edit.remove("a")).unwrap();
        assert_eq!(names(&pool), ["b", "c"]);
    }
}
