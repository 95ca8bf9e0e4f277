//! vrrpd on a wire: against itself and against keepalived.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod vrrpd;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use vrrpd::{FLOATING, Lab, Router, run, thesis, until};

type Start = fn(&Lab, usize, &Path) -> Router;

/// The thesis's configuration on two machines: `better` with priority 150 on the first, `other` with 100 on the second.
///
/// By the formula the address moves 0.609 s after SIGTERM and 2.6 to 3.6 s after SIGKILL; what is above is the machine's.
fn the_address_moves(better: Start, other: Start) {
    let lab = Lab::new();
    let first = lab.write("first.conf", &thesis("MASTER", 150));
    let second = lab.write("second.conf", &thesis("BACKUP", 100));
    let one = better(&lab, 0, &first);
    let _two = other(&lab, 1, &second);
    lab.wait_for(0);
    std::thread::sleep(Duration::from_secs(2));
    assert!(lab.has(0) && !lab.has(1), "one has the address");

    let begun = Instant::now();
    one.signal(Signal::SIGTERM);
    lab.wait_for(1);
    let moved = begun.elapsed();
    println!("after SIGTERM: {moved:?}");
    assert!((0.5..=1.0).contains(&moved.as_secs_f64()), "after SIGTERM: {moved:?}");
    assert!(one.ended(), "it ends well");
    assert!(!lab.has(0));

    let one = better(&lab, 0, &first);
    let back = lab.wait_for(0);
    println!("back by preemption: {back:?}");
    until("the other gives the address up", || !lab.has(1));

    let begun = Instant::now();
    one.kill();
    lab.wait_for(1);
    let moved = begun.elapsed();
    println!("after SIGKILL: {moved:?}");
    assert!((2.0..=4.0).contains(&moved.as_secs_f64()), "after SIGKILL: {moved:?}");

    let _one = better(&lab, 0, &first);
    until("the other gives the address up", || lab.has(0) && !lab.has(1));
}

#[test]
#[ignore = "needs root and keepalived"]
fn the_address_moves_between_two_of_ours() {
    the_address_moves(Lab::vrrpd, Lab::vrrpd);
}

#[test]
#[ignore = "needs root and keepalived"]
fn the_address_moves_from_ours_to_keepalived() {
    the_address_moves(Lab::vrrpd, Lab::keepalived);
}

#[test]
#[ignore = "needs root and keepalived"]
fn the_address_moves_from_keepalived_to_ours() {
    the_address_moves(Lab::keepalived, Lab::vrrpd);
}

#[test]
#[ignore = "needs root and keepalived"]
fn what_a_killed_one_left_is_cleaned_at_the_next_start() {
    let lab = Lab::new();
    let config = lab.write("first.conf", &thesis("MASTER", 150));
    let one = lab.vrrpd(0, &config);
    lab.wait_for(0);
    one.kill();
    assert!(lab.has(0), "a killed one leaves its address");
    let one = lab.vrrpd(0, &config);
    assert!(!lab.has(0), "the next start takes it away before it takes part");
    assert_eq!(one.instance()["state"], "backup");
    lab.wait_for(0);
    assert!(one.stop() && !lab.has(0));
}

#[test]
#[ignore = "needs root and tcpdump"]
fn a_reload_is_no_transition() {
    let lab = Lab::new();
    let text = thesis("MASTER", 150);
    let config = lab.write("first.conf", &text);
    let one = lab.vrrpd(0, &config);
    lab.wait_for(0);
    let capture = lab.folder.join("wire.pcap");
    let mut dump = lab
        .command(1, "tcpdump")
        .args(["-i", "eth0", "-U", "-w", capture.to_str().unwrap(), "ip", "proto", "112"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the capture begins", || capture.metadata().is_ok_and(|about| about.len() > 24));

    let before = one.instance();
    one.signal(Signal::SIGHUP);
    until("it is taken over", || one.ask().unwrap()["reloads"] == 1);
    std::thread::sleep(Duration::from_millis(1500));
    std::fs::write(&config, text.replace("priority 150", "priority 140")).unwrap();
    one.signal(Signal::SIGHUP);
    until("the new priority holds", || one.instance()["priority"]["configured"] == 140);
    std::fs::write(&config, text.replace("priority 150", "priority 400")).unwrap();
    one.signal(Signal::SIGHUP);
    until("the mistake is logged", || {
        one.log().contains(&format!(
            "{}:10: priority = 400 in vrrp_instance HA1 is not accepted",
            config.display()
        ))
    });
    std::thread::sleep(Duration::from_millis(1500));
    let after = one.instance();
    assert_eq!((&after["transitions"], &after["since"]), (&before["transitions"], &before["since"]));
    assert_eq!((&after["state"], &after["priority"]["configured"]), (&"active".into(), &140.into()));
    assert_eq!(one.log().matches(" -> ").count(), 2, "{}", one.log());

    dump.kill().unwrap();
    dump.wait().unwrap();
    let decoded = run(env!("CARGO_BIN_EXE_vrrpd"), &["decode", "--json", capture.to_str().unwrap()]);
    let priorities: Vec<u64> = String::from_utf8(decoded.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let advert: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(advert["valid"], true, "{advert}");
            advert["priority"].as_u64().unwrap()
        })
        .collect();
    assert!(priorities.contains(&150) && priorities.contains(&140), "{priorities:?}");
    assert!(priorities.iter().all(|priority| [140, 150].contains(priority)), "{priorities:?}");
}

#[test]
#[ignore = "needs root"]
fn scripts_are_told_in_order_and_checks_move_the_address() {
    let lab = Lab::new();
    let told = lab.folder.join("told");
    let script = lab.write("tell.sh", &format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display()));
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (flag, number) = (lab.write("flag", ""), lab.folder.join("number"));
    let checked = format!(
        "global_defs {{\nscript_user root\n}}\n\
         vrrp_script chk {{\nscript \"/usr/bin/test -e {}\"\ninterval 1\nfall 1\nrise 1\nweight -60\n}}\n\
         track_file offset {{\nfile {}\ninit_file 0\n}}\n{}",
        flag.display(),
        number.display(),
        thesis("MASTER", 150).replace(
            "track_interface",
            &format!(
                "notify \"{0} any\"\nnotify_master \"{0} 'the master'\"\ntrack_script {{\nchk\n}}\ntrack_file {{\noffset\n}}\ntrack_interface",
                script.display()
            )
        )
    );
    let one = lab.vrrpd(0, &lab.write("first.conf", &checked));
    let _two = lab.vrrpd(1, &lab.write("second.conf", &thesis("BACKUP", 100)));
    lab.wait_for(0);
    until("the check succeeds", || one.instance()["tracks"][0]["up"] == true);

    std::fs::remove_file(&flag).unwrap();
    lab.wait_for(1);
    assert_eq!(one.instance()["priority"]["effective"], 90);
    std::fs::write(&flag, "").unwrap();
    lab.wait_for(0);
    std::fs::write(&number, "-80\n").unwrap();
    lab.wait_for(1);
    until("it is told of", || std::fs::read_to_string(&told).unwrap().lines().count() >= 7);
    assert!(one.stop());
    assert_eq!(
        std::fs::read_to_string(&told).unwrap().lines().collect::<Vec<_>>(),
        [
            "any INSTANCE HA1 BACKUP 150",
            "the master",
            "any INSTANCE HA1 MASTER 150",
            "any INSTANCE HA1 BACKUP 90",
            "the master",
            "any INSTANCE HA1 MASTER 150",
            "any INSTANCE HA1 BACKUP 70",
            "any INSTANCE HA1 STOP 150",
        ]
    );
}

#[test]
#[ignore = "needs root"]
fn a_second_one_and_one_without_rights_say_so() {
    let lab = Lab::new();
    let config = lab.write("first.conf", &thesis("MASTER", 150));
    let one = lab.vrrpd(0, &config);
    let said = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let arguments = ["--config", config.to_str().unwrap(), "--socket", one.socket.to_str().unwrap()];
    let second = said(lab.command(0, env!("CARGO_BIN_EXE_vrrpd")).args(arguments));
    assert!(second.contains(&format!("another vrrpd, process {}, has the socket", one.id())), "{second}");

    let bare = [
        "--inh-caps=-all",
        "--bounding-set=-all",
        env!("CARGO_BIN_EXE_vrrpd"),
        "--config",
        config.to_str().unwrap(),
    ];
    let socket = lab.folder.join("bare.sock");
    let without = said(lab.command(0, "setpriv").args(bare).args(["--socket", socket.to_str().unwrap()]));
    let last = without.lines().last().unwrap();
    assert!(last.starts_with("vrrpd: missing CAP_NET_RAW and CAP_NET_ADMIN: "), "{without}");

    let table = run(env!("CARGO_BIN_EXE_vrrpd"), &["status", "--socket", one.socket.to_str().unwrap()]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("INSTANCE") && table.contains("HA1") && table.contains(FLOATING), "{table}");
}

/// keepalived's users send these to see what it does; none may end it, with its addresses left behind.
#[test]
#[ignore = "needs root"]
fn signals_that_keepalived_answers_with_files_write_the_status_into_the_log() {
    let lab = Lab::new();
    let one = lab.vrrpd(0, &lab.write("first.conf", &thesis("MASTER", 150)));
    lab.wait_for(0);
    let shown = || one.log().lines().filter(|line| line.contains("HA1 ") && line.contains("Active ")).count();
    for (signal, times) in [("USR1", 1), ("USR2", 2), ("RTMIN+2", 3)] {
        let sent = Command::new("kill").args(["-s", signal, &one.id().to_string()]).status().unwrap();
        assert!(sent.success(), "{signal}");
        until(&format!("{signal} is answered"), || shown() == times);
    }
    assert_eq!(one.instance()["state"], "active");
    assert!(one.stop() && !lab.has(0));
}

/// The group's script hears what keepalived's would: no priority of its own.
#[test]
#[ignore = "needs root and keepalived"]
fn scripts_of_a_group_are_told_as_keepalived_tells_them() {
    let mut heard = Vec::new();
    for start in [Lab::keepalived as Start, Lab::vrrpd] {
        let lab = Lab::new();
        let told = lab.folder.join("told");
        let script = lab.write("tell.sh", &format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display()));
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let flag = lab.write("flag", "");
        let instance = |name: &str, vrid: u8, address: &str| {
            format!(
                "vrrp_instance {name} {{\n interface eth0\n virtual_router_id {vrid}\n priority 150\n version 3\n \
                 advert_int 0.2\n virtual_ipaddress {{\n  {address}\n }}\n track_script {{\n  light\n }}\n}}\n"
            )
        };
        let text = format!(
            "global_defs {{\n script_user root\n}}\nvrrp_script light {{\n script \"/usr/bin/test -e {}\"\n interval 1\n weight -20\n}}\n{}{}\
             vrrp_sync_group G {{\n group {{\n  A\n  B\n }}\n notify {}\n}}\n",
            flag.display(),
            instance("A", 5, FLOATING),
            instance("B", 6, "192.168.250.251"),
            script.display()
        );
        let one = start(&lab, 0, &lab.write("first.conf", &text));
        lab.wait_for(0);
        std::fs::remove_file(&flag).unwrap();
        std::thread::sleep(Duration::from_millis(2_500));
        assert!(lab.has(0), "what has a weight brings no group down");
        let lines = || std::fs::read_to_string(&told).unwrap_or_default();
        one.signal(Signal::SIGTERM);
        until("the script was told of the end", || lines().contains("STOP"));
        assert!(one.ended());
        heard.push(lines());
    }
    assert_eq!(heard[0], "GROUP G BACKUP 0\nGROUP G MASTER 0\nGROUP G STOP 0\n");
    assert_eq!(heard[0], heard[1]);
}

/// keepalived sends unicast over IPv6 with a hop limit of 64, and looks at none itself. A peer far away is heard all the same.
#[test]
#[ignore = "needs root and keepalived"]
fn unicast_peers_of_keepalived_are_heard_whatever_their_ttl() {
    let lab = Lab::new();
    for (at, address) in ["2001:db8::121/64", "2001:db8::111/64"].iter().enumerate() {
        let added =
            lab.command(at, "ip").args(["address", "add", address, "dev", "eth0", "nodad"]).status().unwrap();
        assert!(added.success());
    }
    let text = |own: &str, peer: &str, priority: u8, lines: &str| {
        let instance = |name: &str, vrid: u8, prefix: &str, floating: &str, lines: &str| {
            format!(
                "vrrp_instance {name} {{\n interface eth0\n virtual_router_id {vrid}\n version 3\n advert_int 0.2\n \
                 priority {priority}\n {lines}\n unicast_src_ip {prefix}{own}\n unicast_peer {{\n  {prefix}{peer}\n }}\n \
                 virtual_ipaddress {{\n  {floating}\n }}\n}}\n"
            )
        };
        instance("four", 4, "192.168.250.", FLOATING, lines)
            + &instance("six", 6, "2001:db8::", "fe80::6/64", "")
            + &instance("far", 7, "2001:db8::", "fe80::7/64", lines)
    };
    let _theirs = lab.keepalived(0, &lab.write("first.conf", &text("121", "111", 150, "unicast_ttl 1")));
    let ours = lab.vrrpd(1, &lab.write("second.conf", &text("111", "121", 100, "")));
    lab.wait_for(0);
    until("each is heard often", || {
        let status = ours.ask().unwrap();
        let received = |instance: &serde_json::Value| instance["adverts"]["received"].as_u64().unwrap();
        status["instances"].as_array().unwrap().iter().all(|instance| received(instance) >= 10)
    });
    for instance in ours.ask().unwrap()["instances"].as_array().unwrap() {
        assert_eq!(instance["state"], "backup", "{instance}");
        assert_eq!(
            (&instance["active_router"]["priority"], &instance["discards"]),
            (&150.into(), &serde_json::json!({})),
            "{instance}"
        );
    }
}

/// What is missing or down is called by its name, in the log and in the status.
#[test]
#[ignore = "needs root"]
fn what_is_missing_or_down_is_named() {
    let lab = Lab::new();
    let text = thesis("BACKUP", 150)
        .replace("eth0\n    }\n", "eth0\n        eth9\n        lo weight 10\n    }\n    use_vmac\n    notify_stop /no/such/program\n    track_script {\n        found\n    }\n");
    let text = format!(
        "global_defs {{\nscript_user root\n}}\nvrrp_script found {{\nscript \"test -d /\"\nweight 5\n}}\n{text}"
    );
    let file = lab.write("first.conf", &text);
    let one = lab.vrrpd(0, &file);
    until("the check succeeds", || {
        let tracks = one.instance()["tracks"].clone();
        tracks.as_array().unwrap().iter().any(|track| track["name"] == "found" && track["up"] == true)
    });
    let log = one.log();
    let line = |what: &str| text.lines().position(|line| line.contains(what)).unwrap() + 1;
    for said in [
        format!(
            "{}:{}: vrrp_instance HA1: there is no interface eth9: until there is, it counts as down",
            file.display(),
            line("vrrp_instance")
        ),
        format!("{}:{}: /no/such/program can't be run: ", file.display(), line("notify_stop")),
        "HA1: fault: track (interface eth9)".to_owned(),
    ] {
        assert_eq!(log.matches(&said).count(), 1, "{said}\n{log}");
    }
    assert!(
        !log.contains("no fault any more") && log.contains("HA1: Initialize -> Backup: started"),
        "{log}"
    );
    let up = |name: &str| {
        let tracks = one.instance()["tracks"].clone();
        let found =
            tracks.as_array().unwrap().iter().find(|track| track["name"] == name).unwrap()["up"].clone();
        found.as_bool()
    };
    assert_eq!((up("eth9"), up("lo")), (Some(false), Some(true)));

    let added = lab.command(0, "ip").args(["link", "add", "eth9", "type", "bridge"]).status().unwrap();
    assert!(added.success());
    let added = lab.command(0, "ip").args(["link", "set", "eth9", "up"]).status().unwrap();
    assert!(added.success());
    let port = ["link", "add", "port", "master", "eth9", "up", "type", "veth", "peer", "name", "end"];
    assert!(lab.command(0, "ip").args(port).status().unwrap().success());
    assert!(lab.command(0, "ip").args(["link", "set", "end", "up"]).status().unwrap().success());
    until("its interface is there", || up("eth9") == Some(true));
    until("it is active", || one.instance()["state"] == "active");
    assert!(one.log().contains("HA1: no fault any more"), "{}", one.log());
    let links = lab.command(0, "ip").args(["-o", "address", "show", "dev", "vrrp.11"]).output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    assert!(links.contains(&format!("inet {FLOATING}/")), "the interface has keepalived's name: {links}");
}

/// What both take, and what both refuse.
#[test]
#[ignore = "needs root and keepalived"]
fn keepalived_judges_configurations_alike() {
    let lab = Lab::new();
    // That the own interface is tracked twice is a fault in keepalived's eyes, though it runs the file.
    let thesis = thesis("MASTER", 150).replace("    track_interface {\n        eth0\n    }\n", "");
    let rich = "global_defs {\n router_id d1\n script_user root\n enable_script_security\n vrrp_garp_master_repeat 2\n vrrp_version 3\n}\n\
        vrrp_script chk {\n script \"/bin/true\"\n interval 2\n timeout 1\n weight -20\n rise 2\n fall 2\n}\n\
        vrrp_track_process proxy {\n process haproxy\n weight 5\n}\n\
        track_file offset {\n file \"/tmp/vrrpd-no-such-file\"\n}\n\
        vrrp_instance A\n{\n state BACKUP\n interface eth0 # one\n virtual_router_id 51\n priority 100\n advert_int 0.5\n nopreempt\n garp_master_delay 1\n \
        virtual_ipaddress {\n  10.0.0.1/24 dev eth0\n  10.0.0.2/24\n }\n virtual_ipaddress_excluded {\n  10.0.0.3/32\n }\n \
        track_script {\n  chk weight 10\n }\n track_process {\n  proxy\n }\n track_file {\n  offset weight 1\n }\n notify_master \"/bin/true a\"\n}\n\
        vrrp_instance B {\n interface eth0\n virtual_router_id 52\n unicast_src_ip 192.168.250.121\n unicast_peer {\n  192.168.250.111\n }\n virtual_ipaddress {\n  10.0.1.1/24\n }\n}\n\
        vrrp_instance C {\n interface eth0\n virtual_router_id 53\n use_vmac vrrp.53\n virtual_ipaddress {\n  fe80::53/64\n  2001:db8::53/64\n }\n}\n\
        vrrp_sync_group G {\n group {\n  B\n  C\n }\n}\n";
    for (name, text, good) in [
        ("thesis", thesis.clone(), true),
        ("rich", rich.to_owned(), true),
        ("keyword", thesis.replace("advert_int", "advert_intt"), false),
        ("priority", thesis.replace("150", "300"), false),
        ("vrid", thesis.replace("virtual_router_id 11", "virtual_router_id 0"), false),
        ("address", thesis.replace(FLOATING, "192.168.250.999"), false),
        ("brace", thesis.trim_end().trim_end_matches('}').to_owned(), false),
    ] {
        let file = lab.write(&format!("{name}.conf"), &text);
        let theirs =
            lab.command(0, "keepalived").args(["--config-test", "--use-file"]).arg(&file).output().unwrap();
        let ours = run(env!("CARGO_BIN_EXE_vrrpd"), &["check", file.to_str().unwrap()]);
        let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(ours.status.success(), good, "{name}: {}", said(&ours));
        assert_eq!(theirs.status.success(), good, "{name}: keepalived says {}", said(&theirs));
    }
}

/// `dev` of another interface, which keepalived's users write for a router of two networks: the addresses go together.
#[test]
#[ignore = "needs root and keepalived"]
fn an_address_of_another_interface_moves_with_the_others() {
    for peer in [Lab::keepalived as Start, Lab::vrrpd] {
        let lab = Lab::new();
        let ip = |at: usize, arguments: &str| {
            let output = lab.command(at, "ip").args(arguments.split_whitespace()).output().unwrap();
            assert!(output.status.success(), "{arguments}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        // Each with a second network of its own.
        for at in [0, 1] {
            ip(at, "link add eth1 type veth peer name end");
            ip(at, "link set eth1 up");
            ip(at, "link set end up");
        }
        let inside = |at: usize| ip(at, "-o address show dev eth1").contains("inet 10.8.0.100/24");
        let text = |priority| {
            let other = format!("{FLOATING}\n        10.8.0.100/24 dev eth1 label eth1:1\n");
            thesis("BACKUP", priority).replace(&format!("{FLOATING}\n"), &other)
        };
        let config = lab.write("first.conf", &text(150));
        let one = lab.vrrpd(0, &config);
        let _two = peer(&lab, 1, &lab.write("second.conf", &text(100)));
        until("the better one has both", || lab.has(0) && inside(0) && !lab.has(1) && !inside(1));
        ip(0, "link set eth1 down");
        until("the other one has both", || lab.has(1) && inside(1) && !lab.has(0) && !inside(0));
        assert!(one.log().contains("HA1: fault: track (interface eth1)"), "{}", one.log());
        ip(0, "link set eth1 up");
        until("the better one has both again", || lab.has(0) && inside(0) && !lab.has(1) && !inside(1));
        assert_eq!(one.instance()["addresses"][1], "10.8.0.100/24 dev eth1");

        let before = one.instance()["transitions"].clone();
        std::fs::write(&config, text(150).replace("10.8.0.100/24 dev eth1 label eth1:1\n", "")).unwrap();
        one.signal(Signal::SIGHUP);
        until("the address has left", || !inside(0));
        std::fs::write(&config, text(150)).unwrap();
        one.signal(Signal::SIGHUP);
        until("the address is back", || inside(0));
        assert_eq!(one.instance()["transitions"], before, "{}", one.log());
        assert!(one.stop() && !inside(0) && !lab.has(0));
    }
}

/// Whoever has another key counts for nothing, whatever its priority; a reload gives it the right one.
#[test]
#[ignore = "needs root"]
fn signed_adverts_count_with_the_right_key_alone() {
    let lab = Lab::new();
    let right = lab.write("right.key", &format!("hex:{}\n", "2a".repeat(32)));
    std::fs::set_permissions(&right, std::fs::Permissions::from_mode(0o600)).unwrap();
    let signed = |priority, key: &str| {
        let block = format!("auth_hmac {{\n        key 1 {key}\n        active_key 1\n    }}\n");
        let text = thesis("BACKUP", priority);
        let (before, after) = text.split_once("authentication {").unwrap();
        format!("{before}{block}{}", after.split_once("}\n").unwrap().1)
    };
    let good = format!("file:{}", right.display());
    let config = lab.write("second.conf", &signed(200, &format!("hex:{}", "2b".repeat(32))));
    let one = lab.vrrpd(0, &lab.write("first.conf", &signed(150, &good)));
    lab.wait_for(0);
    let two = lab.vrrpd(1, &config);
    lab.wait_for(1);
    until("the strangers do not hear each other", || {
        [&one, &two].iter().all(|router| router.instance()["discards"]["auth-failure"].as_u64() >= Some(2))
    });
    assert!(lab.has(0), "a stranger's priority counts for nothing");
    assert_eq!(one.instance()["signatures"]["mode"], "enforce");

    std::fs::write(&config, signed(200, &good)).unwrap();
    two.signal(Signal::SIGHUP);
    until("the better one has the address alone", || lab.has(1) && !lab.has(0));
    assert_eq!(two.instance()["transitions"]["from_active"], 0, "{}", two.log());
    assert_eq!(one.instance()["active_router"]["priority"], 200);

    // A new key: accepted everywhere, then signed with, then the old one goes.
    let new = format!("hex:{}", "2c".repeat(32));
    let both = |active| format!("{good}\n        key 2 {new}\n        active_key {active}");
    let first = lab.folder.join("first.conf");
    for (step, block) in [both(1), both(2), new.clone()].into_iter().enumerate() {
        let text = |priority| {
            let id = if step == 2 { "2" } else { "1" };
            let text = signed(priority, "@").replace("key 1 @", &format!("key {id} {block}"));
            let (head, tail) = text.rsplit_once("active_key 1\n").unwrap_or((&text, ""));
            match step {
                2 => format!("{head}active_key 2\n{tail}"),
                _ => format!("{head}{tail}"),
            }
        };
        std::fs::write(&first, text(150)).unwrap();
        std::fs::write(&config, text(200)).unwrap();
        for router in [&one, &two] {
            router.signal(Signal::SIGHUP);
        }
        until("all is taken over", || one.ask().unwrap()["reloads"] == step + 1);
        until("it is heard", || {
            let before = one.instance()["adverts"]["received"].as_u64();
            std::thread::sleep(Duration::from_millis(1100));
            one.instance()["adverts"]["received"].as_u64() > before
        });
    }
    assert_eq!(one.instance()["signatures"]["keys"], serde_json::json!([2]));
    assert_eq!(one.instance()["transitions"]["to_active"], 1, "{}", one.log());
    for router in [&one, &two] {
        assert!(!router.log().contains("2a2a") && !router.log().contains("2c2c"), "no key is logged");
    }
}
