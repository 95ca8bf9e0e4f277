//! Addresses whose packets are refused (`Accept_Mode` off), in network namespaces; `nft` lists the driver's packet filter.
#![allow(clippy::unwrap_used)] // in what tests share, too

mod lab;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lab::{Host, Lan, soon};
use lb_vrrp::linux::{Driver, Instance, Settings};
use lb_vrrp::{Config, VirtualAddress};
use nix::net::if_::if_nametoindex;

/// See [`lab::a_router`].
#[test]
#[ignore = "needs root"]
fn a_router() {
    lab::a_router();
}

const PORT: u16 = 7000;

/// A server at every address of a host, until this is dropped.
struct Server {
    _stop: mpsc::Sender<()>,
}

impl Server {
    fn start(host: &Host) -> Self {
        let listener = host.inside(|| TcpListener::bind(("::", PORT)).unwrap());
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
fn connect(host: &Host, address: &str) -> Result<(), ErrorKind> {
    let address: std::net::IpAddr = address.parse().unwrap();
    host.inside(move || {
        let mut address = SocketAddr::new(address, PORT);
        if let SocketAddr::V6(address) = &mut address {
            address.set_scope_id(if_nametoindex("eth0").unwrap());
        }
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).map(drop).map_err(|error| error.kind())
    })
}

fn tables(host: &Host) -> usize {
    host.exec("nft list tables").lines().filter(|line| line.contains(" lb-vrrp-")).count()
}

/// The addresses are answered for, and nothing else; the host's own addresses, and its own programs, are not concerned.
#[test]
#[ignore = "needs root"]
fn packets_for_the_addresses_are_refused() {
    let (_lan, [host_a, host_b]) = Lan::of("packets_for_the_addresses_are_refused");
    let _server = Server::start(&host_a);
    host_a.ip("address add 2001:db8::1/64 dev eth0 nodad");
    host_b.ip("address add 2001:db8::2/64 dev eth0 nodad");
    for (addresses, own) in
        [(&["192.0.2.100", "192.0.2.101"], "192.0.2.1"), (&["fe80::100", "2001:db8::100"], "2001:db8::1")]
    {
        let length = if own.contains(':') { 64 } else { 24 };
        let list = addresses.map(|address| format!("{address}/{length}")).join(",");
        for (vmac, accept) in [("", "yes"), ("", "no"), ("vmac=yes", "yes"), ("vmac=yes", "no")] {
            let case = format!("{list} {vmac} accept={accept}");
            host_b.ip("neighbor flush dev eth0");
            let a = host_a.start(&format!("addresses={list} {vmac} accept={accept}"));
            a.is_active();
            let interface =
                if own.contains(':') { host_a.place(6, 51, vmac) } else { host_a.place(4, 51, vmac) };
            for address in addresses {
                soon("the address is on a", || host_a.has(&interface, &format!("{address}/{length}")));
                // A question that comes too early is asked again after a second.
                soon(&format!("{address} is answered for: {case}"), || {
                    let _ = connect(&host_b, address); // judged below, when packets get there
                    host_b.ip(&format!("neighbor show {address} dev eth0")).contains("lladdr")
                });
                let expected = if accept == "yes" { Ok(()) } else { Err(ErrorKind::TimedOut) };
                assert_eq!(connect(&host_b, address), expected, "{address}: {case}");
            }
            assert_eq!(connect(&host_b, own), Ok(()), "the host's own address: {case}");
            assert_eq!(connect(&host_a, addresses[1]), Ok(()), "from the host itself: {case}");
            assert_eq!(tables(&host_a), if accept == "yes" { 0 } else { 2 }, "{case}");
            assert!(a.stop());
            assert_eq!(tables(&host_a), 0, "{case}");
        }
    }
}

/// A neighbour that has the address asks again, to the address itself, before it asks everybody.
#[test]
#[ignore = "needs root"]
fn neighbours_are_answered_at_the_address_itself() {
    let (_lan, [host_a, host_b]) = Lan::of("neighbours_are_answered_at_the_address_itself");
    let a = host_a.start("addresses=fe80::100/64 accept=no");
    a.is_active();
    assert_eq!(connect(&host_b, "fe80::100"), Err(ErrorKind::TimedOut));
    let state = || host_b.ip("neighbor show fe80::100 dev eth0");
    assert!(state().contains("lladdr"), "{}", state());
    // Only a unicast answer to a unicast question makes a probed entry good again.
    let mac = state().split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap().to_owned();
    host_b.ip(&format!("neighbor replace fe80::100 lladdr {mac} dev eth0 nud probe"));
    soon("the neighbour is reachable", || state().contains("REACHABLE"));
    assert!(a.stop());
}

#[test]
#[ignore = "needs root"]
fn the_filter_goes_with_its_process() {
    let (_lan, [host_a]) = Lan::of("the_filter_goes_with_its_process");
    let mut a = host_a.start("addresses=192.0.2.100/24 accept=no");
    a.is_active();
    assert_eq!(tables(&host_a), 2);
    // Whether nft says no or passes it over depends on its version.
    lab::try_run(&format!("ip netns exec {} nft flush ruleset", host_a.namespace));
    assert_eq!(tables(&host_a), 2, "it is the driver's own");
    a.kill();
    soon("the tables are gone", || tables(&host_a) == 0);
    let a = host_a.start("addresses=192.0.2.100/24 priority=255 accept=no");
    a.is_active();
    assert_eq!(tables(&host_a), 0, "an owner takes its packets");
    assert!(a.stop());
}

/// Instances come, change and go: the sets hold what is refused, once, for as long as one refuses it.
#[test]
#[ignore = "needs root"]
fn the_sets_follow_the_instances() {
    let (_lan, [host_a]) = Lan::of("the_sets_follow_the_instances");
    host_a.ip("link add d0 type veth peer name d1");
    let settings = Settings { run_directory: Some(host_a.run_directory()), ..Settings::default() };
    let host = host_a.namespace.clone();
    host_a.inside(move || {
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
        let one = driver.add("one", Instance::new(config(false, &["192.0.2.100/24"]), "eth0")).unwrap();
        let two = driver.add("two", Instance::new(config(false, &["192.0.2.100/24"]), "d0")).unwrap();
        assert_eq!(refused(), "192.0.2.100");
        let six = config(false, &["fe80::100/64", "2001:db8::100/64"]);
        let three = driver.add("three", Instance::new(six, "eth0")).unwrap();
        assert_eq!(refused(), "192.0.2.100 2001:db8::100 fe80::100.\"eth0\"");
        driver.reconfigure(one, config(false, &["192.0.2.101/24", "192.0.2.102/24"])).unwrap();
        assert_eq!(refused(), "192.0.2.100 192.0.2.101 192.0.2.102 2001:db8::100 fe80::100.\"eth0\"");
        driver.reconfigure(two, config(true, &["192.0.2.100/24"])).unwrap();
        driver.remove(three).unwrap();
        assert_eq!(refused(), "192.0.2.101 192.0.2.102");
        let other = Config { vrid: 8, ..config(false, &["192.0.2.103/24"]) };
        assert!(driver.reconfigure(one, other).unwrap_err().to_string().contains("another virtual router"));
        assert_eq!(refused(), "192.0.2.101 192.0.2.102", "what was refused stays so");
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
