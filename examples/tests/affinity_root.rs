//! `affinity` as root runs it: on interfaces of a network namespace of the test's own, with the kernel's own answers.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../../lb-affinity/tests/namespace/mod.rs"]
mod namespace;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lb_affinity::CpuSet;
use namespace::{in_namespace, ip};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::Value;

const AFFINITY: &str = env!("CARGO_BIN_EXE_affinity");
const NOBODY: &str = "65534";
/// What a program says and how it ended.
struct Said {
    status: std::process::ExitStatus,
    out: String,
    errors: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let [out, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Self { status: output.status, out, errors }
    }
}

/// The command with a directory of the test's own.
fn command(words: &str, directory: &Path) -> Command {
    let mut command = Command::new(AFFINITY);
    command.args(words.split(' ')).arg("--directory").arg(directory).stdin(Stdio::null());
    command
}

fn affinity(words: &str, directory: &Path) -> Said {
    command(words, directory).output().unwrap().into()
}

/// What it said; it succeeded, and had nothing to complain of.
fn done(words: &str, directory: &Path) -> String {
    let Said { status, out, errors } = affinity(words, directory);
    assert!(status.success() && errors.is_empty(), "{words}: {out}\n{errors}");
    out
}

/// What it said and complained of; it failed, and said so by its status.
fn undone(words: &str, directory: &Path) -> (String, String) {
    let Said { status, out, errors } = affinity(words, directory);
    assert_eq!(status.code(), Some(1), "{words}: {out}\n{errors}");
    (out, errors)
}

/// All of a0's files that a plan may write.
fn state() -> BTreeMap<PathBuf, String> {
    let queues = Path::new("/sys/class/net/a0/queues");
    let mut files = BTreeMap::new();
    for queue in queues.read_dir().unwrap() {
        for name in ["rps_cpus", "rps_flow_cnt", "xps_cpus"] {
            let path = queue.as_ref().unwrap().path().join(name);
            if path.exists() {
                let content = std::fs::read_to_string(&path).unwrap();
                files.insert(path, content.trim().to_owned());
            }
        }
    }
    assert_eq!(files.len(), 12);
    files
}

/// What the plan says that it will write.
fn planned(words: &str) -> BTreeMap<PathBuf, String> {
    let output = Command::new(AFFINITY).args(words.split(' ')).arg("--json").output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = plan["settings"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    settings.map(|setting| (text(&setting["path"]).into(), text(&setting["value"]))).collect()
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs root"]
fn a_plan_is_written_as_it_was_shown_and_taken_back() {
    in_namespace("program", |directory| {
        let before = state();
        let plan = planned("plan --nic a0 --workers 1");
        let shown = Command::new(AFFINITY).args(["plan", "--nic", "a0", "--workers", "1"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        for (path, value) in &plan {
            assert!(shown.contains(&format!("  {} ← {value}", path.display())), "{path:?}: {shown}");
        }
        let dry = done("apply --nic a0 --workers 1 --dry-run", directory);
        assert!(dry.contains("a0 rx-0 rps_cpus: none → "), "{dry}");
        assert_eq!(state(), before);
        assert!(!directory.exists(), "a dry run keeps nothing");

        let applied = done("apply --nic a0 --workers 1", directory);
        assert!(
            applied.contains("a0 rx-0 rps_cpus = ") && applied.contains(": applied (was none)\n"),
            "{applied}"
        );
        let undo = format!("Take it back with `affinity restore --directory {}`.\n", directory.display());
        assert!(applied.ends_with(&undo), "{applied}");
        assert_ne!(state(), before);
        for (path, value) in &plan {
            assert_eq!(&state()[path], value, "{}", path.display());
        }
        let dry = done("apply --nic a0 --workers 1 --dry-run", directory);
        assert_eq!(dry, "nothing to change\n");

        // Once more: it is in force, and the originals stay the originals; so they do under another plan.
        let again = done("apply --nic a0 --workers 1", directory);
        assert_eq!(again.matches(": unchanged\n").count(), plan.len(), "{again}");
        done("apply --nic a0 --workers 1 --strategy one-cpu", directory);
        let restored = done("restore", directory);
        assert!(restored.contains("a0 rx-0 rps_cpus = none: put back\n"), "{restored}");
        assert_eq!(state(), before);
        assert_eq!(done("restore", directory), "nothing to restore\n");
        let nowhere = directory.join("nowhere");
        assert_eq!(
            done("restore", &nowhere),
            format!("nothing to restore: there is no {}\n", nowhere.display())
        );
        assert!(!nowhere.exists());
    });
}

#[test]
#[ignore = "needs root"]
fn flow_counts_are_set_and_what_is_not_there_is_explained() {
    in_namespace("flows", |directory| {
        let before = state();
        // The table of flows is the whole machine's: a namespace has no file for it.
        let (_, errors) = undone("apply --nic a0 --workers 1 --strategy rfs", directory);
        assert!(errors.contains("affinity: nothing is applied:\n"), "{errors}");
        let table = "net.core.rps_sock_flow_entries = 32768: not here: it is the whole machine's";
        assert!(errors.contains(table), "{errors}");
        assert_eq!(state(), before);
        let (out, errors) = undone("apply --nic a0 --workers 1 --strategy rfs --keep-going", directory);
        assert!(out.contains(table) && errors.is_empty(), "{out}\n{errors}");
        for queue in 0..4 {
            let path = format!("/sys/class/net/a0/queues/rx-{queue}/rps_flow_cnt");
            assert_eq!(state()[Path::new(&path)], "8192");
        }
        done("restore", directory);
        assert_eq!(state(), before);

        let (_, errors) = undone("apply --workers 1", directory);
        assert_eq!(
            errors,
            "affinity: without an interface there is nothing to write; name one with --nic (a0, a1, lo are here)\n"
        );
        let (_, errors) = undone("apply --nic a0 --strategy none", directory);
        assert!(errors.contains("leaves the network side as it is"), "{errors}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_strangers_value_stays_until_it_is_forced_back() {
    in_namespace("program-stranger", |directory| {
        let before = state();
        done("apply --nic a0 --workers 1", directory);
        let path = Path::new("/sys/class/net/a0/queues/rx-2/rps_flow_cnt");
        let rps = path.with_file_name("rps_cpus");
        let other = if state()[&rps] == "1" { "2" } else { "1" };
        std::fs::write(&rps, other).unwrap();
        let (out, errors) = undone("restore", directory);
        assert!(out.contains("a0 rx-2 rps_cpus = none: left: someone else has set "), "{out}\n{errors}");
        assert!(out.contains("a0 rx-1 rps_cpus = none: put back"), "{out}");
        let force = format!("`affinity restore --directory {} --force` puts back", directory.display());
        assert!(out.contains(&force), "{out}");
        assert_eq!(state()[&rps], other);
        done("restore --force", directory);
        assert_eq!(state(), before);
    });
}

/// A pipe in which there is no room left.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it has ended, as a rule
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root"]
fn a_second_program_is_refused_with_the_firsts_process() {
    in_namespace("program-lock", |directory| {
        let before = state();
        // It has applied and can't say so: until somebody reads, it is not at its end.
        let (mut reader, writer) = full_pipe();
        let first = command("apply --nic a0 --workers 1", directory).stdout(writer).spawn().unwrap();
        let mut first = Running(first);
        let journal = directory.join("journal");
        wait_for("the journal's end", || {
            std::fs::read_to_string(&journal).is_ok_and(|journal| journal.ends_with(" complete\n"))
        });
        let applied = state();
        assert_ne!(applied, before);
        for words in ["apply --nic a0 --workers 2", "restore", "restore --force"] {
            let (_, errors) = undone(words, directory);
            let refusal =
                format!("affinity: {} is in use by process {}; ", directory.display(), first.0.id());
            assert!(errors.starts_with(&refusal), "{errors}");
            assert_eq!(state(), applied);
        }
        let reading = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()).unwrap());
        assert!(first.0.wait().unwrap().success());
        reading.join().unwrap();
        done("restore", directory);
        assert_eq!(state(), before);
    });
}

#[test]
#[ignore = "needs root and strace"]
fn every_value_comes_back_after_a_kill_at_any_system_call() {
    in_namespace("program-killed", |directory| {
        let before = state();
        let applied = planned("plan --nic a0 --workers 1");
        let (mut unfinished, mut step) = (0, 0);
        loop {
            step += 1;
            let inject = format!("inject=write,rename,fsync,fdatasync,unlink:signal=SIGKILL:when={step}");
            let output = Command::new("strace")
                .args(["-qq", "-o", "/dev/null", "-e", &inject, AFFINITY])
                .args(["apply", "--nic", "a0", "--workers", "1", "--directory"])
                .arg(directory)
                .output()
                .expect("strace is installed");
            if output.status.success() {
                break;
            }
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(9), "step {step}: {errors}");
            let changed = before.iter().filter(|(path, value)| state()[*path] != **value).count();
            if changed > 0 {
                // It is said what to do, and nothing is done before that.
                let now = state();
                let again = affinity("apply --nic a0 --workers 2", directory);
                if !again.status.success() {
                    unfinished += 1;
                    assert!(
                        again
                            .errors
                            .contains("never finished; restore first with `affinity restore --directory "),
                        "{}",
                        again.errors
                    );
                    assert_eq!(state(), now);
                }
            }
            done("restore", directory);
            assert_eq!(state(), before, "step {step}");
        }
        let changes = applied.iter().filter(|(path, value)| before[*path] != **value).count();
        assert!(changes > 4 && unfinished >= changes, "{changes} values, {unfinished} of {step} steps");
        done("restore", directory);
        assert_eq!(state(), before);
    });
}

#[test]
#[ignore = "needs root and strace"]
fn an_interface_that_goes_away_is_named() {
    in_namespace("program-vanishes", |directory| {
        assert!(planned("plan --nic a0 --workers 1").len() > 4);
        // While it is being set: the fifth write waits.
        let apply = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", "inject=write:delay_enter=3000000:when=5", AFFINITY])
            .args(["apply", "--nic", "a0", "--workers", "1", "--directory"])
            .arg(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        wait_for("the journal", || directory.join("journal").exists());
        ip("link delete a0");
        let said = Said::from(apply.wait_with_output().unwrap());
        assert_eq!(said.status.code(), Some(1), "{}", said.errors);
        assert!(
            said.errors.contains("vanished: it is not there any more; discover the machine"),
            "{}",
            said.errors
        );
        assert_eq!(done("restore", directory), "nothing to restore\n");
        // Between plan and apply.
        let (_, errors) = undone("apply --nic a0 --workers 1", directory);
        assert!(errors.contains("there is no network interface \"a0\""), "{errors}");
    });
}

#[test]
#[ignore = "needs root"]
fn who_may_not_is_told_what_is_missing() {
    in_namespace("program-denied", |directory| {
        let before = state();
        std::fs::DirBuilder::new().mode(0o755).create(directory).unwrap();
        // Where others can run it.
        let program = directory.join("affinity");
        std::fs::copy(AFFINITY, &program).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let own = directory.join("own");
        std::fs::create_dir(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(65_534), None).unwrap();
        let locked = directory.join("root's");
        std::fs::DirBuilder::new().mode(0o700).create(&locked).unwrap();
        let nobody = [
            "--reuid",
            NOBODY,
            "--regid",
            NOBODY,
            "--clear-groups",
            "--bounding-set",
            "-all",
            "--inh-caps",
            "-all",
        ];
        let powerless = ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
        let run = |privileges: &[&str], words: &str, kept: &Path| {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(privileges).arg(&program).args(words.split(' ')).arg("--directory").arg(kept);
            let said = Said::from(setpriv.output().expect("setpriv of util-linux is installed"));
            assert_eq!(said.status.code(), Some(1), "{words}: {}{}", said.out, said.errors);
            assert_eq!(state(), before, "{words}");
            said.errors
        };
        let apply = "apply --nic a0 --workers 1";
        let errors = run(&nobody, apply, &own);
        assert!(
            errors.contains("denied: the file is root's; run as root, or with CAP_DAC_OVERRIDE"),
            "{errors}"
        );
        for words in [apply, "restore"] {
            let errors = run(&nobody, words, &locked);
            assert!(errors.contains("Permission denied") && errors.contains("; run as root"), "{errors}");
        }
        let errors = run(&powerless, apply, &locked);
        assert!(errors.contains("denied: this needs CAP_NET_ADMIN in the user namespace"), "{errors}");
        assert!(!locked.join("journal").exists() && !own.join("journal").exists());
        // Nor does root do what a user has written down.
        let (_, errors) = undone("restore", &own);
        assert!(errors.contains("belongs to user 65534"), "{errors}");
        // A dry run is everybody's.
        let mut dry = Command::new("setpriv");
        let dry = dry.args(nobody).arg(&program).args(apply.split(' ')).arg("--dry-run").output().unwrap();
        assert!(
            dry.status.success()
                && String::from_utf8_lossy(&dry.stdout).contains("a0 rx-0 rps_cpus: none → ")
        );
    });
}

#[test]
#[ignore = "needs root"]
fn an_end_is_an_end_also_when_nobody_reads() {
    in_namespace("program-unread", |directory| {
        let before = state();
        let unread = |words: &str| {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let status =
                command(words, directory).stdout(writer.try_clone().unwrap()).stderr(writer).status();
            status.unwrap().code()
        };
        assert_eq!(unread("apply --nic a0 --workers 1"), Some(0));
        assert_ne!(state(), before);
        assert_eq!(unread("apply --nic a0 --workers 1 --strategy rfs --keep-going"), Some(1));
        assert_eq!(unread("apply --nic a9 --workers 1"), Some(1));
        assert_eq!(unread("restore"), Some(0));
        assert_eq!(state(), before);
    });
}

#[test]
#[ignore = "needs root"]
fn a_mask_in_a_plan_is_explained() {
    in_namespace("program-mask", |_| {
        let shown = Command::new(AFFINITY).args(["plan", "--nic", "a0", "--workers", "1"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let masks = shown.lines().filter_map(|line| line.split_once("ps_cpus ← "));
        let mut seen = 0;
        for (_, value) in masks {
            let (mask, meaning) = value.split_once("  (").unwrap();
            let mask = CpuSet::parse_mask(mask).unwrap();
            let meaning =
                meaning.trim_end_matches(')').trim_start_matches("CPUs ").trim_start_matches("CPU ");
            let meant = if meaning == "no CPU" { CpuSet::new() } else { meaning.parse().unwrap() };
            assert_eq!(mask, meant, "{shown}");
            seen += 1;
        }
        assert_eq!(seen, 8, "{shown}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_keeps_nobody_from_taking_back() {
    in_namespace("program-full", |directory| {
        let before = state();
        std::fs::DirBuilder::new().mode(0o700).create(directory).unwrap();
        let options = Some("size=16k,mode=700");
        nix::mount::mount(Some("full"), directory, Some("tmpfs"), nix::mount::MsFlags::empty(), options)
            .unwrap();
        let fill = directory.join("fill");
        let full = || {
            let mut file = std::fs::File::options().append(true).create(true).open(&fill).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
        };
        done("apply --nic a0 --workers 1", directory);
        assert_ne!(state(), before);
        // Not even the process's number finds room.
        std::fs::remove_file(directory.join("lock")).unwrap();
        std::fs::write(directory.join("lock"), "").unwrap();
        full();
        // There is something to write, for which there has to be a journal.
        std::fs::write("/sys/class/net/a0/queues/rx-0/rps_cpus", "0").unwrap();
        let changed = state();
        let (_, errors) = undone("apply --nic a0 --workers 1", directory);
        assert!(
            errors.contains(
                "No space left on device (os error 28); without it nothing is written; make room there"
            ),
            "{errors}"
        );
        assert_eq!(state(), changed);
        assert!(!directory.join("journal.new").exists());
        let restored = done("restore", directory);
        assert!(restored.contains("a0 rx-1 rps_cpus = none: put back\n"), "{restored}");
        assert_eq!(state(), before);
        assert!(!directory.join("journal").exists());
        nix::mount::umount(directory).unwrap();
    });
}
