//! Addresses whose packets are refused (`Accept_Mode` off), in network namespaces; `nft` lists the driver's packet filter.
#![allow(clippy::unwrap_used)] // in what tests share, too

mod lab;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lab::{Lab, is_active, wait_until};
use lb_vrrp::linux::{Driver, Instance, Settings};
use lb_vrrp::{Config, VirtualAddress};
use nix::net::if_::if_nametoindex;

/// See [`lab::child_process`].
#[test]
#[ignore = "needs root"]
fn child_process() {
    lab::child_process();
}

const PORT: u16 = 7000;

/// Does something on a thread of its own inside a host.
fn inside<T: Send + 'static>(lab: &Lab, host: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let host = lab.host(host);
    let thread = thread::spawn(move || {
        lab::enter(&host);
        body()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A server at every address of a host, until this is dropped.
struct Server {
    _stop: mpsc::Sender<()>,
}

impl Server {
    fn start(lab: &Lab, host: &str) -> Self {
        let listener = inside(lab, host, || TcpListener::bind(("::", PORT)).unwrap());
        let (stop, stopped) = mpsc::channel::<()>();
        thread::spawn(move || {
            // The kernel connects whom the backlog has room for; the sender's end ends this.
            let _ = stopped.recv();
            drop(listener);
        });
        Self { _stop: stop }
    }
}

/// How a connection from a host ends: made, or why not. An interface of the host makes a link-local address whole.
fn connect(lab: &Lab, host: &str, address: &str) -> Result<(), ErrorKind> {
    let address: std::net::IpAddr = address.parse().unwrap();
    inside(lab, host, move || {
        let mut address = SocketAddr::new(address, PORT);
        if let SocketAddr::V6(address) = &mut address {
            address.set_scope_id(if_nametoindex("eth0").unwrap());
        }
        TcpStream::connect_timeout(&address, Duration::from_millis(500))
            .map(drop)
            .map_err(|error| error.kind())
    })
}

fn tables(lab: &Lab) -> usize {
    lab.exec("a", "nft list tables").lines().filter(|line| line.contains(" lb-vrrp-")).count()
}

/// The addresses are answered for, and nothing else; the host's own addresses, and its own programs, are not concerned.
#[test]
#[ignore = "needs root"]
fn packets_for_the_addresses_are_refused() {
    let lab = Lab::new(&["a", "b"]);
    let _server = Server::start(&lab, "a");
    lab.ip("a", "address add 2001:db8::1/64 dev eth0 nodad");
    lab.ip("b", "address add 2001:db8::2/64 dev eth0 nodad");
    for (addresses, own) in
        [(&["10.9.0.100", "10.9.0.101"], "10.9.0.1"), (&["fe80::100", "2001:db8::100"], "2001:db8::1")]
    {
        let length = if own.contains(':') { 64 } else { 24 };
        let list = addresses.map(|address| format!("{address}/{length}")).join(",");
        for (vmac, accept) in [("", "yes"), ("", "no"), ("vmac=yes", "yes"), ("vmac=yes", "no")] {
            let case = format!("{list} {vmac} accept={accept}");
            lab.ip("b", "neighbor flush dev eth0");
            let a = lab.start("a", &format!("addresses={list} {vmac} accept={accept}"));
            is_active(&a);
            let interface = if own.contains(':') {
                lab.address_interface6("a", 51, vmac)
            } else {
                lab.address_interface("a", 51, vmac)
            };
            for address in addresses {
                wait_until("the address is on a", || {
                    lab.has("a", &interface, &format!("{address}/{length}"))
                });
                let expected = if accept == "yes" { Ok(()) } else { Err(ErrorKind::TimedOut) };
                assert_eq!(connect(&lab, "b", address), expected, "{address}: {case}");
                let neighbour = lab.ip("b", &format!("neighbor show {address} dev eth0"));
                assert!(neighbour.contains("lladdr"), "{address} is answered for: {neighbour:?}: {case}");
            }
            assert_eq!(connect(&lab, "b", own), Ok(()), "the host's own address: {case}");
            assert_eq!(connect(&lab, "a", addresses[1]), Ok(()), "from the host itself: {case}");
            assert_eq!(tables(&lab), if accept == "yes" { 0 } else { 2 }, "{case}");
            assert!(a.stop());
            assert_eq!(tables(&lab), 0, "{case}");
        }
    }
}

/// A neighbour that has the address asks again, to the address itself, before it asks everybody.
#[test]
#[ignore = "needs root"]
fn neighbours_are_answered_at_the_address_itself() {
    let lab = Lab::new(&["a", "b"]);
    let a = lab.start("a", "addresses=fe80::100/64 accept=no");
    is_active(&a);
    assert_eq!(connect(&lab, "b", "fe80::100"), Err(ErrorKind::TimedOut));
    let state = || lab.ip("b", "neighbor show fe80::100 dev eth0");
    assert!(state().contains("lladdr"), "{}", state());
    // Only a unicast answer to a unicast question makes a probed entry good again.
    let mac = state().split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap().to_owned();
    lab.ip("b", &format!("neighbor replace fe80::100 lladdr {mac} dev eth0 nud probe"));
    wait_until("the neighbour is reachable", || state().contains("REACHABLE"));
    assert!(a.stop());
}

#[test]
#[ignore = "needs root"]
fn the_filter_goes_with_its_process() {
    let lab = Lab::new(&["a"]);
    let a = lab.start("a", "addresses=10.9.0.100/24 accept=no");
    is_active(&a);
    assert_eq!(tables(&lab), 2);
    // Whether nft says no or passes it over depends on its version.
    lab::try_run(&format!("ip netns exec {} nft flush ruleset", lab.host("a")));
    assert_eq!(tables(&lab), 2, "it is the driver's own");
    a.kill();
    wait_until("the tables are gone", || tables(&lab) == 0);
    let a = lab.start("a", "addresses=10.9.0.100/24 priority=255 accept=no");
    is_active(&a);
    assert_eq!(tables(&lab), 0, "an owner takes its packets");
    assert!(a.stop());
}

/// Instances come, change and go: the sets hold what is refused, once, for as long as one refuses it.
#[test]
#[ignore = "needs root"]
fn the_sets_follow_the_instances() {
    let lab = Lab::new(&["a"]);
    lab.ip("a", "link add d0 type veth peer name d1");
    let settings = Settings { run_directory: Some(lab.run_directory.clone()), ..Settings::default() };
    let host = lab.host("a");
    inside(&lab, "a", move || {
        let refused = || {
            let (_, listed) = lab::try_run(&format!("ip netns exec {host} nft list ruleset"));
            let elements = listed.split("elements = {").skip(1).filter_map(|rest| rest.split('}').next());
            let mut elements: Vec<String> = elements
                .flat_map(|elements| elements.split(',').map(|element| element.split_whitespace().collect()))
                .collect();
            elements.sort();
            elements.join(" ")
        };
        let config = |accept: bool, addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse::<VirtualAddress>().unwrap());
            Config { accept, ..Config::new(7, addresses) }
        };
        let mut driver = Driver::new(settings).unwrap();
        let one = driver.add("one", Instance::new(config(false, &["10.9.0.100/24"]), "eth0")).unwrap();
        let two = driver.add("two", Instance::new(config(false, &["10.9.0.100/24"]), "d0")).unwrap();
        assert_eq!(refused(), "10.9.0.100");
        let six = config(false, &["fe80::100/64", "2001:db8::100/64"]);
        let three = driver.add("three", Instance::new(six, "eth0")).unwrap();
        assert_eq!(refused(), "10.9.0.100 2001:db8::100 fe80::100.\"eth0\"");
        driver.reconfigure(one, config(false, &["10.9.0.101/24", "10.9.0.102/24"])).unwrap();
        assert_eq!(refused(), "10.9.0.100 10.9.0.101 10.9.0.102 2001:db8::100 fe80::100.\"eth0\"");
        driver.reconfigure(two, config(true, &["10.9.0.100/24"])).unwrap();
        driver.remove(three).unwrap();
        assert_eq!(refused(), "10.9.0.101 10.9.0.102");
        let other = Config { vrid: 8, ..config(false, &["10.9.0.103/24"]) };
        assert!(driver.reconfigure(one, other).unwrap_err().to_string().contains("another virtual router"));
        assert_eq!(refused(), "10.9.0.101 10.9.0.102", "what was refused stays so");
        let many: Vec<String> =
            (0..4000).map(|host| format!("10.10.{}.{}/32", host / 250, host % 250 + 1)).collect();
        let mut many = config(false, &many.iter().map(String::as_str).collect::<Vec<_>>());
        many.addresses.iter_mut().skip(1).for_each(|address| address.advertised = false);
        driver.reconfigure(one, many).unwrap();
        assert_eq!(refused().split(' ').count(), 4000);
        driver.remove(one).unwrap();
        assert_eq!(refused(), "");
        driver.shutdown().unwrap();
    });
}
