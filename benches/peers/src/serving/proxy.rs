//! A running proxy.

use super::ServingError;
use super::package::Directory;
use super::process;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a proxy may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    process: Child,
    address: SocketAddr,
}

impl Proxy {
    /// Starts what is called `name`, and waits until it listens. What it says goes to a file of its name.
    ///
    /// # Errors
    /// [`ServingError::NotListening`], and the system's.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        address: SocketAddr,
        directory: &Directory,
    ) -> Result<Self, ServingError> {
        let log = directory.file(&format!("{name}.log"));
        let output = File::create(&log).map_err(ServingError::io(format!("create {}", log.display())))?;
        let errors = output.try_clone().map_err(ServingError::io(format!("open {}", log.display())))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(ServingError::io(format!("start {name} through setpriv (util-linux)")))?;
        let mut proxy = Self { process, address };
        proxy.wait_until_it_listens(name, &log)?;
        Ok(proxy)
    }

    fn wait_until_it_listens(&mut self, name: &str, log: &Path) -> Result<(), ServingError> {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended =
                self.process.try_wait().map_err(ServingError::io(format!("ask for {name}'s state")))?;
            if ended.is_some() || start.elapsed() > START_LIMIT {
                return Err(ServingError::NotListening {
                    name: name.to_owned(),
                    address: self.address,
                    state: ended.map_or_else(|| "still running".to_owned(), |status| status.to_string()),
                    log: std::fs::read_to_string(log).unwrap_or_default(),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time that it has used until now, with all its workers.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, ServingError> {
        process::cpu_seconds(self.process.id())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx's master takes its workers along only when asked; a kill would leave them.
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let start = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Fails only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that is free now; a proxy that finds it taken says so, and the comparison is started again.
///
/// # Errors
/// The system's.
pub(crate) fn free_address() -> Result<SocketAddr, ServingError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(ServingError::io("find a free port on loopback"))
}
