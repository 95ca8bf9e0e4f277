//! Machines that go to another host while they run.
//!
//! libvirt moves a machine in one call, which asks both hosts in turn, and sees to it itself that one copy runs in the end: the
//! target's goes on, and the source's is given up, before the call returns; or the source's goes on. So a thread makes the call, over
//! a connection of its own to the target, and there is little left to conclude. If the program that moves a machine ends meanwhile,
//! libvirt cancels that.
//!
//! The safe bindings (crate `virt`) can't cancel it, nor let a machine go over before all of its memory has: `virsh` is asked to.
//! Nor do they tell all that libvirt knows of it: rates are reckoned from what had gone over and what had not at two looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use virt::domain::{Domain, MigrateParameters};
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::connection::Connection;
use super::{LIBVIRT, Libvirt, state_of, undefine};
use crate::command::Program;
use crate::domain::{DiskDevice, DomainSpec};
use crate::error::VirtError;
use crate::libvirt::to_xml;
use crate::migration::{Conclusion, Control, Destination, Phase, Sample, Settings, Tls, Via};
use crate::state::{Operation, State};
use crate::wait::until;

/// Time between looks at whether a phase has changed.
const LOOK: Duration = Duration::from_millis(50);
/// Rates are taken over at least so long: between two rounds they say nothing.
const RATE_OVER: Duration = Duration::from_millis(200);

/// What is on its way, here and to here.
#[derive(Debug, Default)]
pub(super) struct Moves {
    outgoing: BTreeMap<String, Job>,
    incoming: BTreeSet<String>,
}

/// How a call has ended; `None` while it has not.
type Outcome = Arc<(Mutex<Option<Ended>>, Condvar)>;

#[derive(Clone, Debug)]
struct Ended {
    took: Duration,
    phase: Phase,
    /// How long it stood still.
    downtime: Option<Duration>,
}

/// A machine that is sent, or was, and is not concluded.
#[derive(Debug)]
struct Job {
    domain: Domain,
    outcome: Outcome,
    /// Whether it was asked to stay.
    cancelled: bool,
    /// As it was seen last.
    sample: Sample,
    /// What rates are reckoned from: when, what had gone over, what had still to. `None` before the first look.
    since: Option<(Duration, u64, u64)>,
}

impl Job {
    fn ended(&self) -> Option<Ended> {
        self.outcome.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end of the call, and at most so long.
    fn wait(&self, most: Duration) {
        let guard = self.outcome.0.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            drop(self.outcome.1.wait_timeout(guard, most));
        }
    }

    fn look(&mut self) -> Sample {
        if let Some(Ended { took, mut phase, downtime }) = self.ended() {
            // QEMU may have seen the connection close before it was told why.
            if self.cancelled && matches!(phase, Phase::Failed(_)) {
                phase = Phase::Cancelled;
            }
            if phase == Phase::Completed {
                self.sample.remaining = 0;
            }
            // The call has ended, and libvirt keeps both copies.
            if matches!(phase, Phase::Failed(_)) && is_stalled(&self.domain) {
                (phase, self.sample.post_copied) = (Phase::Stalled, true);
            }
            (self.sample.phase, self.sample.elapsed, self.sample.downtime) = (phase, took, downtime);
            return self.sample.clone();
        }
        let reason = match self.domain.get_state() {
            Ok((sys::VIR_DOMAIN_PAUSED, reason)) => reason.cast_unsigned(),
            _ => sys::VIR_DOMAIN_PAUSED_UNKNOWN,
        };
        self.sample.phase = match (reason, self.domain.get_job_info()) {
            (sys::VIR_DOMAIN_PAUSED_POSTCOPY, _) => Phase::PostCopy,
            (sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, _) => Phase::Stalled,
            (_, Ok(job)) if job.r#type.cast_unsigned() != sys::VIR_DOMAIN_JOB_NONE => {
                let known = |amount: Option<u64>| amount.unwrap_or(0);
                let elapsed = Duration::from_millis(known(job.time_elapsed));
                self.count(elapsed, known(job.mem_total), known(job.mem_processed), known(job.mem_remaining));
                match reason {
                    sys::VIR_DOMAIN_PAUSED_MIGRATION => Phase::Handover,
                    _ if self.sample.total == 0 => Phase::Setup,
                    _ => Phase::PreCopy,
                }
            }
            // It has not begun, or has ended, and the call's outcome says how.
            _ => self.sample.phase.clone(),
        };
        self.sample.post_copied |= matches!(self.sample.phase, Phase::PostCopy | Phase::Stalled);
        self.sample.clone()
    }

    fn count(&mut self, elapsed: Duration, total: u64, transferred: u64, remaining: u64) {
        let sample = &mut self.sample;
        // A round begins with what was written in the one before.
        if remaining > sample.remaining && sample.remaining > 0 {
            sample.rounds += 1;
        }
        (sample.elapsed, sample.total, sample.transferred, sample.remaining) =
            (elapsed, total, transferred, remaining);
        let (then, had_gone, had_to_go) = *self.since.get_or_insert((elapsed, transferred, remaining));
        let passed = elapsed.saturating_sub(then);
        if passed < RATE_OVER {
            return;
        }
        let rate = |bytes: u64| (bytes as f64 / passed.as_secs_f64()) as u64;
        let gone = transferred.saturating_sub(had_gone);
        sample.bandwidth = rate(gone);
        sample.dirty_rate = rate((remaining + gone).saturating_sub(had_to_go));
        let left = (sample.bandwidth > 0).then(|| remaining as f64 / sample.bandwidth as f64);
        sample.expected_downtime = left.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.since = Some((elapsed, transferred, remaining));
    }
}

/// Whether it is the source's copy of a machine whose post-copy has lost its connection.
fn is_stalled(domain: &Domain) -> bool {
    let stalled = (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED);
    domain.get_state().is_ok_and(|(state, reason)| (state, reason.cast_unsigned()) == stalled)
}

impl Moves {
    /// Whether a machine is on its way from here, and may only be paused, go on or lose its power.
    pub(super) fn sends(&self, name: &str) -> bool {
        self.outgoing.get(name).is_some_and(|job| job.ended().is_none())
    }

    /// Whether it has gone from here, and nobody has concluded that.
    pub(super) fn has_sent(&self, name: &str) -> bool {
        let completed = |job: &Job| job.ended().is_some_and(|ended| ended.phase == Phase::Completed);
        self.outgoing.get(name).is_some_and(completed)
    }
}

fn said(operation: String, words: impl Into<String>) -> VirtError {
    VirtError::Said { hypervisor: LIBVIRT, operation, words: words.into() }
}

impl Libvirt {
    /// Unless a machine is on its way, or the operation can be done then too.
    pub(super) fn may_while_moving(
        &self,
        name: &str,
        domain: &Domain,
        operation: Operation,
    ) -> Result<(), VirtError> {
        if operation == Operation::PowerOff {
            return match self.is_half(name, domain)? {
                true => Err(VirtError::Half { name: name.into() }),
                false => Ok(()),
            };
        }
        if self.arriving(name, domain)?.is_some() {
            return Err(VirtError::Moving { name: name.into(), operation: operation.to_string() });
        }
        let allowed = matches!(operation, Operation::Pause | Operation::Resume);
        if allowed { Ok(()) } else { self.must_stay(name, &operation.to_string()) }
    }

    /// Unless a machine is on its way. libvirt would wait half a minute, and refuse.
    pub(super) fn must_stay(&self, name: &str, operation: &str) -> Result<(), VirtError> {
        if self.moves.sends(name) || self.moves.has_sent(name) {
            return Err(VirtError::Moving { name: name.into(), operation: operation.into() });
        }
        Ok(())
    }

    pub(super) fn expect_machine(
        &mut self,
        running: &DomainSpec,
        defined: &DomainSpec,
        via: &Via,
    ) -> Result<Destination, VirtError> {
        for spec in [running, defined] {
            to_xml(spec, self.domain_type)?;
        }
        if let Via::Tcp { tls: Some(tls), .. } = via {
            check_tls(&running.name, tls)?;
        }
        self.must_be_new(running)?;
        self.moves.incoming.insert(running.name.clone());
        Ok(self.destination(via))
    }

    /// What a machine is to be sent to that comes here.
    pub(super) fn destination(&self, via: &Via) -> Destination {
        let own = &self.connection.uri;
        // A blank is in no URI.
        let (uri, tls) = match via {
            Via::Own => (own.clone(), None),
            Via::Tcp { address, port, tls } => {
                let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
                let port = if *port == 0 { String::new() } else { format!(":{port}") };
                (format!("{own} tcp://{host}{port}"), tls.clone())
            }
        };
        Destination { uri, tls }
    }

    pub(super) fn send_machine(
        &mut self,
        name: &str,
        to: &Destination,
        settings: &Settings,
    ) -> Result<(), VirtError> {
        self.must_stay(name, "send")?;
        let domain = self.connection.domain(name)?;
        self.may(name, &domain, Operation::MigrateLive)?;
        let spec = self.live(name, &domain)?.spec;
        to.tls.as_ref().map_or(Ok(()), |tls| check_tls(name, tls))?;
        let (target, over) = over(to)?;
        let bandwidth = settings.bandwidth.map(mebibytes);
        let bandwidth_postcopy = bandwidth.filter(|_| settings.post_copy);
        let parameters = MigrateParameters { bandwidth, bandwidth_postcopy, ..over };
        let mut flags =
            sys::VIR_MIGRATE_LIVE | sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
        let written = spec.disks.iter().filter(|disk| disk.device == DiskDevice::Disk && !disk.read_only);
        for (wanted, flag) in [
            (settings.auto_converge, sys::VIR_MIGRATE_AUTO_CONVERGE),
            (settings.post_copy, sys::VIR_MIGRATE_POSTCOPY),
            (to.tls.is_some(), sys::VIR_MIGRATE_TLS),
            // libvirt knows some shared file systems, and takes no one's word for others: here it does.
            (
                written.clone().next().is_some() && written.clone().all(|disk| disk.shared),
                sys::VIR_MIGRATE_UNSAFE,
            ),
        ] {
            flags |= if wanted { flag } else { 0 };
        }
        let downtime = domain.migrate_set_max_downtime(milliseconds(settings.downtime), 0);
        downtime.map_err(|error| self.connection.failed(name, "set the downtime of", &error))?;

        self.call(name, domain, target, parameters, flags)
    }

    /// Makes libvirt's call, in a thread of its own.
    pub(super) fn call(
        &mut self,
        name: &str,
        domain: Domain,
        target: Connection,
        parameters: MigrateParameters,
        flags: u32,
    ) -> Result<(), VirtError> {
        let outcome = Outcome::default();
        let (moved, ends, begun) = (domain.clone(), Arc::clone(&outcome), Instant::now());
        let call = move || {
            let phase = match moved.migrate3(target.get(), parameters, flags) {
                Ok(_) => Phase::Completed,
                Err(error) if error.code() == ErrorNumber::OperationAborted => Phase::Cancelled,
                Err(error) => Phase::Failed(error.message().into()),
            };
            let took = begun.elapsed();
            let downtime = if phase == Phase::Completed { downtime_of(&target.uri, &moved) } else { None };
            let ended = Ended { took, phase, downtime };
            *ends.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
            ends.1.notify_all();
        };
        let spawned = thread::Builder::new().name("libvirt-migration".into()).spawn(call);
        spawned.map_err(|error| said(format!("send {name}"), error.to_string()))?;
        let sample = Sample::new(Phase::Setup);
        let job = Job { domain, outcome, cancelled: false, sample, since: None };
        self.moves.outgoing.insert(name.into(), job);
        Ok(())
    }

    pub(super) fn migration_of(&mut self, name: &str, wait: Duration) -> Result<Option<Sample>, VirtError> {
        let end = until(wait);
        let mut first = None;
        loop {
            let sample = match self.moves.outgoing.get_mut(name) {
                Some(job) => job.look(),
                None => match self.arrival_of(name)? {
                    Some(phase) => Sample::new(phase),
                    None => {
                        // It has arrived, as one that never was elsewhere.
                        self.moves.incoming.remove(name);
                        return Ok(None);
                    }
                },
            };
            let left = end.saturating_duration_since(Instant::now());
            let before = first.get_or_insert_with(|| sample.phase.clone());
            if sample.phase.has_ended() || sample.phase != *before || left.is_zero() {
                return Ok(Some(sample));
            }
            match self.moves.outgoing.get(name) {
                Some(job) => job.wait(left.min(LOOK)),
                None => thread::sleep(left.min(LOOK)),
            }
        }
    }

    /// How far a machine is that comes here; `None` if it is here.
    fn arrival_of(&self, name: &str) -> Result<Option<Phase>, VirtError> {
        let Some(domain) = self.connection.find(name)? else {
            let expected = self.moves.incoming.contains(name);
            return if expected { Ok(Some(Phase::Setup)) } else { Err(self.connection.no_machine(name)) };
        };
        self.arriving(name, &domain)
    }

    /// How far a copy is that is not whole; on the source, one of which the last goes over.
    fn arriving(&self, name: &str, domain: &Domain) -> Result<Option<Phase>, VirtError> {
        let (state, reason) = domain
            .get_state()
            .map_err(|error| self.connection.failed(name, "ask for the state of", &error))?;
        Ok(match (state_of(state), reason.cast_unsigned()) {
            (State::Paused, sys::VIR_DOMAIN_PAUSED_MIGRATION | sys::VIR_DOMAIN_PAUSED_STARTING_UP) => {
                Some(Phase::PreCopy)
            }
            (State::Paused, sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED) => Some(Phase::Stalled),
            (State::Running, sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED) => Some(Phase::Stalled),
            _ => None,
        })
    }

    /// Whether a machine has begun to run elsewhere, and part of its memory is here alone.
    fn is_half(&self, name: &str, domain: &Domain) -> Result<bool, VirtError> {
        let (state, reason) = domain
            .get_state()
            .map_err(|error| self.connection.failed(name, "ask for the state of", &error))?;
        let reason = reason.cast_unsigned();
        let post_copy = [sys::VIR_DOMAIN_PAUSED_POSTCOPY, sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED];
        Ok(state_of(state) == State::Paused && post_copy.contains(&reason))
    }

    pub(super) fn control(&mut self, name: &str, control: Control) -> Result<(), VirtError> {
        let Some(job) = self.moves.outgoing.get(name) else {
            self.connection.domain(name)?;
            return Err(VirtError::NotMoving { name: name.into() });
        };
        let domain = &job.domain;
        let done = match control {
            Control::Cancel => self.virsh_of(name, domain, "domjobabort", &[]).map(drop),
            Control::PostCopy => self.virsh_of(name, domain, "migrate-postcopy", &[]).map(drop),
            Control::Downtime(time) => {
                self.steered(name, domain.migrate_set_max_downtime(milliseconds(time), 0))
            }
            Control::Bandwidth(rate) => {
                let to = |phase| domain.migrate_set_max_speed(mebibytes(rate), phase);
                self.steered(name, to(0).and_then(|_| to(sys::VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY)))
            }
            Control::Stop => self.steered(name, domain.suspend()),
        };
        // What came too late is none.
        let done = if done.is_err() && job.ended().is_some() { Ok(()) } else { done };
        if control == Control::Cancel
            && done.is_ok()
            && let Some(job) = self.moves.outgoing.get_mut(name)
        {
            job.cancelled = true;
        }
        done
    }

    fn steered(&self, name: &str, result: Result<u32, Error>) -> Result<(), VirtError> {
        result.map(drop).map_err(|error| self.connection.failed(name, "steer the migration of", &error))
    }

    pub(super) fn conclude_migration(&mut self, name: &str, conclusion: Conclusion) -> Result<(), VirtError> {
        let Some(job) = self.moves.outgoing.get(name) else { return self.conclude_arrival(name, conclusion) };
        let gives_up = conclusion == Conclusion::GiveUp;
        let run = || format!("run {name}");
        match job.ended().map(|ended| ended.phase) {
            None => {
                return Err(said(format!("conclude the migration of {name}"), "it is on its way: cancel it"));
            }
            // libvirt has given it up.
            Some(Phase::Completed) if gives_up => {
                self.moves.outgoing.remove(name);
                self.look_at(name);
                return Ok(());
            }
            Some(Phase::Completed) => {
                return Err(said(run(), "it runs on the target, and its copy here is gone"));
            }
            // Without its target's copy a machine is lost that has begun to run there.
            Some(_) if job.sample.post_copied && !gives_up => {
                return Err(said(run(), "it has run on the target since"));
            }
            Some(_) => {}
        }
        self.moves.outgoing.remove(name);
        match conclusion {
            Conclusion::GiveUp => self.give_up(name),
            // libvirt lets it do what it did before; it may have been stopped to end it.
            Conclusion::Run => self.make(name, State::Running),
            Conclusion::Pause => self.make(name, State::Paused),
        }
    }

    /// On the target. What is on its way ends with the sender's call; what has arrived is the only copy.
    fn conclude_arrival(&mut self, name: &str, conclusion: Conclusion) -> Result<(), VirtError> {
        if !self.moves.incoming.contains(name) {
            let domain = self.connection.domain(name)?;
            // Who sent it has ended before it was over there.
            if conclusion == Conclusion::GiveUp && self.is_half(name, &domain)? {
                return self.give_up(name);
            }
            return Err(VirtError::NotMoving { name: name.into() });
        }
        match (conclusion, self.arrival_of(name)?) {
            (Conclusion::GiveUp, Some(_)) => {
                self.moves.incoming.remove(name);
                Ok(())
            }
            (Conclusion::GiveUp, None) => {
                Err(said(format!("give up {name}"), "it has arrived, and is the only copy"))
            }
            (_, Some(phase)) => Err(said(format!("run {name}"), format!("its migration is at {phase}"))),
            (_, None) => {
                self.moves.incoming.remove(name);
                let state = if conclusion == Conclusion::Pause { State::Paused } else { State::Running };
                self.make(name, state)
            }
        }
    }

    /// Lets a machine run, or stand still, if it does not already.
    fn make(&mut self, name: &str, wanted: State) -> Result<(), VirtError> {
        let domain = self.connection.domain(name)?;
        let done = match (self.state_of(name, &domain)?, wanted) {
            (State::Paused, State::Running) => domain.resume(),
            (State::Running | State::Blocked, State::Paused) => domain.suspend(),
            _ => Ok(0),
        };
        done.map_err(|error| self.connection.failed(name, "conclude the migration of", &error))?;
        self.look_at(name);
        Ok(())
    }

    fn give_up(&mut self, name: &str) -> Result<(), VirtError> {
        let domain = self.connection.domain(name)?;
        let failed = |error: Error| self.connection.failed(name, "give up", &error);
        if domain.is_active().map_err(failed)? {
            domain.destroy().map_err(failed)?;
        }
        if let Some(domain) = self.connection.find(name)? {
            // The firmware's variables may be shared with the copy that stays.
            undefine(&domain, sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM).map_err(failed)?;
        }
        self.look_at(name);
        Ok(())
    }
}

/// How long a machine stood still that has arrived: `virsh` says it, if it is there.
fn downtime_of(target: &str, domain: &Domain) -> Option<Duration> {
    let uuid = domain.get_uuid_string().ok()?;
    let virsh = Program::new(LIBVIRT, "virsh", "libvirt-clients").timeout(Duration::from_secs(5));
    let call = virsh.call("ask for a downtime").args(["-q", "-c", target, "domjobinfo", "--completed"]);
    downtime_in(&call.args(["--rawstats", &uuid]).run().ok()?.text())
}

fn downtime_in(said: &str) -> Option<Duration> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix("downtime:"));
    line.and_then(|time| time.trim().parse().ok()).map(Duration::from_millis)
}

/// Whom a machine is sent to, and what over.
pub(super) fn over(to: &Destination) -> Result<(Connection, MigrateParameters), VirtError> {
    let (uri, over) = match to.uri.split_once(' ') {
        Some((uri, over)) => (uri, Some(over)),
        None => (&*to.uri, None),
    };
    let parameters = MigrateParameters {
        uri: over.map(Into::into),
        // There, and nowhere else.
        listen_address: over.and_then(address_of),
        tls_destination: to.tls.as_ref().and_then(|tls| tls.hostname.clone()),
        ..MigrateParameters::default()
    };
    Ok((Connection::open(uri)?, parameters))
}

/// libvirt's interface has no word for certificates: its daemons have theirs.
pub(super) fn check_tls(name: &str, tls: &Tls) -> Result<(), VirtError> {
    if tls.directory.as_os_str().is_empty() {
        return Ok(());
    }
    Err(VirtError::Inexpressible {
        name: name.into(),
        hypervisor: LIBVIRT,
        what: format!("certificates in {} for one migration", tls.directory.display()),
        cure: "leave the directory empty: libvirt takes those of migrate_tls_x509_cert_dir in /etc/libvirt/qemu.conf, by default \
               /etc/pki/qemu, on each host",
    })
}

/// The address in `tcp://192.0.2.7:49152` or `tcp://[2001:db8::7]:49152`.
fn address_of(uri: &str) -> Option<String> {
    let rest = uri.strip_prefix("tcp://")?;
    let address = match rest.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => rest.split(':').next(),
    };
    address.map(Into::into)
}

/// libvirt counts rates in MiB/s; none at all is no limit there.
fn mebibytes(rate: u64) -> u64 {
    rate.div_ceil(1 << 20).max(1)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found() {
        for (uri, address) in [
            ("tcp://192.0.2.7", Some("192.0.2.7")),
            ("tcp://192.0.2.7:49152", Some("192.0.2.7")),
            ("tcp://[2001:db8::7]", Some("2001:db8::7")),
            ("tcp://[2001:db8::7]:49152", Some("2001:db8::7")),
            ("unix:///a", None),
        ] {
            assert_eq!(address_of(uri).as_deref(), address, "{uri}");
        }
    }

    #[test]
    fn certificates_are_libvirts_own() {
        let tls = |directory: &str| Tls { directory: directory.into(), hostname: None };
        assert!(check_tls("web1", &tls("")).is_ok());
        let refused = check_tls("web1", &tls("/etc/pki/other")).unwrap_err().to_string();
        for said in ["web1", "/etc/pki/other", "leave the directory empty", "migrate_tls_x509_cert_dir"] {
            assert!(refused.contains(said), "{refused}: {said}");
        }
    }

    #[test]
    fn downtimes_are_found() {
        assert_eq!(downtime_in("memory_total: 7\n downtime: 34\n"), Some(Duration::from_millis(34)));
        assert_eq!(downtime_in("downtime_net: 3\n"), None);
    }

    #[test]
    fn rates_are_rounded_up_and_never_unlimited() {
        assert_eq!([0, 1, 1 << 20, (1 << 20) + 1].map(mebibytes), [1, 1, 1, 2]);
        assert_eq!([0, 1500].map(|micros| milliseconds(Duration::from_micros(micros))), [1, 1]);
    }
}
