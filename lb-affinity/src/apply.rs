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
//! * Another number of channels is one write among others, and what the driver changes along with it is journalled too: the values of the
//!   queues that it takes away, and the CPUs of interrupts. `restore` puts back the channels first, and then these. An interrupt that has
//!   another number then keeps what its driver gives it. Ring lengths, the RSS table and what else a driver keeps for its queues is
//!   not journalled.
//! * The journal names only what [`Setting`]s go to, and is in a directory that nobody else can write to. It is of no use after a reboot,
//!   knows that by the kernel's boot id, and says so. It is of one network namespace: in another, `restore` leaves what is not
//!   that namespace's for later, and `apply` refuses. Interrupts that are to follow channels are left with them.
//!
//! Queues and interrupts of another number of channels are others, so what is set of them is for a plan that is made when they are
//! there: [`Applier::apply_then`].
//!
//! It can't know whether an interface of the same name is the same interface. One that was replaced has values that are not
//! ours, so `restore` leaves it, unless they happen to be equal.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::fs::FileSystem;
use crate::nic::NicError;
use crate::{Setting, Target};

mod directory;
mod journal;
mod place;
mod report;
mod restore;
mod value;
mod work;
mod write;

use directory::Lock;
use journal::{Entry, Journal, LoadError};
use place::Place;
pub use report::{Change, DryRun, Line, Report, Warning};
pub use restore::{IfChanged, Restored, RestoredLine, Return};
use restore::{put_back, tell_strangers, wait};
pub use value::Value;
use work::{Stop, Work};
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
    /// Two settings are for the same file, or the same channels.
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
    /// What an interface's queues hold can't be read.
    #[error("{source}; the number of channels stays, because the queues could not be put back as they were")]
    Queues {
        /// What can't be read.
        source: Box<NicError>,
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
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
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
    for job in jobs(settings, nr_cpu_ids, &mut BTreeSet::new())? {
        let new = job.value();
        match job.place.read(files).map(|content| job.place.value(&content)) {
            Ok(old) if old.reaches(&new) => {}
            Ok(old) => result.changes.push(Change { setting: job.setting, old, new }),
            Err(refusal) => result.unreadable.push((job.setting, *refusal)),
        }
    }
    Ok(result)
}

/// Checks settings and prepares their writes. `seen` has the targets of earlier ones.
fn jobs(settings: &[Setting], nr_cpu_ids: u32, seen: &mut BTreeSet<Target>) -> Result<Vec<Job>, ApplyError> {
    let job = |setting: &Setting| {
        let target = setting.target();
        // All that can be wrong with a setting's target is the interface's name.
        let Some(place) = Place::of(target.clone()) else {
            return Err(ApplyError::Interface { name: setting.interface().unwrap_or_default().to_owned() });
        };
        if !seen.insert(target) {
            return Err(ApplyError::Twice { setting: Box::new(setting.clone()) });
        }
        // Ids from `nr_cpu_ids` on would be lost in a mask of the machine's width; the kernel is to refuse them.
        let ids = match setting {
            Setting::Rps { cpus, .. } | Setting::Xps { cpus, .. } => {
                cpus.last().map_or(nr_cpu_ids, |last| nr_cpu_ids.max(last + 1))
            }
            _ => nr_cpu_ids,
        };
        Ok(Job { setting: setting.clone(), place, content: setting.content(ids).into_bytes() })
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
        self.apply_then(settings, |_| Ok(Vec::new()))
    }

    /// Applies the settings in their order, and then those that `then` makes of what the machine is like by then: what a new number
    /// of channels ([`Setting::Channels`]) asks for. It is one work: if something of it fails, all of it is put back, and if the
    /// process dies, all of it is for [`restore`](Self::restore).
    ///
    /// ```no_run
    /// use lb_affinity::apply::{Applier, DIRECTORY};
    /// use lb_affinity::fs::{FileSystem, Real};
    /// use lb_affinity::plan::{Plan, Planner, Receive};
    /// use lb_affinity::{Interrupts, Nic, Topology};
    ///
    /// type Error = Box<dyn std::error::Error>;
    /// let topology = Topology::live()?;
    /// let plan = |files: &Real| -> Result<Plan, Error> {
    ///     let nic = Nic::read(files, "eth0", &Interrupts::read(files)?)?;
    ///     let receive = Receive { channels: files.channels("eth0").ok(), ..Receive::from(&nic) };
    ///     Ok(Planner::new(&topology).receive(receive).workers(4).plan()?)
    /// };
    /// let first: Vec<_> = plan(&Real)?.queue_setting().into_iter().collect();
    /// let mut applier = Applier::open(Real, DIRECTORY, topology.nr_cpu_ids())?;
    /// let report = applier.apply_then(&first, |files| Ok::<_, Error>(plan(files)?.settings()))?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`apply`](Self::apply); and what `then` says, after what was applied is put back.
    pub fn apply_then<E: From<ApplyError>>(
        &mut self,
        settings: &[Setting],
        then: impl FnOnce(&F) -> Result<Vec<Setting>, E>,
    ) -> Result<Report, E> {
        let former = self.load()?.unwrap_or_else(|| Journal { complete: true, ..self.empty() });
        if let Some(then) = former.elsewhere().filter(|_| former.entries.iter().any(Entry::is_of_namespace)) {
            return Err(ApplyError::Namespace { path: self.journal.clone(), then }.into());
        }
        if !former.complete {
            return Err(ApplyError::Unfinished { path: self.journal.clone() }.into());
        }
        let mut work = Work::new(&self.files, self.nr_cpu_ids, self.on_failure, &self.journal, former);
        work.report.warnings = self.warnings();
        let stop = match work.step(settings) {
            Ok(()) => match then(&self.files) {
                Ok(settings) => work.step(&settings).and_then(|()| work.finish()).err(),
                Err(error) => {
                    work.undo()?;
                    return Err(error);
                }
            },
            Err(stop) => Some(stop),
        };
        let Some(stop) = stop else { return Ok(work.report) };
        work.undo()?;
        Err(E::from(match stop {
            Stop::Setting => ApplyError::RolledBack(Box::new(work.report)),
            Stop::Error(error) => error,
        }))
    }

    /// What [`restore`](Self::restore) would put back, in the order in which it was first written to; not what it would leave for
    /// another network namespace.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn changed(&self) -> Result<Vec<Target>, ApplyError> {
        let journal = self.load()?.unwrap_or_default();
        let is_elsewhere = journal.elsewhere().is_some();
        let here = journal.entries.into_iter().filter(|entry| !(is_elsewhere && entry.is_of_namespace()));
        Ok(here.map(|entry| entry.place.target).collect())
    }

    /// Puts the original values back, the last write first: what [`apply`](Self::apply) did in this process or in another that
    /// may have been killed. What is gone is reported and dropped. What could not be put back stays in the journal.
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
        let elsewhere = journal.elsewhere();
        // If the last work was not finished, or not taken back to its end, what is there now is its doing. Of another namespace's
        // interfaces, nothing can be told.
        if elsewhere.is_none() && journal.complete && tell_strangers(&self.files, &mut journal, if_changed) {
            journal.complete = false;
            self.keep(&journal)?;
        }
        let (mut away, mut stuck) = (BTreeSet::new(), BTreeSet::new());
        let mut left = Vec::new();
        // What is left for another namespace is left as it is, unfinished if it was.
        let mut complete = true;
        while let Some(mut entry) = journal.entries.pop() {
            let (target, original) = (entry.place.target.clone(), entry.place.value(&entry.original));
            if let Some(namespace) = elsewhere.clone().filter(|_| entry.is_of_namespace()) {
                complete = journal.complete;
                left.push(entry);
                restored.lines.push(RestoredLine {
                    target,
                    original,
                    outcome: Return::Elsewhere { namespace },
                });
                continue;
            }
            let waits = entry.follows.as_ref().is_some_and(|interface| away.contains(interface));
            let ours = |value: &Value| (entry.follows.is_some() && !waits) || entry.is_ours(value);
            let is_stuck = entry.follows.as_ref().is_some_and(|interface| stuck.contains(interface));
            let outcome = if is_stuck {
                wait(&self.files, &entry.place, &entry.original)
            } else {
                put_back(&self.files, &entry.place, &entry.original, if_changed, ours)
            };
            let failed = matches!(outcome, Return::Failed(_));
            if let Target::Channels(interface) = &target
                && outcome.is_left()
            {
                away.insert(interface.clone());
                if failed {
                    stuck.insert(interface.clone());
                }
            }
            // It is what we, or the driver after us, have made of it. Without a note it would be taken for a stranger's the next time.
            if failed || is_stuck {
                entry.left = entry.place.read(&self.files).ok().or(entry.left);
            }
            // What follows channels that are not back is put back once more when they are.
            if outcome.is_left() || waits {
                left.push(entry);
            }
            restored.lines.push(RestoredLine { target, original, outcome });
        }
        left.reverse();
        let journal = Journal { entries: left, complete, ..journal };
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
        Journal { boot: self.boot(), namespace: journal::namespace(), ..Journal::default() }
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

    fn keep(&self, journal: &Journal) -> Result<(), ApplyError> {
        journal.keep(&self.journal).map_err(|source| self.failed(source))
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

#[cfg(test)]
mod tests;
