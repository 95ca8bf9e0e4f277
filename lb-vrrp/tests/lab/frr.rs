//! FRR as a peer: zebra and vrrpd, and the macvlan interfaces that vrrpd wants to find.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lb_vrrp::linux::Instance;
use lb_vrrp::wire::Family;
use nix::unistd::User;

use super::lan::ip_batch;
use super::router::command as inside;
use super::{Host, wait_until};

const ZEBRA_SOCKET: &str = "zserv.api";

/// Makes the macvlan interfaces and starts zebra.
pub(super) fn prepare(directory: &Path, host: &Host, instances: &[Instance]) -> Child {
    let user = User::from_name("frr").ok().flatten().expect("FRR is installed: it has a user frr");
    chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .expect("root may give a directory away");
    for Instance { config, interface, .. } in instances {
        let (digit, vrid) = (if config.family() == Family::Ipv4 { 4 } else { 6 }, config.vrid);
        let mac = config.family().virtual_mac(vrid).map(|byte| format!("{byte:02x}")).join(":");
        let name = format!("vrrp{digit}-2-{vrid}");
        // In two steps: macvlan refuses an addrgenmode when it is made.
        let mut batch = format!(
            "link add {name} link {interface} type macvlan mode bridge\n\
             link set {name} address {mac} addrgenmode random\n"
        );
        let nodad = if digit == 6 { "nodad" } else { "" };
        for address in &config.addresses {
            batch.push_str(&format!("address add {address} dev {name} {nodad}\n"));
        }
        batch.push_str(&format!("link set {name} up\n"));
        ip_batch(&host.namespace, &batch);
    }
    let log = fs::File::create(directory.join("zebra.out")).expect("a log");
    let mut zebra = daemon(directory, host, "zebra");
    zebra.stdout(log.try_clone().expect("a second handle")).stderr(log);
    let zebra = zebra.spawn().expect("FRR is installed");
    let up = wait_until(Duration::from_secs(20), || directory.join(ZEBRA_SOCKET).exists());
    assert!(up, "zebra does not start: {}", super::text(&directory.join("zebra.out")));
    zebra
}

pub(super) fn command(directory: &Path, host: &Host, instances: &[Instance]) -> Command {
    let _ = fs::remove_file(directory.join("vrrpd.vty")); // a killed one leaves it
    fs::write(directory.join("vrrpd.conf"), configuration(instances)).expect("its directory is there");
    daemon(directory, host, "vrrpd")
}

fn daemon(directory: &Path, host: &Host, name: &str) -> Command {
    let config = directory.join(format!("{name}.conf"));
    if !config.exists() {
        fs::write(&config, "").expect("its directory is there");
    }
    let mut command = inside(host, &format!("/usr/lib/frr/{name}"));
    command.arg("-f").arg(config).arg("-i").arg(directory.join(format!("{name}.pid")));
    command.arg("-z").arg(directory.join(ZEBRA_SOCKET)).arg("--vty_socket").arg(directory);
    // Port 0: no telnet.
    command.args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"]);
    command
}

pub(super) fn is_ready(directory: &Path) -> bool {
    directory.join("vrrpd.vty").exists()
}

/// Tells the running vrrpd.
pub(super) fn reload(directory: &Path, instances: &[Instance]) {
    let answer = vtysh(directory, &format!("configure terminal\n{}", configuration(instances)));
    assert!(!answer.contains('%'), "vtysh: {answer}");
}

/// Runs commands in vtysh and gives its answer; it says "Unknown command" to what it does not know.
pub(super) fn vtysh(directory: &Path, commands: &str) -> String {
    let mut vtysh = Command::new("vtysh");
    vtysh.arg("--vty_socket").arg(directory).stdin(Stdio::null());
    for command in commands.lines() {
        vtysh.arg("-c").arg(command.trim());
    }
    let output = vtysh.output().expect("FRR is installed");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// What an instance is in FRR's words.
fn configuration(instances: &[Instance]) -> String {
    let mut text = String::new();
    for Instance { config, interface, .. } in instances {
        let vrid = config.vrid;
        text.push_str(&format!(
            "interface {interface}\n vrrp {vrid} version {}\n vrrp {vrid} priority {}\n \
             vrrp {vrid} advertisement-interval {}\n {}vrrp {vrid} preempt\n",
            config.version.number(),
            config.priority,
            config.interval.duration().as_millis(),
            if config.preempt { "" } else { "no " },
        ));
        for address in config.advertised() {
            let ip = if address.is_ipv4() { "ip" } else { "ipv6" };
            text.push_str(&format!(" vrrp {vrid} {ip} {address}\n"));
        }
    }
    text
}
