//! The monitor over servers on loopback that come and go.
#![cfg(feature = "std")]

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use lb_core::clock::MonotonicClock;
use lb_core::health::probe::{HttpProbe, TcpProbe};
use lb_core::health::{Config, Initial, Monitor, MonitorError};

const PATIENCE: Duration = Duration::from_secs(30);

fn quick() -> Config {
    Config { interval: Duration::from_millis(20), rise: 2, fall: 2, ..Config::default() }
}

/// A monitor whose transitions come out of a channel.
fn monitor(threads: usize) -> (Monitor<u32>, Receiver<(u32, bool)>) {
    let (sender, receiver) = mpsc::channel();
    let report = move |key: &u32, checker: &lb_core::health::Checker, transition: Option<&_>| {
        if transition.is_some() {
            let _ = sender.send((*key, checker.is_up()));
        }
    };
    (Monitor::start(threads, MonotonicClock::new(), report).expect("a few threads"), receiver)
}

#[test]
fn sees_servers_go_and_come_back() {
    let (monitor, transitions) = monitor(2);
    let stays = TcpListener::bind("127.0.0.1:0").unwrap();
    let leaves = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = leaves.local_addr().unwrap();
    monitor.watch(1, stays.local_addr().unwrap(), TcpProbe::default(), quick()).unwrap();
    monitor.watch(2, address, TcpProbe::default(), quick()).unwrap();
    drop(leaves);
    assert_eq!(transitions.recv_timeout(PATIENCE), Ok((2, false)));
    let _back = TcpListener::bind(address).unwrap();
    assert_eq!(transitions.recv_timeout(PATIENCE), Ok((2, true)));
    drop(monitor);
    assert!(transitions.try_iter().all(|(key, _)| key == 2), "the other never changed");
}

#[test]
fn many_servers_share_few_threads() {
    let (monitor, transitions) = monitor(3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config { initial: Initial::FullyDown, ..quick() };
    for key in 0..100 {
        monitor.watch(key, listener.local_addr().unwrap(), TcpProbe::default(), config.clone()).unwrap();
    }
    // Somebody has to take the connections that the probes leave.
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let mut up: Vec<_> = (0..100).map(|_| transitions.recv_timeout(PATIENCE).unwrap()).collect();
    up.sort_unstable();
    assert_eq!(up, (0..100).map(|key| (key, true)).collect::<Vec<_>>());
}

#[test]
fn what_is_forgotten_or_replaced_is_not_reported() {
    let (monitor, transitions) = monitor(1);
    let nobody: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Due within an hour, so most likely not in this test.
    let slow = Config { interval: Duration::from_secs(3600), ..quick() };
    monitor.watch(1, nobody, TcpProbe::default(), slow.clone()).unwrap();
    assert!(monitor.forget(&1) && !monitor.forget(&1) && !monitor.forget(&7));
    monitor.watch(2, nobody, TcpProbe::default(), slow).unwrap();
    monitor
        .watch(
            2,
            listener.local_addr().unwrap(),
            TcpProbe::default(),
            Config { initial: Initial::FullyDown, ..quick() },
        )
        .unwrap();
    assert_eq!(transitions.recv_timeout(PATIENCE), Ok((2, true)));
    assert!(monitor.forget(&2));
}

#[test]
fn what_is_forgotten_is_not_even_probed() {
    let (monitor, transitions) = monitor(1);
    let [forgotten, watched] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    forgotten.set_nonblocking(true).unwrap();
    // Due within 300 ms; by the time that the other was probed 20 times, that is over.
    let config = Config { interval: Duration::from_millis(300), ..quick() };
    monitor.watch(1, forgotten.local_addr().unwrap(), TcpProbe::default(), config).unwrap();
    assert!(monitor.forget(&1));
    let config = Config { initial: Initial::FullyDown, rise: 20, ..quick() };
    monitor.watch(2, watched.local_addr().unwrap(), TcpProbe::default(), config).unwrap();
    assert_eq!(transitions.recv_timeout(PATIENCE), Ok((2, true)));
    assert_eq!(forgotten.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn bad_settings_change_nothing() {
    let (monitor, _) = monitor(1);
    let address = "127.0.0.1:1".parse().unwrap();
    let error = monitor.watch(1, address, TcpProbe::default(), Config { rise: 0, ..quick() }).unwrap_err();
    assert_eq!(error.to_string(), "`rise` is 0: it has to be at least 1");
    assert!(monitor.watch(1, address, HttpProbe::get("no slash"), quick()).is_err());
    assert!(!monitor.forget(&1));
    let none = Monitor::<u32>::start(0, MonotonicClock::new(), |_, _, _| {});
    assert!(matches!(none, Err(MonitorError::NoThreads)));
}

#[test]
fn a_report_may_change_what_is_watched() {
    let (sender, receiver) = mpsc::channel();
    let monitor = std::sync::Arc::new(std::sync::OnceLock::<Monitor<u32>>::new());
    let inside = std::sync::Arc::downgrade(&monitor);
    let started = Monitor::start(1, MonotonicClock::new(), move |key: &u32, _, _| {
        let forgotten = inside.upgrade().and_then(|monitor| Some(monitor.get()?.forget(key)));
        let _ = sender.send(forgotten);
    });
    assert!(monitor.set(started.unwrap()).is_ok());
    let address = "127.0.0.1:1".parse().unwrap();
    monitor.get().unwrap().watch(1, address, TcpProbe::default(), quick()).unwrap();
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(Some(true)));
    drop(monitor);
    assert!(receiver.recv_timeout(PATIENCE).is_err(), "reported once, and ended");
}
