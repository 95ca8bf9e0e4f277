//! From a TOML file to a [`Config`], or to the first thing that is wrong with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_core::health::outlier::{FailurePercentage, SuccessRate};
use lb_core::health::probe::{CommandProbe, HttpProbe, TcpProbe};

use super::error::ConfigError;
use super::reader::{Document, Section};
use super::*;

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads and checks a file.
///
/// # Errors
/// [`ConfigError`] names the place of the first thing that is wrong, or the file when it cannot be read.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::read(path, source))?;
    let mut config = parse(&path.display().to_string(), &text)?;
    config.file = Some(path.to_owned());
    Ok(config)
}

/// Checks a text; `file` is what messages call it.
///
/// # Errors
/// [`ConfigError`] names the place of the first thing that is wrong.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
    let document = Document::parse(file, text)?;
    let root = document.root();
    let timeouts = timeouts(root.section("timeouts")?, &Timeouts::default())?;
    let global = global(root.section("director")?)?;
    let affinity = root.section("affinity")?.map(affinity).transpose()?;
    let mut taken = Taken::default();
    let status = root.section("status")?.map(|section| status(section, &mut taken)).transpose()?;
    let backends = backends(&root, &timeouts)?;
    let frontends = frontends(&root, &timeouts, &backends, &mut taken)?;
    root.finish()?;
    Ok(Config { file: None, affinity, status, backends, frontends, ..global })
}

/// A configuration without traffic: what `[director]` sets.
fn global(section: Option<Section<'_>>) -> Result<Config, ConfigError> {
    let mut config = Config {
        file: None,
        node: host_name(),
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        grace: Duration::from_secs(10),
        affinity: None,
        status: None,
        access_log: AccessLog::Off,
        frontends: Vec::new(),
        backends: Vec::new(),
    };
    let Some(section) = section else { return Ok(config) };
    if let Some(node) = section.string("node")? {
        config.node = node;
    }
    if let Some(workers) = section.integer("workers", 1..=1024)? {
        config.workers = workers as usize;
    }
    if let Some(grace) = section.duration("grace", Duration::ZERO..=DAY)? {
        config.grace = grace;
    }
    config.access_log = match section.string("access-log")?.as_deref() {
        None | Some("off") => AccessLog::Off,
        Some("stdout") => AccessLog::Stdout,
        Some("") => return Err(section.refused("access-log", "off, stdout or the path of a file", &[])),
        Some(path) => AccessLog::File(PathBuf::from(path)),
    };
    section.finish()?;
    Ok(config)
}

fn affinity(section: Section<'_>) -> Result<Affinity, ConfigError> {
    let names = Strategy::ALL.map(|strategy| (strategy.name(), strategy));
    let strategy = section.one_of("strategy", &names)?.unwrap_or_default();
    let interface = section.string("interface")?;
    let steering = section.bool("steering")?.unwrap_or(false);
    section.finish()?;
    Ok(Affinity { strategy, interface, steering })
}

/// The addresses that something in the file listens on, and what and where that is.
#[derive(Default)]
struct Taken(Vec<(SocketAddr, String)>);

impl Taken {
    /// Takes what `owner` listens on; an address that is taken already could never be opened.
    fn take(&mut self, section: &Section<'_>, owner: &str, listen: &[SocketAddr]) -> Result<(), ConfigError> {
        for &address in listen {
            if let Some((other, owner)) = self.0.iter().find(|(other, _)| overlap(*other, address)) {
                let accepted = format!("addresses that nothing else listens on: {owner} has {other} already");
                return Err(section.refused("listen", &accepted, &[]));
            }
            self.0.push((address, format!("{owner}, line {},", section.line("listen"))));
        }
        Ok(())
    }
}

fn status(section: Section<'_>, taken: &mut Taken) -> Result<Status, ConfigError> {
    let listen = section
        .address("listen")?
        .ok_or_else(|| section.missing("listen", "an address and a port (\"127.0.0.1:9000\")"))?;
    taken.take(&section, "[status]", &[listen])?;
    let token = section.string("token")?;
    if token.as_ref().is_some_and(|token| token.len() < 8) {
        return Err(section.refused("token", "a secret of at least 8 characters", &[]));
    }
    section.finish()?;
    Ok(Status { listen, token: token.map(Arc::from) })
}

/// Both sides' timeouts: one table gives the defaults, each frontend and backend may set its own.
#[derive(Clone, Copy)]
struct Timeouts {
    client: ClientTimeouts,
    server: ServerTimeouts,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            client: ClientTimeouts {
                request_header: seconds(10),
                keep_alive: seconds(10),
                client: seconds(50),
                client_fin: seconds(5),
            },
            server: ServerTimeouts {
                connect: seconds(5),
                server: seconds(50),
                queue: seconds(5),
                tunnel: seconds(3600),
                idle: seconds(30),
            },
        }
    }
}

fn timeouts(section: Option<Section<'_>>, defaults: &Timeouts) -> Result<Timeouts, ConfigError> {
    let Some(section) = section else { return Ok(*defaults) };
    let Timeouts { client, server } = timeouts_of_client(&section, defaults)?;
    let server = timeouts_of_server(&section, server)?;
    section.finish()?;
    Ok(Timeouts { client, server })
}

fn timeouts_of_client(section: &Section<'_>, defaults: &Timeouts) -> Result<Timeouts, ConfigError> {
    let mut all = *defaults;
    let set = &mut all.client;
    for (key, field) in [
        ("request-header", &mut set.request_header),
        ("keep-alive", &mut set.keep_alive),
        ("client", &mut set.client),
        ("client-fin", &mut set.client_fin),
    ] {
        *field = section.duration(key, MILLI..=DAY)?.unwrap_or(*field);
    }
    Ok(all)
}

fn timeouts_of_server(section: &Section<'_>, mut set: ServerTimeouts) -> Result<ServerTimeouts, ConfigError> {
    for (key, field) in [
        ("connect", &mut set.connect),
        ("server", &mut set.server),
        ("queue", &mut set.queue),
        ("tunnel", &mut set.tunnel),
        ("idle", &mut set.idle),
    ] {
        *field = section.duration(key, MILLI..=DAY)?.unwrap_or(*field);
    }
    Ok(set)
}

const MODES: [(&str, Mode); 2] = [("http", Mode::Http), ("tcp", Mode::Tcp)];

fn frontends(
    root: &Section<'_>,
    timeouts: &Timeouts,
    backends: &[Backend],
    taken: &mut Taken,
) -> Result<Vec<Frontend>, ConfigError> {
    let mut frontends: Vec<Frontend> = Vec::new();
    for section in root.sections("frontend")? {
        let name = section.name("name")?;
        let section = section.titled(format!("frontend {name}"));
        if frontends.iter().any(|other| other.name == name) {
            return Err(section.refused("name", "a name that no other frontend has", &[]));
        }
        let frontend = frontend(section, name, timeouts, backends, taken)?;
        frontends.push(frontend);
    }
    match frontends.is_empty() {
        true => Err(root.missing("frontend", "at least one [[frontend]] table")),
        false => Ok(frontends),
    }
}

fn frontend(
    section: Section<'_>,
    name: String,
    timeouts: &Timeouts,
    backends: &[Backend],
    taken: &mut Taken,
) -> Result<Frontend, ConfigError> {
    let mode = section.one_of("mode", &MODES)?.unwrap_or(Mode::Http);
    let listen = section
        .addresses("listen")?
        .filter(|listen| !listen.is_empty())
        .ok_or_else(|| section.missing("listen", "one or more addresses (\"127.0.0.1:8080\")"))?;
    taken.take(&section, &format!("frontend {name}"), &listen)?;
    let backend = section.name("backend")?;
    let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
    let Some(target) = backends.iter().find(|other| other.name == backend) else {
        return Err(section.refused("backend", &format!("a backend: {}", names.join(", ")), &names));
    };
    if target.mode != mode {
        let (mode, _) = if mode == Mode::Http { MODES[0] } else { MODES[1] };
        return Err(section.refused("backend", &format!("a backend of the same mode, {mode}"), &[]));
    }
    let timeouts = match section.section("timeouts")? {
        None => timeouts.client,
        Some(own) => {
            let client = timeouts_of_client(&own, timeouts)?.client;
            own.finish()?;
            client
        }
    };
    let frontend = Frontend {
        name,
        listen,
        mode,
        backend,
        maxconn: section.integer("maxconn", 1..=1_000_000)?.unwrap_or(2_000) as usize,
        backlog: section.integer("backlog", 1..=65_535)?.unwrap_or(1_024) as i32,
        accept_proxy: section.bool("accept-proxy")?.unwrap_or(false),
        forwarded_for: section.bool("forwarded-for")?.unwrap_or(mode == Mode::Http),
        max_header_bytes: section.size("max-header-bytes", 16_384..=65_536)?.unwrap_or(32_768) as usize,
        timeouts,
    };
    section.finish()?;
    Ok(frontend)
}

fn backends(root: &Section<'_>, timeouts: &Timeouts) -> Result<Vec<Backend>, ConfigError> {
    let mut backends: Vec<Backend> = Vec::new();
    for section in root.sections("backend")? {
        let name = section.name("name")?;
        let section = section.titled(format!("backend {name}"));
        if backends.iter().any(|other| other.name == name) {
            return Err(section.refused("name", "a name that no other backend has", &[]));
        }
        backends.push(backend(section, name, timeouts)?);
    }
    match backends.is_empty() {
        true => Err(root.missing("backend", "at least one [[backend]] table")),
        false => Ok(backends),
    }
}

fn backend(section: Section<'_>, name: String, timeouts: &Timeouts) -> Result<Backend, ConfigError> {
    let mode = section.one_of("mode", &MODES)?.unwrap_or(Mode::Http);
    let timeouts = match section.section("timeouts")? {
        None => timeouts.server,
        Some(own) => {
            let server = timeouts_of_server(&own, timeouts.server)?;
            own.finish()?;
            server
        }
    };
    let backend = Backend {
        algorithm: algorithm(&section)?,
        retries: section.integer("retries", 0..=100)?.unwrap_or(3) as u32,
        redispatch: section.bool("redispatch")?.unwrap_or(true),
        persistence: section.section("persistence")?.map(|own| persistence(own, mode)).transpose()?,
        queue_length: section.integer("queue", 0..=1_000_000)?.unwrap_or(1_024) as usize,
        timeouts,
        idle_connections: section.integer("idle-connections", 0..=65_535)?.unwrap_or(128) as usize,
        check: section.section("check")?.map(check).transpose()?,
        on_down: section
            .one_of("on-down", &[("quiesce", OnDown::Quiesce), ("remove", OnDown::Remove)])?
            .unwrap_or(OnDown::Remove),
        slow_start: section.duration("slow-start", Duration::ZERO..=DAY)?.unwrap_or_default(),
        outlier: section.section("outlier")?.map(outlier).transpose()?,
        send_proxy: section.one_of("send-proxy", &[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)])?,
        servers: servers(&section)?,
        name,
        mode,
    };
    section.finish()?;
    Ok(backend)
}

fn algorithm(section: &Section<'_>) -> Result<Algorithm, ConfigError> {
    let Some(name) = section.string("algorithm")? else { return Ok(Algorithm::RoundRobin) };
    name.parse().map_err(|_| {
        let known: Vec<String> = Algorithm::ALL.iter().map(ToString::to_string).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        section.refused("algorithm", &known.join(", "), &known)
    })
}

fn persistence(section: Section<'_>, mode: Mode) -> Result<Persistence, ConfigError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Source,
        Cookie,
    }
    let kinds = [("source", Kind::Source), ("cookie", Kind::Cookie)];
    let kind = section.one_of("type", &kinds)?.ok_or_else(|| section.missing("type", "source, cookie"))?;
    if kind == Kind::Cookie && mode == Mode::Tcp {
        return Err(section.refused("type", "source: a tcp backend sees no cookies", &[]));
    }
    let persistence = match kind {
        Kind::Source => Persistence::Source {
            expire: section.duration("expire", MILLI..=DAY * 365)?.unwrap_or(Duration::from_secs(1_800)),
            capacity: section.integer("capacity", 1..=100_000_000)?.unwrap_or(100_000) as usize,
        },
        Kind::Cookie => Persistence::Cookie(Cookie {
            name: match section.string("name")? {
                None => "SERVERID".to_owned(),
                Some(name) if is_token(&name) => name,
                Some(_) => return Err(section.refused("name", "a cookie name (RFC 6265 token)", &[])),
            },
            http_only: section.bool("http-only")?.unwrap_or(true),
            secure: section.bool("secure")?.unwrap_or(false),
            nocache: section.bool("nocache")?.unwrap_or(true),
            indirect: section.bool("indirect")?.unwrap_or(true),
        }),
    };
    section.finish()?;
    Ok(persistence)
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn check(section: Section<'_>) -> Result<Check, ConfigError> {
    #[derive(Clone, Copy)]
    enum Kind {
        Tcp,
        Http,
        Command,
    }
    let kinds = [("tcp", Kind::Tcp), ("http", Kind::Http), ("command", Kind::Command)];
    let kind = section.one_of("type", &kinds)?.unwrap_or(Kind::Tcp);
    let interval = section.duration("interval", MILLI..=DAY)?.unwrap_or(Duration::from_secs(2));
    let timeout = section.duration("timeout", MILLI..=DAY)?.unwrap_or(interval);
    let probe = match kind {
        Kind::Tcp => TcpProbe::within(timeout).into(),
        Kind::Http => http_probe(&section)?.within(timeout).into(),
        Kind::Command => {
            let words = section.strings("command")?.filter(|words| !words.is_empty());
            let words =
                words.ok_or_else(|| section.missing("command", "a list: the program and its arguments"))?;
            CommandProbe::new(words).within(timeout).into()
        }
    };
    let rules = health::Config {
        interval,
        // So that three failures in a row take less than the interval, when a failed request brings the first.
        fast_interval: section.duration("fastinter", MILLI..=DAY)?.or(Some(interval / 4)),
        down_interval: section.duration("downinter", MILLI..=DAY)?,
        rise: section.integer("rise", 1..=1_000)?.unwrap_or(2) as u32,
        fall: section.integer("fall", 1..=1_000)?.unwrap_or(3) as u32,
        ..health::Config::default()
    };
    section.finish()?;
    Ok(Check { probe, rules })
}

fn http_probe(section: &Section<'_>) -> Result<HttpProbe, ConfigError> {
    let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut probe = HttpProbe::get(section.string("path")?.unwrap_or_else(|| "/".to_owned()));
    if !probe.path.starts_with('/') || !is_visible(&probe.path) {
        return Err(section.refused("path", "a path that starts with / and has no spaces", &[]));
    }
    if let Some(method) = section.string("method")? {
        if !is_token(&method) {
            return Err(section.refused("method", "a method (\"GET\", \"HEAD\", \"OPTIONS\")", &[]));
        }
        probe.method = method;
    }
    if let Some(host) = section.string("host")? {
        if !is_visible(&host) {
            return Err(section.refused("host", "a host name without spaces", &[]));
        }
        probe = probe.host(host);
    }
    if let Some(status) = section.string("status")? {
        const STATUS: &str = "statuses: \"200\", \"200,204\", \"200-399\", \"2xx\"";
        probe.status = status.parse().map_err(|_| section.refused("status", STATUS, &[]))?;
    }
    if let Some(text) = section.string("text")? {
        probe = probe.expect_text(text);
    }
    Ok(probe)
}

fn outlier(section: Section<'_>) -> Result<outlier::Config, ConfigError> {
    let defaults = outlier::Config::default();
    let consecutive = section.integer("consecutive", 0..=1_000_000)?.unwrap_or(5) as u32;
    let failures = section.number("failure-percentage", 0.0..=100.0)?.unwrap_or(0.0);
    let requests = section.integer("min-requests", 1..=1_000_000)?.unwrap_or(50);
    let success_rate = section.bool("success-rate")?.unwrap_or(false);
    let outlier = outlier::Config {
        interval: section.duration("interval", MILLI..=DAY)?.unwrap_or(defaults.interval),
        consecutive_failures: (consecutive > 0).then_some(consecutive),
        success_rate: success_rate
            .then(|| SuccessRate { request_volume: requests, ..SuccessRate::default() }),
        failure_percentage: (failures > 0.0).then_some(FailurePercentage {
            minimum_hosts: 1,
            request_volume: requests,
            threshold: failures,
        }),
        base_ejection_time: section.duration("ejection", MILLI..=DAY)?.unwrap_or(defaults.base_ejection_time),
        max_ejection_percent: section.integer("max-percent", 0..=100)?.unwrap_or(50) as u8,
        ..defaults
    };
    section.finish()?;
    Ok(outlier)
}

fn servers(backend: &Section<'_>) -> Result<Vec<Server>, ConfigError> {
    let mut servers: Vec<Server> = Vec::new();
    for section in backend.sections("server")? {
        let name = section.name("name")?;
        let section = section.titled(format!("server {name}"));
        if servers.iter().any(|other| other.name == name) {
            return Err(section.refused("name", "a name that no other server of the backend has", &[]));
        }
        let tiers = [("main", Tier::Main), ("backup", Tier::Backup), ("fallback", Tier::Fallback)];
        let tier = section.one_of("role", &tiers)?.unwrap_or(Tier::Main);
        let server = Server {
            name,
            address: reachable(&section, "address")?
                .ok_or_else(|| section.missing("address", "an address and a port (\"10.0.0.1:80\")"))?,
            weight: section.integer("weight", 0..=65_535)?.unwrap_or(1) as u32,
            maxconn: section.integer("maxconn", 0..=1_000_000)?.unwrap_or(0) as u32,
            tier,
            check: section.bool("check")?.unwrap_or(tier != Tier::Fallback),
            check_address: reachable(&section, "check-address")?,
        };
        section.finish()?;
        servers.push(server);
    }
    Ok(servers)
}

/// An address that can be connected to.
fn reachable(section: &Section<'_>, key: &'static str) -> Result<Option<SocketAddr>, ConfigError> {
    match section.address(key)? {
        Some(address) if address.port() == 0 => {
            Err(section.refused(key, "an address and a port from 1 to 65535 (\"10.0.0.1:80\")", &[]))
        }
        address => Ok(address),
    }
}

/// The machine's name; empty where the system does not tell it this way.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| String::new(), |name| name.trim().to_owned())
}
