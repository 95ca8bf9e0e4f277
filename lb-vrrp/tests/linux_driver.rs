//! The Linux driver in network namespaces: elections, failures of every kind, and what is on the wire.
//!
//! Each test has a switch and hosts of its own, and each driver runs in a process of its own: this test binary, started anew
//! as `child_process`.
#![allow(clippy::unwrap_used)] // in what tests share, too

mod lab;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Daemon, Lab, PATIENCE, run, wait_until};
use lb_vrrp::event::{Faults, Notification};
use lb_vrrp::linux::{Driver, Instance, Settings, TrackInterface, Vmac};
use lb_vrrp::track::{Check, Weight};
use lb_vrrp::wire::{Interval, Version};
use lb_vrrp::{Config, State, VirtualAddress};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;

/// Drives what `LB_VRRP_CHILD` says until the end of its input, and prints what happens. Started by itself, it checks that a process
/// without a configuration fails.
#[test]
#[ignore = "needs root"]
fn child_process() {
    let Ok(spec) = std::env::var("LB_VRRP_CHILD") else {
        let lab = Lab::new(&["a"]);
        assert!(!lab.start("a", "nonsense").wait(), "a child without a configuration must fail");
        return;
    };
    static STOP: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        // Also when the test that started this is no more.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        STOP.store(true, Ordering::Relaxed);
    });

    let get = |key: &str| {
        spec.split(' ')
            .filter_map(|word| word.split_once('='))
            .find(|(k, _)| *k == key)
            .map(|(_, value)| value)
    };
    if get("addresses").is_none() && get("each").is_none() {
        println!("error no configuration");
        std::process::exit(2);
    }
    let number = |key: &str, default: u16| get(key).map_or(default, |value| value.parse().unwrap());
    let settings = Settings {
        run_directory: get("run").map(Into::into),
        realtime_priority: get("realtime").map(|priority| priority.parse().unwrap()),
        lock_memory: get("lock").is_some(),
    };
    let mut driver = match Driver::new(settings) {
        Ok(driver) => driver,
        Err(error) => {
            println!("error {error}");
            std::process::exit(2);
        }
    };
    let first = number("vrid", 51);
    for vrid in first..first + number("routers", 1) {
        let addresses: Vec<VirtualAddress> = match get("addresses") {
            Some(list) => list.split(',').map(|address| address.parse().unwrap()).collect(),
            None => (1..=number("each", 1))
                .map(|host| VirtualAddress::new([10, 200, vrid as u8, host as u8].into(), 32))
                .collect(),
        };
        let mut config = Config::new(vrid as u8, addresses);
        config.priority = number("priority", 100) as u8;
        config.version = if number("version", 3) == 2 { Version::V2 } else { Version::V3 };
        config.interval = Interval::from_centiseconds(number("cs", 10)).unwrap();
        config.preempt = get("nopreempt").is_none();
        config.garp.delay = Duration::from_secs(number("delay", 5).into());
        config.unicast_peers = get("peers")
            .into_iter()
            .flat_map(|list| list.split(','))
            .map(|peer| peer.parse().unwrap())
            .collect();
        let mut instance = Instance::new(config, get("interface").unwrap_or("eth0"));
        instance.vmac = get("vmac").map(|_| Vmac::default());
        driver.add(&format!("V{vrid}"), instance).unwrap();
    }
    println!("ready");
    while !STOP.load(Ordering::Relaxed) {
        driver.turn(Some(Duration::from_millis(50))).unwrap();
        while let Some((id, notification)) = driver.next_notification() {
            let name = driver.name(id).unwrap_or("gone");
            match notification {
                Notification::State { from, to, reason } => println!("{name} {from} -> {to} by {reason:?}"),
                other => println!("{name} {other:?}"),
            }
        }
        if let Some((id, ..)) = driver.instances().next()
            && let Some(trouble) = driver.trouble(id)
        {
            println!("trouble {trouble}");
        }
    }
    driver.shutdown().unwrap();
    println!("stopped");
}

const ADDRESS: &str = "10.9.0.100/24";

fn is_active(daemon: &Daemon) {
    daemon.says("-> Active", 1);
}

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

#[test]
#[ignore = "needs root"]
fn links_go_and_come_back() {
    let lab = Lab::new(&["a", "b"]);
    let a = lab.start("a", &format!("priority=150 addresses={ADDRESS}"));
    is_active(&a);
    let b = lab.start("b", &format!("addresses={ADDRESS}"));
    b.says("-> Backup", 1);

    lab.ip("a", "link set dev eth0 down");
    a.says("Active -> Initialize by Fault(Faults(LINK))", 1);
    b.says("-> Active", 1);
    wait_until("the address has left a", || !lab.has("a", "eth0", ADDRESS));
    lab.ip("a", "link set dev eth0 up");
    a.says("-> Active", 2);
    b.says("Active -> Backup", 1);

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

    // Its own address goes, then another comes: the adverts' source follows.
    let wire = lab.wire();
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

        lab.set("a", "net/ipv6/conf/eth0/disable_ipv6", "1");
        a.says("SOURCE", 1);
        b.says("-> Active", 1);
        lab.set("a", "net/ipv6/conf/eth0/disable_ipv6", "0");
        a.says("-> Active", 2);
        b.says("Active -> Backup", 1);
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

/// Runs a test's body on a thread of its own inside a host.
fn inside(lab: &Lab, host: &str, body: impl FnOnce() + Send + 'static) {
    let host = lab.host(host);
    let thread = thread::spawn(move || {
        lab::enter(&host);
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn turn_until(driver: &mut Driver, what: &str, mut condition: impl FnMut(&Driver) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition(driver) {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        // As an event loop of one's own does it: wait for the descriptor, then one turn that does not wait.
        let mut polled = [PollFd::new(driver.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, 100_u16).unwrap();
        driver.turn(Some(Duration::ZERO)).unwrap();
    }
}

fn quick(vrid: u8, addresses: &[&str]) -> Config {
    let mut config = Config::new(vrid, addresses.iter().map(|address| address.parse().unwrap()));
    config.interval = Interval::from_centiseconds(5).unwrap();
    config
}

#[test]
#[ignore = "needs root"]
fn an_event_loop_of_ones_own_drives_it() {
    let lab = Lab::new(&["a"]);
    let settings = Settings { run_directory: Some(lab.run_directory.clone()), ..Settings::default() };
    inside(&lab, "a", move || {
        let mut driver = Driver::new(settings).unwrap();
        let state = |driver: &Driver, id| driver.router(id).unwrap().state();
        let one = driver.add("one", Instance::new(quick(1, &[ADDRESS]), "eth0")).unwrap();
        assert_eq!((driver.find("one"), driver.name(one)), (Some(one), Some("one")));
        turn_until(&mut driver, "active", |driver| state(driver, one) == State::Active);

        // Bad input is an error and changes nothing.
        let same = |name: &str, config, interface: &str| (name.to_owned(), Instance::new(config, interface));
        for ((name, instance), expected) in [
            (same("one", quick(2, &["10.9.0.102/24"]), "eth0"), "choose another name"),
            (same("two", quick(1, &["10.9.0.102/24"]), "eth0"), "choose another VRID"),
            (same("two", quick(2, &[ADDRESS]), "eth0"), "belongs to one instance"),
            (same("two", quick(0, &["10.9.0.102/24"]), "eth0"), "VRID 0"),
            (same("two", quick(2, &["10.9.0.102/24"]), "eth 0"), "no name for an interface"),
            (same("two", quick(2, &["10.9.0.102/24"]), "a-name-that-is-too-long"), "1 to 15 bytes"),
        ] {
            let error = driver.add(&name, instance).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut instance = Instance::new(quick(2, &["10.9.0.102/24"]), "eth0");
        instance.source = Some("10.9.0.102".parse().unwrap());
        assert!(driver.add("two", instance).unwrap_err().to_string().contains("does not move"));
        assert_eq!(driver.instances().count(), 1);

        // A second one, in a group with the first: a fault of one is the other's.
        let two = driver.add("two", Instance::new(quick(2, &["10.9.0.102/24"]), "eth0")).unwrap();
        driver.add_group("both", &[one, two]).unwrap();
        assert!(driver.add_group("again", &[two]).unwrap_err().to_string().contains("one group"));
        turn_until(&mut driver, "both active", |driver| state(driver, two) == State::Active);
        let check = driver.track(two, Check::default()).unwrap();
        driver.report(two, check, false).unwrap();
        assert_eq!((state(&driver, one), state(&driver, two)), (State::Initialize, State::Initialize));
        driver.report(two, check, true).unwrap();
        turn_until(&mut driver, "both active again", |driver| {
            state(driver, one) == State::Active && state(driver, two) == State::Active
        });

        // Other addresses and another priority, without leaving the state.
        let mut config = quick(1, &["10.9.0.100/24", "10.9.0.103/24"]);
        config.priority = 77;
        driver.reconfigure(one, config).unwrap();
        assert!(
            driver
                .reconfigure(one, quick(9, &[ADDRESS]))
                .unwrap_err()
                .to_string()
                .contains("another virtual router")
        );
        assert!(
            driver
                .reconfigure(one, quick(1, &["10.9.0.102/24"]))
                .unwrap_err()
                .to_string()
                .contains("one instance")
        );
        let shown = || run("ip -o address show dev eth0");
        turn_until(&mut driver, "the new address", |_| shown().contains("10.9.0.103/24"));
        assert_eq!((state(&driver, one), driver.router(one).unwrap().priority()), (State::Active, 77));

        driver.remove(two).unwrap();
        assert!(driver.router(two).is_none() && driver.remove(two).is_err());
        assert!(!shown().contains("10.9.0.102/24") && shown().contains("10.9.0.100/24"));
        driver.shutdown().unwrap();
        assert!(!shown().contains("10.9.0.10"));
        assert!(driver.add("three", Instance::new(quick(3, &[ADDRESS]), "eth0")).is_err());
    });
    assert_eq!(std::fs::read_dir(&lab.run_directory).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root"]
fn tracked_interfaces_and_strange_vrids_count() {
    let lab = Lab::new(&["a", "b"]);
    let b = lab.start("b", "vrid=77 addresses=10.9.0.177/24");
    is_active(&b);
    let settings = Settings { run_directory: None, ..Settings::default() };
    inside(&lab, "a", move || {
        run("ip link add up0 type veth peer name up1");
        run("ip link set up0 up");
        let mut driver = Driver::new(settings).unwrap();
        let mut instance = Instance::new(quick(1, &[ADDRESS]), "eth0");
        let check = Check { weight: Weight::new(-30).unwrap(), ..Check::default() };
        instance.track_interfaces.push(TrackInterface { name: "up0".into(), check });
        let id = driver.add("one", instance).unwrap();
        assert_eq!(driver.router(id).unwrap().priority(), 70, "no carrier");
        run("ip link set up1 up");
        turn_until(&mut driver, "100 with the carrier", |driver| {
            driver.router(id).unwrap().priority() == 100
        });
        run("ip link delete up0");
        turn_until(&mut driver, "70 without the interface", |driver| {
            driver.router(id).unwrap().priority() == 70
        });
        turn_until(&mut driver, "strange adverts", |driver| {
            let counters = driver.interface_counters("eth0").unwrap();
            counters.unknown_vrid >= 3 && counters.received == counters.unknown_vrid
        });
    });
    assert!(b.stop());
}

#[test]
#[ignore = "needs root"]
fn a_vmac_that_cannot_be_made_is_a_fault_with_a_reason() {
    let lab = Lab::new(&["a"]);
    let settings = Settings { run_directory: None, ..Settings::default() };
    inside(&lab, "a", move || {
        run("ip link add mine type veth peer name other");
        let mut driver = Driver::new(settings).unwrap();
        let mut instance = Instance::new(quick(1, &[ADDRESS]), "eth0");
        instance.vmac = Some(Vmac { name: Some("mine".into()), ..Vmac::default() });
        let id = driver.add("one", instance).unwrap();
        assert!(driver.trouble(id).unwrap().contains("choose another name"), "{:?}", driver.trouble(id));
        assert_eq!(driver.router(id).unwrap().state(), State::Initialize);
        run("ip link delete mine");
        turn_until(&mut driver, "active", |driver| driver.router(id).unwrap().state() == State::Active);
        assert_eq!(driver.trouble(id), None);
        turn_until(&mut driver, "the address is on it", |_| {
            run("ip -o address show dev mine").contains(ADDRESS)
        });
        // Another program deletes it: it is made again.
        run("ip link delete mine");
        turn_until(&mut driver, "at fault", |driver| driver.router(id).unwrap().state() != State::Active);
        turn_until(&mut driver, "active again", |driver| driver.router(id).unwrap().state() == State::Active);
        turn_until(&mut driver, "the address is on it", |_| {
            run("ip -o address show dev mine").contains(ADDRESS)
        });
        drop(driver);
        assert!(!lab::try_run("ip link show dev mine").0, "dropping the driver removes it");
    });
}

/// Prints by how much a takeover after `kill -9` is later than the formula, and how soon the first announcement follows.
#[test]
#[ignore = "needs root"]
fn a_takeover_is_as_fast_as_the_formula() {
    let rounds = std::env::var("LB_VRRP_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let lab = Lab::new(&["a", "b"]);
    let wire = lab.wire();
    let (mut overheads, mut garps) = (Vec::new(), Vec::new());
    // Priority 100 and 1 cs: 3 * 10 ms + 156/256 * 10 ms.
    let formula = Duration::from_micros(36_093);
    let b = lab.start("b", &format!("addresses={ADDRESS} cs=1 realtime=50 delay=0"));
    for round in 1..=rounds {
        let a = lab.start("a", &format!("priority=150 addresses={ADDRESS} cs=1 realtime=50 delay=0"));
        is_active(&a);
        b.says("-> Backup", round);
        thread::sleep(Duration::from_millis(100));
        wire.clear();
        thread::sleep(Duration::from_millis(50));
        let before = b.count("-> Active");
        a.kill();
        b.says("-> Active", before + 1);
        thread::sleep(Duration::from_millis(50));
        let frames = wire.frames();
        let is_from = |priority: u8| {
            move |frame: &lab::Frame| frame.advert().is_some_and(|advert| advert[2] == priority)
        };
        let left = frames.iter().rposition(is_from(150)).unwrap();
        let (left, after) = (&frames[left], &frames[left + 1..]);
        let came = after.iter().find(|frame| is_from(100)(frame)).unwrap();
        let garp = after.iter().find(|frame| frame.garp().is_some()).unwrap();
        assert!(garp.at > came.at, "the advert is first");
        overheads.push((came.at - left.at).as_micros() as i64 - formula.as_micros() as i64);
        garps.push((garp.at - came.at).as_micros());
    }
    overheads.sort();
    garps.sort();
    let at = |share: usize| (rounds - 1) * share / 100;
    println!(
        "{rounds} takeovers: overhead median {} p99 {} us; first GARP median {} p99 {} max {} us",
        overheads[at(50)],
        overheads[at(99)],
        garps[at(50)],
        garps[at(99)],
        garps[rounds - 1]
    );
    assert!(b.stop());
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
fn a_router_that_may_not_add_addresses_is_not_active() {
    let lab = Lab::new(&["a"]);
    let settings = Settings { run_directory: None, ..Settings::default() };
    inside(&lab, "a", move || {
        let mut driver = Driver::new(settings).unwrap();
        let id = driver.add("one", Instance::new(quick(1, &[ADDRESS]), "eth0")).unwrap();
        let state = |driver: &Driver| driver.router(id).unwrap().state();
        // Netlink refuses with EPERM from now on.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        turn_until(&mut driver, "the fault", |driver| {
            driver.router(id).unwrap().faults().contains(Faults::ADDRESS)
        });
        assert_eq!(state(&driver), State::Initialize);
        assert!(driver.router(id).unwrap().counters().address_failures > 0);
        caps::raise(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        turn_until(&mut driver, "it tries again", |driver| state(driver) == State::Active);
        turn_until(&mut driver, "the address", |_| run("ip -o address show dev eth0").contains(ADDRESS));
    });
}

/// Prints what a mass takeover takes: 255 routers with 80 addresses each on one interface.
#[test]
#[ignore = "needs root, and a minute"]
fn adverts_are_on_time_while_twenty_thousand_addresses_move() {
    let routers: usize = std::env::var("LB_VRRP_ROUTERS").map_or(255, |count| count.parse().unwrap());
    let each = 80;
    let lab = Lab::new(&["a", "b"]);
    let wire = lab.wire();
    // Other programs on the machine must not be what is measured.
    let spec = format!("vrid=1 routers={routers} each={each} cs=100 realtime=50");
    let a = lab.start("a", &format!("{spec} priority=150"));
    a.says("-> Active", routers);
    let b = lab.start("b", &format!("{spec} priority=100"));
    b.says("-> Backup", routers);
    let count = |host: &str| lab.ip(host, "-o -4 address show dev eth0").lines().count() - 1;
    let begin = Instant::now();
    while count("a") < routers * each {
        assert!(begin.elapsed() < Duration::from_secs(300), "{} addresses on a", count("a"));
        thread::sleep(Duration::from_millis(200));
    }
    println!("a has all addresses {:?} after b was started", begin.elapsed());
    wire.clear();
    a.kill();
    b.says("-> Active", routers);
    let begin = Instant::now();
    while count("b") < routers * each {
        assert!(begin.elapsed() < Duration::from_secs(300), "{} addresses on b", count("b"));
        thread::sleep(Duration::from_millis(200));
    }
    let moved = begin.elapsed();
    thread::sleep(Duration::from_secs(3));
    let frames = wire.frames();
    let mut first_garp = std::collections::BTreeMap::new();
    let mut adverts = std::collections::BTreeMap::<u8, Vec<Duration>>::new();
    let is_new = |frame: &&lab::Frame| frame.advert().is_some_and(|advert| advert[2] == 100);
    let mac = frames.iter().find(is_new).unwrap().source();
    for frame in frames.iter().filter(|frame| frame.source() == mac) {
        if let Some(advert) = frame.advert() {
            adverts.entry(advert[1]).or_default().push(frame.at);
        }
        if let Some([_, _, vrid, _]) = frame.garp() {
            first_garp.entry(vrid).or_insert(frame.at);
        }
    }
    assert_eq!(adverts.len(), routers);
    let mut jitter: Vec<u128> = Vec::new();
    for times in adverts.values() {
        let gaps = times.windows(2).map(|pair| (pair[1] - pair[0]).as_micros());
        jitter.extend(gaps.map(|gap| gap.abs_diff(1_000_000)));
    }
    jitter.sort();
    let at = |share: f64| jitter[((jitter.len() - 1) as f64 * share) as usize];
    let mut garp: Vec<_> =
        adverts.iter().map(|(vrid, times)| first_garp[vrid].saturating_sub(times[0])).collect();
    garp.sort();
    let starts: Vec<Duration> = adverts.values().map(|times| times[0]).collect();
    let spread = *starts.iter().max().unwrap() - *starts.iter().min().unwrap();
    println!(
        "all addresses moved after {moved:?}; first adverts within {spread:?}; first GARP median {:?} max {:?}; \
         {} intervals, jitter median {} p99 {} p99.9 {} max {} us; {} frames",
        garp[garp.len() / 2],
        garp[garp.len() - 1],
        jitter.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        frames.len()
    );
    assert_eq!(b.count("-> Backup"), routers, "none wavered");
    assert!(b.stop());
}
