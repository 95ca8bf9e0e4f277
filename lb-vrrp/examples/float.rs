//! Floats one address on an interface, until the program is interrupted:
//! `cargo run --features linux --example float -- eth0 51 192.168.250.250/24 [priority]`

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lb_vrrp::Config;
use lb_vrrp::event::Notification;
use lb_vrrp::linux::{Driver, Instance, Settings};
use nix::sys::signal::{SigSet, Signal};

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, vrid, address, rest @ ..] = &arguments[..] else {
        return Err("usage: float INTERFACE VRID ADDRESS/LENGTH [PRIORITY]".into());
    };
    let mut config = Config::new(vrid.parse()?, [address.parse()?]);
    if let [priority] = rest {
        config.priority = priority.parse()?;
    }

    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    thread::spawn(move || signals.wait().map(|_| STOP.store(true, Ordering::Relaxed)));

    let mut driver = Driver::new(Settings::default())?;
    driver.add(address, Instance::new(config, interface))?;
    while !STOP.load(Ordering::Relaxed) {
        driver.turn(Some(Duration::from_millis(100)))?;
        while let Some((_, notification)) = driver.next_notification() {
            if let Notification::State { from, to, reason } = notification {
                println!("{address}: {from} -> {to} ({reason:?})");
            }
        }
    }
    driver.shutdown()?;
    Ok(())
}
