//! A driver in a process of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lb_vrrp::event::Notification;
use lb_vrrp::linux::{Driver, Instance, Settings, Vmac};
use lb_vrrp::wire::{Interval, Version};
use lb_vrrp::{Config, VirtualAddress};

use super::Lab;

/// Drives what `LB_VRRP_CHILD` says until the end of its input, and prints what happens. Started by itself, it checks that
/// a process without a configuration fails.
pub fn child_process() {
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
            Some(list) => {
                list.split(',').map(|address| address.replace('@', " dev ").parse().unwrap()).collect()
            }
            None => (1..=number("each", 1))
                .map(|host| VirtualAddress::new([10, 200, vrid as u8, host as u8].into(), 32))
                .collect(),
        };
        let mut config = Config::new(vrid as u8, addresses);
        config.priority = number("priority", 100) as u8;
        config.version = if number("version", 3) == 2 { Version::V2 } else { Version::V3 };
        config.interval = Interval::from_centiseconds(number("cs", 10)).unwrap();
        config.preempt = get("nopreempt").is_none();
        config.accept = get("accept") != Some("no");
        config.garp.delay = Duration::from_secs(number("delay", 5).into());
        config.unicast_peers = get("peers")
            .into_iter()
            .flat_map(|list| list.split(','))
            .map(|peer| peer.parse().unwrap())
            .collect();
        #[cfg(feature = "auth-hmac")]
        if let Some(key) = get("key") {
            let key = lb_vrrp::hmac::Key::parse(1, key).unwrap();
            config.hmac = Some(lb_vrrp::hmac::Hmac::new(key));
        }
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
