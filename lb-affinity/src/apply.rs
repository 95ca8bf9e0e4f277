//! Settings, applied as one: seen dry, journalled, written, read back, rolled back when one fails, taken back later.
//!
//! ```no_run
//! use lb_affinity::Setting;
//! use lb_affinity::apply::{Applier, DIRECTORY, IfChanged, dry_run};
//! use lb_affinity::fs::Real;
//!
//! let settings = [
//!     Setting::Rps { interface: "eth0".into(), queue: 0, cpus: "2-3,7".parse()? },
//!     Setting::IrqAffinity { irq: 30, cpus: 6.into() },
//! ];
//! // eth0 rx-0 rps_cpus: none → 2-3,7
//! // interrupt 30 smp_affinity: 0-15 → 6
//! println!("{}", dry_run(&Real, &settings, 16)?);
//!
//! let mut applier = Applier::open(Real, DIRECTORY, 16)?;
//! // If the last process that applied was killed in between, what it did is undone first.
//! applier.restore(IfChanged::Leave)?;
//! println!("{}", applier.apply(&settings)?);
//! // … and when the work is done, or in another process, later:
//! println!("{}", applier.restore(IfChanged::Leave)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//! * Nothing is written before the journal with every original value is on disk. A process that is killed at any point leaves a
//!   journal from which [`Applier::restore`] puts every original back.
//! * The originals are those from before the *first* [`Applier::apply`]: a second one, of another plan, keeps them. A value that
//!   someone else set between the two counts as the original from then on.
//! * One [`Applier`] a directory at a time, by a lock (flock(2)) that ends with the process.
//! * When a setting fails, those before it are put back, the last one first, and the machine is as it was. Which outcomes fail is
//!   said at [`Outcome::is_failure`]; [`OnFailure::Continue`] goes on instead.
//! * The journal names only files of [`Setting`]'s, and is in a directory that nobody else can write to. It is of no use after a reboot,
//!   knows that by the kernel's boot id, and says so. It is of one network namespace: in another, `restore` leaves what is not
//!   that namespace's for later, and `apply` refuses.
//!
//! It can't know whether an interface of the same name is the same interface. One that was replaced has values that are not
//! ours, so `restore` leaves it, unless they happen to be equal.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::Setting;
use crate::fs::FileSystem;

mod directory;
mod journal;
mod report;
mod restore;
mod value;
mod write;

use directory::Lock;
use journal::{Entry, Journal, LoadError};
pub use report::{Change, DryRun, Line, Report, Warning};
use restore::put_back;
pub use restore::{IfChanged, Restored, RestoredLine, Return};
use value::Format;
pub use value::Value;
use write::Job;
pub use write::{Denial, Outcome};

/// Where the journal and the lock are, if nothing else is said. It is root's, and gone after a reboot, as the settings are.
/// Another directory, and those above it, must be writable by their owner alone, too: what its journal says is written to the
/// kernel's files.
pub const DIRECTORY: &str = "/run/lb-affinity";

/// Why nothing is applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Another applier is at work.
    #[error(
        "{} is in use by {}; stop it, or choose another directory for settings that do not overlap",
        directory.display(),
        pid.map_or("another process".into(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The journal's directory.
        directory: PathBuf,
        /// The other applier's process, in its own namespace of process ids.
        pid: Option<u32>,
    },
    /// The journal can't be read or written. What was changed is put back; if that fails too, it is for [`Applier::restore`].
    #[error("the journal {} can't be used: {source}; without it nothing is written{}", path.display(), cure(source))]
    Journal {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Someone else could put a journal into the directory, and what it says would be written to the kernel's files.
    #[error("{} {why}", directory.display())]
    Untrusted {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        why: Distrust,
    },
    /// The journal's content is wrong in a way that no crash explains.
    #[error("the journal {} is damaged at line {line}; set the values by hand and remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first bad line, from 1.
        line: usize,
    },
    /// The last process that applied died in between.
    #[error("the journal {} tells of work that was never finished; restore first", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
    },
    /// What is set in another network namespace would be lost from the journal.
    #[error(
        "the journal {} is of another network namespace, {then}; restore there first (`lsns --type net` lists them); if it is gone, remove the journal",
        path.display()
    )]
    Namespace {
        /// The file.
        path: PathBuf,
        /// The namespace that it is of, `net:[4026531840]`.
        then: String,
    },
    /// Two settings are for the same file.
    #[error("{setting} is set twice; keep one")]
    Twice {
        /// The second one.
        setting: Box<Setting>,
    },
    /// An interface's name is none.
    #[error("{name:?} is no name of a network interface: 1 to 15 bytes without '/', ':' and white space")]
    Interface {
        /// The name.
        name: String,
    },
    /// A setting failed, and those before it were put back.
    #[error("nothing is applied:\n{0}")]
    RolledBack(Box<Report>),
}

/// Why a directory is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// Whoever owns the link can change where it leads.
    #[error("is a symbolic link; name the directory that it leads to")]
    Link,
    /// It is neither this process's user's nor root's.
    #[error("belongs to user {user}, who could make us write what he likes; choose a directory of your own")]
    Owner {
        /// Whose it is.
        user: u32,
    },
    /// Its group, or all, may write to it.
    #[error(
        "may be written to by others (mode {mode:04o}), who could make us write what they like; `chmod go-w` it, or choose another directory"
    )]
    Writable {
        /// Its permissions.
        mode: u32,
    },
}

/// What helps against an error of the journal's files.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root, whose the kernel's files are",
        io::ErrorKind::NotADirectory | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotFound => {
            "; choose another directory"
        }
        _ => "",
    }
}

/// What happens when a setting fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// What was written before is put back: half a plan may be worse than none.
    #[default]
    RollBack,
    /// The other settings are applied all the same.
    Continue,
}

/// Says what [`Applier::apply`] would write. Needs no rights and takes no lock.
///
/// # Errors
/// [`ApplyError::Twice`] and [`ApplyError::Interface`].
pub fn dry_run(files: &impl FileSystem, settings: &[Setting], nr_cpu_ids: u32) -> Result<DryRun, ApplyError> {
    let mut result = DryRun::default();
    for job in jobs(settings, nr_cpu_ids)? {
        let new = job.value();
        match job.read(files).map(|content| job.format.value(&content)) {
            Ok(old) if old.reaches(&new) => {}
            Ok(old) => result.changes.push(Change { setting: job.setting, old, new }),
            Err(error) => {
                let why = job.refusal(files, &error);
                result.unreadable.push((job.setting, why));
            }
        }
    }
    Ok(result)
}

fn jobs(settings: &[Setting], nr_cpu_ids: u32) -> Result<Vec<Job>, ApplyError> {
    let mut seen = BTreeSet::new();
    let job = |setting: &Setting| {
        let path = setting.path();
        // All that can be wrong with a path of a setting's is the interface's name.
        let Some(format) = Format::of(&path) else {
            return Err(ApplyError::Interface { name: setting.interface().unwrap_or_default().to_owned() });
        };
        if !seen.insert(path.clone()) {
            return Err(ApplyError::Twice { setting: Box::new(setting.clone()) });
        }
        // Ids from `nr_cpu_ids` on would be lost in a mask of the machine's width; the kernel is to refuse them.
        let ids = match setting {
            Setting::Rps { cpus, .. } | Setting::Xps { cpus, .. } => {
                cpus.last().map_or(nr_cpu_ids, |last| nr_cpu_ids.max(last + 1))
            }
            _ => nr_cpu_ids,
        };
        Ok(Job { setting: setting.clone(), path, format, content: setting.content(ids).into_bytes() })
    };
    settings.iter().map(job).collect()
}

/// Applies settings and takes them back.
#[derive(Debug)]
pub struct Applier<F> {
    files: F,
    nr_cpu_ids: u32,
    on_failure: OnFailure,
    journal: PathBuf,
    _lock: Lock,
}

impl<F: FileSystem> Applier<F> {
    /// An applier whose journal is in `directory` ([`DIRECTORY`], as a rule), which is made if it is not there. `nr_cpu_ids` is the
    /// machine's ([`Topology::nr_cpu_ids`](crate::Topology::nr_cpu_ids)).
    ///
    /// # Errors
    /// [`ApplyError::Locked`] while another one is open, in this process or in another; [`ApplyError::Untrusted`] if someone else could
    /// put a journal there; [`ApplyError::Journal`] if the directory can't be used.
    pub fn open(files: F, directory: impl AsRef<Path>, nr_cpu_ids: u32) -> Result<Self, ApplyError> {
        let directory = directory.as_ref();
        directory::prepare(directory)?;
        let lock = Lock::take(directory)?;
        let journal = directory.join("journal");
        Ok(Self { files, nr_cpu_ids, on_failure: OnFailure::RollBack, journal, _lock: lock })
    }

    /// What to do when a setting fails; [`OnFailure::RollBack`] if nothing is said.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// Applies the settings in their order.
    ///
    /// # Errors
    /// [`ApplyError::RolledBack`] if a setting failed and [`OnFailure::RollBack`] is chosen; [`ApplyError::Unfinished`] if a crash is to be
    /// restored from first; the errors of [`dry_run`], and of the journal.
    pub fn apply(&mut self, settings: &[Setting]) -> Result<Report, ApplyError> {
        let jobs = jobs(settings, self.nr_cpu_ids)?;
        let former = self.load()?.unwrap_or_else(|| Journal { complete: true, ..self.empty() });
        if !former.complete {
            return Err(ApplyError::Unfinished { path: self.journal.clone() });
        }
        if let Some(then) = elsewhere(&former).filter(|_| former.entries.iter().any(Entry::is_of_namespace)) {
            return Err(ApplyError::Namespace { path: self.journal.clone(), then });
        }
        let mut report = Report { warnings: self.warnings(), ..Report::default() };
        let mut before = Vec::with_capacity(jobs.len());
        for job in &jobs {
            let read = job.read(&self.files);
            let (old, outcome) = match &read {
                Ok(content) => {
                    let old = job.format.value(content);
                    let unchanged = old.reaches(&job.value());
                    (Some(old), if unchanged { Outcome::Unchanged } else { Outcome::NotTried })
                }
                Err(error) => (None, job.refusal(&self.files, error)),
            };
            report.lines.push(Line { setting: job.setting.clone(), old, outcome });
            before.push(read.unwrap_or_default());
        }
        if self.stops(&report) {
            report.rolled_back = Some(Restored::default());
            return Err(ApplyError::RolledBack(Box::new(report)));
        }
        if !report.lines.iter().any(|line| line.outcome == Outcome::NotTried) {
            return Ok(report);
        }

        let mut journal = Journal { complete: false, namespace: namespace(), ..former.clone() };
        let mut entries = Vec::with_capacity(jobs.len());
        for ((job, line), before) in jobs.iter().zip(&report.lines).zip(&before) {
            let wanted = line.outcome == Outcome::NotTried;
            entries.push(wanted.then(|| enter(&mut journal.entries, job, before)));
        }
        let mut appender = journal.store(&self.journal).map_err(|source| self.failed(source))?;
        let mut broken = None;
        for (index, job) in jobs.iter().enumerate() {
            let Some(entry) = entries[index] else { continue };
            let (outcome, left) = job.write(&self.files);
            report.lines[index].outcome = outcome;
            if let Some(left) = left {
                broken = appender.left(entry, &left).err();
                journal.entries[entry].left = Some(left);
            }
            if broken.is_some() || self.stops(&report) {
                break;
            }
        }
        let stopped = broken.is_some() || self.stops(&report);
        let broken = if stopped { broken } else { appender.complete().err() };
        if stopped || broken.is_some() {
            self.roll_back(&jobs, &before, &entries, &former, &journal, &mut report)?;
            return Err(match broken {
                Some(source) => self.failed(source),
                None => ApplyError::RolledBack(Box::new(report)),
            });
        }
        Ok(report)
    }

    /// Puts the original values back, the last write first: what [`apply`](Self::apply) did in this process or in another that
    /// may have been killed. Files that are gone are reported and dropped. What could not be put back stays in the journal.
    ///
    /// # Errors
    /// [`ApplyError::Damaged`] or [`ApplyError::Journal`]. That a value could not be put back is no error but a line of the
    /// result; see [`Restored::is_complete`].
    pub fn restore(&mut self, if_changed: IfChanged) -> Result<Restored, ApplyError> {
        let mut restored = Restored::default();
        let Some(mut journal) = self.load_of_any_boot()? else { return Ok(restored) };
        if self.is_of_another_boot(&journal) {
            restored.of_another_boot = true;
            journal.entries.clear();
        }
        let elsewhere = elsewhere(&journal);
        let mut left = Vec::new();
        while let Some(mut entry) = journal.entries.pop() {
            let Entry { path, format, original, .. } = &entry;
            let ours = |value: &Value| entry.is_ours(value);
            let outcome = match &elsewhere {
                Some(namespace) if entry.is_of_namespace() => {
                    Return::Elsewhere { namespace: namespace.clone() }
                }
                _ => put_back(&self.files, path, *format, original, if_changed, ours),
            };
            let (path, original) = (path.clone(), format.value(original));
            if outcome.is_left() {
                // What was left undone is told from a stranger's values as before.
                entry.held = entry.left.take().or(entry.held);
                left.push(entry);
            }
            restored.lines.push(RestoredLine { path, original, outcome });
        }
        left.reverse();
        let journal = Journal { entries: left, complete: true, ..journal };
        self.keep(&journal)?;
        Ok(restored)
    }

    /// Takes the journal away without putting anything back: what is set now is the new normal.
    ///
    /// # Errors
    /// [`ApplyError::Journal`].
    pub fn forget(&mut self) -> Result<(), ApplyError> {
        Journal::remove(&self.journal).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> ApplyError {
        ApplyError::Journal { path: self.journal.clone(), source }
    }

    fn empty(&self) -> Journal {
        Journal { boot: self.boot(), namespace: namespace(), ..Journal::default() }
    }

    /// The kernel's id of this boot (`random(4)`: new at every boot).
    fn boot(&self) -> Option<String> {
        let content = self.files.read(Path::new("/proc/sys/kernel/random/boot_id")).ok()?;
        Some(String::from_utf8(content).ok()?.trim().to_owned())
    }

    fn is_of_another_boot(&self, journal: &Journal) -> bool {
        matches!((&journal.boot, self.boot()), (Some(then), Some(now)) if *then != now)
    }

    fn load_of_any_boot(&self) -> Result<Option<Journal>, ApplyError> {
        Journal::load(&self.journal).map_err(|error| match error {
            LoadError::Io(source) => self.failed(source),
            LoadError::Damaged { line } => ApplyError::Damaged { path: self.journal.clone(), line },
        })
    }

    fn load(&self) -> Result<Option<Journal>, ApplyError> {
        Ok(self.load_of_any_boot()?.filter(|journal| !self.is_of_another_boot(journal)))
    }

    /// Stores a journal, or takes it away if it is empty.
    fn keep(&self, journal: &Journal) -> Result<(), ApplyError> {
        let result = if journal.entries.is_empty() {
            Journal::remove(&self.journal)
        } else {
            journal.store(&self.journal).map(drop)
        };
        result.map_err(|source| self.failed(source))
    }

    fn stops(&self, report: &Report) -> bool {
        self.on_failure == OnFailure::RollBack && report.lines.iter().any(|line| line.outcome.is_failure())
    }

    /// Undoes the writes of one [`apply`](Self::apply), not of the earlier ones.
    fn roll_back(
        &self,
        jobs: &[Job],
        before: &[Vec<u8>],
        entries: &[Option<usize>],
        former: &Journal,
        journal: &Journal,
        report: &mut Report,
    ) -> Result<(), ApplyError> {
        let mut restored = Restored::default();
        for (index, job) in jobs.iter().enumerate().rev() {
            let Some(entry) = entries[index].filter(|_| report.lines[index].outcome != Outcome::NotTried)
            else {
                continue;
            };
            let ours = |value: &Value| journal.entries[entry].is_ours(value);
            let outcome =
                put_back(&self.files, &job.path, job.format, &before[index], IfChanged::Leave, ours);
            if outcome == Return::PutBack && !report.lines[index].outcome.is_failure() {
                report.lines[index].outcome = Outcome::RolledBack;
            }
            // Nothing came of a write that failed: no news.
            if outcome != Return::WasThere {
                let original = job.format.value(&before[index]);
                restored.lines.push(RestoredLine { path: job.path.clone(), original, outcome });
            }
        }
        let complete = restored.is_complete();
        report.rolled_back = Some(restored);
        // What could not be put back is for `restore` to try again.
        if complete { self.keep(former) } else { Ok(()) }
    }

    fn warnings(&self) -> Vec<Warning> {
        let names = self.files.list(Path::new("/proc")).unwrap_or_default();
        let processes = names.iter().filter_map(|name| name.to_str()?.parse::<u32>().ok());
        let irqbalance = processes.filter(|pid| {
            let name = self.files.read(Path::new(&format!("/proc/{pid}/comm")));
            name.is_ok_and(|name| name.trim_ascii() == b"irqbalance")
        });
        irqbalance.map(|pid| Warning::Irqbalance { pid }).collect()
    }
}

/// The calling thread's network namespace (network_namespaces(7)), if `/proc` says.
fn namespace() -> Option<String> {
    std::fs::read_link("/proc/thread-self/ns/net").ok()?.into_os_string().into_string().ok()
}

/// The namespace of a journal that is not of this one.
fn elsewhere(journal: &Journal) -> Option<String> {
    let here = namespace()?;
    journal.namespace.clone().filter(|then| *then != here)
}

/// Enters a job into the journal; says where.
fn enter(entries: &mut Vec<Entry>, job: &Job, before: &[u8]) -> usize {
    let intended = Some(job.content.clone());
    let known = entries.iter().position(|entry| entry.path == job.path);
    let Some(index) = known else {
        let (path, format, original) = (job.path.clone(), job.format, before.to_vec());
        entries.push(Entry { path, format, original, held: None, intended, left: None });
        return entries.len() - 1;
    };
    let entry = &mut entries[index];
    if !entry.is_ours(&job.format.value(before)) {
        entry.original = before.to_vec();
    }
    *entry = Entry { held: Some(before.to_vec()), intended, left: None, ..entry.clone() };
    index
}

#[cfg(test)]
mod tests;
