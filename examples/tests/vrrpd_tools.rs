//! `vrrpd check`, `convert` and `decode` as a user runs them.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn vrrpd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vrrpd")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// A file that is gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let file = std::env::temp_dir().join(format!("vrrpd-tools-{}-{name}", std::process::id()));
        std::fs::write(&file, bytes).unwrap();
        Self(file)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const GOOD: &str = "vrrp_instance HA1 {\n  interface eth0\n  virtual_router_id 11\n  priority 150\n  virtual_ipaddress {\n    192.168.250.250\n  }\n  smtp_alert\n}\n";

#[test]
fn check_sums_up_what_is_good_and_names_the_line_of_what_is_not() {
    let good = Scratch::new("good.conf", GOOD.as_bytes());
    let (success, out, err) = said(&vrrpd(&["check", good.name()]));
    assert!(success, "{err}");
    let instance = "HA1: version 2 vrid 11 priority 150 every 1 s on eth0, addresses 192.168.250.250/32";
    assert_eq!(out, format!("{} is valid: 1 instance\n{instance}\n", good.name()));
    assert_eq!(
        err,
        format!(
            "vrrpd: warning: {}:8: vrrp_instance HA1: `smtp_alert` is left out: vrrpd sends no mail: use notify\n",
            good.name()
        )
    );

    let bad = Scratch::new("bad.conf", GOOD.replace("150", "999").replace("eth0", "a/b").as_bytes());
    let (success, out, err) = said(&vrrpd(&["check", bad.name()]));
    assert!(!success && out.is_empty());
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 3, "{err}");
    assert!(lines[0].starts_with(&format!("vrrpd: warning: {}:8: ", bad.name())), "{err}");
    assert!(lines[1].starts_with(&format!("vrrpd: {}:2: interface = a/b", bad.name())), "{err}");
    assert!(lines[2].starts_with(&format!("vrrpd: {}:4: priority = 999", bad.name())), "{err}");

    let (success, _, err) = said(&vrrpd(&["check", "/no/such/file.toml"]));
    assert!(!success && err.contains("/no/such/file.toml: cannot be read"), "{err}");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("vrrpd.toml");
    let (success, out, err) = said(&vrrpd(&["check", sample.to_str().unwrap()]));
    assert!(success && out.contains("2 instances, 1 group, 1 script"), "{out}{err}");
}

/// One file for both machines, as keepalived's `-i` has it.
#[test]
fn conditions_ask_for_the_id_that_is_given() {
    let both = GOOD.replace("  priority 150", "  @first priority 150\n  @^first priority 90");
    let both = Scratch::new("both.conf", both.as_bytes());
    for (id, priority) in [(["-i", "first"], 150), (["--config-id", "second"], 90)] {
        for (command, shown) in
            [("check", format!("priority {priority} ")), ("convert", format!("priority = {priority}\n"))]
        {
            let (success, out, err) = said(&vrrpd(&[&[command, both.name()][..], &id].concat()));
            assert!(success && out.contains(&shown), "{command} {id:?}: {out}{err}");
        }
    }
}

#[test]
fn convert_writes_what_check_accepts() {
    let good = Scratch::new("convert.conf", GOOD.as_bytes());
    let (success, toml, err) = said(&vrrpd(&["convert", good.name()]));
    assert!(success && toml.contains("[vrrp_instance.HA1]\ninterface = \"eth0\"\n"), "{toml}{err}");
    let converted = Scratch::new("converted.toml", toml.as_bytes());
    let (success, out, err) = said(&vrrpd(&["check", converted.name()]));
    assert!(success && out.contains("HA1: version 2 vrid 11 priority 150"), "{out}{err}");
}

#[test]
fn decode_prints_an_object_for_each_advert() {
    let mut file =
        vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 101, 0, 0, 0];
    let advert = [0x31, 51, 100, 1, 0, 100, 0x75, 0x60, 10, 9, 0, 100];
    for ttl in [255, 64] {
        let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, ttl, 112, 0, 0, 10, 9, 0, 2, 224, 0, 0, 18];
        packet.extend(advert);
        file.extend([[0, 0, 0, 0], [0, 0, 0, 0], [32, 0, 0, 0], [32, 0, 0, 0]].concat());
        file.extend(packet);
    }
    let capture = Scratch::new("two.pcap", &file);
    let (success, out, err) = said(&vrrpd(&["decode", "--json", capture.name()]));
    assert!(success && err.is_empty(), "{err}");
    let objects: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        objects.iter().map(|object| (object["valid"].clone(), object["reason"].clone())).collect();
    assert_eq!(told, [(true.into(), serde_json::Value::Null), (false.into(), "ttl".into())]);
    assert!(objects.iter().all(|object| (&object["version"], &object["vrid"], &object["priority"])
        == (&3.into(), &51.into(), &100.into())));

    let (success, out, err) = said(&vrrpd(&["decode", capture.name()]));
    assert!(success && out.lines().count() == 2 && out.contains(": invalid, ttl:"), "{out}");
    assert_eq!(err, "vrrpd: 2 adverts, 1 of them valid; 0 other packets\n");
    let (success, _, err) = said(&vrrpd(&["decode", concat!(env!("CARGO_MANIFEST_DIR"), "/vrrpd.toml")]));
    assert!(!success && err.contains("not a capture"), "{err}");
}
