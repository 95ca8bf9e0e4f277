//! A pool's list of backends while it is being changed.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use hashbrown::{HashMap, HashSet};

use super::{List, Pool, Seats, Snapshot, UpdateError, seats};
use crate::backend::{Backend, BackendId, Spec, Weight};
use crate::lease::Reports;
use crate::load::Load;
use crate::set::{Member, Set, Settings};
use crate::sync::atomic::Ordering;

/// A pool's list of backends while it is being changed.
pub struct Edit<T> {
    entries: Vec<Entry<T>>,
    pub(super) announced: bool,
    reports: Reports<T>,
}

impl<T: fmt::Debug> fmt::Debug for Edit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edit").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// One backend in an [`Edit`]. It derefs to its [`Settings`].
pub struct Entry<T> {
    backend: Arc<Backend<T>>,
    seats: Seats<T>,
    last_weight: Weight,
    settings: Settings,
}

impl<T: fmt::Debug> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("backend", &self.backend).field("settings", &self.settings).finish()
    }
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
    pub(super) fn of<D>(snapshot: &Snapshot<T, D>, reports: Reports<T>) -> Self {
        let List { backends, seats, .. } = &snapshot.list;
        let entries = backends.iter().zip(&**seats).zip(snapshot.set.iter());
        Self {
            announced: false,
            reports,
            entries: entries
                .map(|((backend, seats), member)| Entry {
                    backend: Arc::clone(backend),
                    seats: Arc::clone(seats),
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

    /// Whether the list is the one that it was, whatever the settings.
    fn lists_as<D>(&self, old: &Snapshot<T, D>) -> bool {
        let same = |(entry, backend): (&Entry<T>, _)| Arc::ptr_eq(&entry.backend, backend);
        self.entries.len() == old.backends().len() && self.entries.iter().zip(old.backends()).all(same)
    }

    pub(super) fn is_as<D>(&self, old: &Snapshot<T, D>) -> bool {
        let same = |(entry, member): (&Entry<T>, &Member)| entry.settings == member.settings;
        self.lists_as(old) && self.entries.iter().zip(old.set.iter()).all(same)
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
        self.entries.append(&mut entries_for(vec![spec], &HashMap::new(), &self.reports));
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
        let entries = entries_for(specs, &old, &self.reports);
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

    pub(super) fn publishable<D>(self, old: &Snapshot<T, D>, derive: fn(&D, &Set) -> D) -> Snapshot<T, D> {
        let same_list = self.lists_as(old);
        let mut backends = Vec::with_capacity(self.entries.len());
        let mut seats = Vec::with_capacity(self.entries.len());
        let mut members = Vec::with_capacity(self.entries.len());
        for (place, Entry { backend, seats: lanes, last_weight, settings }) in (0..).zip(self.entries) {
            members.push(Member {
                id: backend.id,
                name: Arc::clone(&backend.name),
                weight: 0,
                last_weight: if settings.weight > Weight::ZERO { settings.weight } else { last_weight },
                load: Arc::clone(&backend.load),
                settings,
            });
            backend.place.store(place, Ordering::Relaxed);
            backends.push(backend);
            seats.push(lanes);
        }
        let list = match same_list {
            true => old.list.clone(),
            false => List::new(backends, seats),
        };
        let set = Set::new(old.set.version() + 1, members);
        let derived = derive(&old.derived, &set);
        Snapshot { list, set, derived }
    }
}

fn check_count(count: usize) -> Result<(), UpdateError> {
    let max = Pool::<()>::MAX;
    if count > max { Err(UpdateError::TooMany { count, max }) } else { Ok(()) }
}

/// The entries for these specs: a node that is known keeps its id, its counters and what its spec leaves out.
fn entries_for<T>(
    specs: Vec<Spec<T>>,
    known: &HashMap<&str, &Entry<T>>,
    reports: &Reports<T>,
) -> Vec<Entry<T>> {
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
        backends.push(Arc::new(Backend::new(id, name, load, spec.payload)));
    }
    let seats: Vec<_> = seats(&backends, reports).collect();
    let parts = backends.into_iter().zip(seats).zip(settings);
    parts
        .map(|((backend, seats), (last_weight, settings))| Entry { backend, seats, last_weight, settings })
        .collect()
}
