//! Directories of QEMU's machines that go with the test, and everything that runs in them.
#![allow(dead_code, unreachable_pub)] // no one file of tests needs it all

use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lb_virt::domain::{Console, Disk};
use lb_virt::migration::Sample;
use lb_virt::qemu::qmp::Qmp;
use lb_virt::{DomainSpec, Hypervisor, Memory, Qemu, State, VirtError};
use serde_json::json;

use super::guest;

/// Ends whatever QEMU has noted its process in a directory below `$0`, when its input ends or after 15 minutes. The process must
/// still have the directory in its command line.
const WATCH: &str = r#"
timeout 900 cat >/dev/null
for note in "$0"/*/machines/*/pid "$0"/*/machines/.*/pid; do
    [ -e "$note" ] || continue
    pid=$(cat "$note")
    grep -q "$0" "/proc/$pid/cmdline" && kill -9 "$pid"
done
rm -rf "$0"
"#;

/// Sends a signal, as `kill` names it, to a process that is there.
pub fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// A directory for one test.
pub struct Lab {
    pub path: PathBuf,
    /// Sees to it that nothing is left, also when the test is killed.
    watch: Child,
}

impl Lab {
    pub fn new() -> Self {
        let path = tempfile::Builder::new().prefix("lb-virt-").tempdir().unwrap().keep();
        fs::create_dir(path.join("images")).unwrap();
        let watch = Command::new("sh")
            .args(["-c", WATCH])
            .arg(&path)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            // A terminal's interrupt is for the test.
            .process_group(0)
            .spawn()
            .unwrap();
        Self { path, watch }
    }

    /// A host of that name, which translates.
    pub fn host(&self, name: &str) -> Qemu {
        Qemu::open(self.path.join(name)).unwrap().accelerated(false)
    }

    pub fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    /// The counting guest: 2 virtual CPUs, 256 MiB, its console in a file.
    pub fn spec(&self, name: &str) -> DomainSpec {
        spec(&self.images(), name)
    }

    /// What a machine's console says.
    pub fn console(&self, name: &str) -> String {
        read(&self.images().join(format!("{name}.console")))
    }

    /// Waits until a machine has counted beyond a number, and says how far it is.
    pub fn counts_beyond(&self, name: &str, number: u64) -> u64 {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let last = guest::numbers(&self.console(name)).last().copied().unwrap_or_default();
            if last > number {
                return last;
            }
            assert!(
                Instant::now() < end,
                "{name} has counted to {last} only, not beyond {number}{}",
                self.findings()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The processes of a host's machines, by QEMU's own notes.
    pub fn processes(&self, host: &str) -> Vec<u32> {
        let machines = fs::read_dir(self.path.join(host).join("machines")).unwrap();
        let notes = machines.map(|machine| read(&machine.unwrap().path().join("pid")));
        notes.filter_map(|note| note.trim().parse().ok()).collect()
    }

    /// The processes that have the directory in their command line: all that was started here, but the watch.
    pub fn all_processes(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let here = self.path.to_str().unwrap();
        let ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != self.watch.id() && String::from_utf8_lossy(&line).contains(here)
        };
        pids.filter(ours).collect()
    }

    /// What the QEMUs that run here say of a guest that does not go on, and what they have complained of.
    pub fn findings(&self) -> String {
        let mut findings = String::new();
        for host in fs::read_dir(&self.path).unwrap().flatten() {
            let machines = fs::read_dir(host.path().join("machines"));
            for machine in machines.into_iter().flatten().flatten() {
                let path = machine.path();
                findings += &format!("\n== {}\nlog: {}\n", path.display(), read(&path.join("log")));
                findings += &format!("note: {}\n", read(&path.join("run.json")));
                let socket = path.join("control.sock");
                match Qmp::connect(&socket, Duration::from_secs(5)) {
                    Ok(mut qmp) => ask(&mut qmp, &mut findings),
                    Err(error) => findings += &format!("{}: {error}\n", socket.display()),
                }
            }
        }
        findings
    }

    /// That there are no more processes than so many, when the kernel has cleared away what was ended.
    pub fn has_at_most(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.all_processes().len() > count {
            assert!(Instant::now() < end, "there are {:?}", self.all_processes());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}

/// Twice, with a moment between: what goes on, and what does not. The guest's page is the one at 0x7000.
fn ask(qmp: &mut Qmp, findings: &mut String) {
    const MONITOR: [&str; 4] = ["info registers -a", "info pic", "info irq", "xp /384wx 0x7a00"];
    let commands = ["query-status", "query-migrate", "query-chardev", "query-cpus-fast"];
    for _ in 0..2 {
        let plain = commands.iter().map(|command| (*command, json!({})));
        let monitor = MONITOR.iter().map(|line| ("human-monitor-command", json!({"command-line": line})));
        for (command, arguments) in plain.chain(monitor) {
            let said = qmp.execute(command, arguments.clone(), Duration::from_secs(5));
            let said = said.map(|said| said.as_str().map_or_else(|| said.to_string(), ToOwned::to_owned));
            *findings +=
                &format!("{command} {arguments}: {}\n", said.unwrap_or_else(|error| error.to_string()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn read(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// A machine that counts, with a disk of its own in a directory.
pub fn spec(images: &Path, name: &str) -> DomainSpec {
    working_spec(images, name, guest::Work::default())
}

/// As [`spec`], of a guest that works.
pub fn working_spec(images: &Path, name: &str, work: guest::Work) -> DomainSpec {
    let image = images.join(format!("{name}.qcow2"));
    // A name that is none has no image.
    if !image.exists() && !name.contains([';', '/']) {
        guest::working_image(&image, work);
    }
    DomainSpec {
        machine: Some("pc".into()),
        console: Console::File(images.join(format!("{name}.console"))),
        ..DomainSpec::new(name, 2, Memory::from_mib(256)).disk(Disk::file(&image).shared())
    }
}

/// How far a machine's migration is, as soon as its host has the time to say so.
pub fn sample(host: &mut Qemu, name: &str) -> Sample {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match host.migration(name, Duration::from_millis(10)) {
            Err(VirtError::Timeout { .. }) if Instant::now() < end => {}
            sample => return sample.unwrap().unwrap(),
        }
    }
}

/// Waits for a state.
pub fn becomes(host: &mut Qemu, name: &str, state: State) {
    let end = Instant::now() + Duration::from_secs(60);
    while host.state(name).unwrap() != state {
        assert!(Instant::now() < end, "{name} is {}, not {state}", host.state(name).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
}
