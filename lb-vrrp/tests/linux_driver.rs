//! The Linux driver in network namespaces: elections, failures of every kind, and what is on the wire.
//!
//! Each test has a switch and hosts of its own, and each driver runs in a process of its own: this test binary, started anew
//! as `a_router`.
#![allow(clippy::unwrap_used)] // in what tests share, too

mod lab;

use std::thread;
use std::time::Duration;

use lab::{Host, Lan, Wire, soon};

/// See [`lab::a_router`].
#[test]
#[ignore = "needs root"]
fn a_router() {
    lab::a_router();
}

const ADDRESS: &str = "192.0.2.100/24";

#[test]
#[ignore = "needs root"]
fn two_elect_one_and_hand_over() {
    let (lan, [host_a, host_b]) = Lan::of("two_elect_one_and_hand_over");
    let wire = Wire::new(&lan);
    let a = host_a.start(&format!("priority=150 cs=50 addresses={ADDRESS}"));
    let b = host_b.start(&format!("priority=100 cs=50 addresses={ADDRESS}"));
    a.is_active();
    soon("the address is on a", || host_a.has("eth0", ADDRESS));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(b.count("-> Active"), 0, "a: {}\nb: {}", a.log(), b.log());
    assert!(!host_b.has("eth0", ADDRESS));
    let advert =
        wire.first("an advert of a", |frame| frame.advert().is_some_and(|advert| advert.priority == 150));
    assert_eq!(advert.bytes[..6], [1, 0, 0x5e, 0, 0, 18]);
    assert_eq!((advert.bytes[22], &advert.bytes[26..34]), (255, &[192, 0, 2, 1, 224, 0, 0, 18][..]));
    let garp = wire.first("a gratuitous ARP", |frame| frame.announced() == Some([192, 0, 2, 100].into()));
    assert_eq!(garp.source(), advert.source(), "without a VMAC, the interface's own MAC");

    wire.clear();
    assert!(a.stop(), "a puts everything back");
    b.is_active();
    soon("the address is on b", || host_b.has("eth0", ADDRESS));
    assert!(!host_a.has("eth0", ADDRESS));
    assert_eq!(b.count("MasterLeft"), 1, "{}", b.log());
    let farewell =
        wire.first("a's farewell", |frame| frame.advert().is_some_and(|advert| advert.priority == 0));
    let takeover =
        wire.first("b's first advert", |frame| frame.advert().is_some_and(|advert| advert.priority == 100));
    assert!(takeover.at > farewell.at);
    assert!(b.stop());
    assert!(!host_b.has("eth0", ADDRESS));
    assert!(host_a.is_clean(), "nothing is left to clean up");
}

/// Adverts of either family, signed: holders of the key elect one, and who has another key is not heard.
#[cfg(feature = "auth-hmac")]
#[test]
#[ignore = "needs root"]
fn signed_adverts_elect_one_and_strangers_are_not_heard() {
    let (lan, [host_a, host_b, host_c]) = Lan::of("signed_adverts_elect_one_and_strangers_are_not_heard");
    for (addresses, length) in [(ADDRESS, 12 + 28), ("fe80::100/64", 24 + 28)] {
        let start = |host: &Host, priority: u8, byte: &str| {
            let key = lb_vrrp::hmac::Key::parse(1, &("hex:".to_owned() + &byte.repeat(32))).unwrap();
            let mut router = host.router(&format!("priority={priority} addresses={addresses}"));
            router.reconfigure(|instance| {
                instance.config.hmac = Some(lb_vrrp::hmac::Hmac::new(key.clone()));
            });
            router.start();
            router
        };
        let wire = Wire::new(&lan);
        let a = start(&host_a, 150, "2a");
        a.is_active();
        let b = start(&host_b, 100, "2a");
        let c = start(&host_c, 200, "2b");
        c.is_active();
        wire.first("a's signed advert", |frame| {
            // Behind the headers of Ethernet and IP.
            let header = 14 + if addresses == ADDRESS { 20 } else { 40 };
            frame.advert().is_some_and(|advert| advert.priority == 150)
                && frame.bytes.len() == header + length
        });
        thread::sleep(Duration::from_millis(500));
        assert_eq!(a.count("Active -> "), 0, "the stranger's priority counts for nothing: {}", a.log());
        assert_eq!(b.count("-> Active"), 0);
        assert!(a.stop());
        b.says("Backup -> Active by MasterLeft", 1);
        assert!(b.stop() && c.stop());
    }
}

#[test]
#[ignore = "needs root"]
fn a_backup_takes_over_after_kill_9_and_the_next_start_cleans_up() {
    let (_lan, [host_a, host_b]) = Lan::of("a_backup_takes_over_after_kill_9_and_the_next_start_cleans_up");
    let other = "192.0.2.101/24";
    for vmac in ["", "vmac=yes"] {
        let mut a = host_a.start(&format!("priority=150 addresses={ADDRESS} {vmac}"));
        a.is_active();
        let b = host_b.start(&format!("addresses={ADDRESS}"));
        b.says("-> Backup", 1);
        let interface = host_a.place(4, 51, vmac);
        soon("the address is on a", || host_a.has(&interface, ADDRESS));
        a.kill();
        b.says("Backup -> Active by MasterDown", 1);
        soon("the address is on b", || host_b.has("eth0", ADDRESS));
        assert!(host_a.has(&interface, ADDRESS), "a killed driver can't clean up");

        // Another configuration: what is left is known from the run directory alone.
        let a = host_a.start(&format!("vrid=52 priority=150 addresses={other}"));
        a.is_active();
        assert!(!host_a.has(&interface, ADDRESS));
        assert_eq!(host_a.ip("-o link show type macvlan"), "");
        soon("the other address is on a", || host_a.has("eth0", other));
        assert!(a.stop() && b.stop());
        for name in ["promote_secondaries", "arp_ignore", "arp_filter"] {
            assert_eq!(host_a.get(&format!("net/ipv4/conf/eth0/{name}")), "0", "{name}");
        }
        assert!(host_a.is_clean());
    }
}

#[test]
#[ignore = "needs root"]
fn a_start_removes_its_own_addresses_and_no_others() {
    let (_lan, [host_a, host_b]) = Lan::of("a_start_removes_its_own_addresses_and_no_others");
    // Left by a driver whose run directory is lost; and two that are not ours to remove.
    host_a.ip(&format!("address add {ADDRESS} dev eth0"));
    host_a.ip("address add 192.0.2.200/24 dev eth0");
    let b = host_b.start(&format!("priority=150 addresses={ADDRESS}"));
    b.is_active();
    let a = host_a.start(&format!("addresses={ADDRESS}"));
    a.says("-> Backup", 1);
    soon("a backup has no virtual address", || !host_a.has("eth0", ADDRESS));
    assert!(host_a.has("eth0", "192.0.2.200/24"));
    assert!(b.stop());
    a.is_active();
    assert!(a.stop());

    // The owner's address is its own, before, during, and after.
    let a = host_a.start("vrid=7 priority=255 addresses=192.0.2.1/24");
    a.is_active();
    assert!(a.stop());
    assert!(host_a.has("eth0", "192.0.2.1/24"));
}

#[test]
#[ignore = "needs root"]
fn a_vmac_answers_with_the_virtual_mac() {
    let (lan, [host_a, host_b, host_c]) = Lan::of("a_vmac_answers_with_the_virtual_mac");
    let wire = Wire::new(&lan);
    let mac = [0, 0, 0x5e, 0, 1, 51];
    let mut a = host_a.start(&format!("priority=150 addresses={ADDRESS} vmac=yes"));
    a.is_active();
    let b = host_b.start(&format!("addresses={ADDRESS} vmac=yes"));
    b.says("-> Backup", 1);
    let (on_a, on_b) = (host_a.place(4, 51, "vmac"), host_b.place(4, 51, "vmac"));
    let is_up = |host: &Host, interface: &str| {
        let text = host.ip(&format!("-o link show dev {interface}"));
        text.contains(",UP") || text.contains("<UP")
    };
    soon("the address is on a's VMAC", || host_a.has(&on_a, ADDRESS));
    assert!(host_a.ip(&format!("link show dev {on_a}")).contains("00:00:5e:00:01:33"));
    assert!(is_up(&host_a, &on_a) && !is_up(&host_b, &on_b), "only the active router's VMAC is up");
    assert_eq!(host_a.get("net/ipv4/conf/eth0/arp_ignore"), "1");
    assert_eq!(host_a.get("net/ipv4/conf/eth0/arp_filter"), "1");
    assert_eq!(host_a.get(&format!("net/ipv4/conf/{on_a}/arp_ignore")), "1");
    let advert = wire.first("an advert", |frame| frame.advert().is_some());
    let garp = wire.first("a gratuitous ARP", |frame| frame.announced() == Some([192, 0, 2, 100].into()));
    assert_eq!((advert.source(), garp.source()), (mac, mac));
    assert_eq!((advert.bytes[22], advert.bytes[23]), (255, 112), "TTL and protocol");
    assert_eq!(advert.bytes[30..34], [224, 0, 0, 18]);
    assert_eq!((&garp.bytes[22..28], &garp.bytes[32..38]), (&mac[..], &mac[..]), "sender and target");

    let neighbor = || {
        host_c.ip("neighbor flush all");
        host_c.probe("192.0.2.100");
        host_c.ip("neighbor show 192.0.2.100")
    };
    soon("c learns the virtual MAC", || neighbor().contains("00:00:5e:00:01:33"));

    a.kill();
    b.is_active();
    soon("the address is on b's VMAC", || host_b.has(&on_b, ADDRESS) && is_up(&host_b, &on_b));
    soon("c reaches b by the same MAC", || neighbor().contains("00:00:5e:00:01:33"));
    // Back with a higher priority: a preempts, though both have the same MAC.
    let a = host_a.start(&format!("priority=150 addresses={ADDRESS} vmac=yes"));
    a.is_active();
    b.says("Active -> Backup by HigherPriority", 1);
    soon("b's VMAC is down", || !is_up(&host_b, &on_b) && !host_b.has(&on_b, ADDRESS));
    assert!(a.stop() && b.stop());
    assert_eq!(host_a.ip("-o link show type macvlan"), "");
    assert_eq!(host_a.get("net/ipv4/conf/eth0/arp_ignore"), "0");
    assert_eq!(host_a.get("net/ipv4/conf/eth0/arp_filter"), "0");
}

#[test]
#[ignore = "needs root"]
fn an_address_that_another_program_removes_is_put_back() {
    let (_lan, [host_a]) = Lan::of("an_address_that_another_program_removes_is_put_back");
    let a = host_a.start(&format!("addresses={ADDRESS},192.0.2.101/24"));
    a.is_active();
    soon("the address is on a", || host_a.has("eth0", "192.0.2.101/24"));
    for times in 1..4 {
        host_a.ip(&format!("address delete {ADDRESS} dev eth0"));
        a.says("AddressRestored(192.0.2.100)", times);
        soon("the address is back", || host_a.has("eth0", ADDRESS));
    }
    assert_eq!(a.count("Active -> "), 0);
    assert!(a.stop());
    assert!(!host_a.has("eth0", ADDRESS));
}

/// As keepalived does with `dev`: added and announced there, put back, and the router is at fault without the interface.
#[test]
#[ignore = "needs root"]
fn an_address_floats_on_another_interface_than_the_adverts() {
    let (lan, [host_a, host_b]) = Lan::of("an_address_floats_on_another_interface_than_the_adverts");
    lan.plug(&host_a, "eth1");
    lan.plug(&host_b, "eth1");
    let (there, spec) = ("10.8.0.100/24", format!("cs=50 addresses={ADDRESS},10.8.0.100/24@eth1"));
    let both = |host: &Host| host.has("eth0", ADDRESS) && host.has("eth1", there);
    let neither = |host: &Host| !host.has("eth0", ADDRESS) && !host.has("eth1", there);
    let wire = Wire::new(&lan);
    let mut a = host_a.start(&format!("priority=150 {spec}"));
    a.is_active();
    let b = host_b.start(&spec);
    b.says("-> Backup", 1);
    soon("the addresses are on a", || both(&host_a));
    assert!(!host_a.has("eth0", there) && neither(&host_b));
    let announced = |address: [u8; 4]| {
        wire.first("its announcement", |frame| frame.announced() == Some(address.into())).source()
    };
    let own = wire.first("an advert", |frame| frame.advert().is_some());
    assert_eq!(own.bytes[14 + 20 + 3], 2, "adverts list both");
    assert_eq!(announced([192, 0, 2, 100]), own.source());
    let mac = announced([10, 8, 0, 100]).map(|byte| format!("{byte:02x}")).join(":");
    assert!(host_a.ip("link show dev eth1").contains(&mac), "{mac}");

    host_a.ip(&format!("address delete {there} dev eth1"));
    a.says("AddressRestored(10.8.0.100)", 1);
    soon("the address is back", || both(&host_a));

    host_a.ip("link set dev eth1 down");
    a.says("Active -> Initialize by Fault(Faults(TRACK))", 1);
    b.says("Backup -> Active by MasterLeft", 1);
    soon("the addresses have moved", || both(&host_b) && neither(&host_a));
    host_a.ip("link set dev eth1 up");
    soon("the addresses are on a again", || both(&host_a) && neither(&host_b));

    lan.unplug(&host_a, "eth1");
    b.says("Backup -> Active by MasterLeft", 2);
    soon("a has no address", || !host_a.has("eth0", ADDRESS));
    lan.plug(&host_a, "eth1");
    soon("the addresses are on a once more", || both(&host_a) && neither(&host_b));
    assert_eq!(host_a.get("net/ipv4/conf/eth1/promote_secondaries"), "1");

    a.kill();
    soon("the addresses are on b", || both(&host_b));
    assert!(both(&host_a), "a killed driver can't clean up");
    let a = host_a.start("vrid=52 addresses=192.0.2.101/24");
    a.is_active();
    assert!(neither(&host_a));
    assert!(a.stop() && b.stop());
    assert!(neither(&host_a) && neither(&host_b));
    for setting in ["eth0", "eth1"].map(|name| format!("net/ipv4/conf/{name}/promote_secondaries")) {
        assert_eq!([&host_a, &host_b].map(|host| host.get(&setting)), ["0", "0"], "{setting}");
    }
}

#[test]
#[ignore = "needs root"]
fn links_go_and_come_back() {
    let (lan, [host_a, host_b]) = Lan::of("links_go_and_come_back");
    let a = host_a.start(&format!("priority=150 addresses={ADDRESS}"));
    a.is_active();
    let b = host_b.start(&format!("addresses={ADDRESS}"));
    b.says("-> Backup", 1);

    let wire = Wire::new(&lan);
    host_a.ip("link set dev eth0 down");
    a.says("Active -> Initialize by Fault(Faults(LINK))", 1);
    b.says("-> Active", 1);
    soon("the address has left a", || !host_a.has("eth0", ADDRESS));
    let of_b = wire.first("b's announcement", |frame| frame.announced().is_some()).source();
    host_a.ip("link set dev eth0 up");
    a.says("-> Active", 2);
    b.says("Active -> Backup", 1);
    wire.first("a's announcement", |frame| frame.announced().is_some() && frame.source() != of_b);

    // The cable is pulled: no carrier.
    lan.set_cable(0, false);
    a.says("Fault(Faults(LINK))", 2);
    b.says("-> Active", 2);
    lan.set_cable(0, true);
    a.says("-> Active", 3);

    lan.unplug(&host_a, "eth0");
    a.says("Fault(Faults(LINK))", 3);
    b.says("-> Active", 3);
    lan.plug(&host_a, "eth0");
    let wire = Wire::new(&lan);
    a.says("-> Active", 4);
    b.says("Active -> Backup", 3);
    soon("the address is on a again", || host_a.has("eth0", ADDRESS));
    assert_eq!(a.count("AddressRestored"), 0, "what goes with its interface was not taken away");

    // Its own address goes, then another comes: the adverts' source follows.
    host_a.ip("address delete 192.0.2.1/24 dev eth0");
    a.says("SOURCE", 1);
    host_a.ip("address add 192.0.2.11/24 dev eth0");
    wire.first("an advert from the new address", |frame| {
        frame.advert().is_some_and(|advert| advert.priority == 150) && frame.bytes[26..30] == [192, 0, 2, 11]
    });
    assert!(a.stop() && b.stop());
}

#[test]
#[ignore = "needs root"]
fn an_interface_may_come_after_its_instance() {
    let (_lan, [host_a]) = Lan::of("an_interface_may_come_after_its_instance");
    let a = host_a.start(&format!("interface=eth1 addresses={ADDRESS}"));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(a.count("->"), 0, "{}", a.log());
    host_a.ip("link add eth1 type veth peer name eth2");
    host_a.ip("address add 10.9.1.1/24 dev eth1");
    host_a.ip("link set eth1 up");
    host_a.ip("link set eth2 up");
    a.is_active();
    assert!(a.stop());
}

#[test]
#[ignore = "needs root"]
fn ipv6_floats_without_duplicate_address_detection() {
    let (lan, [host_a, host_b]) = Lan::of("ipv6_floats_without_duplicate_address_detection");
    let wire = Wire::new(&lan);
    let (first, second) = ("fe80::100/64", "2001:db8::100/64");
    for vmac in ["", "vmac=yes"] {
        wire.clear();
        let spec = format!("version=3 addresses={first},{second} {vmac}");
        let a = host_a.start(&format!("priority=150 {spec}"));
        a.is_active();
        let b = host_b.start(&spec);
        b.says("-> Backup", 1);
        let interface = host_a.place(6, 51, vmac);
        soon("the addresses are on a", || host_a.has(&interface, second));
        assert!(!host_a.ip("-6 address show").contains("tentative"));
        let address: std::net::Ipv6Addr = "2001:db8::100".parse().unwrap();
        let unsolicited =
            wire.first("a neighbour advertisement", |frame| frame.announced() == Some(address.into()));
        let advert = wire.first("an advert", |frame| frame.advert().is_some());
        assert_eq!(advert.bytes[..6], [0x33, 0x33, 0, 0, 0, 0x12]);
        assert_eq!(advert.bytes[21], 255, "hop limit");
        assert_eq!(advert.bytes[22..24], [0xfe, 0x80], "from a link-local address");
        assert_ne!(advert.bytes[22..38], "fe80::100".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let mac = if vmac.is_empty() { unsolicited.source() } else { [0, 0, 0x5e, 0, 2, 51] };
        assert_eq!((unsolicited.source(), advert.source()), (mac, mac));
        assert_eq!((advert.bytes[20], unsolicited.bytes[58]), (112, 0xa0), "protocol; router and override");
        assert!(host_a.ip(&format!("-6 maddress show dev {interface}")).contains("ff02::1:ff00:100"));
        let of_the_virtual_mac = "fe80::200:5eff:fe00:233";
        assert!(!host_a.ip("-6 address show").contains(of_the_virtual_mac), "no address is made of it");
        let ask = || {
            host_b.ip("-6 neighbor flush all");
            host_b.probe("[2001:db8::100]");
            host_b.ip("-6 neighbor show 2001:db8::100")
        };
        host_b.ip("-6 route replace 2001:db8::/64 dev eth0");
        let lladdr = mac.map(|byte| format!("{byte:02x}")).join(":");
        // A router, by its answers, is who forwards.
        soon("b learns the MAC", || ask().contains(&lladdr) && !ask().contains("router"));
        host_a.set("net/ipv6/conf/all/forwarding", "1");
        soon("b learns of a router", || ask().contains(&format!("{lladdr} router")));
        host_a.set("net/ipv6/conf/all/forwarding", "0");

        host_a.set("net/ipv6/conf/eth0/disable_ipv6", "1");
        a.says("SOURCE", 1);
        b.says("-> Active", 1);
        host_a.set("net/ipv6/conf/eth0/disable_ipv6", "0");
        host_a.ip("address add fe80::1/64 dev eth0 nodad");
        a.says("-> Active", 2);
        b.says("Active -> Backup", 1);
        assert!(host_a.ip("-6 maddress show dev eth0").contains("ff02::12"), "a hears the group again");
        assert!(a.stop());
        b.says("MasterLeft", 1);
        assert!(b.stop());
        assert!(!host_a.has(&interface, second) && !host_a.has(&interface, first));
    }
}

#[test]
#[ignore = "needs root"]
fn unicast_peers_hear_each_other() {
    let (lan, [host_a, host_b]) = Lan::of("unicast_peers_hear_each_other");
    let wire = Wire::new(&lan);
    let a = host_a.start(&format!("priority=150 addresses={ADDRESS} peers=192.0.2.2,192.0.2.9"));
    a.is_active();
    let b = host_b.start(&format!("addresses={ADDRESS} peers=192.0.2.1"));
    b.says("NewActive { address: 192.0.2.1", 1);
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
    let (_lan, [host_a]) = Lan::of("a_missing_capability_is_named_before_anything_starts");
    for (wrapper, named, not_named) in [
        ("setpriv --bounding-set=-net_raw", "missing CAP_NET_RAW:", "CAP_NET_ADMIN:"),
        ("setpriv --bounding-set=-net_admin", "missing CAP_NET_ADMIN:", "CAP_NET_RAW:"),
        ("setpriv --bounding-set=-all", "missing CAP_NET_RAW and CAP_NET_ADMIN:", "ready"),
    ] {
        let mut a = host_a.launch(wrapper, &format!("addresses={ADDRESS}"));
        assert!(!a.wait());
        a.says(named, 1);
        assert_eq!(a.count(not_named), 0, "{}", a.log());
    }
    let mut a =
        host_a.launch("setpriv --bounding-set=-sys_nice", &format!("addresses={ADDRESS} realtime=10"));
    assert!(!a.wait());
    a.says("CAP_SYS_NICE", 1);
    let a = host_a.start(&format!("addresses={ADDRESS} realtime=10 lock=yes"));
    a.is_active();
    assert!(a.stop());
}

#[test]
#[ignore = "needs root"]
fn a_stopped_process_says_nothing_stale_when_it_goes_on() {
    let (lan, [host_a, host_b]) = Lan::of("a_stopped_process_says_nothing_stale_when_it_goes_on");
    let wire = Wire::new(&lan);
    let rounds = std::env::var("LB_VRRP_STOPS").map_or(3, |rounds| rounds.parse().unwrap());
    let a = host_a.start(&format!("priority=150 addresses={ADDRESS} cs=10 nopreempt=yes"));
    a.is_active();
    let b = host_b.start(&format!("priority=100 addresses={ADDRESS} cs=10 nopreempt=yes"));
    b.says("-> Backup", 1);
    let (mut active, mut waiting) = (&a, &b);
    let mut priority = [150, 100];
    for round in 1..=rounds {
        let before = waiting.count("-> Active");
        active.freeze(true);
        waiting.says("-> Active", before + 1);
        thread::sleep(Duration::from_millis(1000 + 137 * round % 700));
        wire.clear();
        let stepped_down = active.count("Active -> Backup");
        active.freeze(false);
        active.says("Active -> Backup", stepped_down + 1);
        thread::sleep(Duration::from_millis(600));
        let frames = wire.frames();
        let stale =
            frames.iter().filter(|frame| frame.advert().is_some_and(|advert| advert.priority == priority[0]));
        assert_eq!(stale.count(), 0, "round {round}: an advert of the one that was stopped");
        let mac = frames.iter().find(|frame| frame.advert().is_some()).unwrap().source();
        let stale = frames.iter().filter(|frame| frame.announced().is_some() && frame.source() != mac);
        assert_eq!(stale.count(), 0, "round {round}: an announcement of the one that was stopped");
        (active, waiting) = (waiting, active);
        priority.reverse();
    }
    assert!(a.stop() && b.stop());
}

#[test]
#[ignore = "needs root"]
fn events_that_were_lost_are_made_up_for() {
    let (_lan, [host_a]) = Lan::of("events_that_were_lost_are_made_up_for");
    // The owner with an interval of 40 s: it stays active while it is stopped.
    let a = host_a.start(&format!("priority=255 cs=4000 addresses={ADDRESS}"));
    a.is_active();
    soon("the address is on a", || host_a.has("eth0", ADDRESS));
    a.freeze(true);
    // More than the socket's buffer of 16 MB holds.
    let mut batch = String::new();
    for _ in 0..20_000 {
        batch += "address add 10.8.0.1/32 dev lo\naddress delete 10.8.0.1/32 dev lo\n";
    }
    batch += &format!("address delete {ADDRESS} dev eth0\n");
    let file = host_a.directory().join("batch");
    std::fs::write(&file, batch).unwrap();
    host_a.ip(&format!("-batch {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert!(!host_a.has("eth0", ADDRESS));
    a.freeze(false);
    a.says("AddressRestored(192.0.2.100)", 1);
    soon("the address is back", || host_a.has("eth0", ADDRESS));
    assert!(a.stop());
}

#[test]
#[ignore = "needs root"]
fn a_router_that_cannot_send_is_not_active() {
    let (_lan, [host_a]) = Lan::of("a_router_that_cannot_send_is_not_active");
    let a = host_a.start(&format!("addresses={ADDRESS}"));
    a.is_active();
    soon("the address is on a", || host_a.has("eth0", ADDRESS));
    // Sending fails with EPERM from now on.
    host_a.exec("nft add table ip test");
    host_a.exec("nft add chain ip test out { type filter hook output priority 0; policy drop; }");
    a.says("Active -> Initialize by Fault(Faults(TRANSMIT))", 1);
    soon("the address has left a", || !host_a.has("eth0", ADDRESS));
    host_a.exec("nft delete table ip test");
    a.says("-> Active", 2);
    assert!(a.stop());
}

/// A VMAC that lost its IPv6 with the parent's MTU is made anew; and an interface that got another name gets its settings
/// back under that.
#[test]
#[ignore = "needs root"]
fn a_vmac_outlives_a_small_mtu_and_settings_follow_a_new_name() {
    let (_lan, [host_a, _]) = Lan::of("a_vmac_outlives_a_small_mtu_and_settings_follow_a_new_name");
    let six = "2001:db8::100/64";
    let a = host_a.start(&format!("addresses=fe80::100/64,{six} vmac=yes"));
    a.is_active();
    let interface = host_a.place(6, 51, "vmac=yes");
    soon("the address is on a", || host_a.has(&interface, six));
    host_a.exec("ip link set eth0 mtu 68");
    a.says("Active -> Initialize", 1);
    host_a.exec("ip link set eth0 mtu 1500");
    a.says("Backup -> Active", 2);
    soon("the address is on a again", || host_a.has(&interface, six));
    assert!(a.stop());

    let set = |name: &str| {
        ["arp_ignore", "arp_filter", "promote_secondaries"]
            .map(|setting| host_a.get(&format!("net/ipv4/conf/{name}/{setting}")))
    };
    for (vmac, changed) in [("vmac=yes", ["1", "1", "0"]), ("", ["0", "0", "1"])] {
        let a = host_a.start(&format!("addresses={ADDRESS} {vmac}"));
        a.is_active();
        assert_eq!(set("eth0"), changed);
        host_a.exec("ip link set eth0 down");
        host_a.exec("ip link set eth0 name lan0");
        host_a.exec("ip link set lan0 up");
        a.says("Active -> Initialize", 1);
        assert!(a.stop());
        assert_eq!(set("lan0"), ["0", "0", "0"], "{vmac}");
        host_a.exec("ip link set lan0 down");
        host_a.exec("ip link set lan0 name eth0");
        host_a.exec("ip link set eth0 up");
    }
}
