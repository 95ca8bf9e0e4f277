//! The Linux driver in network namespaces: elections, failures of every kind, and what is on the wire.
//!
//! Each test has a switch and hosts of its own, and each driver runs in a process of its own: this test binary, started anew
//! as `child_process`.
#![allow(clippy::unwrap_used)] // in what tests share, too

mod lab;

use std::thread;
use std::time::Duration;

use lab::{Lab, is_active, wait_until};
use nix::sys::signal::Signal;

/// See [`lab::child_process`].
#[test]
#[ignore = "needs root"]
fn child_process() {
    lab::child_process();
}

const ADDRESS: &str = "10.9.0.100/24";

#[test]
#[ignore = "needs root"]
fn two_elect_one_and_hand_over() {
    let lab = Lab::new(&["a", "b"]);
    let wire = lab.wire();
    let a = lab.start("a", &format!("priority=150 addresses={ADDRESS}"));
    a.says("ready", 1);
    let b = lab.start("b", &format!("priority=100 addresses={ADDRESS}"));
    is_active(&a);
    wait_until("the address is on a", || lab.has("a", "eth0", ADDRESS));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(b.count("-> Active"), 0);
    assert!(!lab.has("b", "eth0", ADDRESS));
    let advert = wire.first("an advert of a", |frame| frame.advert().is_some_and(|advert| advert[2] == 150));
    assert_eq!(advert.bytes[..6], [1, 0, 0x5e, 0, 0, 18]);
    assert_eq!((advert.bytes[22], &advert.bytes[26..34]), (255, &[10, 9, 0, 1, 224, 0, 0, 18][..]));
    let garp = wire.first("a gratuitous ARP", |frame| frame.garp() == Some([10, 9, 0, 100]));
    assert_eq!(garp.source(), advert.source(), "without a VMAC, the interface's own MAC");

    wire.clear();
    assert!(a.stop(), "a puts everything back");
    is_active(&b);
    wait_until("the address is on b", || lab.has("b", "eth0", ADDRESS));
    assert!(!lab.has("a", "eth0", ADDRESS));
    assert_eq!(b.count("MasterLeft"), 1, "{:?}", b.lines());
    let farewell = wire.first("a's farewell", |frame| frame.advert().is_some_and(|advert| advert[2] == 0));
    let takeover =
        wire.first("b's first advert", |frame| frame.advert().is_some_and(|advert| advert[2] == 100));
    assert!(takeover.at > farewell.at);
    assert!(b.stop());
    assert!(!lab.has("b", "eth0", ADDRESS));
    assert_eq!(std::fs::read_dir(&lab.run_directory).unwrap().count(), 0, "nothing is left to clean up");
}

/// Adverts of either family, signed: holders of the key elect one, and who has another key is not heard.
#[cfg(feature = "auth-hmac")]
#[test]
#[ignore = "needs root"]
fn signed_adverts_elect_one_and_strangers_are_not_heard() {
    let lab = Lab::new(&["a", "b", "c"]);
    for (addresses, length) in [(ADDRESS, 12 + 28), ("fe80::100/64", 24 + 28)] {
        let key = "key=hex:".to_owned() + &"2a".repeat(32);
        let stranger = "key=hex:".to_owned() + &"2b".repeat(32);
        let wire = lab.wire();
        let a = lab.start("a", &format!("priority=150 addresses={addresses} {key}"));
        is_active(&a);
        let b = lab.start("b", &format!("priority=100 addresses={addresses} {key}"));
        b.says("ready", 1);
        let c = lab.start("c", &format!("priority=200 addresses={addresses} {stranger}"));
        is_active(&c);
        wire.first("a's signed advert", |frame| {
            frame.advert().is_some_and(|advert| advert[2] == 150 && advert.len() == length)
        });
        thread::sleep(Duration::from_millis(500));
        assert_eq!(a.count("Active -> "), 0, "the stranger's priority counts for nothing: {:?}", a.lines());
        assert_eq!(b.count("-> Active"), 0);
        assert!(a.stop());
        b.says("Backup -> Active by MasterLeft", 1);
        assert!(b.stop() && c.stop());
    }
}

#[test]
#[ignore = "needs root"]
fn a_backup_takes_over_after_kill_9_and_the_next_start_cleans_up() {
    let lab = Lab::new(&["a", "b"]);
    let other = "10.9.0.101/24";
    for vmac in ["", "vmac=yes"] {
        let a = lab.start("a", &format!("priority=150 addresses={ADDRESS} {vmac}"));
        is_active(&a);
        let b = lab.start("b", &format!("addresses={ADDRESS}"));
        b.says("-> Backup", 1);
        let interface = lab.address_interface("a", 51, vmac);
        wait_until("the address is on a", || lab.has("a", &interface, ADDRESS));
        a.kill();
        b.says("Backup -> Active by MasterDown", 1);
        wait_until("the address is on b", || lab.has("b", "eth0", ADDRESS));
        assert!(lab.has("a", &interface, ADDRESS), "a killed driver can't clean up");

        // Another configuration: what is left is known from the run directory alone.
        let a = lab.start("a", &format!("vrid=52 priority=150 addresses={other}"));
        is_active(&a);
        assert!(!lab.has("a", &interface, ADDRESS));
        assert_eq!(lab.ip("a", "-o link show type macvlan"), "");
        wait_until("the other address is on a", || lab.has("a", "eth0", other));
        assert!(a.stop() && b.stop());
        for name in ["promote_secondaries", "arp_ignore", "arp_filter"] {
            assert_eq!(lab.get("a", &format!("net/ipv4/conf/eth0/{name}")), "0", "{name}");
        }
        assert_eq!(std::fs::read_dir(&lab.run_directory).unwrap().count(), 0);
    }
}

#[test]
#[ignore = "needs root"]
fn a_start_removes_its_own_addresses_and_no_others() {
    let lab = Lab::new(&["a", "b"]);
    // Left by a driver whose run directory is lost; and two that are not ours to remove.
    lab.ip("a", &format!("address add {ADDRESS} dev eth0"));
    lab.ip("a", "address add 10.9.0.200/24 dev eth0");
    let b = lab.start("b", &format!("priority=150 addresses={ADDRESS}"));
    is_active(&b);
    let a = lab.start("a", &format!("addresses={ADDRESS}"));
    a.says("-> Backup", 1);
    wait_until("a backup has no virtual address", || !lab.has("a", "eth0", ADDRESS));
    assert!(lab.has("a", "eth0", "10.9.0.200/24"));
    assert!(b.stop());
    is_active(&a);
    assert!(a.stop());

    // The owner's address is its own, before, during, and after.
    let a = lab.start("a", "vrid=7 priority=255 addresses=10.9.0.1/24");
    is_active(&a);
    assert!(a.stop());
    assert!(lab.has("a", "eth0", "10.9.0.1/24"));
}

#[test]
#[ignore = "needs root"]
fn a_vmac_answers_with_the_virtual_mac() {
    let lab = Lab::new(&["a", "b", "c"]);
    let wire = lab.wire();
    let mac = [0, 0, 0x5e, 0, 1, 51];
    let a = lab.start("a", &format!("priority=150 addresses={ADDRESS} vmac=yes"));
    is_active(&a);
    let b = lab.start("b", &format!("addresses={ADDRESS} vmac=yes"));
    b.says("-> Backup", 1);
    let (on_a, on_b) = (lab.address_interface("a", 51, "vmac"), lab.address_interface("b", 51, "vmac"));
    let is_up = |host: &str, interface: &str| {
        let text = lab.ip(host, &format!("-o link show dev {interface}"));
        text.contains(",UP") || text.contains("<UP")
    };
    wait_until("the address is on a's VMAC", || lab.has("a", &on_a, ADDRESS));
    assert!(lab.ip("a", &format!("link show dev {on_a}")).contains("00:00:5e:00:01:33"));
    assert!(is_up("a", &on_a) && !is_up("b", &on_b), "only the active router's VMAC is up");
    assert_eq!(lab.get("a", "net/ipv4/conf/eth0/arp_ignore"), "1");
    assert_eq!(lab.get("a", "net/ipv4/conf/eth0/arp_filter"), "1");
    assert_eq!(lab.get("a", &format!("net/ipv4/conf/{on_a}/arp_ignore")), "1");
    let advert = wire.first("an advert", |frame| frame.advert().is_some());
    let garp = wire.first("a gratuitous ARP", |frame| frame.garp() == Some([10, 9, 0, 100]));
    assert_eq!((advert.source(), garp.source()), (mac, mac));
    assert_eq!((advert.bytes[22], advert.bytes[23]), (255, 112), "TTL and protocol");
    assert_eq!(advert.bytes[30..34], [224, 0, 0, 18]);
    assert_eq!((&garp.bytes[22..28], &garp.bytes[32..38]), (&mac[..], &mac[..]), "sender and target");

    let neighbor = || {
        lab.ip("c", "neighbor flush all");
        lab.probe("c", "10.9.0.100");
        lab.ip("c", "neighbor show 10.9.0.100")
    };
    wait_until("c learns the virtual MAC", || neighbor().contains("00:00:5e:00:01:33"));

    a.kill();
    is_active(&b);
    wait_until("the address is on b's VMAC", || lab.has("b", &on_b, ADDRESS) && is_up("b", &on_b));
    wait_until("c reaches b by the same MAC", || neighbor().contains("00:00:5e:00:01:33"));
    // Back with a higher priority: a preempts, though both have the same MAC.
    let a = lab.start("a", &format!("priority=150 addresses={ADDRESS} vmac=yes"));
    is_active(&a);
    b.says("Active -> Backup by HigherPriority", 1);
    wait_until("b's VMAC is down", || !is_up("b", &on_b) && !lab.has("b", &on_b, ADDRESS));
    assert!(a.stop() && b.stop());
    assert_eq!(lab.ip("a", "-o link show type macvlan"), "");
    assert_eq!(lab.get("a", "net/ipv4/conf/eth0/arp_ignore"), "0");
    assert_eq!(lab.get("a", "net/ipv4/conf/eth0/arp_filter"), "0");
}

#[test]
#[ignore = "needs root"]
fn an_address_that_another_program_removes_is_put_back() {
    let lab = Lab::new(&["a"]);
    let a = lab.start("a", &format!("addresses={ADDRESS},10.9.0.101/24"));
    is_active(&a);
    wait_until("the address is on a", || lab.has("a", "eth0", "10.9.0.101/24"));
    for times in 1..4 {
        lab.ip("a", &format!("address delete {ADDRESS} dev eth0"));
        a.says("AddressRestored(10.9.0.100)", times);
        wait_until("the address is back", || lab.has("a", "eth0", ADDRESS));
    }
    assert_eq!(a.count("Active -> "), 0);
    assert!(a.stop());
    assert!(!lab.has("a", "eth0", ADDRESS));
}

/// As keepalived does with `dev`: added and announced there, put back, and the router is at fault without the interface.
#[test]
#[ignore = "needs root"]
fn an_address_floats_on_another_interface_than_the_adverts() {
    let lab = Lab::new(&["a", "b"]);
    let plug = |host: &str| {
        let space = lab.host(host);
        lab.ip("switch", &format!("link add name {host}1 type veth peer name eth1 netns {space}"));
        lab.ip("switch", &format!("link set dev {host}1 master br0 up"));
        lab.ip(host, "link set dev eth1 up");
    };
    plug("a");
    plug("b");
    let (there, spec) = ("10.8.0.100/24", format!("addresses={ADDRESS},10.8.0.100/24@eth1"));
    let both = |host: &str| lab.has(host, "eth0", ADDRESS) && lab.has(host, "eth1", there);
    let neither = |host: &str| !lab.has(host, "eth0", ADDRESS) && !lab.has(host, "eth1", there);
    let wire = lab.wire();
    let a = lab.start("a", &format!("priority=150 {spec}"));
    is_active(&a);
    let b = lab.start("b", &spec);
    b.says("-> Backup", 1);
    wait_until("the addresses are on a", || both("a"));
    assert!(!lab.has("a", "eth0", there) && neither("b"));
    let announced = |address| wire.first("its announcement", |frame| frame.garp() == Some(address)).source();
    let own = wire.first("an advert", |frame| frame.advert().is_some());
    assert_eq!(own.advert().unwrap()[3], 2, "adverts list both");
    assert_eq!(announced([10, 9, 0, 100]), own.source());
    let mac = announced([10, 8, 0, 100]).map(|byte| format!("{byte:02x}")).join(":");
    assert!(lab.ip("a", "link show dev eth1").contains(&mac), "{mac}");

    lab.ip("a", &format!("address delete {there} dev eth1"));
    a.says("AddressRestored(10.8.0.100)", 1);
    wait_until("the address is back", || both("a"));

    lab.ip("a", "link set dev eth1 down");
    a.says("Active -> Initialize by Fault(Faults(TRACK))", 1);
    b.says("Backup -> Active by MasterLeft", 1);
    wait_until("the addresses have moved", || both("b") && neither("a"));
    lab.ip("a", "link set dev eth1 up");
    wait_until("the addresses are on a again", || both("a") && neither("b"));

    lab.ip("switch", "link delete dev a1");
    b.says("Backup -> Active by MasterLeft", 2);
    wait_until("a has no address", || !lab.has("a", "eth0", ADDRESS));
    plug("a");
    wait_until("the addresses are on a once more", || both("a") && neither("b"));
    assert_eq!(lab.get("a", "net/ipv4/conf/eth1/promote_secondaries"), "1");

    a.kill();
    wait_until("the addresses are on b", || both("b"));
    assert!(both("a"), "a killed driver can't clean up");
    let a = lab.start("a", "vrid=52 addresses=10.9.0.101/24");
    is_active(&a);
    assert!(neither("a"));
    assert!(a.stop() && b.stop());
    assert!(neither("a") && neither("b"));
    for setting in ["eth0", "eth1"].map(|name| format!("net/ipv4/conf/{name}/promote_secondaries")) {
        assert_eq!(["a", "b"].map(|host| lab.get(host, &setting)), ["0", "0"], "{setting}");
    }
}

#[test]
#[ignore = "needs root"]
fn links_go_and_come_back() {
    let lab = Lab::new(&["a", "b"]);
    let a = lab.start("a", &format!("priority=150 addresses={ADDRESS}"));
    is_active(&a);
    let b = lab.start("b", &format!("addresses={ADDRESS}"));
    b.says("-> Backup", 1);

    let wire = lab.wire();
    lab.ip("a", "link set dev eth0 down");
    a.says("Active -> Initialize by Fault(Faults(LINK))", 1);
    b.says("-> Active", 1);
    wait_until("the address has left a", || !lab.has("a", "eth0", ADDRESS));
    let of_b = wire.first("b's announcement", |frame| frame.garp().is_some()).source();
    lab.ip("a", "link set dev eth0 up");
    a.says("-> Active", 2);
    b.says("Active -> Backup", 1);
    wire.first("a's announcement", |frame| frame.garp().is_some() && frame.source() != of_b);

    // The cable is pulled: no carrier.
    lab.ip("switch", "link set dev a down");
    a.says("Fault(Faults(LINK))", 2);
    b.says("-> Active", 2);
    lab.ip("switch", "link set dev a up");
    a.says("-> Active", 3);

    lab.ip("switch", "link delete dev a");
    a.says("Fault(Faults(LINK))", 3);
    b.says("-> Active", 3);
    lab.plug("a", 1);
    a.says("-> Active", 4);
    b.says("Active -> Backup", 3);
    wait_until("the address is on a again", || lab.has("a", "eth0", ADDRESS));
    assert_eq!(a.count("AddressRestored"), 0, "what goes with its interface was not taken away");

    // Its own address goes, then another comes: the adverts' source follows.
    lab.ip("a", "address delete 10.9.0.1/24 dev eth0");
    a.says("SOURCE", 1);
    lab.ip("a", "address add 10.9.0.11/24 dev eth0");
    wire.first("an advert from the new address", |frame| {
        frame.advert().is_some_and(|advert| advert[2] == 150) && frame.bytes[26..30] == [10, 9, 0, 11]
    });
    assert!(a.stop() && b.stop());
}

#[test]
#[ignore = "needs root"]
fn an_interface_may_come_after_its_instance() {
    let lab = Lab::new(&["a"]);
    let a = lab.start("a", &format!("interface=eth1 addresses={ADDRESS}"));
    a.says("ready", 1);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(a.count("->"), 0, "{:?}", a.lines());
    lab.ip("a", "link add eth1 type veth peer name eth2");
    lab.ip("a", "address add 10.9.1.1/24 dev eth1");
    lab.ip("a", "link set eth1 up");
    lab.ip("a", "link set eth2 up");
    is_active(&a);
    assert!(a.stop());
}

#[test]
#[ignore = "needs root"]
fn ipv6_floats_without_duplicate_address_detection() {
    let lab = Lab::new(&["a", "b"]);
    let wire = lab.wire();
    let (first, second) = ("fe80::100/64", "2001:db8::100/64");
    for vmac in ["", "vmac=yes"] {
        wire.clear();
        let spec = format!("version=3 addresses={first},{second} {vmac}");
        let a = lab.start("a", &format!("priority=150 {spec}"));
        is_active(&a);
        let b = lab.start("b", &spec);
        b.says("-> Backup", 1);
        let interface = lab.address_interface6("a", 51, vmac);
        wait_until("the addresses are on a", || lab.has("a", &interface, second));
        assert!(!lab.ip("a", "-6 address show").contains("tentative"));
        let address: std::net::Ipv6Addr = "2001:db8::100".parse().unwrap();
        let unsolicited =
            wire.first("a neighbour advertisement", |frame| frame.unsolicited() == Some(address.octets()));
        let advert = wire.first("an advert", |frame| frame.advert().is_some());
        assert_eq!(advert.bytes[..6], [0x33, 0x33, 0, 0, 0, 0x12]);
        assert_eq!(advert.bytes[21], 255, "hop limit");
        assert_eq!(advert.bytes[22..24], [0xfe, 0x80], "from a link-local address");
        assert_ne!(advert.bytes[22..38], "fe80::100".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let mac = if vmac.is_empty() { unsolicited.source() } else { [0, 0, 0x5e, 0, 2, 51] };
        assert_eq!((unsolicited.source(), advert.source()), (mac, mac));
        assert_eq!((advert.bytes[20], unsolicited.bytes[58]), (112, 0xa0), "protocol; router and override");
        assert!(lab.ip("a", &format!("-6 maddress show dev {interface}")).contains("ff02::1:ff00:100"));
        let of_the_virtual_mac = "fe80::200:5eff:fe00:233";
        assert!(!lab.ip("a", "-6 address show").contains(of_the_virtual_mac), "no address is made of it");
        let ask = || {
            lab.ip("b", "-6 neighbor flush all");
            lab.probe("b", "[2001:db8::100]");
            lab.ip("b", "-6 neighbor show 2001:db8::100")
        };
        lab.ip("b", "-6 route replace 2001:db8::/64 dev eth0");
        let lladdr = mac.map(|byte| format!("{byte:02x}")).join(":");
        // A router, by its answers, is who forwards.
        wait_until("b learns the MAC", || ask().contains(&lladdr) && !ask().contains("router"));
        lab.set("a", "net/ipv6/conf/all/forwarding", "1");
        wait_until("b learns of a router", || ask().contains(&format!("{lladdr} router")));
        lab.set("a", "net/ipv6/conf/all/forwarding", "0");

        lab.set("a", "net/ipv6/conf/eth0/disable_ipv6", "1");
        a.says("SOURCE", 1);
        b.says("-> Active", 1);
        lab.set("a", "net/ipv6/conf/eth0/disable_ipv6", "0");
        a.says("-> Active", 2);
        b.says("Active -> Backup", 1);
        assert!(lab.ip("a", "-6 maddress show dev eth0").contains("ff02::12"), "a hears the group again");
        assert!(a.stop());
        b.says("MasterLeft", 1);
        assert!(b.stop());
        assert!(!lab.has("a", &interface, second) && !lab.has("a", &interface, first));
    }
}

#[test]
#[ignore = "needs root"]
fn unicast_peers_hear_each_other() {
    let lab = Lab::new(&["a", "b"]);
    let wire = lab.wire();
    let a = lab.start("a", &format!("priority=150 addresses={ADDRESS} peers=10.9.0.2,10.9.0.9"));
    is_active(&a);
    let b = lab.start("b", &format!("addresses={ADDRESS} peers=10.9.0.1"));
    b.says("NewActive { address: 10.9.0.1", 1);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(b.count("-> Active"), 0);
    let adverts = wire.frames().into_iter().filter(|frame| frame.advert().is_some());
    assert_eq!(adverts.filter(|frame| frame.bytes[0] & 1 == 1).count(), 0, "no multicast");
    assert!(a.stop());
    b.says("MasterLeft", 1);
    assert!(b.stop());
}

#[test]
#[ignore = "needs root"]
fn a_missing_capability_is_named_before_anything_starts() {
    let lab = Lab::new(&["a"]);
    for (wrapper, named, not_named) in [
        ("setpriv --bounding-set=-net_raw", "missing CAP_NET_RAW:", "CAP_NET_ADMIN:"),
        ("setpriv --bounding-set=-net_admin", "missing CAP_NET_ADMIN:", "CAP_NET_RAW:"),
        ("setpriv --bounding-set=-all", "missing CAP_NET_RAW and CAP_NET_ADMIN:", "ready"),
    ] {
        let mut a = lab.start_with("a", wrapper, &format!("addresses={ADDRESS}"));
        assert!(!a.wait());
        a.says(named, 1);
        assert_eq!(a.count(not_named), 0, "{:?}", a.lines());
    }
    let mut a =
        lab.start_with("a", "setpriv --bounding-set=-sys_nice", &format!("addresses={ADDRESS} realtime=10"));
    assert!(!a.wait());
    a.says("CAP_SYS_NICE", 1);
    let a = lab.start("a", &format!("addresses={ADDRESS} realtime=10 lock=yes"));
    is_active(&a);
    assert!(a.stop());
}

#[test]
#[ignore = "needs root"]
fn a_stopped_process_says_nothing_stale_when_it_goes_on() {
    let lab = Lab::new(&["a", "b"]);
    let wire = lab.wire();
    let rounds = std::env::var("LB_VRRP_STOPS").map_or(3, |rounds| rounds.parse().unwrap());
    let a = lab.start("a", &format!("priority=150 addresses={ADDRESS} cs=10 nopreempt=yes"));
    is_active(&a);
    let b = lab.start("b", &format!("priority=100 addresses={ADDRESS} cs=10 nopreempt=yes"));
    b.says("-> Backup", 1);
    let (mut active, mut waiting) = (&a, &b);
    let mut priority = [150, 100];
    for round in 1..=rounds {
        let before = waiting.count("-> Active");
        active.signal(Signal::SIGSTOP);
        waiting.says("-> Active", before + 1);
        thread::sleep(Duration::from_millis(1000 + 137 * round % 700));
        wire.clear();
        let stepped_down = active.count("Active -> Backup");
        active.signal(Signal::SIGCONT);
        active.says("Active -> Backup", stepped_down + 1);
        thread::sleep(Duration::from_millis(600));
        let frames = wire.frames();
        let stale =
            frames.iter().filter(|frame| frame.advert().is_some_and(|advert| advert[2] == priority[0]));
        assert_eq!(stale.count(), 0, "round {round}: an advert of the one that was stopped");
        let mac = frames.iter().find(|frame| frame.advert().is_some()).unwrap().source();
        let stale = frames.iter().filter(|frame| frame.garp().is_some() && frame.source() != mac);
        assert_eq!(stale.count(), 0, "round {round}: an announcement of the one that was stopped");
        (active, waiting) = (waiting, active);
        priority.reverse();
    }
    assert!(a.stop() && b.stop());
}

#[test]
#[ignore = "needs root"]
fn events_that_were_lost_are_made_up_for() {
    let lab = Lab::new(&["a"]);
    // The owner with an interval of 40 s: it stays active while it is stopped.
    let a = lab.start("a", &format!("priority=255 cs=4000 addresses={ADDRESS}"));
    is_active(&a);
    wait_until("the address is on a", || lab.has("a", "eth0", ADDRESS));
    a.signal(Signal::SIGSTOP);
    // More than the socket's buffer of 16 MB holds.
    let mut batch = String::new();
    for _ in 0..20_000 {
        batch += "address add 10.8.0.1/32 dev lo\naddress delete 10.8.0.1/32 dev lo\n";
    }
    batch += &format!("address delete {ADDRESS} dev eth0\n");
    let file = std::env::temp_dir().join(lab.host("batch"));
    std::fs::write(&file, batch).unwrap();
    lab.ip("a", &format!("-batch {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert!(!lab.has("a", "eth0", ADDRESS));
    a.signal(Signal::SIGCONT);
    a.says("AddressRestored(10.9.0.100)", 1);
    wait_until("the address is back", || lab.has("a", "eth0", ADDRESS));
    assert!(a.stop());
}

#[test]
#[ignore = "needs root"]
fn a_router_that_cannot_send_is_not_active() {
    let lab = Lab::new(&["a"]);
    let a = lab.start("a", &format!("addresses={ADDRESS}"));
    is_active(&a);
    wait_until("the address is on a", || lab.has("a", "eth0", ADDRESS));
    // Sending fails with EPERM from now on.
    lab.exec("a", "nft add table ip test");
    lab.exec("a", "nft add chain ip test out { type filter hook output priority 0; policy drop; }");
    a.says("Active -> Initialize by Fault(Faults(TRANSMIT))", 1);
    wait_until("the address has left a", || !lab.has("a", "eth0", ADDRESS));
    lab.exec("a", "nft delete table ip test");
    a.says("-> Active", 2);
    assert!(a.stop());
}

/// A VMAC that lost its IPv6 with the parent's MTU is made anew; and an interface that got another name gets its settings
/// back under that.
#[test]
#[ignore = "needs root"]
fn a_vmac_outlives_a_small_mtu_and_settings_follow_a_new_name() {
    let lab = Lab::new(&["a", "b"]);
    let six = "2001:db8::100/64";
    let a = lab.start("a", &format!("addresses=fe80::100/64,{six} vmac=yes"));
    is_active(&a);
    let interface = lab.address_interface6("a", 51, "vmac=yes");
    wait_until("the address is on a", || lab.has("a", &interface, six));
    lab.exec("a", "ip link set eth0 mtu 68");
    a.says("Active -> Initialize", 1);
    lab.exec("a", "ip link set eth0 mtu 1500");
    a.says("Backup -> Active", 2);
    wait_until("the address is on a again", || lab.has("a", &interface, six));
    assert!(a.stop());

    let set = |name: &str| {
        ["arp_ignore", "arp_filter", "promote_secondaries"]
            .map(|setting| lab.get("a", &format!("net/ipv4/conf/{name}/{setting}")))
    };
    for (vmac, changed) in [("vmac=yes", ["1", "1", "0"]), ("", ["0", "0", "1"])] {
        let a = lab.start("a", &format!("addresses={ADDRESS} {vmac}"));
        is_active(&a);
        assert_eq!(set("eth0"), changed);
        lab.exec("a", "ip link set eth0 down");
        lab.exec("a", "ip link set eth0 name lan0");
        lab.exec("a", "ip link set lan0 up");
        a.says("Active -> Initialize", 1);
        assert!(a.stop());
        assert_eq!(set("lan0"), ["0", "0", "0"], "{vmac}");
        lab.exec("a", "ip link set lan0 down");
        lab.exec("a", "ip link set lan0 name eth0");
        lab.exec("a", "ip link set eth0 up");
    }
}
