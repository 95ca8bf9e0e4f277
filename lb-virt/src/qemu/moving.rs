//! Moves machines between directories, be they on one host or on two.
//!
//! A copy that waits is a QEMU that was given nothing to run (`-incoming defer`); its machine's note says what it is, from before it is
//! there until it was told to run. Whatever happens to either program, the note decides: a copy that was not told to run goes when its
//! process does, and with it its definition.

use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::arguments::QEMU;
use super::machine::{Machine, Run, Seen};
use super::process::Process;
use super::store::WAITS;
use super::transfer::Set;
use super::{Qemu, launch, transfer};
use crate::domain::{DomainSpec, Memory};
use crate::error::VirtError;
use crate::hypervisor::EventKind;
use crate::migration::{Conclusion, Control, Demand, Destination, Phase, Sample, Settings, Tls, Via};
use crate::state::{Operation, State};
use crate::wait::until;

/// Where a copy is waited for, in the directory of its machine.
const INCOMING: &str = "incoming.sock";
/// The way to that directory, in the directory of the machine that is sent.
const WAY: &str = "way";
/// How often a migration is looked at whose QEMU another program listens to.
const LOOK: Duration = Duration::from_millis(25);
/// How long a QEMU may take to say how far it is: who asks asks again, a hundred times before it is given up.
pub(super) const ANSWER: Duration = Duration::from_millis(500);
/// How long a migration may take to begin, when it is to go over at once.
pub(super) const BEGIN: Duration = Duration::from_secs(5);
/// How long a QEMU may take to make ready to be connected to with certificates: without a `dh-params.pem` beside them it finds a prime
/// of 2048 bits first, which takes a second as a rule, and ten where there is bad luck and little time.
const PRIME: Duration = Duration::from_secs(120);

/// How many pages of each GiB are sampled: 4096 in all, which tell a rate of a tenth of the memory a second to 5 %; of more memory at
/// least 1024, and at the most 16384, QEMU's bounds.
fn samples_a_gib(memory: Memory) -> u64 {
    (4096 * (1 << 20) / memory.kib().max(1)).clamp(1024, 16_384)
}

/// A machine that is being moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Moving {
    /// From here; else to here.
    pub(super) outgoing: bool,
    /// From here: whether it was asked to go over at once.
    post_copy: bool,
    /// To here: whether it was told to run. It is the machine then.
    told: bool,
}

impl Moving {
    /// Of a copy that was not told to run.
    pub(super) const fn awaited() -> Self {
        Self { outgoing: false, post_copy: false, told: false }
    }

    /// Whether it came here, and was told to run.
    pub(super) const fn is_told(&self) -> bool {
        self.told
    }
}

impl Machine {
    pub(super) fn moving(&self) -> Option<&Moving> {
        self.run.as_ref()?.moving.as_ref()
    }

    /// Whether it is a copy that nobody has told to run: without its process there is no such machine.
    pub(super) fn waits(&self) -> bool {
        self.moving().is_some_and(|moving| !moving.outgoing && !moving.told)
    }

    /// Whether it has begun to run elsewhere, so that this copy of it is too old to go on.
    pub(super) fn is_old(&mut self) -> bool {
        let asked = self.moving().is_some_and(|moving| moving.outgoing && moving.post_copy);
        asked && self.sample().is_ok_and(|sample| sample.post_copied)
    }

    /// Whether it has begun to run elsewhere, and part of its memory is here alone. One that was asked to go over and does not answer
    /// may be.
    fn is_half(&mut self) -> bool {
        let asked = self.moving().is_some_and(|moving| moving.outgoing && moving.post_copy);
        asked && self.sample().map_or(true, |sample| matches!(sample.phase, Phase::PostCopy | Phase::Stalled))
    }

    fn set_moving(&mut self, moving: Option<Moving>) -> Result<(), VirtError> {
        if let Some(run) = &mut self.run {
            run.moving = moving;
        }
        self.save_run()
    }

    /// Whether an operation can be done although it is being moved.
    pub(super) fn must_be_free_for(&mut self, operation: Operation) -> Result<(), VirtError> {
        use Operation as O;

        let Some(moving) = self.moving().cloned() else { return Ok(()) };
        let free = match operation {
            O::PowerOff if self.is_half() => return Err(VirtError::Half { name: self.name().into() }),
            O::PowerOff => true,
            O::Pause | O::Resume | O::ShutDown | O::Reboot | O::Wake => {
                moving.outgoing && matches!(self.sample()?.phase, Phase::Setup | Phase::PreCopy)
            }
            _ => false,
        };
        if free { Ok(()) } else { Err(self.is_moving(&operation.to_string())) }
    }

    /// Whether it can be changed.
    pub(super) fn must_stay(&self, operation: &str) -> Result<(), VirtError> {
        self.moving().map_or(Ok(()), |_| Err(self.is_moving(operation)))
    }

    fn is_moving(&self, operation: &str) -> VirtError {
        VirtError::Moving { name: self.name().into(), operation: operation.into() }
    }

    pub(super) fn says(&self, operation: &str, words: impl Into<String>) -> VirtError {
        let operation = format!("{operation} {}", self.name());
        VirtError::Said { hypervisor: QEMU, operation, words: words.into() }
    }

    /// How far its migration is.
    fn sample(&mut self) -> Result<Sample, VirtError> {
        const OPERATION: &str = "ask for the migration";
        if self.silent {
            let operation = format!("{OPERATION} of {}", self.name());
            return Err(VirtError::Timeout { hypervisor: QEMU, operation, after: self.patience });
        }
        if self.seen.is_none() {
            self.glance().map_err(|error| error.while_it(format!("{OPERATION} of {}", self.name())))?;
        }
        let Some(Seen { stands, migration: answer }) = self.seen.take() else {
            return Ok(Sample::new(Phase::Setup));
        };
        let Some(moving) = self.moving().cloned() else { return Ok(Sample::new(Phase::Setup)) };
        let sample = transfer::sample(&answer, stands && moving.outgoing, moving.post_copy);
        if moving.outgoing && sample.phase == Phase::Setup && answer["status"] != "setup" {
            // Who was to begin it has ended before.
            return Ok(Sample::new(Phase::Failed("it was never begun".into())));
        }
        Ok(sample)
    }

    /// A copy that goes over at once runs as soon as it can: nobody else can tell it to.
    fn run_if_post_copied(&mut self) -> Result<(), VirtError> {
        let begins = |seen: &Seen| seen.migration["status"] == "postcopy-active";
        if self.silent || !self.waits() || !self.seen.as_ref().is_some_and(begins) {
            return Ok(());
        }
        self.told_to_run()?;
        self.tell("run", "cont", json!({}))?;
        self.is_the_machine()
    }

    fn told_to_run(&mut self) -> Result<(), VirtError> {
        self.set_moving(Some(Moving { outgoing: false, post_copy: false, told: true }))
    }

    /// Writes down for good that it was told to run, also after the host's end: when it runs already, which has no time before.
    fn is_the_machine(&self) -> Result<(), VirtError> {
        self.place.remove(WAITS)?;
        self.run.as_ref().map_or(Ok(()), |run| self.place.write("run.json", run))
    }

    fn encrypt(&mut self, tls: &Tls, endpoint: &str) -> Result<Value, VirtError> {
        let _ = self.ask("object-del", json!({"id": "tls0"}));
        let credentials = json!({
            "qom-type": "tls-creds-x509", "id": "tls0", "endpoint": endpoint, "verify-peer": true,
            "dir": tls.directory.to_string_lossy(),
        });
        // It may have to find a prime of its own first.
        let patience = self.patience;
        self.patience = patience.max(PRIME);
        let encrypted = self.tell("encrypt the migration", "object-add", credentials);
        self.patience = patience;
        encrypted?;
        let hostname = tls.hostname.as_deref().unwrap_or_default();
        Ok(json!({"tls-creds": "tls0", "tls-hostname": if endpoint == "client" { hostname } else { "" }}))
    }

    fn set(&mut self) -> Option<&mut Set> {
        self.run.as_mut()?.set.as_mut()
    }

    /// Where it waits; the address that it is to be sent to.
    fn listen(&mut self, via: &Via) -> Result<Destination, VirtError> {
        const OPERATION: &str = "receive";
        self.make_ready(true)?;
        // Where a page can be fetched when it is missed; whether that is used the source decides.
        let told = self.ask("migrate-set-capabilities", transfer::capabilities(&[("postcopy-ram", true)]));
        if let (Some(set), Ok(_)) = (self.set(), told) {
            set.post_copy = true;
        }
        match via {
            Via::Own => {
                let (waits_at, to) = self.own_way()?;
                self.tell(OPERATION, "migrate-incoming", json!({"uri": waits_at}))?;
                Ok(to)
            }
            Via::Tcp { address, port, tls } => {
                if let Some(tls) = tls {
                    let parameters = self.encrypt(tls, "server")?;
                    self.tell(OPERATION, "migrate-set-parameters", parameters)?;
                    if let Some(set) = self.set() {
                        set.encrypted = true;
                    }
                }
                let host = bracketed(*address);
                self.tell(OPERATION, "migrate-incoming", json!({"uri": format!("tcp:{host}:{port}")}))?;
                let port = self.chosen_port(OPERATION, *port)?;
                Ok(Destination { uri: format!("tcp:{host}:{port}"), tls: tls.clone() })
            }
        }
    }

    /// A unix socket of its own: what its QEMU is told, and what the other is.
    pub(super) fn own_way(&self) -> Result<(String, Destination), VirtError> {
        self.place.remove(INCOMING)?;
        let uri = format!("unix:{}", self.place.file(INCOMING).display());
        Ok((format!("unix:{INCOMING}"), Destination { uri, tls: None }))
    }

    /// The port that it waits at: the one that it was given, or has chosen.
    pub(super) fn chosen_port(&mut self, operation: &str, port: u16) -> Result<String, VirtError> {
        let answer = self.tell(operation, "query-migrate", json!({}))?;
        let chosen = answer["socket-address"].as_array().and_then(|all| all.last()?["port"].as_str());
        Ok(chosen.map_or_else(|| port.to_string(), ToOwned::to_owned))
    }

    /// Makes a QEMU that was just started ready to send its machine, or to receive it.
    pub(super) fn make_ready(&mut self, incoming: bool) -> Result<(), VirtError> {
        let (set, commands) = Set::ready(incoming);
        self.tell_all("start", commands)?;
        if let Some(run) = &mut self.run {
            run.set = Some(set);
        }
        Ok(())
    }

    /// Begins to send it. `before`: how its QEMU is set, if anybody knows.
    fn begin(
        &mut self,
        to: &Destination,
        settings: &Settings,
        before: Option<&Set>,
    ) -> Result<(), VirtError> {
        const OPERATION: &str = "send";
        let encryption = to.tls.as_ref().map(|tls| self.encrypt(tls, "client")).transpose()?;
        let uri = self.reachable(to)?;
        let commands = Set::of(settings, to.tls.is_some()).commands(before, encryption);
        if !commands.is_empty() {
            self.tell_all(OPERATION, commands)?;
        }
        self.tell(OPERATION, "migrate", json!({"uri": uri}))?;
        Ok(())
    }

    /// Where it is to be sent, as its QEMU can be told.
    pub(super) fn reachable(&self, to: &Destination) -> Result<String, VirtError> {
        match to.uri.strip_prefix("unix:") {
            Some(path) => Ok(format!("unix:{}", self.shortened(Path::new(path))?)),
            None => Ok(to.uri.clone()),
        }
    }

    /// A path of a socket that is short enough for one: by a link in the machine's directory, in which QEMU runs.
    fn shortened(&self, path: &Path) -> Result<String, VirtError> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(self.says("send", format!("{} is no path of a socket", path.display())));
        };
        self.place.remove(WAY)?;
        let way = self.place.file(WAY);
        symlink(directory, &way).map_err(super::store::failed(self.name(), way))?;
        // Commas too: what is told it here is no list of options.
        Ok(format!("{WAY}/{}", name.to_string_lossy()))
    }
}

/// An address as a URI has it.
pub(super) fn bracketed(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

impl Qemu {
    pub(super) fn receive_machine(
        &mut self,
        running: &DomainSpec,
        defined: &DomainSpec,
        via: &Via,
    ) -> Result<Destination, VirtError> {
        launch::check(running)?;
        let moving = Some(Moving::awaited());
        let run = Run { process: None, spec: running.clone(), started: false, moving, set: None };
        let (place, lock) = self.make(defined, Some(&run))?;
        let machine = Machine::open(place, lock, self.answer)?;
        let mut machine = machine.ok_or_else(|| self.missing(&defined.name))?;
        let received = self.wait_for_copy(&mut machine, running, via);
        match received {
            Ok(to) => {
                self.events.tell(machine.name(), EventKind::Defined);
                self.events.is(machine.name(), State::Paused, false);
                Ok(to)
            }
            Err(error) => {
                self.give_up(machine)?;
                Err(error)
            }
        }
    }

    fn wait_for_copy(
        &mut self,
        machine: &mut Machine,
        running: &DomainSpec,
        via: &Via,
    ) -> Result<Destination, VirtError> {
        self.launch(machine, running.clone(), true)?;
        machine.apply_pins()?;
        let to = machine.listen(via)?;
        if let Some(run) = &mut machine.run {
            run.started = true;
        }
        machine.save_run()?;
        Ok(to)
    }

    /// Ends a machine that is none any more, without a word, and removes it.
    pub(super) fn give_up(&mut self, mut machine: Machine) -> Result<(), VirtError> {
        let name = machine.name().to_owned();
        machine.clear_away(false)?;
        self.remove(machine)?;
        self.events.tell(&name, EventKind::Deleted);
        Ok(())
    }

    pub(super) fn send_machine(
        &mut self,
        name: &str,
        to: &Destination,
        settings: &Settings,
    ) -> Result<(), VirtError> {
        let mut machine = self.hold(name, "send")?;
        self.listen_to(&mut machine);
        let state = self.look(&mut machine)?;
        state.after(Operation::MigrateLive).map_err(VirtError::state(name))?;
        if let Some(moving) = machine.moving() {
            // What has not gone over is sent anew.
            let again =
                moving.outgoing && matches!(machine.sample()?.phase, Phase::Failed(_) | Phase::Cancelled);
            if !again {
                return Err(machine.is_moving("send"));
            }
        }
        self.events.is_at(name, None);
        // What it will be set to is not noted: the next time all is said.
        let before = machine.run.as_mut().and_then(|run| run.set.take());
        machine.set_moving(Some(Moving { outgoing: true, post_copy: false, told: false }))?;
        let begun = machine.begin(to, settings, before.as_ref());
        // Of what has not answered it is not known.
        if begun.as_ref().is_err_and(|error| !matches!(error, VirtError::Timeout { .. })) {
            machine.set_moving(None)?;
        }
        begun
    }

    /// Waits, without holding the machine, until its phase is another than the one that was told last.
    pub(super) fn migration_of(&mut self, name: &str, wait: Duration) -> Result<Option<Sample>, VirtError> {
        let end = until(wait);
        let mut before = self.events.phase(name).cloned();
        if before.is_some() && !wait.is_zero() {
            self.events.wait_for_move(name, wait);
        }
        loop {
            let mut machine = self.hold(name, "ask for the migration of")?;
            machine.patience = ANSWER;
            let heard = self.listen_to(&mut machine);
            // One that was sent from a machine that has ended since is no more.
            self.look(&mut machine)?;
            if machine.moving().is_none() {
                self.events.is_at(name, None);
                return Ok(None);
            }
            machine.run_if_post_copied()?;
            let sample = machine.sample()?;
            self.events.is_at(name, Some(&sample.phase).filter(|_| heard));
            let left = end.saturating_duration_since(Instant::now());
            let changed = before.replace(sample.phase.clone()).is_some_and(|before| before != sample.phase);
            if changed || left.is_zero() || sample.phase.has_ended() {
                return Ok(Some(sample));
            }
            drop(machine);
            if heard {
                // Its QEMU says when something changes.
                self.events.wait_for_move(name, left);
            } else {
                sleep(left.min(LOOK));
            }
        }
    }

    pub(super) fn control(&mut self, name: &str, control: Control) -> Result<(), VirtError> {
        let mut machine = self.hold(name, "steer the migration of")?;
        self.look(&mut machine)?;
        let Some(moving) = machine.moving().cloned().filter(|moving| moving.outgoing) else {
            return Err(VirtError::NotMoving { name: name.into() });
        };
        let (command, arguments) = transfer::command(control);
        if control == Control::PostCopy {
            // Noted before it is done, so that nobody takes the source's copy for a new one.
            machine.set_moving(Some(Moving { post_copy: true, ..moving }))?;
        }
        let end = Instant::now() + BEGIN;
        loop {
            let phase = machine.sample()?.phase;
            let too_late = match control {
                // What has begun to run over there would be lost.
                Control::Cancel | Control::Stop => !phase.can_go_back(),
                Control::Bandwidth(_) => phase.has_ended(),
                _ => !matches!(phase, Phase::Setup | Phase::PreCopy),
            };
            if too_late {
                return Ok(());
            }
            let told = machine.tell(&format!("steer the migration ({control})"), command, arguments.clone());
            match told {
                // It has still to begin.
                Err(VirtError::Said { .. }) if phase == Phase::Setup && Instant::now() < end => {
                    sleep(Duration::from_millis(5));
                }
                other => return other.map(drop),
            }
        }
    }

    /// Whether either copy has said to this program that all has gone over, and is the same process still: it stands still since.
    fn has_all(&self, machine: &Machine) -> bool {
        let same = |process: &Process| self.events.line(machine.name(), process).is_some();
        let whole = self.events.phase(machine.name()) == Some(&Phase::Completed);
        whole && machine.process().is_some_and(same)
    }

    pub(super) fn conclude_migration(&mut self, name: &str, conclusion: Conclusion) -> Result<(), VirtError> {
        let mut machine = self.hold(name, "conclude the migration of")?;
        let not_moving = || VirtError::NotMoving { name: name.into() };
        let moving = machine.moving().cloned().ok_or_else(not_moving)?;
        // What is given up need not answer.
        if conclusion == Conclusion::GiveUp {
            if moving.outgoing {
                let stands = self.has_all(&machine);
                if !stands && let Some(process) = machine.process() {
                    process.strike().map_err(machine.unseen(process))?;
                }
                self.set_aside(&machine)?;
                // What has sent all stands still for good: its disks are the other side's, and nobody finds it any more. Its guest waits
                // there until this has been said, and runs the sooner if its old process is not ended at the same moment.
                if stands {
                    self.store.sweep_soon();
                } else {
                    drop(machine);
                    self.store.sweep();
                }
                self.events.tell(name, EventKind::Deleted);
                return Ok(());
            }
            return self.give_up(machine);
        }
        // A copy that was whole is so until it is told something, which is noted, and stands still.
        let whole = machine.waits() && self.has_all(&machine);
        let state = if whole { State::Paused } else { self.look(&mut machine)? };
        let moving = machine.moving().cloned().ok_or_else(not_moving)?;
        if !whole {
            let sample = machine.sample()?;
            let can_run = match &sample.phase {
                Phase::Completed => !(moving.outgoing && sample.post_copied),
                Phase::Failed(_) | Phase::Cancelled => moving.outgoing && !sample.post_copied,
                _ => false,
            };
            if !can_run {
                return Err(machine.says("run", format!("its migration is at {}", sample.phase)));
            }
        }
        if !moving.outgoing {
            // From now on it is the machine, whatever becomes of its process.
            machine.told_to_run()?;
        }
        let (command, after) = match conclusion {
            Conclusion::Run => ("cont", State::Running),
            _ => ("stop", State::Paused),
        };
        if state != after {
            machine.tell("run", command, json!({}))?;
        }
        machine.set_moving(None)?;
        if !moving.outgoing {
            machine.is_the_machine()?;
        }
        self.events.is_at(name, None);
        self.note(&mut machine, after);
        Ok(())
    }

    /// What it would have to send: QEMU samples its pages, twice.
    pub(super) fn measure(&mut self, name: &str, over: Duration) -> Result<Demand, VirtError> {
        const OPERATION: &str = "measure how fast its guest writes";
        let (mut machine, _) = self.hold_for(name, Operation::Pause)?;
        // Whole seconds, as QEMU wants them.
        let seconds = over.as_millis().div_ceil(1000).clamp(1, 60);
        let memory = super::arguments::started_memory(machine.live());
        let samples = samples_a_gib(memory);
        let arguments =
            json!({"calc-time": seconds as u64, "mode": "page-sampling", "sample-pages": samples});
        machine.tell(OPERATION, "calc-dirty-rate", arguments)?;
        drop(machine);
        let end = Instant::now() + Duration::from_secs(seconds as u64) + BEGIN;
        loop {
            sleep(Duration::from_millis(20));
            let mut machine = self.hold(name, OPERATION)?;
            let answer = machine.tell(OPERATION, "query-dirty-rate", json!({}))?;
            if answer["status"] != "measured" && Instant::now() < end {
                continue;
            }
            let Some(rate) = answer["dirty-rate"].as_u64() else {
                return Err(machine.says(OPERATION, "it does not end"));
            };
            let resident = machine.process().and_then(|process| process.resident_of_guest(memory.kib()));
            let used = resident.map_or(memory, |kib| Memory::from_kib(kib).min(memory));
            return Ok(Demand { memory, used, dirty_rate: rate << 20, working_set: None });
        }
    }
}
