//! Goes on with a post-copy that has lost its connection.
//!
//! Both QEMUs keep what they have then: the target's guest runs until it needs a page that has not come, the source's stands still for
//! good. The target is told where to wait anew, and the source to send what is missing there. A target whose main loop waits for such a
//! page itself answers nothing but what it is told out of band.
//!
//! Source: QEMU's QMP reference (`migrate-pause`, `migrate-recover`, `migrate`), and its document on post-copy.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::moving::{ANSWER, BEGIN, bracketed};
use super::qmp::QmpError;
use super::{Qemu, transfer};
use crate::error::VirtError;
use crate::migration::{Destination, Phase, Via};
use crate::qemu::machine::Machine;

const OPERATION: &str = "recover";
/// Time between looks at a QEMU that is about to notice something.
const LOOK: Duration = Duration::from_millis(5);
/// In so many looks, one after the other, threads that have noticed sleep.
const RESTED: u32 = 4;
/// Why a source is not broken off that has nothing more to send: QEMU (7.2) waits then for the word that all has arrived, for ever if
/// the connection breaks.
const SENT: &str =
    "all of its memory has been sent, and what has not arrived can't be sent again: let the network carry it";

/// Whether a source has nothing more to send, by its answer to `query-migrate`.
fn has_sent_all(answer: &Value) -> bool {
    answer["ram"]["remaining"] == 0
}

/// Whether a thread of QEMU's has to do with a post-copy's connection, by its name: as 7.2 calls them, and as later ones do.
fn is_of_migration(name: &str) -> bool {
    ["live_migration", "return path", "postcopy/", "mig/"].iter().any(|kind| name.starts_with(kind))
}

impl Machine {
    /// Tells QEMU something that it does whatever its main loop waits for.
    fn tell_at_once(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let patience = self.patience;
        self.with_qmp(patience, |qmp| qmp.execute_at_once(command, arguments, patience))
    }

    /// What it says when asked, if its main loop answers.
    fn asked(&mut self, command: &str) -> Result<Option<Value>, VirtError> {
        let answer = self.with_qmp(ANSWER, |qmp| qmp.execute(command, json!({}), ANSWER));
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(QmpError::Timeout { .. }) => Ok(None),
            Err(error) => Err(error.while_it(format!("{OPERATION} {}: {command}", self.name()))),
        }
    }

    /// Sees to it that its post-copy stands: what nobody has said to be broken is broken off.
    fn stall(&mut self, outgoing: bool) -> Result<(), VirtError> {
        let end = Instant::now() + BEGIN.max(self.patience);
        loop {
            let answer = self.asked("query-migrate")?;
            let status = answer.as_ref().and_then(|answer| answer["status"].as_str());
            match (&answer, status) {
                (Some(_), Some("postcopy-paused")) => break,
                (Some(answer), Some("postcopy-active")) if outgoing && has_sent_all(answer) => {
                    return Err(self.says(OPERATION, SENT));
                }
                // It waits for what it lacks, or is about to: it is told, and what it was told before does no harm.
                (None, _) if !outgoing => drop(self.tell_at_once("migrate-pause", json!({}))),
                // It may break by itself meanwhile: the next look says so.
                (Some(_), Some("postcopy-active")) => drop(self.tell_at_once("migrate-pause", json!({}))),
                (Some(_), Some("postcopy-recover")) | (None, _) => {}
                (Some(answer), _) => {
                    let phase = transfer::phase(answer, false);
                    return Err(self.says(OPERATION, format!("its migration is at {phase}")));
                }
            }
            if !outgoing && answer.is_none() {
                // Whether it stands it does not say. What it is told to wait for is refused until then.
                break;
            }
            if Instant::now() >= end {
                return Err(self.says(OPERATION, "its connection was broken off, and it has not noticed"));
            }
            sleep(LOOK);
        }
        self.comes_to_rest(end);
        Ok(())
    }

    /// Waits until all threads of its migration have noticed that the connection is gone. QEMU (7.2) says so when the first has, and
    /// ends by a bad access if there is a new one before the others have let go of the old.
    fn comes_to_rest(&self, end: Instant) {
        let Some(process) = self.process() else { return };
        let mut rested = 0;
        while rested < RESTED && Instant::now() < end {
            sleep(LOOK);
            rested = if process.sleeps(is_of_migration) { rested + 1 } else { 0 };
        }
    }

    /// Lets it wait for the rest of its machine. QEMU refuses that until its post-copy stands.
    fn awaits_rest(&mut self, waits_at: &str) -> Result<(), VirtError> {
        let end = Instant::now() + BEGIN.max(self.patience);
        loop {
            match self.tell_at_once("migrate-recover", json!({"uri": waits_at})) {
                Ok(_) => return Ok(()),
                Err(QmpError::Refused { words, .. }) if words.contains("paused") && Instant::now() < end => {
                    sleep(LOOK);
                }
                Err(error) => return Err(error.while_it(format!("{OPERATION} {}", self.name()))),
            }
        }
    }

    /// Its QEMU encrypts, or does not, as it did before.
    fn must_be_as_before(&mut self, encrypted: bool) -> Result<(), VirtError> {
        let Some(answer) = self.asked("query-migrate-parameters")? else { return Ok(()) };
        let before = answer["tls-creds"].as_str().is_some_and(|credentials| !credentials.is_empty());
        match (before, encrypted) {
            (true, false) => Err(self.says(OPERATION, "it was encrypted before: give the same certificates")),
            (false, true) => Err(self.says(OPERATION, "it was not encrypted before, and can't be now")),
            _ => Ok(()),
        }
    }
}

impl Qemu {
    pub(super) fn receive_rest_of(&mut self, name: &str, via: &Via) -> Result<Destination, VirtError> {
        let mut machine = self.hold_stalled(name, false)?;
        let encrypted = matches!(via, Via::Tcp { tls: Some(_), .. });
        machine.must_be_as_before(encrypted)?;
        let (waits_at, to) = match via {
            Via::Own => machine.own_way()?,
            Via::Tcp { address, port, tls } => {
                let uri = format!("tcp:{}:{port}", bracketed(*address));
                (uri.clone(), Destination { uri, tls: tls.clone() })
            }
        };
        machine.awaits_rest(&waits_at)?;
        match via {
            Via::Tcp { address, port: 0, .. } => {
                let port = machine.chosen_port(OPERATION, 0)?;
                Ok(Destination { uri: format!("tcp:{}:{port}", bracketed(*address)), ..to })
            }
            _ => Ok(to),
        }
    }

    pub(super) fn send_rest_of(&mut self, name: &str, to: &Destination) -> Result<(), VirtError> {
        let mut machine = self.hold_stalled(name, true)?;
        machine.must_be_as_before(to.tls.is_some())?;
        let uri = machine.reachable(to)?;
        machine.tell(OPERATION, "migrate", json!({"uri": uri, "resume": true}))?;
        Ok(())
    }

    /// Holds a machine whose post-copy stands.
    fn hold_stalled(&mut self, name: &str, outgoing: bool) -> Result<Machine, VirtError> {
        let mut machine = self.hold(name, OPERATION)?;
        self.listen_to(&mut machine);
        let lives = match machine.process().cloned() {
            Some(process) => process.lives().map_err(machine.unseen(&process))?,
            None => false,
        };
        if !lives || machine.moving().is_none_or(|moving| moving.outgoing != outgoing) {
            return Err(VirtError::NotMoving { name: name.into() });
        }
        machine.stall(outgoing)?;
        // It is told anew when it changes.
        self.events.is_at(name, Some(&Phase::Stalled));
        Ok(machine)
    }
}
