//! Keeps what a machine was: in its own images, which must be qcow2, and what it was defined as beside them.
//!
//! A machine that runs keeps its memory too, in its first image. Going back to that is a new start of QEMU as it was then.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::arguments::{QEMU, node_name};
use super::machine::Machine;
use crate::command::Program;
use crate::domain::{DomainSpec, Format};
use crate::error::VirtError;
use crate::hypervisor::Snapshot;

/// How long it may take to write or read a machine's memory.
const PATIENCE: Duration = Duration::from_secs(600);

/// A snapshot, and what it goes back to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Kept {
    pub(super) snapshot: Snapshot,
    pub(super) spec: DomainSpec,
    /// How it ran; `None`: it did not.
    pub(super) running: Option<DomainSpec>,
}

/// What a snapshot is called in an image: a name that is only digits would be taken for a number.
fn tag(snapshot: &str) -> String {
    format!("lb-{snapshot}")
}

/// The program that works on images which no QEMU uses.
pub(super) fn qemu_img() -> Program {
    Program::new(QEMU, "qemu-img", "qemu-utils").timeout(PATIENCE)
}

/// The images that a snapshot is in.
fn images(spec: &DomainSpec) -> Result<Vec<(String, &Path)>, VirtError> {
    let written = spec.disks.iter().filter(|disk| !disk.read_only);
    let mut images = Vec::new();
    for disk in written {
        if let (Format::Qcow2, Some(source)) = (disk.format, &disk.source) {
            images.push((node_name(&disk.target), source.path().as_path()));
        } else {
            let words = format!("disk {} is {}: only qcow2 images keep snapshots", disk.target, disk.format);
            let operation = format!("take a snapshot of {}", spec.name);
            return Err(VirtError::Said { hypervisor: QEMU, operation, words });
        }
    }
    Ok(images)
}

impl Machine {
    pub(super) fn kept(&self) -> Result<Vec<Kept>, VirtError> {
        Ok(self.place.read("snapshots.json")?.unwrap_or_default())
    }

    pub(super) fn find_kept(&self, snapshot: &str) -> Result<Kept, VirtError> {
        let kept = self.kept()?.into_iter().find(|kept| kept.snapshot.name == snapshot);
        kept.ok_or_else(|| VirtError::NoPart {
            name: self.name().into(),
            what: "snapshot",
            part: snapshot.into(),
        })
    }

    /// Keeps it under a name that is not taken.
    pub(super) fn keep(&mut self, snapshot: Snapshot) -> Result<(), VirtError> {
        let mut all = self.kept()?;
        let running = self.run.as_ref().map(|run| run.spec.clone());
        let name = snapshot.name.clone();
        if running.is_some() {
            let nodes = self.nodes()?;
            let Some(first) = nodes.first() else {
                let words = "it has no disk that its memory could be kept in: give it a qcow2 image";
                let operation = format!("take a snapshot of {}", self.name());
                return Err(VirtError::Said { hypervisor: QEMU, operation, words: words.into() });
            };
            let arguments = json!({"tag": tag(&name), "vmstate": first, "devices": nodes});
            self.job("take a snapshot", "snapshot-save", arguments)?;
        } else {
            self.on_images("take a snapshot", "-c", &name, true)?;
        }
        all.push(Kept { snapshot, spec: self.spec.clone(), running });
        let written = self.place.write("snapshots.json", &all);
        if written.is_err() {
            let _ = self.forget_in_images(&name);
        }
        written
    }

    /// Forgets a snapshot that there is.
    pub(super) fn forget(&mut self, snapshot: &str) -> Result<(), VirtError> {
        self.forget_in_images(snapshot)?;
        let mut all = self.kept()?;
        all.retain(|kept| kept.snapshot.name != snapshot);
        self.place.write("snapshots.json", &all)
    }

    fn forget_in_images(&mut self, snapshot: &str) -> Result<(), VirtError> {
        if self.run.is_some() {
            let nodes = self.nodes()?;
            let arguments = json!({"tag": tag(snapshot), "devices": nodes});
            self.job("delete a snapshot", "snapshot-delete", arguments)
        } else {
            self.on_images("delete a snapshot", "-d", snapshot, false)
        }
    }

    /// Makes the disks of a machine at rest what they were.
    pub(super) fn restore_images(&mut self, snapshot: &str) -> Result<(), VirtError> {
        self.on_images("restore a snapshot", "-a", snapshot, false)
    }

    /// Makes a machine that was launched what it was.
    pub(super) fn load(&mut self, snapshot: &str) -> Result<(), VirtError> {
        let nodes = self.nodes()?;
        let arguments = json!({"tag": tag(snapshot), "vmstate": nodes.first(), "devices": nodes});
        self.job("restore a snapshot", "snapshot-load", arguments)
    }

    /// The names of the disks' data that snapshots are in.
    fn nodes(&self) -> Result<Vec<String>, VirtError> {
        Ok(images(self.live())?.into_iter().map(|(node, _)| node).collect())
    }

    /// Runs qemu-img on each image. `undo`: what was made is removed if one fails.
    fn on_images(&self, operation: &str, flag: &str, snapshot: &str, undo: bool) -> Result<(), VirtError> {
        let spec = &self.spec;
        let images = images(spec)?;
        let program = qemu_img();
        let run = |flag: &str, path: &Path| {
            let call = program.call(format!("{operation} of {}", self.name()));
            let call = call.args(["snapshot", flag, &tag(snapshot)]).arg(path);
            call.run().map(drop).map_err(|error| match error {
                VirtError::Said { operation, words, .. } => {
                    super::launch::complaint(spec, format!("{} ({})", words, path.display()), &operation)
                }
                other => other,
            })
        };
        for (done, (_, path)) in images.iter().enumerate() {
            if let Err(error) = run(flag, path) {
                for (_, path) in images[..done].iter().filter(|_| undo) {
                    let _ = run("-d", path);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets QEMU do something that takes long, and waits until it is done.
    fn job(&mut self, operation: &str, command: &str, mut arguments: Value) -> Result<(), VirtError> {
        const JOB: &str = "snapshot";
        arguments["job-id"] = json!(JOB);
        self.tell(operation, command, arguments)?;
        let end = Instant::now() + PATIENCE;
        let mut wait = Duration::from_millis(1);
        let error = loop {
            let jobs = self.tell(operation, "query-jobs", json!({}))?;
            let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == JOB).cloned();
            // A version that forgets what is done has done it.
            let Some(job) = job else { return Ok(()) };
            if job["status"] == "concluded" {
                break job["error"].as_str().map(ToOwned::to_owned);
            }
            if Instant::now() >= end {
                let operation = format!("{operation} of {}", self.name());
                return Err(VirtError::Timeout { hypervisor: QEMU, operation, after: PATIENCE });
            }
            sleep(wait);
            wait = (wait * 2).min(Duration::from_millis(50));
        };
        self.tell(operation, "job-dismiss", json!({"id": JOB}))?;
        error.map_or(Ok(()), |words| {
            let operation = format!("{operation} of {}", self.name());
            Err(super::launch::complaint(self.live(), words, &operation))
        })
    }
}

/// Since 1970.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
