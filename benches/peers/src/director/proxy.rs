//! The three proxies: the same work for each, in its own words.

use super::DirectorError;
use super::cpu::Places;
use super::package::{Directory, find};
use super::process;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a proxy may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running proxy; killed when dropped.
pub(super) struct Proxy {
    process: Child,
    address: SocketAddr,
}

impl Proxy {
    /// Ours: the binary given, or built from this repository.
    pub(super) fn director(
        binary: Option<&Path>,
        directory: &Directory,
        servers: &[SocketAddr],
        places: &Places,
    ) -> Result<Self, DirectorError> {
        let binary = match binary {
            Some(path) if path.is_file() => path.to_owned(),
            Some(path) => return Err(DirectorError::NoSuchDirector { path: path.to_owned() }),
            None => build_director()?,
        };
        let address = free_address()?;
        let file =
            directory.write("director.toml", &director_configuration(address, servers, places.workers()))?;
        let mut command = places.proxy(binary);
        command.arg("--config").arg(file);
        Self::start("director", command, address, directory)
    }

    /// Debian's HAProxy.
    pub(super) fn haproxy(
        directory: &Directory,
        servers: &[SocketAddr],
        places: &Places,
    ) -> Result<Self, DirectorError> {
        let binary = find("haproxy", "haproxy")?;
        let address = free_address()?;
        let file =
            directory.write("haproxy.cfg", &haproxy_configuration(address, servers, places.workers()))?;
        let mut command = places.proxy(binary);
        command.args(["-db", "-f"]).arg(file);
        Self::start("haproxy", command, address, directory)
    }

    /// Debian's nginx.
    pub(super) fn nginx(
        directory: &Directory,
        servers: &[SocketAddr],
        places: &Places,
    ) -> Result<Self, DirectorError> {
        let binary = find("nginx", "nginx-light")?;
        let address = free_address()?;
        let text = nginx_configuration(address, servers, places.workers(), directory);
        let file = directory.write("nginx.conf", &text)?;
        let mut command = places.proxy(binary);
        command.arg("-c").arg(file);
        Self::start("nginx", command, address, directory)
    }

    fn start(
        name: &'static str,
        mut command: Command,
        address: SocketAddr,
        directory: &Directory,
    ) -> Result<Self, DirectorError> {
        let log = directory.file(&format!("{name}.log"));
        let output = File::create(&log).map_err(DirectorError::io(format!("create {}", log.display())))?;
        let errors = output.try_clone().map_err(DirectorError::io(format!("open {}", log.display())))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(DirectorError::io(format!("start {name} through setpriv (util-linux)")))?;
        let mut proxy = Self { process, address };
        proxy.wait_until_it_listens(name, &log)?;
        Ok(proxy)
    }

    fn wait_until_it_listens(&mut self, name: &'static str, log: &Path) -> Result<(), DirectorError> {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended =
                self.process.try_wait().map_err(DirectorError::io(format!("ask for {name}'s state")))?;
            if ended.is_some() || start.elapsed() > START_LIMIT {
                return Err(DirectorError::NotListening {
                    name,
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
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time that it has used until now, with all its workers.
    pub(super) fn cpu_seconds(&self) -> Result<f64, DirectorError> {
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
fn free_address() -> Result<SocketAddr, DirectorError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(DirectorError::io("find a free port on loopback"))
}

/// Builds the director of this repository, and asks cargo where it is.
fn build_director() -> Result<PathBuf, DirectorError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--bin", "director", "--message-format=json-render-diagnostics"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(DirectorError::io("run cargo to build the director"))?;
    if !output.status.success() {
        return Err(DirectorError::Build { status: output.status });
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "director")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or(DirectorError::NoBinary)
}

fn director_configuration(listen: SocketAddr, servers: &[SocketAddr], workers: usize) -> String {
    let mut text = format!(
        r#"[director]
workers = {workers}

[[frontend]]
name = "test"
listen = "{listen}"
backend = "servers"

[[backend]]
name = "servers"
algorithm = "rr"
"#
    );
    for (i, server) in servers.iter().enumerate() {
        text.push_str(&format!("\n[[backend.server]]\nname = \"s{i}\"\naddress = \"{server}\"\n"));
    }
    text
}

fn haproxy_configuration(listen: SocketAddr, servers: &[SocketAddr], workers: usize) -> String {
    let mut text = format!(
        "global
    nbthread {workers}
    maxconn 4000
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend test
    bind {listen}
    default_backend servers
backend servers
    balance roundrobin
"
    );
    for (i, server) in servers.iter().enumerate() {
        text.push_str(&format!("    server s{i} {server}\n"));
    }
    text
}

/// As nginx's own guide to keep-alive upstreams has it; `keepalive_requests` so that no connection is closed
/// during the comparison, which nginx does after 1000 requests and the others do not.
fn nginx_configuration(
    listen: SocketAddr,
    servers: &[SocketAddr],
    workers: usize,
    directory: &Directory,
) -> String {
    let file = |name: &str| directory.file(name).display().to_string();
    let servers: String = servers.iter().map(|server| format!("        server {server};\n")).collect();
    format!(
        "daemon off;
worker_processes {workers};
pid {pid};
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {body};
    proxy_temp_path {proxy};
    fastcgi_temp_path {fastcgi};
    uwsgi_temp_path {uwsgi};
    scgi_temp_path {scgi};
    upstream servers {{
{servers}        keepalive 128;
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen} reuseport;
        keepalive_requests 100000000;
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
",
        pid = file("nginx.pid"),
        body = file("body"),
        proxy = file("proxy"),
        fastcgi = file("fastcgi"),
        uwsgi = file("uwsgi"),
        scgi = file("scgi"),
    )
}
