//! The Linux driver inside a program: its interface, its errors, and an event loop of the program's own.
#![allow(clippy::unwrap_used)] // in what tests share, too

mod lab;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lab::{Lan, PATIENCE, run};
use lb_vrrp::event::Faults;
use lb_vrrp::linux::{Driver, Instance, Settings, TrackInterface, Vmac};
use lb_vrrp::track::{Check, Weight};
use lb_vrrp::wire::Interval;
use lb_vrrp::{Config, State};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

const ADDRESS: &str = "192.0.2.100/24";

/// See [`lab::a_router`].
#[test]
#[ignore = "needs root"]
fn a_router() {
    lab::a_router();
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
    let (_lan, [host_a]) = Lan::of("an_event_loop_of_ones_own_drives_it");
    let settings = Settings { run_directory: Some(host_a.run_directory()), ..Settings::default() };
    host_a.inside(move || {
        let mut driver = Driver::new(settings).unwrap();
        let state = |driver: &Driver, id| driver.router(id).unwrap().state();
        let one = driver.add("one", Instance::new(quick(1, &[ADDRESS]), "eth0")).unwrap();
        assert_eq!((driver.find("one"), driver.name(one)), (Some(one), Some("one")));
        turn_until(&mut driver, "active", |driver| state(driver, one) == State::Active);

        // Bad input is an error and changes nothing.
        let same = |name: &str, config, interface: &str| (name.to_owned(), Instance::new(config, interface));
        for ((name, instance), expected) in [
            (same("one", quick(2, &["192.0.2.102/24"]), "eth0"), "choose another name"),
            (same("two", quick(1, &["192.0.2.102/24"]), "eth0"), "choose another VRID"),
            (same("two", quick(2, &[ADDRESS]), "eth0"), "belongs to one instance"),
            (same("two", quick(0, &["192.0.2.102/24"]), "eth0"), "VRID 0"),
            (same("two", quick(2, &["192.0.2.102/24"]), "eth 0"), "no name for an interface"),
            (same("two", quick(2, &["192.0.2.102/24"]), "a-name-that-is-too-long"), "1 to 15 bytes"),
        ] {
            let error = driver.add(&name, instance).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut instance = Instance::new(quick(2, &["192.0.2.102/24"]), "eth0");
        instance.source = Some("192.0.2.102".parse().unwrap());
        assert!(driver.add("two", instance).unwrap_err().to_string().contains("does not move"));
        assert_eq!(driver.instances().count(), 1);

        // A second one, in a group with the first: a fault of one is the other's.
        let two = driver.add("two", Instance::new(quick(2, &["192.0.2.102/24"]), "eth0")).unwrap();
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
        let mut config = quick(1, &["192.0.2.100/24", "192.0.2.103/24"]);
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
                .reconfigure(one, quick(1, &["192.0.2.102/24"]))
                .unwrap_err()
                .to_string()
                .contains("one instance")
        );
        let shown = || run("ip -o address show dev eth0");
        turn_until(&mut driver, "the new address", |_| shown().contains("192.0.2.103/24"));
        assert_eq!((state(&driver, one), driver.router(one).unwrap().priority()), (State::Active, 77));

        driver.remove(two).unwrap();
        assert!(driver.router(two).is_none() && driver.remove(two).is_err());
        assert!(!shown().contains("192.0.2.102/24") && shown().contains("192.0.2.100/24"));
        driver.shutdown().unwrap();
        assert!(!shown().contains("192.0.2.10"));
        assert!(driver.add("three", Instance::new(quick(3, &[ADDRESS]), "eth0")).is_err());
    });
    assert!(host_a.is_clean());
}

/// As tokio's `AsyncFd` and mio do it: a descriptor that stays readable is told of once.
#[test]
#[ignore = "needs root"]
fn an_event_loop_that_waits_for_edges_drives_it() {
    let (_lan, [host_a]) = Lan::of("edges");
    let settings = Settings { run_directory: None, ..Settings::default() };
    host_a.inside(move || {
        let mut driver = Driver::new(settings).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll.add(driver.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
        let addresses: Vec<String> = (1..=200).map(|host| format!("192.0.2.{}/32", host + 50)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let id = driver.add("one", Instance::new(quick(1, &addresses), "eth0")).unwrap();
        let shown = || run("ip -o address show dev eth0").matches("/32").count();
        let end = Instant::now() + PATIENCE;
        while shown() < 200 {
            assert!(Instant::now() < end, "{} of 200 addresses", shown());
            epoll.wait(&mut [EpollEvent::empty()], 1000_u16).unwrap();
            driver.turn(Some(Duration::ZERO)).unwrap();
        }
        let sent = |driver: &Driver| driver.router(id).unwrap().counters().adverts_sent;
        let before = sent(&driver);
        // Nothing but its own timer wakes it now: an advert each 50 ms.
        let begin = Instant::now();
        while sent(&driver) < before + 10 {
            assert!(begin.elapsed() < PATIENCE, "{} adverts", sent(&driver) - before);
            epoll.wait(&mut [EpollEvent::empty()], 2000_u16).unwrap();
            driver.turn(Some(Duration::ZERO)).unwrap();
        }
        assert!(begin.elapsed() < PATIENCE / 2, "it was woken by the end of the wait alone");
    });
}

#[test]
#[ignore = "needs root"]
fn a_realtime_thread_starts_programs_that_are_not() {
    let (_lan, [host_a]) = Lan::of("realtime");
    host_a.inside(|| {
        let settings = Settings { run_directory: None, realtime_priority: Some(10), ..Settings::default() };
        let driver = Driver::new(settings).unwrap();
        // Realtime priority and policy in a `stat` file of proc(5): fields 40 and 41, the first after the name being field 3.
        let scheduling = |stat: &str| {
            let (_, fields) = stat.rsplit_once(')').unwrap();
            let fields: Vec<u32> =
                fields.split_whitespace().skip(37).take(2).map(|field| field.parse().unwrap()).collect();
            (fields[0], fields[1])
        };
        let own = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        assert_eq!(scheduling(&own), (10, 2), "SCHED_RR");
        assert_eq!(scheduling(&run("cat /proc/self/stat")), (0, 0), "SCHED_OTHER");
        drop(driver);
    });
}

#[test]
#[ignore = "needs root"]
fn tracked_interfaces_and_strange_vrids_count() {
    let (_lan, [host_a, host_b]) = Lan::of("tracked_interfaces_and_strange_vrids_count");
    let b = host_b.start("vrid=77 addresses=192.0.2.177/24");
    b.is_active();
    let settings = Settings { run_directory: None, ..Settings::default() };
    host_a.inside(move || {
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
    let (_lan, [host_a]) = Lan::of("a_vmac_that_cannot_be_made_is_a_fault_with_a_reason");
    let settings = Settings { run_directory: None, ..Settings::default() };
    host_a.inside(move || {
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

#[test]
#[ignore = "needs root"]
fn a_source_that_no_advert_can_have_is_refused() {
    let (_lan, [host_a]) = Lan::of("a_source_that_no_advert_can_have_is_refused");
    let settings = Settings { run_directory: None, ..Settings::default() };
    host_a.inside(move || {
        let mut driver = Driver::new(settings).unwrap();
        let (four, six) = (quick(1, &[ADDRESS]), quick(1, &["fe80::100/64"]));
        for (config, source) in [(&four, "fe80::5"), (&six, "192.0.2.1"), (&six, "2001:db8::5")] {
            let mut instance = Instance::new(config.clone(), "eth0");
            instance.source = Some(source.parse().unwrap());
            let error = driver.add("one", instance).unwrap_err().to_string();
            assert!(error.contains(source) && error.contains("choose an address"), "{error}");
            assert_eq!(driver.instances().count(), 0);
        }
        // To single peers, IPv6 goes from any address.
        let mut instance = Instance::new(six, "eth0");
        instance.source = Some("2001:db8::5".parse().unwrap());
        instance.config.unicast_peers = vec!["2001:db8::6".parse().unwrap()];
        driver.add("one", instance).unwrap();
    });
}

#[test]
#[ignore = "needs root"]
fn a_router_that_may_not_add_addresses_is_not_active() {
    let (_lan, [host_a]) = Lan::of("a_router_that_may_not_add_addresses_is_not_active");
    let settings = Settings { run_directory: None, ..Settings::default() };
    host_a.inside(move || {
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
