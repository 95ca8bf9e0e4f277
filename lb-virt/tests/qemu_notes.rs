//! What is written down of QEMU's machines: when it can't be read, and when several programs write at once. No QEMU runs here.
#![cfg(feature = "qemu")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use lb_virt::domain::{Disk, Source};
use lb_virt::hypervisor::{CloneRequest, EventKind};
use lb_virt::{DomainSpec, Hypervisor, Memory, Qemu, State, VirtError};

/// A directory of machines.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    /// With machines that have no disks.
    fn with(names: &[&str]) -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap() };
        names.iter().for_each(|name| host.open().define(&spec(name)).unwrap());
        host
    }

    fn open(&self) -> Qemu {
        Qemu::open(self.directory.path()).unwrap().accelerated(false)
    }

    fn file(&self, machine: &str, file: &str) -> PathBuf {
        self.directory.path().join("machines").join(machine).join(file)
    }
}

/// A process that goes with the test.
struct Other(Child);

impl Other {
    /// With this on its command line.
    fn named(path: &Path) -> Self {
        let process = Self(Command::new("sleep").arg0(path).arg("60").stdout(Stdio::null()).spawn().unwrap());
        // The kernel says so a moment after it has begun.
        while fs::read(format!("/proc/{}/cmdline", process.0.id())).unwrap().is_empty() {
            sleep(Duration::from_millis(1));
        }
        process
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spec(name: &str) -> DomainSpec {
    DomainSpec::new(name, 1, Memory::from_mib(64))
}

fn states(host: &mut Qemu) -> Vec<(String, State)> {
    host.list().unwrap().into_iter().map(|one| (one.name, one.state)).collect()
}

#[test]
fn one_machine_that_can_t_be_read_hides_no_other() {
    let lab = Host::with(&["web1", "web2"]);
    let mut host = lab.open();
    fs::write(lab.file("web1", "definition.json"), "{").unwrap();
    let expected = [("web1".to_owned(), State::Unknown), ("web2".to_owned(), State::ShutOff)];
    assert_eq!(states(&mut host), expected);
    assert_eq!(states(&mut lab.open()), expected);
    assert_eq!(host.next_event(Duration::ZERO).unwrap(), None);
    host.define(&spec("web3")).unwrap();
    assert!(
        matches!(host.state("web1"), Err(VirtError::Broken { path, .. }) if path.ends_with("definition.json"))
    );
}

#[test]
fn what_can_t_be_read_can_be_discarded_if_nothing_of_it_runs() {
    let lab = Host::with(&["web1", "web2", "web3"]);
    let mut host = lab.open();
    let refused = |result: Result<(), VirtError>, words: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, VirtError::Said { .. }) && error.to_string().contains(words), "{error}");
    };
    refused(host.discard("web1"), "its definition can be read: delete it");
    assert!(matches!(host.discard("none"), Err(VirtError::NoMachine { .. })));
    for (name, broken) in [("web1", Some("{")), ("web2", Some("")), ("web3", None)] {
        let definition = lab.file(name, "definition.json");
        match broken {
            Some(text) => fs::write(definition, text).unwrap(),
            None => fs::remove_file(definition).unwrap(),
        }
        let error = host.delete(name).unwrap_err().to_string();
        assert!(broken.is_none() || error.contains("`machines delete --broken`"), "{error}");
        // What its process would have in its command line.
        let pid = lab.file(name, "pid");
        let process = Other::named(&pid);
        refused(host.discard(name), &format!("its process {} runs", process.0.id()));
        assert!(lab.file(name, "lock").exists());
        drop(process);
        host.discard(name).unwrap();
        assert!(matches!(host.discard(name), Err(VirtError::NoMachine { .. })));
        // Its name is free.
        host.define(&spec(name)).unwrap();
        assert_eq!(host.state(name).unwrap(), State::ShutOff);
    }
    assert_eq!(fs::read_dir(lab.directory.path().join("machines")).unwrap().count(), 3);
}

#[test]
fn a_note_of_a_run_that_the_power_cut_emptied_is_of_one_that_has_ended() {
    for (crashed, half) in [(false, ""), (true, ""), (true, "{\"process\":"), (false, "\0\0\0\0")] {
        let lab = Host::with(&["web1"]);
        fs::write(lab.file("web1", "run.json"), half).unwrap();
        if crashed {
            fs::write(lab.file("web1", "pid"), "1").unwrap();
        }
        let state = if crashed { State::Crashed } else { State::ShutOff };
        assert_eq!(lab.open().state("web1").unwrap(), state, "{half:?}");
        assert!(!lab.file("web1", "run.json").exists());
        lab.open().delete("web1").unwrap();
    }
    // A copy that was not told to run is none then: the machine is where it was.
    let lab = Host::with(&["web1"]);
    fs::write(lab.file("web1", "run.json"), "").unwrap();
    fs::write(lab.file("web1", "waits"), "").unwrap();
    assert_eq!(states(&mut lab.open()), []);
}

#[test]
fn who_has_an_identity_is_named() {
    let lab = Host::with(&["web1"]);
    let mut host = lab.open();
    let taken = host.spec("web1").unwrap().uuid;
    let error = host.define(&DomainSpec { uuid: taken, ..spec("web2") }).unwrap_err();
    let VirtError::UuidTaken { name, uuid, holder, .. } = error else { panic!("{error:?}") };
    assert_eq!((name.as_str(), Some(uuid), holder.as_str()), ("web2", taken, "web1"));
    let error = host.define(&DomainSpec { uuid: taken, ..spec("web1") }).unwrap_err();
    assert!(matches!(error, VirtError::MachineExists { .. }), "{error:?}");
}

#[test]
fn what_another_program_makes_and_removes_is_told_to_who_waits_for_ever() {
    let lab = Host::with(&["old"]);
    let mut host = lab.open();
    let told = |host: &mut Qemu| {
        let event = host.next_event(Duration::MAX).unwrap().unwrap();
        (event.machine, event.kind)
    };
    let mut other = lab.open();
    other.define(&spec("web1")).unwrap();
    assert_eq!(told(&mut host), ("web1".to_owned(), EventKind::Defined));
    other.delete("web1").unwrap();
    assert_eq!(told(&mut host), ("web1".to_owned(), EventKind::Deleted));
    // Also if it was seen before it was waited for.
    other.define(&spec("web2")).unwrap();
    assert_eq!(host.state("web2").unwrap(), State::ShutOff);
    assert_eq!(told(&mut host), ("web2".to_owned(), EventKind::Defined));
    assert_eq!(host.next_event(Duration::ZERO).unwrap(), None);
}

#[test]
fn who_waits_for_events_does_not_wait_for_another_programs_work() {
    let lab = Host::with(&["web1", "web2"]);
    let (mut host, mut other) = (lab.open(), lab.open());
    let held = File::open(lab.file("web1", "lock")).unwrap();
    held.lock().unwrap();
    assert_eq!(host.next_event(Duration::from_millis(20)).unwrap(), None);
    other.delete("web2").unwrap();
    let event = host.next_event(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((event.machine.as_str(), event.kind), ("web2", EventKind::Deleted));
}

#[test]
fn a_clone_of_a_drive_is_a_drive() {
    let lab = Host::with(&[]);
    let mut host = lab.open();
    let disc = lab.directory.path().join("disc.iso");
    fs::write(&disc, "a disc").unwrap();
    let drive = |source: Option<Source>| Disk { source, read_only: false, ..Disk::cdrom(&disc) };
    let drives = spec("web1").disk(drive(None)).disk(drive(Some(Source::File(disc.clone()))));
    host.define(&drives).unwrap();
    let directory = lab.directory.path().into();
    host.clone_machine("web1", &CloneRequest { name: "web2".into(), directory, linked: false }).unwrap();
    let disks = host.spec("web2").unwrap().disks;
    assert_eq!(
        disks.iter().map(|disk| disk.source.clone()).collect::<Vec<_>>(),
        [None, Some(Source::File(disc))]
    );
}
