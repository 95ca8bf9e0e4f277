//! Our director as one of the proxies.

use super::{Directory, Places, Proxy, ServingError};
use lb_affinity::plan::Strategy;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a director is to do.
pub(crate) struct Setup<'a> {
    /// Where clients connect.
    pub(crate) listen: SocketAddr,
    /// Where it sends them.
    pub(crate) servers: &'a [SocketAddr],
    /// Its threads.
    pub(crate) workers: usize,
    /// Where they run; the system decides, without it.
    pub(crate) affinity: Option<Affinity>,
}

/// A director's `[affinity]`.
#[derive(Clone, Debug)]
pub(crate) struct Affinity {
    /// How the processors are divided.
    pub(crate) strategy: Strategy,
    /// The interface whose queues are set too.
    pub(crate) interface: Option<&'static str>,
    /// Whether connections go to the workers near the processors that received them.
    pub(crate) steering: bool,
}

/// The director's binary: the one that is given, or built from this repository.
///
/// # Errors
/// [`ServingError`]: it is not there, or can't be built.
pub(crate) fn binary(given: Option<&Path>) -> Result<PathBuf, ServingError> {
    match given {
        Some(path) if path.is_file() => Ok(path.to_owned()),
        Some(path) => Err(ServingError::NoSuchDirector { path: path.to_owned() }),
        None => build(),
    }
}

impl Proxy {
    /// Ours. `name` is its alone.
    ///
    /// # Errors
    /// [`ServingError`]: it does not start.
    pub(crate) fn director(
        name: &str,
        binary: &Path,
        setup: &Setup<'_>,
        directory: &Directory,
        places: &Places,
    ) -> Result<Self, ServingError> {
        let file = directory.write(&format!("{name}.toml"), &configuration(setup))?;
        let mut command = places.proxy_command(binary);
        command.arg("--config").arg(file);
        Self::start(name, command, setup.listen, directory)
    }
}

/// Builds the director of this repository, and asks cargo where it is.
fn build() -> Result<PathBuf, ServingError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--bin", "director", "--message-format=json-render-diagnostics"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(ServingError::io("run cargo to build the director"))?;
    if !output.status.success() {
        return Err(ServingError::Build { status: output.status });
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "director")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or(ServingError::NoBinary)
}

fn configuration(setup: &Setup<'_>) -> String {
    let Setup { listen, servers, workers, affinity } = setup;
    let mut text = format!("[director]\nworkers = {workers}\n");
    if let Some(Affinity { strategy, interface, steering }) = affinity {
        text.push_str(&format!("\n[affinity]\nstrategy = \"{strategy}\"\n"));
        if let Some(interface) = interface {
            text.push_str(&format!("interface = \"{interface}\"\n"));
        }
        if *steering {
            text.push_str("steering = true\n");
        }
    }
    text.push_str(&format!(
        r#"
[[frontend]]
name = "test"
listen = "{listen}"
backend = "servers"

[[backend]]
name = "servers"
algorithm = "rr"
"#
    ));
    for (i, server) in servers.iter().enumerate() {
        text.push_str(&format!("\n[[backend.server]]\nname = \"s{i}\"\naddress = \"{server}\"\n"));
    }
    text
}
