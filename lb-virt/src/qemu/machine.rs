//! A machine that is held: nobody else does anything to it until it is let go.
//!
//! What it is doing is asked of its process and of QEMU each time; what is written down only says where to ask.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::moving::Moving;
use super::process::Process;
use super::qmp::{Qmp, QmpError};
use super::store::{Lock, Place, WAITS, failed};
use super::transfer::Set;
use crate::domain::{Action, DomainSpec};
use crate::error::VirtError;
use crate::state::State;

/// How long QEMU may take to answer, if nothing else is said. It does so within a millisecond, if the host lets it.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take to say what its machine is doing: who wants to know has others to look at.
pub(super) const GLANCE: Duration = Duration::from_secs(10);
/// How long a QEMU that has hung up may take to end.
const ENDING: Duration = Duration::from_secs(2);
/// How long QEMU may take to end after it was told to: it writes what its disks have not yet.
const END: Duration = Duration::from_secs(20);
/// How long QEMU may take to reckon what it reports of a migration, and how often it is asked.
const RECKONING: Duration = Duration::from_micros(200);
const RECKONS: u32 = 50;
/// The socket that commands go through.
pub(super) const CONTROL: &str = "control.sock";
/// The socket that is listened at.
pub(super) const EVENTS: &str = "events.sock";

/// A machine that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Run {
    /// Its QEMU; `None` while that is being started.
    pub(super) process: Option<Process>,
    /// Its definition as it runs.
    pub(super) spec: DomainSpec,
    /// Whether it has been started. What has not, after the program that began it has ended, is ended.
    pub(super) started: bool,
    /// Whether it is being moved.
    #[serde(default)]
    pub(super) moving: Option<Moving>,
    /// How its QEMU is set to send it; `None`: nobody knows.
    #[serde(default)]
    pub(super) set: Option<Set>,
}

/// A connection to a machine's QEMU. The one that events are heard through is used for commands too, for as long as it is there.
pub(super) type Line = Arc<Mutex<Qmp>>;

/// Takes a connection to use it; one whose user has panicked is as good as any: commands are numbered.
pub(super) fn on(line: &Line) -> MutexGuard<'_, Qmp> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What QEMU said of a machine's migration when it was looked at.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its virtual CPUs stand still for it.
    pub(super) stands: bool,
    /// The answer to `query-migrate`.
    pub(super) migration: Value,
}

/// A machine that is held.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) place: Place,
    /// Its definition, as it will be when it starts next.
    pub(super) spec: DomainSpec,
    pub(super) run: Option<Run>,
    line: Option<Line>,
    /// Its migration, if it is being moved and was looked at since it was last told something.
    pub(super) seen: Option<Seen>,
    /// Whether it was started anew while it was looked at.
    pub(super) rebooted: bool,
    /// How long its QEMU may take to answer.
    pub(super) patience: Duration,
    /// Whether its QEMU has not answered: it is not asked for more then.
    pub(super) silent: bool,
    _lock: Lock,
}

impl Machine {
    pub(super) fn open(place: Place, lock: Lock, patience: Duration) -> Result<Option<Self>, VirtError> {
        let definition = place.read("definition.json").map_err(|error| match error {
            VirtError::File { name, path, source } if is_broken(&source) => {
                VirtError::Broken { name, path, source }
            }
            other => other,
        });
        let Some(spec) = definition? else { return Ok(None) };
        let run = read_run(&place, &spec)?;
        let (line, seen, rebooted, silent) = (None, None, false, false);
        Ok(Some(Self { place, spec, run, line, seen, rebooted, patience, silent, _lock: lock }))
    }

    /// Talks to its QEMU over a connection that there is.
    pub(super) fn talk_over(&mut self, line: Option<Line>) {
        if line.is_some() {
            self.line = line;
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.place.name
    }

    /// The definition that holds now.
    pub(super) fn live(&self) -> &DomainSpec {
        self.run.as_ref().map_or(&self.spec, |run| &run.spec)
    }

    /// Its process, if one was started.
    pub(super) fn process(&self) -> Option<&Process> {
        self.run.as_ref()?.process.as_ref()
    }

    /// What it is doing. One whose QEMU has ended is shut off if that ended by itself, and has else crashed; one that waits for
    /// being started anew is.
    pub(super) fn observe(&mut self) -> Result<State, VirtError> {
        let Some(run) = &self.run else { return Ok(self.at_rest()) };
        let Some(process) = run.process.clone().filter(|_| run.started) else {
            // Who began to start it holds no lock any more: it has ended, and its work is undone.
            self.clear_away(false)?;
            return Ok(self.at_rest());
        };
        if !process.lives().map_err(self.unseen(&process))? {
            return self.ended();
        }
        let status = match self.glance() {
            Ok(status) => status,
            // It may be about to end.
            Err(QmpError::Closed { .. } | QmpError::Io(_))
                if process.wait(self.patience.min(ENDING)).map_err(self.unseen(&process))? =>
            {
                return self.ended();
            }
            // It can't be asked: whatever it is doing, it can be powered off.
            Err(_) => {
                (self.line, self.silent) = (None, true);
                return Ok(State::Unknown);
            }
        };
        let state = state(status["status"].as_str().unwrap_or_default());
        let action = match status["status"].as_str() {
            Some("shutdown") => Some(self.live().on_poweroff),
            Some("guest-panicked") => Some(self.live().on_crash),
            _ => None,
        };
        if action == Some(Action::Restart) {
            self.tell("start it anew", "system_reset", json!({}))?;
            self.tell("start it anew", "cont", json!({}))?;
            self.rebooted = true;
            return Ok(State::Running);
        }
        Ok(state)
    }

    /// Asks QEMU what it is doing, and how far its migration is if it is being moved.
    pub(super) fn glance(&mut self) -> Result<Value, QmpError> {
        let patience = GLANCE.min(self.patience);
        if self.moving().is_none() {
            return self.ask_within("query-status", json!({}), patience);
        }
        let mut migration = self.ask_within("query-migrate", json!({}), patience)?;
        // A source is complete a moment before it has reckoned how long it took.
        for _ in 0..RECKONS {
            if migration["status"] != "completed" || migration["total-time"] != 0 {
                break;
            }
            sleep(RECKONING);
            migration = self.ask_within("query-migrate", json!({}), patience)?;
        }
        let told = self.moving().is_some_and(Moving::is_told);
        let status = if migration["status"] == "completed" && !told {
            // A source's stands still for good then, and a target's until it is told otherwise.
            json!({"status": "postmigrate"})
        } else {
            self.ask_within("query-status", json!({}), patience)?
        };
        self.seen = Some(Seen { stands: status["status"] == "finish-migrate", migration });
        Ok(status)
    }

    /// Its process can't be asked whether it lives: nothing is known of it then.
    pub(super) fn unseen(&self, process: &Process) -> impl FnOnce(io::Error) -> VirtError + use<> {
        let (name, path) = (self.place.name.clone(), format!("/proc/{}", process.pid).into());
        |source| VirtError::File { name, path, source }
    }

    fn at_rest(&self) -> State {
        if self.place.file("crashed").exists() { State::Crashed } else { State::ShutOff }
    }

    /// Its process is gone. QEMU removes its note of it when it ends by itself.
    fn ended(&mut self) -> Result<State, VirtError> {
        let crashed = self.place.file("pid").exists();
        self.clear_away(crashed)?;
        Ok(self.at_rest())
    }

    /// Ends its process, if it has one, and removes what is written of it. QEMU is asked first.
    pub(super) fn end(&mut self) -> Result<(), VirtError> {
        if let Some(process) = self.process().cloned()
            && !self.silent
            && process.lives().map_err(self.unseen(&process))?
            && self.ask("quit", json!({})).is_ok()
        {
            process.wait(END).map_err(self.unseen(&process))?;
        }
        self.clear_away(false)
    }

    /// Sees that nothing of it runs, and removes what is written of that.
    pub(super) fn clear_away(&mut self, crashed: bool) -> Result<(), VirtError> {
        self.line = None;
        let mut processes: Vec<Process> = self.process().cloned().into_iter().collect();
        if self.run.as_ref().is_some_and(|run| run.process.is_none()) {
            // It was not yet written down which one it is.
            let found = super::process::with_argument(self.place.file("pid").as_os_str());
            processes = found.map_err(failed(self.name(), "/proc"))?;
        }
        for process in processes {
            if !process.kill(END).map_err(self.unseen(&process))? {
                let operation = format!("end the process {} of {}", process.pid, self.name());
                return Err(VirtError::Timeout { hypervisor: "qemu", operation, after: END });
            }
        }
        if crashed {
            self.place.write("crashed", &json!({}))?;
        }
        self.run = None;
        for file in ["run.json", "pid", CONTROL, EVENTS, "incoming.sock", "way"] {
            self.place.remove(file)?;
        }
        Ok(())
    }

    /// Forgets that it crashed.
    pub(super) fn forget_crash(&self) -> Result<(), VirtError> {
        self.place.remove("crashed")
    }

    /// Writes down how it is defined, and how it runs.
    pub(super) fn save(&self) -> Result<(), VirtError> {
        self.place.write("definition.json", &self.spec)?;
        self.save_run()
    }

    /// Writes down how it runs.
    pub(super) fn save_run(&self) -> Result<(), VirtError> {
        self.run.as_ref().map_or(Ok(()), |run| self.place.write_soon("run.json", run))
    }

    /// Talks to QEMU.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.ask_within(command, arguments, self.patience)
    }

    fn ask_within(&mut self, command: &str, arguments: Value, timeout: Duration) -> Result<Value, QmpError> {
        let mut answers = self.ask_all_within([(command, arguments)], timeout)?;
        Ok(answers.pop().unwrap_or_default())
    }

    fn ask_all_within<'a>(
        &mut self,
        commands: impl IntoIterator<Item = (&'a str, Value)>,
        timeout: Duration,
    ) -> Result<Vec<Value>, QmpError> {
        self.with_qmp(timeout, |qmp| qmp.execute_all(commands, timeout))
    }

    /// Talks to QEMU about an operation that it is a part of.
    pub(super) fn tell(
        &mut self,
        operation: &str,
        command: &str,
        arguments: Value,
    ) -> Result<Value, VirtError> {
        let name = self.place.name.clone();
        self.ask(command, arguments)
            .map_err(|error| error.while_it(format!("{operation} ({name}): {command}")))
    }

    /// Tells QEMU several things at once.
    pub(super) fn tell_all<'a>(
        &mut self,
        operation: &str,
        commands: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<Vec<Value>, VirtError> {
        let name = self.place.name.clone();
        self.ask_all_within(commands, self.patience)
            .map_err(|error| error.while_it(format!("{operation} ({name})")))
    }

    /// Uses the connection to QEMU, made if there is none; that may take so long.
    pub(super) fn with_qmp<T>(
        &mut self,
        timeout: Duration,
        act: impl FnOnce(&mut Qmp) -> Result<T, QmpError>,
    ) -> Result<T, QmpError> {
        let line = match &self.line {
            Some(line) => line.clone(),
            None => {
                let qmp = connect(&self.place, CONTROL, timeout)?;
                self.line.insert(Arc::new(Mutex::new(qmp))).clone()
            }
        };
        let result = act(&mut on(&line));
        if matches!(result, Err(QmpError::Closed { .. } | QmpError::Garbage { .. } | QmpError::Io(_))) {
            self.line = None;
        }
        result
    }
}

/// Whether a file was read, and is not what was written.
fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// What is noted of a machine's run. A note that can't be read, of a machine of which nothing runs, is of a host that has lost its
/// power: what it says is that the machine ran, or was to be received.
fn read_run(place: &Place, spec: &DomainSpec) -> Result<Option<Run>, VirtError> {
    let unreadable = match place.read("run.json") {
        Err(VirtError::File { source, path, .. }) if is_broken(&source) => failed(&place.name, path)(source),
        other => return other,
    };
    let runs = super::process::with_argument(place.file("pid").as_os_str());
    if !runs.map_err(failed(&place.name, "/proc"))?.is_empty() {
        return Err(unreadable);
    }
    let moving = place.file(WAITS).exists().then(Moving::awaited);
    Ok(Some(Run { process: Some(Process::ended()), spec: spec.clone(), started: true, moving, set: None }))
}

/// Connects to one of a machine's monitors.
pub(super) fn connect(place: &Place, socket: &str, timeout: Duration) -> Result<Qmp, QmpError> {
    let connected = place.with_socket(socket, |path| Ok(Qmp::connect(path, timeout)));
    connected.map_err(|error: io::Error| QmpError::Io(error))?
}

/// What QEMU calls a state (`RunState`). What is not known here is unknown, not an error.
pub(super) fn state(status: &str) -> State {
    match status {
        "running" => State::Running,
        "suspended" => State::Suspended,
        "guest-panicked" | "internal-error" => State::Crashed,
        // `shutdown`: the guest has powered off, and is kept to be looked at.
        "paused" | "prelaunch" | "inmigrate" | "postmigrate" | "finish-migrate" | "io-error"
        | "restore-vm" | "save-vm" | "debug" | "watchdog" | "colo" | "shutdown" => State::Paused,
        _ => State::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_are_not_known_are_unknown() {
        for (status, expected) in [
            ("running", State::Running),
            ("paused", State::Paused),
            ("shutdown", State::Paused),
            ("guest-panicked", State::Crashed),
            ("suspended", State::Suspended),
            ("dreaming", State::Unknown),
            ("", State::Unknown),
        ] {
            assert_eq!(state(status), expected, "{status}");
        }
    }
}
