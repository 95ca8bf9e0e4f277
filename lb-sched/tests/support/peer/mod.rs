//! Live peers: Debian's HAProxy and nginx, run for one test against little servers that answer with their own
//! name, so that the sequence of servers that they choose can be read and compared.
//!
//! A [`Peer`] carries several [`Pool`]s at once, each with a balancing state of its own, since a start costs
//! more than a thousand requests. It listens on a Unix socket in a directory of its own, so no port can be
//! taken meanwhile; the servers listen on ports that they hold themselves.

mod client;
mod haproxy;
mod nginx;
mod server;

use client::Connection;
pub(crate) use client::{Ask, Held};
use server::NamedServers;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a peer may take to start; both need some 50 ms.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A set of servers as the peer is to balance them: server `i` is named after the `i`-th capital letter, then
/// `s26`, `s27` and on.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// Lines that choose the algorithm, in the peer's own words: `balance roundrobin`; empty for its default.
    pub(crate) algorithm: String,
    /// One server each; `None` is one that the peer is told is out of service.
    pub(crate) weights: Vec<Option<u32>>,
}

impl Pool {
    pub(crate) fn new(algorithm: &str, weights: &[u32]) -> Self {
        Self { algorithm: algorithm.to_owned(), weights: weights.iter().copied().map(Some).collect() }
    }
}

/// The name of server `i`: one letter as long as they last, so that sequences read as in the papers.
pub(crate) fn server_name(i: usize) -> String {
    match u8::try_from(i) {
        Ok(i @ 0..26) => char::from(b'A' + i).to_string(),
        _ => format!("s{i}"),
    }
}

/// A running HAProxy or nginx; killed when dropped, or when the test's thread ends in any other way.
pub(crate) struct Peer {
    process: Child,
    directory: Directory,
    /// Dropped last: the peer must not see its servers go.
    _servers: NamedServers,
}

impl Peer {
    /// Debian's HAProxy over these pools, one thread.
    pub(crate) fn haproxy(pools: &[Pool]) -> Self {
        Self::start("haproxy", "haproxy", pools, haproxy::configuration, &["-db", "-f"])
    }

    /// Debian's nginx over these pools, one worker: its rotation is a worker's own (without `zone`), and
    /// begins fresh when the worker starts.
    pub(crate) fn nginx(pools: &[Pool]) -> Self {
        Self::start("nginx", "nginx-light", pools, nginx::configuration, &["-c"])
    }

    fn start(
        program: &str,
        package: &str,
        pools: &[Pool],
        configuration: fn(&[Pool], &NamedServers, &Path) -> String,
        arguments: &[&str],
    ) -> Self {
        let servers = NamedServers::start(pools.iter().map(|pool| pool.weights.len()).max().unwrap_or(0));
        let directory = Directory::new();
        let file = directory.0.join("configuration");
        std::fs::write(&file, configuration(pools, &servers, &directory.0)).expect("write the configuration");
        let log = directory.0.join("log");
        let output = std::fs::File::create(&log).expect("create the log");
        // Debian keeps both in /usr/sbin, which is not in everybody's path. setpriv (util-linux) has the
        // kernel kill the peer with this thread, however that ends.
        let binary = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"]
            .map(|folder| Path::new(folder).join(program))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("{program} is missing: apt-get install {package}"));
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binary)
            .args(arguments)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate the log"))
            .stderr(output)
            .spawn()
            .expect("setpriv is missing: apt-get install util-linux");
        let mut peer = Self { process, directory, _servers: servers };
        peer.wait_until_it_listens(program, &log);
        peer
    }

    fn wait_until_it_listens(&mut self, program: &str, log: &Path) {
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.process.try_wait().expect("ask for the peer's state");
            if ended.is_some() || start.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                panic!("{program} does not listen ({ended:?}); it says:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn socket(&self) -> PathBuf {
        socket(&self.directory.0)
    }

    /// The servers that pool `pool` chooses for `count` requests, one after the other on one connection.
    pub(crate) fn sequence(&self, pool: usize, count: usize) -> Vec<String> {
        let mut connection = Connection::open(&self.socket(), None);
        (0..count).map(|_| connection.ask(pool, &Ask::default())).collect()
    }

    /// The server that pool `pool` chooses for one request, on a connection of its own.
    pub(crate) fn ask(&self, pool: usize, ask: &Ask) -> String {
        Connection::open(&self.socket(), ask.source).ask(pool, ask)
    }

    /// A request that stays in flight, its server known, until it is dropped.
    pub(crate) fn hold(&self, pool: usize, ask: &Ask) -> Held {
        Connection::open(&self.socket(), ask.source).hold(pool, ask)
    }

    /// Waits until HAProxy counts `count` requests in flight in pool `pool`: it learns of a dropped
    /// [`Held`] a moment later.
    pub(crate) fn haproxy_settles_at(&self, pool: usize, count: u32) {
        let start = Instant::now();
        while haproxy::in_flight(&self.directory.0, pool) != count {
            assert!(start.elapsed() < START_LIMIT, "HAProxy does not come to {count} requests in flight");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails only when the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a peer listens.
fn socket(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// A directory that goes with its owner.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: a Unix socket's path has 107 bytes.
        let path = std::env::temp_dir().join(format!("lb-peer-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("create a directory for the peer");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What stays behind in the temporary directory harms no later run.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
