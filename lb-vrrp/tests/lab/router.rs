//! A program that is one or more virtual routers on a host.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lb_vrrp::linux::Instance;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, frr, keepalived, make_directory, ours, run, wait_until};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Program {
    Ours,
    Keepalived,
    Frr,
}

impl Program {
    /// As tables name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Keepalived => "keepalived",
            Self::Frr => "FRR",
        }
    }
}

/// A program that runs, or may be started again, on a host.
#[derive(Debug)]
pub(crate) struct Router {
    program: Program,
    host: Host,
    instances: Vec<Instance>,
    /// Its priority under `SCHED_RR`; not FRR's.
    pub(crate) realtime: Option<u8>,
    /// Ours: whether its memory is locked.
    pub(crate) lock_memory: bool,
    /// Ours: what it is started by, a line of words with their own options.
    pub(crate) wrapper: String,
    directory: PathBuf,
    /// The daemon, in the foreground.
    daemon: Option<Child>,
    /// FRR: zebra, which stays.
    zebra: Option<Child>,
}

impl Router {
    /// A program that is not started yet.
    pub(crate) fn new(program: Program, host: &Host, instances: Vec<Instance>) -> Self {
        let directory = make_directory(&host.namespace);
        let mut router = Self {
            program,
            host: host.clone(),
            instances,
            realtime: None,
            lock_memory: false,
            wrapper: String::new(),
            directory,
            daemon: None,
            zebra: None,
        };
        if program == Program::Frr {
            router.zebra = Some(frr::prepare(&router.directory, &router.host, &router.instances));
        }
        router
    }

    /// What it is.
    pub(crate) fn program(&self) -> Program {
        self.program
    }

    /// Where it is.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// What it is configured to be.
    pub(crate) fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Starts it and waits until it has read its configuration.
    pub(crate) fn start(&mut self) {
        self.launch();
        let directory = &self.directory;
        let ready = || match self.program {
            Program::Ours => ours::is_ready(directory),
            Program::Keepalived => keepalived::is_ready(directory),
            Program::Frr => frr::is_ready(directory),
        };
        assert!(
            wait_until(Duration::from_secs(20), ready),
            "{} does not start: {}",
            self.program.name(),
            self.log()
        );
    }

    /// Starts it.
    pub(crate) fn launch(&mut self) {
        assert!(self.daemon.is_none(), "{} runs already", self.program.name());
        let directory = &self.directory;
        let log = File::create(directory.join("log")).expect("a log");
        let mut command = match self.program {
            Program::Ours => {
                let settings = (self.realtime, self.lock_memory);
                ours::command(directory, &self.host, &self.wrapper, settings, &self.instances)
            }
            Program::Keepalived => keepalived::command(directory, &self.host, self.realtime, &self.instances),
            Program::Frr => frr::command(directory, &self.host, &self.instances),
        };
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let daemon = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.name()));
        self.daemon = Some(daemon);
    }

    /// Ends it as a crash does: it can't say a word.
    pub(crate) fn kill(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        if self.program == Program::Keepalived {
            // The parent would start another child, and the child would say farewell when its parent dies.
            signal(&daemon, Signal::SIGSTOP);
            if let Some(child) = keepalived::child(&self.directory) {
                let _ = kill(child, Signal::SIGKILL); // it may have ended by itself
            }
        }
        signal(&daemon, Signal::SIGKILL);
        let _ = daemon.wait(); // it was killed
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) {
        if let Some(daemon) = &self.daemon {
            signal(daemon, Signal::SIGTERM);
        }
        self.wait();
    }

    /// The same; whether all went well.
    pub(crate) fn stop(mut self) -> bool {
        if let Some(daemon) = &self.daemon {
            signal(daemon, Signal::SIGTERM);
        }
        self.wait()
    }

    /// Waits until it has ended; whether it ended well.
    pub(crate) fn wait(&mut self) -> bool {
        let Some(daemon) = &mut self.daemon else { return true };
        let mut status = None;
        let ended = wait_until(Duration::from_secs(20), || {
            status = daemon.try_wait().ok().flatten();
            status.is_some()
        });
        assert!(ended, "{} does not end: {}", self.program.name(), self.log());
        self.daemon = None;
        status.is_some_and(|status| status.success())
    }

    /// How often it has printed a line with `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        super::text(&self.directory.join("log")).lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until it has printed `text` `times` times.
    pub(crate) fn says(&self, text: &str, times: usize) {
        if !wait_until(super::PATIENCE, || self.count(text) >= times) {
            panic!("{text:?} not {times} times in:\n{}", self.log());
        }
    }

    /// Ours, being one router: waits until it is active.
    pub(crate) fn is_active(&self) {
        self.says("-> Active", 1);
    }

    /// Stops it where it is, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        if let Some(daemon) = &self.daemon {
            signal(daemon, if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
    }

    /// Gives it another configuration; if it runs, without a restart.
    pub(crate) fn reconfigure(&mut self, change: impl Fn(&mut Instance)) {
        self.instances.iter_mut().for_each(change);
        let Some(daemon) = &mut self.daemon else { return };
        match self.program {
            Program::Ours => ours::reload(&self.directory, &self.instances, daemon),
            Program::Keepalived => {
                keepalived::configure(&self.directory, self.realtime, &self.instances);
                signal(daemon, Signal::SIGHUP);
            }
            Program::Frr => frr::reload(&self.directory, &self.instances),
        }
    }

    /// FRR: what its shell answers to commands, one a line.
    pub(crate) fn vtysh(&self, commands: &str) -> String {
        frr::vtysh(&self.directory, commands)
    }

    /// The processor time of everything in its namespace, children that ended included, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        let pids = run(&format!("ip netns pids {}", self.host.namespace));
        pids.split_whitespace().map(|pid| cpu_of(Path::new("/proc").join(pid).join("stat").as_path())).sum()
    }

    /// The end of what it printed.
    pub(crate) fn log(&self) -> String {
        let text = super::text(&self.directory.join("log"));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut zebra) = self.zebra.take() {
            signal(&zebra, Signal::SIGKILL);
            let _ = zebra.wait(); // it was killed
        }
    }
}

/// A command line in a host's namespace. It replaces `ip`, so the process is the program itself.
pub(super) fn command(host: &Host, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &host.namespace]).args(program.split_whitespace()).stdin(Stdio::null());
    command
}

fn signal(process: &Child, signal: Signal) {
    let _ = kill(Pid::from_raw(process.id() as i32), signal); // it may have ended by itself
}

/// Seconds of user and system time from a `stat` file of proc(5).
fn cpu_of(stat: &Path) -> f64 {
    let text = super::text(stat);
    let Some((_, fields)) = text.rsplit_once(')') else { return 0.0 };
    // Fields 14 to 17; the first after the name is field 3. A tick is 10 ms on every Linux of today.
    fields.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / 100.0
}
