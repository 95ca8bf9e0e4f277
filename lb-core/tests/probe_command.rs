//! Probes by programs: such that pass and fail, and such that hang, fork, or print without end.
#![cfg(all(feature = "std", unix))]
#![allow(clippy::unwrap_used, reason = "a test whose own files fail is to fail")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lb_core::health::probe::{CommandProbe, Probe, ProbeError};

fn address() -> SocketAddr {
    "192.0.2.7:8080".parse().unwrap()
}

fn shell(script: &str) -> CommandProbe {
    CommandProbe::new(["sh", "-c", script])
}

fn run(probe: CommandProbe) -> Result<Duration, ProbeError> {
    Probe::from(probe).run(address())
}

/// A file that does not exist yet, of this test alone.
fn fresh(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("lb-core-probe-{}-{name}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

/// Waits until the processes whose numbers are in the file have ended, and removes it. A killed process takes a
/// moment to be gone, and one whose parent has gone may stay a zombie until somebody reaps it.
fn have_ended(pids: &PathBuf) {
    let started = Instant::now();
    // After the name in parentheses comes the state (proc(5)).
    let runs = |pid: &str| {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with(['Z', 'X']))
    };
    let written = fs::read_to_string(pids).unwrap();
    assert!(!written.trim().is_empty());
    for pid in written.split_whitespace() {
        while runs(pid) {
            assert!(started.elapsed() < Duration::from_secs(60), "{pid} still runs");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    fs::remove_file(pids).unwrap();
}

#[test]
fn exit_codes() {
    run(shell("exit 0")).unwrap();
    let error = run(shell("echo no disk >&2; echo this is not kept; exit 7")).unwrap_err();
    assert_eq!(error.to_string(), "sh says that 192.0.2.7:8080 fails: exit code 7; it wrote: no disk");
    assert!(matches!(error, ProbeError::Exit { code: 7, .. }));
    assert_eq!(
        run(shell("exit 1")).unwrap_err().to_string(),
        "sh says that 192.0.2.7:8080 fails: exit code 1"
    );
    let error = run(shell("kill -9 $$")).unwrap_err();
    assert!(matches!(error, ProbeError::Signal { signal: 9, .. }), "{error:?}");
}

#[test]
fn the_server_is_in_environment_and_arguments() {
    run(shell(r#"test "$LB_ADDRESS $LB_PORT" = "192.0.2.7 8080""#)).unwrap();
    run(shell(r#"test "$HAPROXY_SERVER_ADDR $HAPROXY_SERVER_PORT" = "192.0.2.7 8080""#)).unwrap();
    run(CommandProbe::new(["test", "{address}:{port}", "=", "192.0.2.7:8080"])).unwrap();
}

#[test]
fn there_is_no_shell_in_between() {
    run(CommandProbe::new(["test", "$HOME;`false`", "=", "$HOME;`false`"])).unwrap();
}

#[test]
fn what_cannot_run_says_so() {
    let error = run(CommandProbe::new(["/no/such/program"])).unwrap_err();
    assert!(matches!(error, ProbeError::Spawn { .. }), "{error:?}");
    assert!(error.to_string().starts_with("cannot run /no/such/program: "), "{error}");
    for command in [vec![], vec![""]] {
        let error = run(CommandProbe::new(command)).unwrap_err();
        assert_eq!(error.to_string(), "`command` is empty: it has to be a program and its arguments");
    }
}

#[test]
fn one_that_hangs_is_killed_with_its_children() {
    let pids = fresh("hangs");
    let script = format!("trap '' TERM; echo waiting >&2; sleep 600 & echo $$ $! > {}; wait", pids.display());
    let error = run(shell(&script).within(Duration::from_secs(2))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sh had no verdict on 192.0.2.7:8080 after 2s, and was killed; it wrote: waiting"
    );
    have_ended(&pids);
}

#[test]
fn children_left_behind_delay_nothing_and_are_killed() {
    let pids = fresh("forks");
    // The child holds the standard error open.
    let script = format!("sleep 600 & echo $! > {}; exit 0", pids.display());
    let started = Instant::now();
    run(shell(&script).within(Duration::from_secs(300))).unwrap();
    assert!(started.elapsed() < Duration::from_secs(200));
    have_ended(&pids);
}

#[test]
fn output_without_end_is_read_and_not_kept() {
    // A megabyte, more than a pipe holds: one that was not read would block the program for ever.
    let error =
        run(shell("head -c 1000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 3")).unwrap_err();
    let ProbeError::Exit { code: 3, stderr, .. } = error else { panic!("{error:?}") };
    assert!(stderr.len() <= 1024 && stderr.ends_with("xthe end"), "{stderr}");

    let error = run(shell("exec yes >&2").within(Duration::from_millis(300))).unwrap_err();
    let ProbeError::Overrun { stderr, .. } = error else { panic!("{error:?}") };
    assert!(stderr.len() <= 1024 && stderr.contains("y\ny"), "{stderr}");
}

#[test]
fn one_that_closes_its_outputs_is_still_watched() {
    run(shell("exec 2>&- ; sleep 0.05; exit 0")).unwrap();
    let error = run(shell("exec 2>&- ; sleep 600").within(Duration::from_millis(200))).unwrap_err();
    assert!(matches!(error, ProbeError::Overrun { .. }), "{error:?}");
}

#[test]
fn nothing_to_read_is_no_wait() {
    // `read` finds the end at once: standard input is /dev/null.
    let error = run(shell("read line || exit 5")).unwrap_err();
    assert!(matches!(error, ProbeError::Exit { code: 5, .. }), "{error:?}");
}
