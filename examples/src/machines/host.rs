//! The host that is spoken to. One that is simulated lives in a file between calls, and its clock is this machine's.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use lb_virt::sim::{Network, Stored};
use lb_virt::{Hypervisor, Memory, Sim};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// What a simulated host has.
const CPUS: u32 = 16;
const MEMORY: Memory = Memory::from_mib(65_536);

/// How long a host that is in use is waited for, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(5);
const GLANCE: Duration = Duration::from_millis(20);

/// An open host.
pub(crate) enum Host {
    /// Simulated.
    Sim(Box<Simulated>),
    /// Any other.
    Other(Box<dyn Hypervisor>),
}

pub(crate) struct Simulated {
    sim: Sim,
    file: PathBuf,
    /// Nobody else changes the file meanwhile; `None` once it was let go, and is not this program's to write.
    lock: Option<File>,
    /// Until when its clock goes.
    at: SystemTime,
}

/// What is in the file.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Kept {
    /// When it was, since 1970.
    at: Duration,
    host: Stored,
}

impl Host {
    /// Opens the host at a URI.
    pub(crate) fn open(uri: &str) -> Result<Self, Failure> {
        Self::open_on(uri, &Network::new())
    }

    /// The same, with a network for simulated hosts.
    pub(crate) fn open_on(uri: &str, network: &Network) -> Result<Self, Failure> {
        match uri.strip_prefix("sim:") {
            Some("") => Simulated::open(default_file()?, network),
            Some(file) => Simulated::open(file.into(), network),
            None => Ok(Self::Other(lb_virt::open(uri)?)),
        }
    }

    /// The host, as it is now.
    pub(crate) fn get(&mut self) -> &mut dyn Hypervisor {
        match self {
            Self::Sim(simulated) => simulated.now(),
            Self::Other(host) => host.as_mut(),
        }
    }

    /// Lets time pass. A simulated host is free for other programs meanwhile.
    pub(crate) fn rest(&mut self, time: Duration) -> Result<(), Failure> {
        let Self::Sim(simulated) = self else {
            std::thread::sleep(time);
            return Ok(());
        };
        simulated.keep()?;
        simulated.lock = None;
        std::thread::sleep(time);
        *self = Simulated::open(simulated.file.clone(), &Network::new())?;
        Ok(())
    }

    /// Puts a simulated host on the network of another.
    pub(crate) fn join(&mut self, network: &Network) {
        if let Self::Sim(simulated) = self {
            let sim = std::mem::replace(&mut simulated.sim, Sim::new("", 0, Memory::default()));
            simulated.sim = sim.on(network);
        }
    }

    /// Keeps nothing of what was done since.
    pub(crate) fn abandon(&mut self) {
        if let Self::Sim(simulated) = self {
            simulated.lock = None;
        }
    }

    /// Keeps what has to be kept.
    pub(crate) fn close(self) -> Result<(), Failure> {
        match self {
            Self::Sim(mut simulated) => simulated.keep(),
            Self::Other(_) => Ok(()),
        }
    }
}

/// A host's place, to tell whether two URIs name one host.
pub(crate) fn place(uri: &str) -> Result<(String, PathBuf), Failure> {
    let (scheme, rest) = uri.split_once(':').unwrap_or((uri, ""));
    let path = if (scheme, rest) == ("sim", "") { default_file()? } else { rest.into() };
    Ok((scheme.into(), fs::canonicalize(&path).unwrap_or(path)))
}

/// Where `sim:` is kept: in the state directory of the XDG Base Directory Specification.
fn default_file() -> Result<PathBuf, Failure> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    let state =
        state.ok_or("there is no home directory to keep simulated machines in: name a file, as sim:FILE")?;
    Ok(state.join("machines/sim.json"))
}

impl Simulated {
    fn open(file: PathBuf, network: &Network) -> Result<Host, Failure> {
        let error = |error: std::io::Error| format!("{}: {error}", file.display());
        if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(error)?;
        }
        let lock = beside(&file, ".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(lock).map_err(error)?;
        let begun = Instant::now();
        while let Err(held) = lock.try_lock() {
            match held {
                TryLockError::WouldBlock if begun.elapsed() < PATIENCE => std::thread::sleep(GLANCE),
                TryLockError::WouldBlock => {
                    return Err(format!(
                        "{} is in use: another call of `machines` works on it",
                        file.display()
                    )
                    .into());
                }
                TryLockError::Error(other) => return Err(error(other).into()),
            }
        }
        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let sim = Sim::new(&name(&file), CPUS, MEMORY).seed(seed.as_nanos() as u64).on(network);
        let (sim, at) = match fs::read(&file) {
            Ok(bytes) => {
                let kept: Kept = serde_json::from_slice(&bytes)
                    .map_err(|error| format!("{} is no simulated host: {error}", file.display()))?;
                let at = SystemTime::UNIX_EPOCH.checked_add(kept.at).unwrap_or_else(SystemTime::now);
                (sim.with_stored(kept.host)?, at)
            }
            Err(missing) if missing.kind() == ErrorKind::NotFound => (sim, SystemTime::now()),
            Err(other) => return Err(error(other).into()),
        };
        Ok(Host::Sim(Box::new(Self { sim, file, lock: Some(lock), at })))
    }

    /// With its clock where this machine's is, and guests that do something: each what its name says.
    fn now(&mut self) -> &mut Sim {
        let now = SystemTime::now();
        for machine in self.sim.list().unwrap_or_default() {
            let sum: u32 = machine.name.bytes().map(u32::from).sum();
            let _ = self.sim.set_load(&machine.name, f64::from(5 + sum % 60) / 100.0);
        }
        self.sim.advance(now.duration_since(self.at).unwrap_or_default());
        self.at = now;
        &mut self.sim
    }

    fn keep(&mut self) -> Result<(), Failure> {
        if self.lock.is_none() {
            return Ok(());
        }
        let at = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let kept = serde_json::to_vec_pretty(&Kept { at, host: self.sim.store() })?;
        let new = beside(&self.file, ".new");
        let written = fs::write(&new, kept).and_then(|()| fs::rename(&new, &self.file));
        Ok(written.map_err(|error| format!("{}: {error}", self.file.display()))?)
    }
}

/// A file beside another.
fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn name(file: &Path) -> String {
    file.file_stem().map_or_else(|| "sim".into(), |name| name.to_string_lossy().into_owned())
}

/// Prints, and ends quietly if nobody reads any more.
pub(crate) fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("machines: the standard output: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
