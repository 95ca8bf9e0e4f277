//! HAProxy as the judge of rise, fall, the state at the beginning, and the steps of slow start.
#![cfg(all(feature = "std", unix))]
#![allow(clippy::unwrap_used, reason = "a test whose own servers fail is to fail")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lb_core::clock::Timestamp;
use lb_core::health::{Checker, Config, Curve, SlowStart, Verdict};

/// A running HAProxy with one server, which this test plays; killed at the end.
struct Haproxy {
    process: Child,
    directory: PathBuf,
    server: TcpListener,
}

impl Haproxy {
    fn start(name: &str, options: &str) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let directory = std::env::temp_dir().join(format!("lb-core-haproxy-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let config = format!(
            "global\n stats socket {}/socket level admin\n\
             defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n timeout check 30s\n\
             backend judge\n balance roundrobin\n option httpchk GET /\n server it {} weight 16 check {options}\n",
            directory.display(),
            server.local_addr().unwrap(),
        );
        let file = directory.join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        let process = Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy runs: apt-get install haproxy");
        Self { process, directory, server }
    }

    /// The value of this column of the server's line in `show stat`.
    fn stat(&self, column: &str) -> String {
        let mut socket = UnixStream::connect(self.directory.join("socket")).unwrap();
        socket.write_all(b"show stat judge 4 -1\n").unwrap();
        let mut table = String::new();
        socket.read_to_string(&mut table).unwrap();
        let mut lines = table.lines();
        let place = lines.next().unwrap().split(',').position(|name| name == column).unwrap();
        lines.next().unwrap().split(',').nth(place).unwrap().to_string()
    }

    /// The next check, if it is there; it stays open.
    fn try_check(&self) -> Option<TcpStream> {
        let (check, _) = self.server.accept().ok()?;
        check.set_nonblocking(false).unwrap();
        Some(check)
    }

    /// Waits for the next check.
    fn check(&self) -> TcpStream {
        let started = Instant::now();
        loop {
            if let Some(check) = self.try_check() {
                return check;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "HAProxy checks no more");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn answer(mut check: TcpStream, pass: bool) {
    let status = if pass { "200 OK" } else { "500 No" };
    let _ = check.read(&mut [0; 4096]);
    let _ = write!(check, "HTTP/1.0 {status}\r\n\r\n");
}

/// Passes and failures in runs of 1 to 4, the same each time (a linear congruential generator).
fn verdicts(mut seed: u32, count: usize) -> Vec<bool> {
    let mut verdicts = Vec::new();
    while verdicts.len() < count {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let pass = verdicts.last().is_none_or(|last: &bool| !last);
        verdicts.extend(std::iter::repeat_n(pass, (seed >> 30) as usize + 1));
    }
    verdicts.truncate(count);
    verdicts
}

#[test]
#[ignore = "needs haproxy"]
fn the_same_verdicts_give_the_same_states() {
    for (rise, fall, seed) in [(2, 3, 1), (1, 1, 2), (3, 2, 3), (4, 4, 4), (1, 3, 5)] {
        let mut verdicts = verdicts(seed, 80);
        if seed % 2 == 0 {
            // What the first verdict alone does, if it is a failure.
            verdicts.remove(0);
            verdicts.insert(0, false);
        }
        // A machine that stands still makes HAProxy give a check up: then it has not heard what we said.
        let (ours, theirs) = (0..20).find_map(|_| states(rise, fall, &verdicts)).unwrap();
        assert_eq!(ours, theirs, "rise {rise} fall {fall}: {verdicts:?}");
        assert!(ours.contains(&false) && ours.contains(&true), "both states were seen");
    }
}

/// Ours and HAProxy's states before each verdict; `None` if HAProxy has given a check up.
fn states(rise: u32, fall: u32, verdicts: &[bool]) -> Option<(Vec<bool>, Vec<bool>)> {
    let haproxy =
        Haproxy::start(&format!("states-{rise}-{fall}"), &format!("inter 10ms rise {rise} fall {fall}"));
    let config = Config { rise, fall, ..Config::default() };
    let mut checker = Checker::new(config, Timestamp::ZERO, 0).unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for &pass in verdicts {
        // When the next check arrives, HAProxy has drawn its conclusions from the last.
        let check = haproxy.check();
        if haproxy.stat("check_status").contains("TOUT") {
            return None;
        }
        theirs.push(haproxy.stat("status").starts_with("UP"));
        ours.push(checker.is_up());
        checker.record(Timestamp::ZERO, if pass { Verdict::Pass } else { Verdict::Fail("500".into()) });
        answer(check, pass);
    }
    Some((ours, theirs))
}

#[test]
#[ignore = "needs haproxy"]
fn slow_start_takes_the_same_steps() {
    let haproxy = Haproxy::start("slow", "inter 50ms rise 1 fall 1 slowstart 8s");
    answer(haproxy.check(), false);
    answer(haproxy.check(), true);
    let check = haproxy.check();
    let started = Instant::now();
    answer(check, true);
    // Its weight of 16 is shown in sixteenths. It counts in whole seconds and looks at them when it likes, so we ask
    // for the steps that it took, not for their moments.
    let slow_start = SlowStart::new(Duration::from_secs(8), Curve::Sixteenths).unwrap();
    let ours: Vec<u32> = (0..=8)
        .map(|second| (slow_start.share(Timestamp::ZERO, Timestamp::from_secs(second)) * 16.0) as u32)
        .collect();
    let mut theirs: Vec<u32> = Vec::new();
    while theirs.last() != Some(&16) {
        assert!(started.elapsed() < Duration::from_secs(30), "{theirs:?}");
        if let Some(check) = haproxy.try_check() {
            answer(check, true);
        }
        let weight = haproxy.stat("weight").parse().unwrap();
        if theirs.last() != Some(&weight) {
            theirs.push(weight);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(theirs.len() >= 5, "{theirs:?}");
    let known = theirs.iter().all(|weight| ours.contains(weight));
    assert!(known, "theirs {theirs:?}, ours {ours:?}");
}
