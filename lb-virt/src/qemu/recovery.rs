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
    fn stall(&mut self) -> Result<(), VirtError> {
        let end = Instant::now() + BEGIN;
        let mut told = false;
        loop {
            let Some(answer) = self.asked("query-migrate")? else {
                // It waits for what it lacks, or is about to: it is told, and what it was told before does no harm.
                let _ = self.tell_at_once("migrate-pause", json!({}));
                return Ok(());
            };
            match answer["status"].as_str() {
                Some("postcopy-paused") => return Ok(()),
                Some("postcopy-active") if !told => {
                    told = true;
                    // It may break by itself meanwhile: the next look says so.
                    let _ = self.tell_at_once("migrate-pause", json!({}));
                }
                Some("postcopy-active" | "postcopy-recover") if Instant::now() < end => {}
                _ => {
                    let phase = transfer::phase(&answer, false);
                    return Err(self.says(OPERATION, format!("its migration is at {phase}")));
                }
            }
            sleep(Duration::from_millis(5));
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
        machine
            .tell_at_once("migrate-recover", json!({"uri": waits_at}))
            .map_err(|error| error.while_it(format!("{OPERATION} {name}")))?;
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
        machine.stall()?;
        // It is told anew when it changes.
        self.events.is_at(name, Some(&Phase::Stalled));
        Ok(machine)
    }
}
