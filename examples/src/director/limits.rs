//! File descriptors: each client connection needs one, and most need another towards a server.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// Descriptors for listeners, logs, checks and the status page.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one, as far as this process may; says so where that is less than what the
/// configuration may need.
pub(crate) fn raise(config: &Config) {
    let connections: usize = config.frontends.iter().map(|frontend| frontend.maxconn).sum();
    let needed = 2 * connections as u64 + OTHERS;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let limit =
        if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    if limit < needed {
        eprintln!(
            "director: {limit} file descriptors are less than the {needed} that maxconn may need; raise ulimit -n"
        );
    }
}
