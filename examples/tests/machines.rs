//! `machines` as a user runs it, on simulated hosts in files.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A directory of one test's own, that goes with it, with hosts in it.
struct Hosts(PathBuf);

impl Hosts {
    fn new(test: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("machines-{test}"));
        if directory.exists() {
            fs::remove_dir_all(&directory).unwrap();
        }
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn uri(&self, host: &str) -> String {
        format!("sim:{}/{host}.json", self.0.display())
    }

    fn run(&self, host: &str, arguments: &[&str], stdin: &str) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_machines"));
        program.args(["--host", &self.uri(host)]).args(arguments);
        let streams = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap();
        // One that does not read it is no fault.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What it printed; it succeeded.
    fn out(&self, host: &str, arguments: &[&str]) -> String {
        let output = self.run(host, arguments, "");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complained of; it failed.
    fn complaint(&self, host: &str, arguments: &[&str]) -> String {
        let output = self.run(host, arguments, "");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn define(&self, host: &str, definition: &str) {
        let output = self.run(host, &["define", "-"], definition);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn state(&self, host: &str, name: &str) -> Value {
        let text = self.out(host, &["show", name, "--json"]);
        serde_json::from_str::<Value>(&text).unwrap()["state"].clone()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_newcomers_first_calls() {
    let hosts = Hosts::new("first");
    assert!(hosts.out("a", &["list"]).starts_with("no machines"));
    let example = hosts.out("a", &["define", "--example"]);
    hosts.define("a", &example);
    assert_eq!(hosts.out("a", &["start", "web1"]), "");
    let listed = hosts.out("a", &["list"]);
    assert_eq!(listed, "NAME  STATE          VCPUS      MEMORY\nweb1  running            2    1024 MiB\n");
    let listed: Value = serde_json::from_str(&hosts.out("a", &["list", "--json"])).unwrap();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["state"], &listed[0]["vcpus"]),
        (&json!("web1"), &json!("running"), &json!(2))
    );
    // What is shown can be defined again, as TOML and as XML.
    for form in [&["show", "web1"][..], &["show", "web1", "--xml"]] {
        hosts.define("b", &hosts.out("a", form));
        assert_eq!(hosts.state("b", "web1"), "shut-off");
        hosts.out("b", &["delete", "web1"]);
    }
    hosts.out("a", &["pause", "web1"]);
    assert_eq!(hosts.state("a", "web1"), "paused");
    hosts.out("a", &["resume", "web1"]);
    hosts.out("a", &["stop", "web1", "--wait", "30s"]);
    assert_eq!(hosts.state("a", "web1"), "shut-off");
    hosts.out("a", &["delete", "web1"]);
    assert!(hosts.out("a", &["list"]).starts_with("no machines"));
}

#[test]
fn pins_snapshots_and_consoles() {
    let hosts = Hosts::new("parts");
    hosts.define("a", "name = 'web1'\nvcpus = 2\nmemory = '256 MiB'\n");
    hosts.out("a", &["pin", "web1", "0=4", "1=5-7"]);
    assert!(hosts.out("a", &["show", "web1"]).contains("[pins.vcpus]\n0 = \"4\"\n1 = \"5-7\"\n"));
    // Shown as they are given, and none taken away by looking.
    assert_eq!(hosts.out("a", &["pin", "web1"]), "0=4\n1=5-7\n");
    hosts.out("a", &["pin", "web1", "--none"]);
    assert_eq!(hosts.out("a", &["pin", "web1"]), "0=any\n1=any\n");
    assert!(!hosts.out("a", &["show", "web1"]).contains("5-7"));
    hosts.out("a", &["snapshot", "take", "web1", "fresh"]);
    hosts.out("a", &["start", "web1"]);
    hosts.out("a", &["snapshot", "take", "web1", "at-work"]);
    assert_eq!(hosts.out("a", &["snapshot", "list", "web1"]), "fresh  shut off\nat-work  running\n");
    hosts.out("a", &["snapshot", "restore", "web1", "fresh"]);
    assert_eq!(hosts.state("a", "web1"), "shut-off");
    hosts.out("a", &["snapshot", "delete", "web1", "fresh"]);
    assert_eq!(hosts.out("a", &["console", "web1"]), "/dev/pts/web1\n");
    for (arguments, said) in [
        (&["pin", "web1", "0"][..], "\"0\" is no pin"),
        (&["pin", "web1", "x=1"], "is no virtual CPU"),
        (&["pin", "web1", "0=1", "0=2"], "is pinned twice"),
        (&["pin", "web1", "9=1"], "virtual CPU 9 is pinned, and the machine has at most 2"),
        (&["snapshot", "restore", "web1", "never"], "has no snapshot \"never\""),
    ] {
        let complaint = hosts.complaint("a", arguments);
        assert!(complaint.contains(said), "{complaint}: {said}");
    }
}

#[test]
fn machines_are_resized_and_started_anew() {
    let hosts = Hosts::new("sizes");
    hosts.define("a", "name = 'web1'\nvcpus = 2\nmax-vcpus = 4\nmemory = '256 MiB'\nmax-memory = '1 GiB'\n");
    hosts.out("a", &["start", "web1"]);
    assert_eq!(hosts.out("a", &["resize", "web1", "--vcpus", "4", "--memory", "512 MiB"]), "");
    let listed: Value = serde_json::from_str(&hosts.out("a", &["list", "--json"])).unwrap();
    assert_eq!((&listed[0]["vcpus"], &listed[0]["memory"]), (&json!(4), &json!("512 MiB")));
    let complaint = hosts.complaint("a", &["resize", "web1", "--vcpus", "5"]);
    assert!(complaint.contains("at most 4"), "{complaint}");
    hosts.out("a", &["reboot", "web1"]);
    assert_eq!(hosts.state("a", "web1"), "running");
    assert!(hosts.complaint("a", &["wake", "web1"]).contains("running"));
    hosts.out("a", &["off", "web1"]);
    hosts.out("a", &["resize", "web1", "--vcpus", "8"]);
    assert!(hosts.out("a", &["show", "web1"]).contains("vcpus = 8"));
    assert!(hosts.complaint("a", &["reboot", "web1"]).contains("shut off"));
    assert_eq!(hosts.run("a", &["resize", "web1"], "").status.code(), Some(2), "to nothing");
}

#[test]
fn disks_and_network_interfaces_come_and_go() {
    let hosts = Hosts::new("devices");
    hosts.define(
        "a",
        "name = 'web1'\nvcpus = 1\nmemory = '64 MiB'\n[[disks]]\nsource = { file = '/a.img' }\n",
    );
    hosts.out("a", &["start", "web1"]);
    let shown = || -> Value {
        let all: Value = serde_json::from_str(&hosts.out("a", &["show", "web1", "--json"])).unwrap();
        all["definition"].clone()
    };
    assert_eq!(hosts.out("a", &["attach", "disk", "web1", "/b.qcow2", "--shared"]), "vdb\n");
    let disc = ["attach", "disk", "web1", "/c.iso", "--cdrom", "--bus", "scsi", "--target", "sdc"];
    assert_eq!(hosts.out("a", &disc), "sdc\n");
    hosts.out("a", &["attach", "disk", "web1", "/dev/vg/d", "--block", "--cache", "none"]);
    let disks = &shown()["disks"];
    assert_eq!((&disks[1]["format"], &disks[1]["shared"]), (&json!("qcow2"), &json!(true)));
    assert_eq!((&disks[2]["device"], &disks[2]["read-only"]), (&json!("cdrom"), &json!(true)));
    assert_eq!((&disks[3]["source"]["block"], &disks[3]["cache"]), (&json!("/dev/vg/d"), &json!("none")));
    let mac = "52:54:00:00:00:07";
    let nic = ["attach", "nic", "web1", "--bridge", "br0", "--model", "e1000", "--mac", mac, "--vlan", "129"];
    assert_eq!(hosts.out("a", &nic), format!("{mac}\n"));
    let chosen = hosts.out("a", &["attach", "nic", "web1", "--nat"]);
    let nics = &shown()["nics"];
    assert_eq!((&nics[0]["network"]["bridge"], &nics[0]["vlan"]), (&json!("br0"), &json!(129)));
    assert_eq!(nics[1]["mac"], chosen.trim());
    for (arguments, said) in [
        (&["attach", "disk", "web1", "/e.img", "--target", "vdb"][..], "has a disk \"vdb\" already"),
        (&["attach", "disk", "web1", "e.img"], "write an absolute one"),
        (&nic, mac),
        (&["detach", "disk", "web1", "vdz"], "has no disk \"vdz\""),
        (&["detach", "nic", "web1", "52:54:00:00:00:08"], "has no network interface"),
    ] {
        let complaint = hosts.complaint("a", arguments);
        assert!(complaint.contains(said), "{complaint}: {said}");
    }
    for wrong in [&["attach", "nic", "web1"][..], &["attach", "nic", "web1", "--nat", "--bridge", "br0"]] {
        assert_eq!(hosts.run("a", wrong, "").status.code(), Some(2), "{wrong:?}");
    }
    hosts.out("a", &["detach", "disk", "web1", "sdc"]);
    hosts.out("a", &["detach", "nic", "web1", mac]);
    let left = shown();
    assert_eq!((left["disks"].as_array().unwrap().len(), left["nics"].as_array().unwrap().len()), (3, 1));
}

#[test]
fn a_machine_is_made_from_another() {
    let hosts = Hosts::new("clones");
    hosts.define("a", "name = 'web1'\nvcpus = 1\nmemory = '64 MiB'\n[[disks]]\nsource = { file = '/a.qcow2' }\nformat = 'qcow2'\n");
    hosts.out("a", &["clone", "web1", "web2", "--directory", "/srv/images", "--linked"]);
    assert!(hosts.out("a", &["show", "web2"]).contains("/srv/images/web2-vda.qcow2"));
    let complaint = hosts.complaint("a", &["clone", "web1", "web2", "--directory", "/srv/images"]);
    assert!(complaint.contains("web2"), "{complaint}");
}

#[test]
fn a_machine_moves_to_another_host() {
    let hosts = Hosts::new("moves");
    let shared = "name = 'web1'\nvcpus = 1\nmemory = '64 MiB'\n[[disks]]\nsource = { file = '/a.img' }\nshared = true\n";
    hosts.define("a", shared);
    hosts.define("a", &shared.replace("web1", "web2").replace("shared = true", ""));
    hosts.out("a", &["start", "web1", "web2"]);
    let to = hosts.uri("b");
    let moved = hosts.out("a", &["migrate", "web1", "--to", &to]);
    assert!(
        moved.starts_with(&format!("web1 moved to {to} in ")) && moved.contains("it stood still for"),
        "{moved}"
    );
    assert_eq!(hosts.state("b", "web1"), "running");
    assert!(hosts.complaint("a", &["show", "web1"]).contains("there is no machine \"web1\""));
    let refused = hosts.complaint("a", &["migrate", "web2", "--to", &to]);
    assert!(refused.contains("was not moved") && refused.contains("/a.img"), "{refused}");
    assert_eq!(hosts.state("a", "web2"), "running");
    hosts.out("a", &["migrate", "web2", "--to", &to, "--force"]);
    assert_eq!(hosts.state("b", "web2"), "running");
    hosts.out("b", &["power-off", "web2"]);
    let back = hosts.out("b", &["migrate", "web2", "--to", &hosts.uri("a"), "--force"]);
    assert!(back.contains("it was shut off"), "{back}");
    assert_eq!(hosts.state("a", "web2"), "shut-off");
    for again in ["--resume", "--recover"] {
        let at_rest = hosts.complaint("b", &["migrate", "web1", "--to", &hosts.uri("a"), again]);
        assert!(at_rest.contains("it is not being moved (it is on the source)"), "{at_rest}");
    }
    let itself = hosts.complaint("b", &["migrate", "web1", "--to", &to]);
    assert!(itself.contains(&format!("web1 is on {to} already: name another host")), "{itself}");
    assert_eq!(hosts.state("b", "web1"), "running");
    // A target that can't keep the machine leaves it where it was.
    fs::create_dir(hosts.0.join("b.json.new")).unwrap();
    let unkept = hosts.complaint("a", &["migrate", "web2", "--to", &to, "--force"]);
    assert!(unkept.contains("b.json"), "{unkept}");
    assert_eq!(hosts.state("a", "web2"), "shut-off");
}

/// QEMU's directory, of which nothing is started here.
#[test]
fn a_definition_that_can_t_be_read_is_listed_and_deleted_when_that_is_asked_for() {
    let hosts = Hosts::new("broken");
    let directory = hosts.0.join("qemu");
    let machines = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_machines"));
        let output = program.arg("--host").arg(format!("qemu:{}", directory.display())).args(arguments);
        let output = output.output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let definition = hosts.0.join("web1.toml");
    fs::write(&definition, "name = 'web1'\nvcpus = 1\nmemory = '64 MiB'\n").unwrap();
    let define = ["define", definition.to_str().unwrap()];
    assert!(machines(&define).0);
    let (done, said) = machines(&["delete", "--broken", "web1"]);
    assert!(!done && said.contains("its definition can be read: delete it"), "{said}");
    fs::write(directory.join("machines/web1/definition.json"), "{").unwrap();
    let (listed, said) = machines(&["list"]);
    assert!(listed && said.contains("web1") && said.contains("unknown"), "{said}");
    let (done, said) = machines(&["delete", "web1"]);
    assert!(
        !done && said.contains("definition.json") && said.contains("`machines delete --broken`"),
        "{said}"
    );
    assert!(machines(&["delete", "--broken", "web1"]).0);
    assert!(machines(&["list"]).1.starts_with("no machines"));
    assert!(machines(&define).0);
}

#[test]
fn who_types_a_definition_keeps_nobody_from_the_host() {
    let hosts = Hosts::new("typed");
    let mut program = Command::new(env!("CARGO_BIN_EXE_machines"));
    program.args(["--host", &hosts.uri("a"), "define", "-"]).stdin(Stdio::piped());
    let mut typing = program.spawn().unwrap();
    let mut input = typing.stdin.take().unwrap();
    input.write_all(b"name = 'web1'\n").unwrap();
    hosts.define("a", "name = 'web2'\nvcpus = 2\nmemory = '256 MiB'\n");
    input.write_all(b"vcpus = 2\nmemory = '256 MiB'\n").unwrap();
    drop(input);
    assert!(typing.wait().unwrap().success());
    let listed = hosts.out("a", &["list"]);
    assert!(listed.contains("web1") && listed.contains("web2"), "{listed}");
    hosts.out("a", &["start", "web1"]);
    hosts.out("a", &["stop", "web1", "--wait", "500000000000y"]);
    assert_eq!(hosts.state("a", "web1"), "shut-off");
}

#[test]
fn what_machines_use_is_seen() {
    let hosts = Hosts::new("stats");
    assert_eq!(hosts.out("a", &["stats", "--interval", "1ms"]), "no machine runs\n");
    hosts.define("a", "name = 'web1'\nvcpus = 2\nmemory = '256 MiB'\n");
    hosts.out("a", &["start", "web1"]);
    let watched = hosts.out("a", &["stats", "--watch", "--interval", "50ms", "--count", "2"]);
    assert_eq!(watched.matches("web1").count(), 2, "{watched}");
    let totals: Value = serde_json::from_str(&hosts.out("a", &["stats", "--json"])).unwrap();
    assert_eq!(totals["web1"]["vcpus"], 2);
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let hosts = Hosts::new("wrong");
    for (definition, said) in [
        ("name = 'web1'\n", "missing field `vcpus`"),
        ("name = 'a/b'\nvcpus = 1\nmemory = '1 GiB'\n", "is no name for a machine"),
        ("name = 'a'\nvcpus = 1\nmemory = 'much'\n", "is no amount of memory"),
        ("name = 'a'\nvcpus = 1\nmemory = '1 GiB'\ncolour = 3\n", "unknown field `colour`"),
        ("<domain/>", "has no name"),
    ] {
        let output = hosts.run("a", &["define", "-"], definition);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && complaint.contains(said), "{complaint}: {said}");
    }
    assert!(hosts.out("a", &["list"]).starts_with("no machines"));
    assert!(hosts.complaint("a", &["start", "ghost"]).contains("there is no machine \"ghost\""));
    assert!(hosts.complaint("a", &["define", "/nowhere.toml"]).contains("/nowhere.toml: No such file"));
    fs::write(hosts.0.join("broken.json"), "{}").unwrap();
    assert!(hosts.complaint("broken", &["list"]).contains("is no simulated host"));
    for (uri, said) in [
        ("kvm:", "write sim:, qemu:DIRECTORY, xen:, vbox: or libvirt+URI"),
        ("qemu:///system", "that is libvirt's: write libvirt+ before it"),
    ] {
        let unknown =
            Command::new(env!("CARGO_BIN_EXE_machines")).args(["--host", uri, "list"]).output().unwrap();
        let complaint = String::from_utf8(unknown.stderr).unwrap();
        assert!(complaint.contains(said), "{complaint}");
    }
}
