//! Keeps what a machine was: in its own images, which must be qcow2, and what it was defined as beside them.
//!
//! A machine that runs keeps its memory too, in its first image. Going back to that is a new start of QEMU as it was then.

use std::fs::OpenOptions;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::arguments::{QEMU, node_name};
use super::machine::Machine;
use super::store::failed;
use crate::command::Program;
use crate::domain::{Disk, DomainSpec, Format};
use crate::error::VirtError;
use crate::hypervisor::Snapshot;

/// How long it may take to write or read a machine's memory.
const PATIENCE: Duration = Duration::from_secs(600);

/// How jobs are called.
const JOB: &str = "snapshot";

/// A snapshot, and what it goes back to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Kept {
    pub(super) snapshot: Snapshot,
    pub(super) spec: DomainSpec,
    /// How it ran; `None`: it did not.
    pub(super) running: Option<DomainSpec>,
}

impl Kept {
    /// The definition whose images it is in.
    fn as_it_was(&self) -> &DomainSpec {
        self.running.as_ref().unwrap_or(&self.spec)
    }
}

/// What a snapshot is called in an image: a name that is only digits would be taken for a number.
fn tag(snapshot: &str) -> String {
    format!("lb-{snapshot}")
}

/// The program that works on images which no QEMU uses.
pub(super) fn qemu_img() -> Program {
    Program::new(QEMU, "qemu-img", "qemu-utils").timeout(PATIENCE)
}

/// The images that a snapshot is in, by the names of their data.
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
            self.on_images("take a snapshot", "-c", &self.spec, &name, true)?;
        }
        let kept = Kept { snapshot, spec: self.spec.clone(), running };
        all.push(kept.clone());
        let written = self.place.write("snapshots.json", &all);
        if written.is_err() {
            let _ = self.forget(&kept);
        }
        written
    }

    /// Forgets a snapshot that there is. The images that it is in need not be the machine's any more, nor be there.
    pub(super) fn forget(&mut self, kept: &Kept) -> Result<(), VirtError> {
        const OPERATION: &str = "delete a snapshot";
        let snapshot = &kept.snapshot.name;
        let mut live = match &self.run {
            Some(run) => run.spec.disks.clone(),
            None => Vec::new(),
        };
        for (_, path) in images(kept.as_it_was())? {
            let image = |disk: &Disk| disk.source.as_ref().is_some_and(|source| source.path() == path);
            if !path.exists() {
                continue;
            }
            let Some(at) = live.iter().position(image) else {
                if self.holds(path, snapshot, false)? {
                    self.on_image(OPERATION, "-d", path, snapshot)?;
                }
                continue;
            };
            if self.holds(path, snapshot, true)? {
                let arguments =
                    json!({"tag": tag(snapshot), "devices": [node_name(&live.remove(at).target)]});
                self.job(OPERATION, "snapshot-delete", arguments)?;
            }
        }
        let mut all = self.kept()?;
        all.retain(|kept| kept.snapshot.name != *snapshot);
        self.place.write("snapshots.json", &all)
    }

    /// That all images are there that a snapshot is in, and have it, before anything is changed.
    pub(super) fn has_images_of(&self, kept: &Kept) -> Result<(), VirtError> {
        let used = |path: &Path| {
            let disks = self.run.iter().flat_map(|run| &run.spec.disks);
            disks.filter_map(|disk| disk.source.as_ref()).any(|source| source.path() == path)
        };
        for (_, path) in images(kept.as_it_was())? {
            OpenOptions::new().read(true).write(true).open(path).map_err(failed(self.name(), path))?;
            if !self.holds(path, &kept.snapshot.name, used(path))? {
                let operation = format!("restore a snapshot of {}", self.name());
                let words = format!("{} has no snapshot {} any more", path.display(), kept.snapshot.name);
                return Err(VirtError::Said { hypervisor: QEMU, operation, words });
            }
        }
        Ok(())
    }

    /// Whether a snapshot is in an image; `used`: this machine's QEMU has it open.
    fn holds(&self, path: &Path, snapshot: &str, used: bool) -> Result<bool, VirtError> {
        let program = qemu_img();
        let call = program.call(format!("look at the snapshots of {}", self.name()));
        let call = call.args(["info", "--output=json"]).args(used.then_some("-U")).arg(path);
        let said = call.run().map_err(|error| self.about(path, error))?.text();
        let image: Value = serde_json::from_str(&said).unwrap_or_default();
        let mut all = image["snapshots"].as_array().into_iter().flatten();
        Ok(all.any(|one| one["name"] == tag(snapshot)))
    }

    /// Makes the disks of a machine at rest what they were.
    pub(super) fn restore_images(&mut self, spec: &DomainSpec, snapshot: &str) -> Result<(), VirtError> {
        self.on_images("restore a snapshot", "-a", spec, snapshot, false)
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
    fn on_images(
        &self,
        operation: &str,
        flag: &str,
        spec: &DomainSpec,
        snapshot: &str,
        undo: bool,
    ) -> Result<(), VirtError> {
        let images = images(spec)?;
        for (done, (_, path)) in images.iter().enumerate() {
            if let Err(error) = self.on_image(operation, flag, path, snapshot) {
                for (_, path) in images[..done].iter().filter(|_| undo) {
                    let _ = self.on_image(operation, "-d", path, snapshot);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn on_image(&self, operation: &str, flag: &str, path: &Path, snapshot: &str) -> Result<(), VirtError> {
        let program = qemu_img();
        let call = program.call(format!("{operation} of {}", self.name()));
        let call = call.args(["snapshot", flag, &tag(snapshot)]).arg(path);
        call.run().map(drop).map_err(|error| self.about(path, error))
    }

    /// What qemu-img said of an image.
    fn about(&self, path: &Path, error: VirtError) -> VirtError {
        match error {
            VirtError::Said { operation, words, .. } => {
                let mut spec = self.spec.clone();
                spec.disks = vec![Disk::file(path)];
                super::launch::complaint(&spec, format!("{words} ({})", path.display()), &operation)
            }
            other => other,
        }
    }

    /// Lets QEMU do something that takes long, and waits until it is done: it answers nothing meanwhile.
    fn job(&mut self, operation: &str, command: &str, arguments: Value) -> Result<(), VirtError> {
        let patience = std::mem::replace(&mut self.patience, PATIENCE);
        let done = self.job_patiently(operation, command, arguments);
        self.patience = patience;
        done
    }

    fn job_patiently(
        &mut self,
        operation: &str,
        command: &str,
        mut arguments: Value,
    ) -> Result<(), VirtError> {
        // Who was told to do it has ended before it was done.
        let jobs = self.tell(operation, "query-jobs", json!({}))?;
        let ours = |job: &&Value| job["id"].as_str().is_some_and(|id| id.starts_with(JOB));
        for job in jobs.as_array().into_iter().flatten().filter(ours) {
            if job["status"] == "concluded" {
                self.tell(operation, "job-dismiss", json!({"id": job["id"]}))?;
            }
        }
        let job_id = format!("{JOB}-{}", now().as_nanos());
        arguments["job-id"] = json!(job_id);
        self.tell(operation, command, arguments)?;
        let end = Instant::now() + PATIENCE;
        let mut wait = Duration::from_millis(1);
        let error = loop {
            let jobs = self.tell(operation, "query-jobs", json!({}))?;
            let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == job_id).cloned();
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
        self.tell(operation, "job-dismiss", json!({"id": job_id}))?;
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
