//! One run of `apply`: its steps, what they wrote so far, and how all of it is undone.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::journal::{Appender, Entry, Journal, namespace};
use super::place::Place;
use super::report::{Line, Report};
use super::restore::{IfChanged, Restored, RestoredLine, Return, put_back};
use super::value::Value;
use super::write::{Job, Outcome};
use super::{ApplyError, OnFailure, jobs};
use crate::fs::FileSystem;
use crate::nic::NicError;
use crate::{Interrupts, Nic, Setting, Target};

/// What is under way.
pub(super) struct Work<'a, F> {
    files: &'a F,
    nr_cpu_ids: u32,
    on_failure: OnFailure,
    path: &'a Path,
    /// What the journal said before, and says again if all of this is undone.
    former: Journal,
    journal: Journal,
    /// `None` until there is something to write.
    appender: Option<Appender>,
    seen: BTreeSet<Target>,
    done: Vec<Done>,
    pub(super) report: Report,
}

/// Something that was, or may have been, changed.
struct Done {
    place: Place,
    before: Vec<u8>,
    /// The number in the journal.
    entry: usize,
    /// The number in the report; `None` for what only a driver changes.
    line: Option<usize>,
}

/// Why a run ends early.
pub(super) enum Stop {
    /// A setting failed, as the report says.
    Setting,
    /// Something else did.
    Error(ApplyError),
}

impl From<ApplyError> for Stop {
    fn from(error: ApplyError) -> Self {
        Self::Error(error)
    }
}

impl<'a, F: FileSystem> Work<'a, F> {
    /// A run that goes on from what the journal at `path` says.
    pub(super) fn new(
        files: &'a F,
        nr_cpu_ids: u32,
        on_failure: OnFailure,
        path: &'a Path,
        former: Journal,
    ) -> Self {
        Self {
            files,
            nr_cpu_ids,
            on_failure,
            path,
            // Of what is the whole machine's, a journal of another namespace may tell. What is entered is of this one.
            journal: Journal { namespace: namespace(), ..former.clone() },
            former,
            appender: None,
            seen: BTreeSet::new(),
            done: Vec::new(),
            report: Report::default(),
        }
    }

    /// Applies settings in their order.
    pub(super) fn step(&mut self, settings: &[Setting]) -> Result<(), Stop> {
        let jobs = jobs(settings, self.nr_cpu_ids, &mut self.seen)?;
        let first = self.report.lines.len();
        let before = self.look(&jobs);
        self.check()?;
        let wanted: Vec<usize> =
            (0..jobs.len()).filter(|at| self.report.lines[first + at].outcome == Outcome::NotTried).collect();
        if wanted.is_empty() {
            return Ok(());
        }

        self.journal.complete = false;
        let mut writes = Vec::with_capacity(wanted.len());
        for at in wanted {
            let job = &jobs[at];
            let followers = match &job.place.target {
                Target::Channels(interface) => self.enter_followers(interface)?,
                Target::File(_) => Vec::new(),
            };
            let entry = enter(&mut self.journal.entries, job, &before[at]);
            let done =
                Done { place: job.place.clone(), before: before[at].clone(), entry, line: Some(first + at) };
            writes.push((job, first + at, done, followers));
        }
        self.appender = Some(self.journal.store(self.path).map_err(|source| self.failed(source))?);
        for (job, line, done, followers) in writes {
            let entry = done.entry;
            self.done.extend(followers);
            self.done.push(done);
            let (outcome, left) = job.write(self.files);
            self.report.lines[line].outcome = outcome;
            if let Some(left) = left {
                self.note(entry, left)?;
            }
            if let Target::Channels(interface) = &job.place.target {
                self.note_followers(interface)?;
            }
            self.check()?;
        }
        Ok(())
    }

    /// Says in the journal that all is done.
    pub(super) fn finish(&mut self) -> Result<(), Stop> {
        let Some(appender) = &mut self.appender else { return Ok(()) };
        let completed = appender.complete();
        completed.map_err(|source| self.failed(source).into())
    }

    /// Undoes what this run wrote, the last write first; not what earlier ones did.
    pub(super) fn undo(&mut self) -> Result<(), ApplyError> {
        let mut restored = Restored::default();
        let mut stuck = Vec::new();
        for done in self.done.iter().rev() {
            let entry = &self.journal.entries[done.entry];
            // What a driver made of it is our doing.
            let ours = |value: &Value| done.line.is_none() || entry.is_ours(value);
            let outcome = put_back(self.files, &done.place, &done.before, IfChanged::Leave, ours);
            if let Some(line) = done.line.map(|line| &mut self.report.lines[line])
                && outcome == Return::PutBack
                && !line.outcome.is_failure()
            {
                line.outcome = Outcome::RolledBack;
            }
            if matches!(outcome, Return::Failed(_))
                && let Ok(now) = done.place.read(self.files)
            {
                stuck.push((done.entry, now));
            }
            // Nothing came of a write that failed: no news.
            if outcome != Return::WasThere {
                let original = done.place.value(&done.before);
                restored.lines.push(RestoredLine { target: done.place.target.clone(), original, outcome });
            }
        }
        let complete = restored.is_complete();
        self.report.rolled_back = Some(restored);
        // Whatever it reads now, it is our doing.
        for (entry, now) in stuck {
            self.note(entry, now)?;
        }
        // What could not be put back is for `restore` to try again.
        if complete && self.appender.take().is_some() {
            return self.former.keep(self.path).map_err(|source| self.failed(source));
        }
        Ok(())
    }

    /// Reads what is there, and begins the report with it.
    fn look(&mut self, jobs: &[Job]) -> Vec<Vec<u8>> {
        let mut before = Vec::with_capacity(jobs.len());
        for job in jobs {
            let (old, outcome, content) = match job.place.read(self.files) {
                Ok(content) => {
                    let old = job.place.value(&content);
                    let unchanged = old.reaches(&job.value());
                    let outcome = if unchanged { Outcome::Unchanged } else { Outcome::NotTried };
                    (Some(old), outcome, content)
                }
                Err(refusal) => (None, *refusal, Vec::new()),
            };
            self.report.lines.push(Line { setting: job.setting.clone(), old, outcome });
            before.push(content);
        }
        before
    }

    /// Enters what the driver of an interface changes, or takes away, along with its channels.
    fn enter_followers(&mut self, interface: &str) -> Result<Vec<Done>, ApplyError> {
        let unknown = |source| ApplyError::Queues { source: Box::new(source) };
        let nic = Interrupts::read(self.files)
            .map_err(NicError::from)
            .and_then(|interrupts| Nic::read(self.files, interface, &interrupts))
            .map_err(unknown)?;
        let mut followers = Vec::new();
        for setting in nic.settings() {
            let Some(place) = Place::of(setting.target()) else { continue };
            // What is gone by now needs not be put back.
            let Ok(before) = place.read(self.files) else { continue };
            let known = self.journal.entries.iter().position(|entry| entry.place == place);
            let entry = known.unwrap_or_else(|| {
                let (original, place) = (before.clone(), place.clone());
                let entry = Entry { place, original, held: None, intended: None, left: None, follows: None };
                self.journal.entries.push(entry);
                self.journal.entries.len() - 1
            });
            let known = &mut self.journal.entries[entry];
            if !known.is_ours(&place.value(&before)) {
                known.original.clone_from(&before);
            }
            known.follows = Some(interface.to_owned());
            followers.push(Done { place, before, entry, line: None });
        }
        Ok(followers)
    }

    /// Notes what a driver made of what follows its channels: what had been there, or comes back with its queue.
    fn note_followers(&mut self, interface: &str) -> Result<(), ApplyError> {
        for index in 0..self.journal.entries.len() {
            let entry = &self.journal.entries[index];
            if entry.follows.as_deref() != Some(interface) {
                continue;
            }
            // What is gone, is gone with its queue.
            let Ok(now) = entry.place.read(self.files) else { continue };
            let value = entry.place.value(&now);
            if value != entry.place.value(&entry.original) && !entry.is_ours(&value) {
                self.note(index, now)?;
            }
        }
        Ok(())
    }

    /// Notes what was left at an entry's place.
    fn note(&mut self, entry: usize, left: Vec<u8>) -> Result<(), ApplyError> {
        let noted = self.appender.as_mut().map_or(Ok(()), |appender| appender.left(entry, &left));
        self.journal.entries[entry].left = Some(left);
        noted.map_err(|source| self.failed(source))
    }

    fn check(&self) -> Result<(), Stop> {
        let stops = self.on_failure == OnFailure::RollBack
            && self.report.lines.iter().any(|line| line.outcome.is_failure());
        if stops { Err(Stop::Setting) } else { Ok(()) }
    }

    fn failed(&self, source: io::Error) -> ApplyError {
        ApplyError::Journal { path: self.path.to_owned(), source }
    }
}

/// Enters a job into the journal; says where.
fn enter(entries: &mut Vec<Entry>, job: &Job, before: &[u8]) -> usize {
    let intended = Some(job.content.clone());
    let known = entries.iter().position(|entry| entry.place == job.place);
    let Some(index) = known else {
        let (place, original) = (job.place.clone(), before.to_vec());
        entries.push(Entry { place, original, held: None, intended, left: None, follows: None });
        return entries.len() - 1;
    };
    let entry = &mut entries[index];
    if !entry.is_ours(&job.place.value(before)) {
        entry.original = before.to_vec();
    }
    *entry = Entry { held: Some(before.to_vec()), intended, left: None, ..entry.clone() };
    index
}
