//! Brings what runs into line with a configuration: at the start, and again at a reload without touching what is the same.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use lb_examples::vrrpd::config::{self, Config, Hooks, Target};
use lb_vrrp::linux::{Driver, DriverError, InstanceId, TrackInterface};
use lb_vrrp::track::{Check, TrackId, Weight};

use crate::checks::{self, Finding, Look, ScriptCheck};
use crate::hooks::{Caller, Told};
use crate::log::{self, Talk};
use crate::program::Program;

/// Something that is tracked, by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tracked {
    Interface(String),
    Script(String),
    Process(String),
    File(String),
}

/// An instance that runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: InstanceId,
    pub(crate) definition: config::Instance,
    pub(crate) tracks: Vec<(Tracked, Check, TrackId)>,
    /// What its scripts were told last.
    pub(crate) told: Option<Told>,
    /// Whether the log says that it is at fault.
    pub(crate) at_fault: bool,
    /// Since when it is in its state.
    pub(crate) since: SystemTime,
    pub(crate) caller: Caller,
    /// Why it has no sockets or no VMAC, as it was logged.
    pub(crate) trouble: Option<String>,
    /// What it says of itself, and what of others: these shall not drown that.
    pub(crate) talk: [Talk; 2],
}

/// A sync group that runs.
#[derive(Debug, Default)]
pub(crate) struct LiveGroup {
    pub(crate) members: Vec<String>,
    pub(crate) hooks: Hooks,
    pub(crate) told: Option<Told>,
    pub(crate) caller: Caller,
}

/// All that runs.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) instances: BTreeMap<String, Live>,
    pub(crate) groups: BTreeMap<String, LiveGroup>,
    /// The last calls of what is gone.
    pub(crate) parting: Vec<(String, Caller)>,
    pub(crate) scripts: BTreeMap<String, (config::Script, ScriptCheck)>,
    pub(crate) processes: BTreeMap<String, (config::Process, Look<config::Process>)>,
    pub(crate) files: BTreeMap<String, (config::NumberFile, Look<config::NumberFile>)>,
}

impl Running {
    /// Brings everything into line with `config`. What can't be is said by the first error; the rest is done all the same.
    pub(crate) fn apply(&mut self, driver: &mut Driver, config: &Config) -> Result<(), DriverError> {
        let mut result = Ok(());
        let mut note = |done: Result<(), DriverError>| {
            if let Err(error) = done
                && result.is_ok()
            {
                result = Err(error);
            }
        };
        let wanted: BTreeMap<&str, &config::Instance> =
            config.instances.iter().map(|instance| (instance.name.as_str(), instance)).collect();
        let members = |group: &config::Group| -> Vec<String> {
            group.members.iter().map(|&at| config.instances[at].name.clone()).collect()
        };

        // Those that are no longer, or are another router now.
        let mut changed: Vec<String> = self
            .instances
            .iter()
            .filter(|(name, live)| {
                wanted.get(name.as_str()).is_none_or(|new| !is_same(&live.definition, new))
            })
            .map(|(name, _)| name.clone())
            .collect();
        // A group goes before its members, so that none pulls the others along.
        let stays = |name: &str, live: &LiveGroup, changed: &[String]| {
            config.groups.iter().any(|group| group.name == name && members(group) == live.members)
                && !live.members.iter().any(|member| changed.contains(member))
        };
        self.end_groups(driver, &|name, live| stays(name, live, &changed));
        for name in &changed {
            note(self.end(driver, name, config));
        }

        // Those that only have other settings: an address that moves from one to another has to leave the one first.
        let mut waiting: Vec<&config::Instance> = wanted.values().copied().collect();
        waiting.retain(|new| self.instances.get(&new.name).is_some_and(|live| live.definition != **new));
        loop {
            let before = waiting.len();
            waiting.retain(|new| {
                let Some(live) = self.instances.get_mut(&new.name) else { return false };
                let done = live.definition.router == new.router
                    || driver.reconfigure(live.id, new.router.clone()).is_ok();
                if done {
                    live.definition = (*new).clone();
                }
                !done
            });
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        for new in waiting {
            changed.push(new.name.clone());
            self.end_groups(driver, &|name, live| stays(name, live, &changed));
            note(self.end(driver, &new.name, config));
        }

        self.take_over_checks(config);
        for instance in &config.instances {
            if !self.instances.contains_key(&instance.name) {
                note(self.begin(driver, instance));
            }
            note(self.track(driver, instance, config));
        }
        for group in &config.groups {
            let live = self.groups.entry(group.name.clone()).or_default();
            live.hooks = group.hooks.clone();
            if live.members.is_empty() {
                live.members = members(group);
                let ids: Vec<InstanceId> = live
                    .members
                    .iter()
                    .filter_map(|name| self.instances.get(name).map(|live| live.id))
                    .collect();
                note(driver.add_group(&group.name, &ids));
            }
        }
        result
    }

    fn end_groups(&mut self, driver: &mut Driver, stays: &dyn Fn(&str, &LiveGroup) -> bool) {
        let ending: Vec<String> = self
            .groups
            .iter()
            .filter(|(name, live)| !stays(name, live))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ending {
            driver.remove_group(&name);
            if let Some(live) = self.groups.remove(&name) {
                self.parting.push((name, live.caller));
            }
        }
    }

    fn begin(&mut self, driver: &mut Driver, definition: &config::Instance) -> Result<(), DriverError> {
        let mut instance =
            lb_vrrp::linux::Instance::new(definition.router.clone(), definition.interface.as_str());
        instance.source = definition.source;
        instance.vmac = definition.vmac.as_ref().map(|vmac| lb_vrrp::linux::Vmac {
            name: vmac.name.clone(),
            transmit_from_interface: vmac.transmit_base,
        });
        let id = driver.add(&definition.name, instance)?;
        let live = Live {
            id,
            definition: definition.clone(),
            tracks: Vec::new(),
            told: None,
            at_fault: false,
            since: SystemTime::now(),
            caller: Caller::default(),
            trouble: None,
            talk: Default::default(),
        };
        self.instances.insert(definition.name.clone(), live);
        Ok(())
    }

    fn end(&mut self, driver: &mut Driver, name: &str, config: &Config) -> Result<(), DriverError> {
        let Some(mut live) = self.instances.remove(name) else { return Ok(()) };
        let done = driver.remove(live.id);
        log::of(name, "stopped");
        let priority = live.definition.router.priority;
        live.caller.tell(&live.definition.hooks, &config.global, "INSTANCE", name, Told::Stop, priority);
        self.parting.push((name.to_owned(), live.caller));
        done
    }

    /// Checks that are the same go on, with what they know.
    fn take_over_checks(&mut self, config: &Config) {
        let now = Instant::now();
        let tracked: Vec<&Target> = config
            .instances
            .iter()
            .flat_map(|instance| &instance.tracks)
            .map(|track| &track.target)
            .collect();

        let mut scripts = BTreeMap::new();
        for (at, script) in config.scripts.iter().enumerate() {
            if !tracked.contains(&&Target::Script(at)) {
                continue;
            }
            let program = match Program::new(&script.command, &config.global) {
                Ok(program) => program,
                Err(error) => {
                    log::of(&script.name, error);
                    continue;
                }
            };
            let known = self.scripts.remove(&script.name).filter(|(old, _)| {
                let place = script.command.place.clone();
                let old_here = config::Script {
                    command: config::Command { place, ..old.command.clone() },
                    check: script.check,
                    ..old.clone()
                };
                old_here == *script
            });
            let check = known.map_or_else(|| ScriptCheck::new(script, program, now), |(_, check)| check);
            scripts.insert(script.name.clone(), (script.clone(), check));
        }
        self.scripts = scripts;

        let mut processes = BTreeMap::new();
        for (at, process) in config.processes.iter().enumerate() {
            if tracked.contains(&&Target::Process(at)) {
                let known = self.processes.remove(&process.name).filter(|(old, _)| old == process);
                let look = known.map_or_else(|| Look::new(process.clone(), now), |(_, look)| look);
                processes.insert(process.name.clone(), (process.clone(), look));
            }
        }
        self.processes = processes;

        let mut files = BTreeMap::new();
        for (at, file) in config.files.iter().enumerate() {
            if tracked.contains(&&Target::File(at)) {
                let known = self.files.remove(&file.name).filter(|(old, _)| old == file);
                let look = known.map_or_else(
                    || {
                        let look = Look::new(file.clone(), now);
                        look.initialize();
                        look
                    },
                    |(_, look)| look,
                );
                files.insert(file.name.clone(), (file.clone(), look));
            }
        }
        self.files = files;
    }

    /// What an instance tracks: new things come first with what is known of them, then old ones go.
    fn track(
        &mut self,
        driver: &mut Driver,
        instance: &config::Instance,
        config: &Config,
    ) -> Result<(), DriverError> {
        let Some(live) = self.instances.get_mut(&instance.name) else { return Ok(()) };
        let mut before = std::mem::take(&mut live.tracks);
        let mut result = Ok(());
        for track in &instance.tracks {
            let tracked = match &track.target {
                Target::Interface(name) => Tracked::Interface(name.clone()),
                Target::Script(at) => Tracked::Script(config.scripts[*at].name.clone()),
                Target::Process(at) => Tracked::Process(config.processes[*at].name.clone()),
                Target::File(at) => Tracked::File(config.files[*at].name.clone()),
            };
            let kept = before.iter().position(|(known, check, _)| (known, check) == (&tracked, &track.check));
            if let Some(at) = kept {
                live.tracks.push(before.swap_remove(at));
                continue;
            }
            let added = match &tracked {
                Tracked::Interface(name) => {
                    driver.track_interface(live.id, TrackInterface { name: name.clone(), check: track.check })
                }
                Tracked::File(_) if track.check.weight != Weight::FAULT => {
                    driver.track_file(live.id, file_weight(track.check))
                }
                _ => driver.track(live.id, track.check),
            };
            match added {
                Ok(id) => live.tracks.push((tracked, track.check, id)),
                Err(error) => result = Err(error),
            }
        }
        for (_, _, id) in before {
            result = result.and(driver.untrack(live.id, id));
        }
        // What is known already counts at once.
        for (tracked, check, track) in &live.tracks {
            let known = match tracked {
                Tracked::Interface(_) | Tracked::Script(_) => None,
                Tracked::Process(name) => self.processes.get(name).and_then(|(_, look)| look.last),
                Tracked::File(name) => self.files.get(name).and_then(|(_, look)| look.last),
            };
            if let Some(finding) = known {
                result = result.and(report(driver, live.id, *track, *check, finding));
            }
        }
        result
    }

    /// Tells every instance that tracks it what was found.
    fn found(&self, driver: &mut Driver, tracked: &Tracked, finding: Finding) {
        for (name, live) in &self.instances {
            for (known, check, track) in &live.tracks {
                if known == tracked
                    && let Err(error) = report(driver, live.id, *track, *check, finding)
                {
                    log::of(name, error);
                }
            }
        }
    }

    /// Looks after all checks. When to look again.
    pub(crate) fn check(&mut self, driver: &mut Driver, now: Instant) -> Option<Instant> {
        let mut findings: Vec<(Tracked, Finding)> = Vec::new();
        let mut wake: Option<Instant> = None;
        let mut again = |at: Instant| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        for (name, (_, check)) in &mut self.scripts {
            let before = check.last;
            let (finding, at) = check.step(name, now);
            again(at);
            if let Some(finding) = finding {
                if check.last != before {
                    log::of(name, if check.last == Some(true) { "succeeds" } else { "fails" });
                }
                findings.push((Tracked::Script(name.clone()), finding));
            }
        }
        for (name, (_, look)) in &mut self.processes {
            let (finding, at) = look.step(now, &checks::count);
            again(at);
            if let Some(finding) = finding {
                log::of(name, if finding == Finding::Success(true) { "runs" } else { "does not run" });
                findings.push((Tracked::Process(name.clone()), finding));
            }
        }
        for (name, (_, look)) in &mut self.files {
            let (finding, at) = look.step(now);
            again(at);
            if let Some(finding) = finding {
                if let Finding::Number(number) = finding {
                    log::of(name, format_args!("says {number}"));
                }
                findings.push((Tracked::File(name.clone()), finding));
            }
        }
        for (tracked, finding) in findings {
            self.found(driver, &tracked, finding);
        }
        wake
    }

    /// Looks after all calls. When to look again.
    pub(crate) fn call(&mut self, now: Instant) -> Option<Instant> {
        let mut wake: Option<Instant> = None;
        let instances = self.instances.iter_mut().map(|(name, live)| (name.as_str(), &mut live.caller));
        let groups = self.groups.iter_mut().map(|(name, live)| (name.as_str(), &mut live.caller));
        let parting = self.parting.iter_mut().map(|(name, caller)| (name.as_str(), caller));
        for (name, caller) in instances.chain(groups).chain(parting) {
            if !caller.is_idle()
                && let Some(at) = caller.step(name, now)
            {
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
            }
        }
        self.parting.retain(|(_, caller)| !caller.is_idle());
        wake
    }

    /// Whether no call runs or waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.parting.is_empty()
            && self.instances.values().all(|live| live.caller.is_idle())
            && self.groups.values().all(|live| live.caller.is_idle())
    }
}

fn report(
    driver: &mut Driver,
    id: InstanceId,
    track: TrackId,
    check: Check,
    finding: Finding,
) -> Result<(), DriverError> {
    match finding {
        Finding::Success(success) => driver.report(id, track, success),
        // A file of weight 0 is at fault while its number is not 0.
        Finding::Number(number) if check.weight == Weight::FAULT => driver.report(id, track, number == 0),
        Finding::Number(number) => driver.set_value(id, track, number),
    }
}

fn file_weight(check: Check) -> Weight {
    if check.reverse { Weight::new(-check.weight.points()).unwrap_or(check.weight) } else { check.weight }
}

/// Whether one can become the other while it runs.
fn is_same(old: &config::Instance, new: &config::Instance) -> bool {
    let identity = |instance: &config::Instance| {
        let router = &instance.router;
        let multicast = router.unicast_peers.is_empty();
        (
            router.version,
            router.vrid,
            router.family(),
            multicast,
            instance.source,
            instance.interface.clone(),
            instance.vmac.clone(),
        )
    };
    identity(old) == identity(new)
}
