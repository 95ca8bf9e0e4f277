//! keepalived as a peer.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use lb_vrrp::linux::Instance;
use nix::unistd::Pid;

use super::router::command as inside;
use super::{Host, text};

const PARENT: &str = "keepalived.pid";
const CHILD: &str = "vrrp.pid";

pub(super) fn command(
    directory: &Path,
    host: &Host,
    realtime: Option<u8>,
    instances: &[Instance],
) -> Command {
    for file in [PARENT, CHILD] {
        let _ = fs::remove_file(directory.join(file)); // there is none at first
    }
    configure(directory, realtime, instances);
    let mut command = inside(host, "keepalived");
    // Without details in the log: a line for each announcement would slow it down.
    command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]);
    command.arg(directory.join("keepalived.conf"));
    command.arg("--pid").arg(directory.join(PARENT)).arg("--vrrp_pid").arg(directory.join(CHILD));
    command
}

pub(super) fn is_ready(directory: &Path) -> bool {
    text(&directory.join("log")).contains("Startup complete")
}

/// The process that speaks VRRP.
pub(super) fn child(directory: &Path) -> Option<Pid> {
    text(&directory.join(CHILD)).trim().parse().ok().map(Pid::from_raw)
}

pub(super) fn configure(directory: &Path, realtime: Option<u8>, instances: &[Instance]) {
    fs::write(directory.join("keepalived.conf"), configuration(realtime, instances))
        .expect("its directory is there");
}

/// What an instance is in keepalived's words.
fn configuration(realtime: Option<u8>, instances: &[Instance]) -> String {
    let mut text = String::from("global_defs {\n router_id laboratory\n");
    if let Some(priority) = realtime {
        let _ = writeln!(text, " vrrp_rt_priority {priority}");
    }
    text.push_str("}\n");
    for Instance { config, interface, vmac, .. } in instances {
        let seconds = f64::from(config.interval.centiseconds()) / 100.0;
        let _ = write!(
            text,
            "vrrp_instance V{vrid} {{\n state BACKUP\n version {version}\n interface {interface}\n \
             virtual_router_id {vrid}\n priority {priority}\n advert_int {seconds}\n",
            vrid = config.vrid,
            version = config.version.number(),
            priority = config.priority,
        );
        if !config.preempt {
            text.push_str(" nopreempt\n");
        }
        if vmac.is_some() {
            let _ = writeln!(text, " use_vmac kv.{}", config.vrid);
        }
        for peer in &config.unicast_peers {
            let _ = writeln!(text, " unicast_peer {{\n  {peer}\n }}");
        }
        for (block, advertised) in [("virtual_ipaddress", true), ("virtual_ipaddress_excluded", false)] {
            let mut addresses =
                config.addresses.iter().filter(|address| address.advertised == advertised).peekable();
            if addresses.peek().is_some() {
                let _ = writeln!(text, " {block} {{");
                addresses.for_each(|address| text.push_str(&format!("  {address}\n")));
                text.push_str(" }\n");
            }
        }
        text.push_str("}\n");
    }
    text
}
