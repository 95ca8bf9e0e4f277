//! What the director serves when it is told nothing: four pi servers of its own, of different speed.

use std::io;
use std::net::SocketAddr;

use lb_examples::pi_service::{PiService, Settings, SettingsError, serve};
use tokio::net::TcpListener;

use crate::config::{self, Config, ConfigError};

/// The servers' speeds, relative to this machine's, and the weights that fit them.
const SERVERS: [(&str, f64, u32); 4] =
    [("pi1", 1.0, 8), ("pi2", 0.5, 4), ("pi3", 0.25, 2), ("pi4", 0.125, 1)];

/// Why there are no servers to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// No socket or thread for them.
    #[error("cannot start the pi servers: {0}; name servers of your own with --config")]
    System(#[from] io::Error),
    /// Their settings are fixed, so this does not happen.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The configuration is fixed too.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Starts the servers on free loopback ports, on a thread of their own, and gives the configuration that serves them.
pub(crate) fn start(listen: SocketAddr) -> Result<Config, DemoError> {
    let mut servers = String::new();
    let mut services = Vec::new();
    for (name, speed, weight) in SERVERS {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        services.push((
            listener,
            PiService::new(Settings { name: name.to_owned(), speed, ..Settings::default() })?,
        ));
        servers.push_str(&format!(
            "[[backend.server]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = {weight}\n"
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    std::thread::Builder::new().name("pi".into()).spawn(move || {
        runtime.block_on(async move {
            let mut tasks = Vec::new();
            for (listener, service) in services {
                // The listener is non-blocking and this is a runtime, which is all that can be wrong.
                if let Ok(listener) = TcpListener::from_std(listener) {
                    tasks.push(tokio::spawn(serve(listener, service, std::future::pending())));
                }
            }
            for task in tasks {
                let _ = task.await;
            }
        });
    })?;
    Ok(config::parse("the built-in configuration", &text(listen, &servers))?)
}

fn text(listen: SocketAddr, servers: &str) -> String {
    format!(
        r#"
[[frontend]]
name = "web"
listen = "{listen}"
backend = "pi"

[[backend]]
name = "pi"
algorithm = "swrr"
slow-start = "10s"
check = {{ type = "http", path = "/health", interval = "1s", fastinter = "200ms", rise = 2, fall = 2 }}
{servers}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_configuration_is_one() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let servers = "[[backend.server]]\nname = \"a\"\naddress = \"127.0.0.1:2\"\n";
        let config = config::parse("demo", &text(address, servers)).unwrap();
        assert_eq!((config.frontends.len(), config.backends[0].servers.len()), (1, 1));
    }
}
