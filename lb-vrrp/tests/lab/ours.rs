//! Our own router as a process that can be killed: the program that tests, started again inside a namespace.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lb_vrrp::Config;
use lb_vrrp::event::Notification;
use lb_vrrp::linux::{self, Driver, Instance};
use lb_vrrp::wire::Interval;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::SIGTERM;

use super::router::command as inside;
use super::{Frame, Host, Lan, Program, Router, Wire, now, wait_until};

/// The environment variable that makes a program a router: the directory with its configuration.
const VARIABLE: &str = "LB_VRRP_LAB_ROUTER";
/// The test that is a router when that variable is set. A test program that uses the laboratory has one of this name.
const ROUTER: &str = "a_router";

const INSTANCES: &str = "instances.json";
const SETTINGS: &str = "settings.json";
const READY: &str = "ready";

/// What a driver is told beside its instances: its realtime priority, and whether to lock its memory.
type Settings = (Option<u8>, bool);

pub(super) fn command(
    directory: &Path,
    host: &Host,
    wrapper: &str,
    settings: Settings,
    instances: &[Instance],
) -> Command {
    configure(directory, instances);
    let settings = serde_json::to_vec(&settings).expect("it is JSON");
    fs::write(directory.join(SETTINGS), settings).expect("its directory is there");
    let _ = fs::remove_file(directory.join(READY)); // there is none at first
    let program = std::env::current_exe().expect("a program knows where it is");
    let mut command = inside(host, &format!("{wrapper} {}", program.display()));
    command.args([ROUTER, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(VARIABLE, directory).stdin(Stdio::piped());
    command
}

pub(super) fn is_ready(directory: &Path) -> bool {
    directory.join(READY).exists()
}

pub(super) fn reload(directory: &Path, instances: &[Instance], process: &mut Child) {
    configure(directory, instances);
    let stdin = process.stdin.as_mut().expect("it is piped");
    stdin.write_all(b"reload\n").expect("the router reads");
}

fn configure(directory: &Path, instances: &[Instance]) {
    let text = serde_json::to_vec(instances).expect("a configuration is JSON");
    fs::write(directory.join(INSTANCES), text).expect("its directory is there");
}

/// Whether this process was started to be a router.
pub(crate) fn is_router() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The body of the test [`ROUTER`]: in a process that a [`Router`] has started, the router itself, until SIGTERM or until its
/// parent ends. Otherwise it starts one, which alone on its network becomes active and has the address, and says farewell and
/// has it no more when it is told to end.
pub(crate) fn a_router() {
    if let Some(directory) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        if let Err(error) = route(&directory) {
            panic!("{error}");
        }
        return;
    }
    let lan = Lan::new("alone", 1);
    let wire = Wire::new(&lan);
    let mut config = Config::new(1, ["192.0.2.100/24".parse().expect("an address")]);
    config.interval = Interval::from_centiseconds(10).expect("an interval");
    let host = &lan.hosts()[0];
    let has_address = || host.addresses().contains("192.0.2.100/24");
    let mut router = Router::new(Program::Ours, host, vec![Instance::new(config, "eth0")]);
    let begin = now();
    router.start();
    let advert = wire.wait(begin, Duration::from_secs(5), Frame::advert);
    assert_eq!(
        advert.map(|advert| (advert.source, advert.priority)),
        Some((host.v4(), 100)),
        "{}",
        router.log()
    );
    assert!(wait_until(Duration::from_secs(5), has_address), "{}", host.addresses());
    router.terminate();
    assert!(!has_address(), "{}", host.addresses());
    assert_eq!(wire.adverts(begin, 0).last().map(|advert| advert.priority), Some(0));
}

fn instances(directory: &Path) -> Result<Vec<Instance>, Box<dyn Error>> {
    Ok(serde_json::from_slice(&fs::read(directory.join(INSTANCES))?)?)
}

fn route(directory: &Path) -> Result<(), Box<dyn Error>> {
    let (mut stop, tell) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, tell)?;
    let mut input = BufReader::new(std::io::stdin());

    let (realtime_priority, lock_memory): Settings =
        serde_json::from_slice(&fs::read(directory.join(SETTINGS))?)?;
    let run_directory = Some(directory.join("run"));
    let mut driver = Driver::new(linux::Settings { run_directory, realtime_priority, lock_memory })?;
    let mut ids = Vec::new();
    for (index, instance) in instances(directory)?.into_iter().enumerate() {
        ids.push(driver.add(&format!("router {index}"), instance)?);
    }
    fs::write(directory.join(READY), "")?;

    loop {
        let stdin = std::io::stdin();
        let mut ready =
            [driver.as_fd(), stop.as_fd(), stdin.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue; // interrupted
        }
        let [work, stopped, told] = ready.map(|fd| fd.any().unwrap_or(false));
        if work {
            driver.turn(Some(Duration::ZERO))?;
            while let Some((id, notification)) = driver.next_notification() {
                match notification {
                    Notification::State { from, to, reason } => {
                        println!("{id}: {from} -> {to} by {reason:?}")
                    }
                    other => println!("{id}: {other:?}"),
                }
            }
        }
        if stopped {
            let _ = stop.read(&mut [0; 16])?;
            break;
        }
        if told {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                break; // the laboratory is gone
            }
            for (id, instance) in ids.iter().zip(instances(directory)?) {
                driver.reconfigure(*id, instance.config)?;
            }
        }
    }
    driver.shutdown()?;
    Ok(())
}
