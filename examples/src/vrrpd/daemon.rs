//! The daemon: one thread that waits for the driver, for signals, for those who ask, and for other programs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use lb_examples::vrrpd::config::{self, Config, Disk, NumberFile, Problems};
use lb_vrrp::event::{Faults, Notification, Reason};
use lb_vrrp::hmac::Key;
use lb_vrrp::linux::{Driver, DriverError, Settings, check_capabilities};
use lb_vrrp::track::Weight;
use lb_vrrp::{State, VirtualRouter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::apply::{Live, Running, Tracked};
use crate::checks::{self, Finding, Look};
use crate::control::{Claim, Control, ControlError};
use crate::hooks::Told;
use crate::log;
use crate::program::{self, ProgramError};
use crate::signals::Signals;
use crate::status::{
    ActiveRouter, Adverts, GroupStatus, InstanceStatus, Priority, Signatures, Status, TrackStatus,
    Transitions,
};

/// How long the last scripts may take when the program ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// A group has no priority of its own: keepalived's scripts are told 0.
const GROUP_PRIORITY: u8 = 0;

/// Why the daemon can't run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    Problems(#[from] Problems),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("signals: {0}")]
    Signals(#[source] io::Error),
    #[error("poll: {0}")]
    Poll(#[from] nix::Error),
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(file: &Path, disk: Disk, socket: &Path, run_directory: &Path) -> Result<(), DaemonError> {
    let config = load(file, &disk)?;
    // Who may not open raw sockets may not write to /run either, and the former says what to do.
    let claim = Claim::new(socket).or_else(|error| {
        if error.is_permission() {
            check_capabilities()?;
        }
        Err(DaemonError::from(error))
    })?;
    let settings = Settings {
        run_directory: Some(run_directory.to_owned()),
        realtime_priority: config.global.rt_priority,
        lock_memory: config.global.no_swap,
    };
    let signals = Signals::new().map_err(DaemonError::Signals)?;
    let driver = Driver::new(settings)?;
    let control = Control::new(claim)?;
    let mut daemon = Daemon {
        driver,
        file: file.to_owned(),
        disk,
        since: SystemTime::now(),
        reloads: 0,
        running: Running::default(),
        config,
    };
    daemon.running.apply(&mut daemon.driver, &daemon.config)?;
    log::say(format_args!(
        "process {} runs {}: {} virtual router(s)",
        std::process::id(),
        file.display(),
        daemon.config.instances.len()
    ));
    daemon.serve(signals, control)
}

/// Reads a configuration and whatever it needs of the system.
fn load(file: &Path, disk: &Disk) -> Result<Config, DaemonError> {
    let warn = |warning: &String| log::say(format_args!("warning: {warning}"));
    let config =
        config::load(file, disk).inspect_err(|problems| problems.warnings().iter().for_each(warn))?;
    config.warnings.iter().for_each(warn);
    program::check_all(&config)?.iter().chain(&checks::missing_interfaces(&config)).for_each(warn);
    Ok(config)
}

struct Daemon {
    driver: Driver,
    file: PathBuf,
    disk: Disk,
    since: SystemTime,
    reloads: u32,
    config: Config,
    running: Running,
}

impl Daemon {
    fn serve(&mut self, mut signals: Signals, mut control: Control) -> Result<(), DaemonError> {
        let mut wake = Some(Instant::now());
        loop {
            wait(&self.driver, &signals, &control, wake)?;
            let asked = signals.take();
            if asked.stop {
                break;
            }
            if asked.reload {
                self.reload();
            }
            if asked.status {
                self.status().to_string().lines().for_each(log::say);
            }
            self.driver.turn(Some(Duration::ZERO))?;
            let now = Instant::now();
            let checks = self.running.check(&mut self.driver, now);
            self.notice();
            let calls = self.running.call(now);
            control.serve(now, &|| self.status());
            // Who asks and does not read is let go in time.
            let waits = control.guests().next().is_some() || control.door().is_none();
            let guests = waits.then(|| now + Duration::from_secs(1));
            wake = [checks, calls, guests].into_iter().flatten().min();
        }
        self.stop()
    }

    /// Takes the file over, whole or not at all.
    fn reload(&mut self) {
        let config = match load(&self.file, &self.disk) {
            Ok(config) => config,
            Err(error) => {
                log::say("the configuration is not taken over, all goes on as before:");
                error.to_string().lines().for_each(log::say);
                return;
            }
        };
        let (old, new) = (&self.config.global, &config.global);
        if (old.rt_priority, old.no_swap) != (new.rt_priority, new.no_swap) {
            log::say("vrrp_rt_priority and vrrp_no_swap hold from the next start on");
        }
        self.config = config;
        self.reloads += 1;
        match self.running.apply(&mut self.driver, &self.config) {
            Ok(()) => log::say(format_args!("{} is taken over", self.file.display())),
            Err(error) => log::say(format_args!("{} is taken over, but {error}", self.file.display())),
        }
    }

    /// Logs what happened and tells the scripts.
    fn notice(&mut self) {
        while let Some((id, notification)) = self.driver.next_notification() {
            let found = self.running.instances.iter_mut().find(|(_, live)| live.id == id);
            let Some((name, live)) = found else { continue };
            // That nothing is wrong is no news unless something was.
            let news = match &notification {
                Notification::Faults(faults) => {
                    std::mem::replace(&mut live.at_fault, !faults.is_empty()) || live.at_fault
                }
                _ => true,
            };
            if news {
                let blame = match &notification {
                    Notification::Faults(faults) if faults.contains(Faults::TRACK) => {
                        to_blame(live, &self.driver, &self.running.files)
                    }
                    _ => String::new(),
                };
                let [own, others] = &mut live.talk;
                let talk = match notification {
                    Notification::State { .. } | Notification::Faults(_) | Notification::Priority(_) => own,
                    _ => others,
                };
                talk.say(Instant::now(), name, || format!("{}{blame}", said(&notification)));
            }
            if let Notification::State { to, reason, .. } = notification {
                live.since = SystemTime::now();
                let told = match (to, reason) {
                    (State::Active, _) => Some(Told::Master),
                    (State::Backup, _) => Some(Told::Backup),
                    (State::Initialize, Reason::Fault(_)) => Some(Told::Fault),
                    (State::Initialize, _) => None,
                };
                if let (Some(told), Some(router)) = (told, self.driver.router(id)) {
                    tell(live, name, told, router.priority(), &self.config);
                }
            }
        }
        // What was at fault from the start has changed no state.
        for (name, live) in &mut self.running.instances {
            let trouble = self.driver.trouble(live.id);
            if live.trouble.as_deref() != trouble {
                live.trouble = trouble.map(str::to_owned);
                if let Some(trouble) = trouble {
                    log::of(name, trouble);
                }
            }
            if let Some(router) = self.driver.router(live.id)
                && router.state() == State::Initialize
                && !router.faults().is_empty()
                && live.told != Some(Told::Fault)
            {
                if !live.at_fault {
                    log::of(name, format_args!("fault: {}", router.faults()));
                }
                live.at_fault = true;
                tell(live, name, Told::Fault, router.priority(), &self.config);
            }
        }
        for (name, group) in &mut self.running.groups {
            let members: Vec<&Live> =
                group.members.iter().filter_map(|member| self.running.instances.get(member)).collect();
            let together = |told: Told| members.iter().all(|live| live.told == Some(told));
            let told = if members.iter().any(|live| live.told == Some(Told::Fault)) {
                Some(Told::Fault)
            } else {
                [Told::Master, Told::Backup].into_iter().find(|&told| together(told))
            };
            if let Some(told) = told
                && group.told != Some(told)
            {
                group.told = Some(told);
                log::of(name, format_args!("the group is {}", told.name()));
                group.caller.tell(&group.hooks, &self.config.global, "GROUP", name, told, GROUP_PRIORITY);
            }
        }
    }

    /// Hands the addresses over, tells the scripts, and waits for them a little.
    fn stop(&mut self) -> Result<(), DaemonError> {
        let done = self.driver.shutdown();
        for (name, live) in &mut self.running.instances {
            let priority = live.definition.router.priority;
            tell(live, name, Told::Stop, priority, &self.config);
        }
        for (name, group) in &mut self.running.groups {
            group.caller.tell(&group.hooks, &self.config.global, "GROUP", name, Told::Stop, GROUP_PRIORITY);
        }
        let end = Instant::now() + FAREWELL;
        while !self.running.is_quiet() && Instant::now() < end {
            self.running.call(Instant::now());
            std::thread::sleep(Duration::from_millis(5));
        }
        log::say("stopped");
        Ok(done?)
    }

    fn status(&self) -> Status {
        let host =
            || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Status {
            process: std::process::id(),
            config: self.file.display().to_string(),
            router_id: self.config.global.router_id.clone().unwrap_or_else(host),
            since: time(self.since),
            reloads: self.reloads,
            instances: self
                .config
                .instances
                .iter()
                .filter_map(|instance| self.running.instances.get(&instance.name))
                .filter_map(|live| Some(self.instance(live, self.driver.router(live.id)?)))
                .collect(),
            groups: self
                .running
                .groups
                .iter()
                .map(|(name, group)| GroupStatus {
                    group: name.clone(),
                    state: group.told.map(|told| told.name().to_owned()),
                    members: group.members.clone(),
                })
                .collect(),
        }
    }

    fn instance(&self, live: &Live, router: &VirtualRouter) -> InstanceStatus {
        let (config, counters) = (router.config(), router.counters());
        let active_router = match router.state() {
            State::Active => router.source().map(|address| (address, router.priority())),
            _ => router.active_router(),
        };
        let discards = counters.discards.iter().filter(|&(_, count)| count > 0);
        InstanceStatus {
            instance: live.definition.name.clone(),
            state: router.state(),
            since: time(live.since),
            interface: live.definition.interface.clone(),
            version: config.version.number(),
            vrid: config.vrid,
            priority: Priority { configured: config.priority, effective: router.priority() },
            interval: f64::from(router.interval().centiseconds()) / 100.0,
            addresses: config.addresses.iter().map(ToString::to_string).collect(),
            source: router.source(),
            active_router: active_router.map(|(address, priority)| ActiveRouter { address, priority }),
            transitions: Transitions { to_active: counters.became_active, from_active: counters.left_active },
            adverts: Adverts {
                sent: counters.adverts_sent,
                received: counters.adverts_received,
                priority_zero_sent: counters.priority_zero_sent,
                priority_zero_received: counters.priority_zero_received,
                discarded: counters.discards.total(),
            },
            discards: discards.map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
            signatures: config.hmac.as_ref().map(|hmac| Signatures {
                mode: config::hmac_mode(hmac.mode).to_owned(),
                active_key: hmac.active_key,
                keys: hmac.keys.iter().map(Key::id).collect(),
                unsigned_received: counters.unsigned_received,
            }),
            faults: router.faults().iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect(),
            trouble: self.driver.trouble(live.id).map(str::to_owned),
            tracks: live
                .tracks
                .iter()
                .map(|(tracked, check, track)| {
                    self.track(tracked, check.weight.points(), self.driver.is_up(live.id, *track))
                })
                .collect(),
        }
    }

    fn track(&self, tracked: &Tracked, weight: i32, counts_as: Option<bool>) -> TrackStatus {
        let (kind, name, last) = match tracked {
            Tracked::Interface(name) => ("interface", name, counts_as.map(Finding::Success)),
            Tracked::Script(name) => {
                let last = self.running.scripts.get(name).and_then(|(_, check)| check.last);
                ("script", name, last.map(Finding::Success))
            }
            Tracked::Process(name) => {
                ("process", name, self.running.processes.get(name).and_then(|(_, look)| look.last))
            }
            Tracked::File(name) => {
                ("file", name, self.running.files.get(name).and_then(|(_, look)| look.last))
            }
        };
        let (up, number) = match last {
            Some(Finding::Success(up)) => (Some(up), None),
            Some(Finding::Number(number)) => (None, Some(number)),
            None => (None, None),
        };
        TrackStatus { name: name.clone(), kind: kind.to_owned(), weight, up, number }
    }
}

/// What of all that an instance tracks puts it at fault, in parentheses.
fn to_blame(
    live: &Live,
    driver: &Driver,
    files: &BTreeMap<String, (NumberFile, Look<NumberFile>)>,
) -> String {
    let blamed =
        live.tracks.iter().filter(|(tracked, check, track)| match (driver.is_up(live.id, *track), tracked) {
            (Some(up), _) => check.weight == Weight::FAULT && up == check.reverse,
            (None, Tracked::File(name)) => match files.get(name).and_then(|(_, look)| look.last) {
                Some(Finding::Number(number)) => {
                    let points = i64::from(number) * i64::from(check.weight.points());
                    points.abs() > 253 && (points < 0) != check.reverse
                }
                _ => false,
            },
            (None, _) => false,
        });
    let names: Vec<String> = blamed
        .map(|(tracked, _, _)| match tracked {
            Tracked::Interface(name) => format!("interface {name}"),
            Tracked::Script(name) => format!("script {name}"),
            Tracked::Process(name) => format!("process {name}"),
            Tracked::File(name) => format!("file {name}"),
        })
        .collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn tell(live: &mut Live, name: &str, told: Told, priority: u8, config: &Config) {
    live.told = Some(told);
    live.caller.tell(&live.definition.hooks, &config.global, "INSTANCE", name, told, priority);
}

/// Waits until there is something to do.
fn wait(
    driver: &Driver,
    signals: &Signals,
    control: &Control,
    wake: Option<Instant>,
) -> Result<(), nix::Error> {
    let readable = |source| PollFd::new(source, PollFlags::POLLIN);
    let mut sources = vec![readable(driver.as_fd())];
    sources.extend(control.door().map(readable));
    sources.extend(signals.sources().map(readable));
    sources.extend(control.guests().map(|guest| PollFd::new(guest, PollFlags::POLLOUT)));
    let timeout = match wake {
        None => PollTimeout::NONE,
        Some(at) => {
            // Rounded up, so that it is not too early when it wakes.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(&mut sources, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// What happened, in words.
fn said(notification: &Notification) -> String {
    match *notification {
        Notification::State { from, to: State::Initialize, reason: Reason::Operator } => {
            format!("{from} -> Initialize: stopped")
        }
        Notification::State { from, to, reason } => format!("{from} -> {to}: {}", why(reason)),
        Notification::Faults(faults) if faults.is_empty() => "no fault any more".to_owned(),
        Notification::Faults(faults) => format!("fault: {faults}"),
        Notification::Priority(priority) => format!("priority {priority}"),
        Notification::NewActive { address, priority } => format!("{address} is active, priority {priority}"),
        Notification::IntervalLearned(interval) => format!("the active router advertises every {interval}"),
        Notification::Conflict { kind, address } => format!("{address}: {kind}"),
        Notification::AddressRestored(address) => {
            format!("{address} was removed by another program and is put back")
        }
        ref other => format!("{other:?}"),
    }
}

fn why(reason: Reason) -> String {
    match reason {
        Reason::Operator => "started".to_owned(),
        Reason::Owner => "it owns the addresses".to_owned(),
        Reason::MasterDown => "no active router is heard".to_owned(),
        Reason::MasterLeft => "the active router left".to_owned(),
        Reason::Preempted => "the active router has a lower priority".to_owned(),
        Reason::HigherPriority(address) => format!("{address} has a higher priority"),
        Reason::GreaterAddress(address) => format!("{address} has the same priority and a greater address"),
        Reason::LateWake => "it was held up so long that others must have taken over".to_owned(),
        Reason::Fault(faults) => format!("fault: {faults}"),
        Reason::Recovered => "no fault any more".to_owned(),
        Reason::Group => "its group".to_owned(),
        other => format!("{other:?}"),
    }
}
