//! Interfaces of the live kernel, in a network namespace of the test's own.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod namespace;

use caps::{CapSet, Capability};
use lb_affinity::nic::ethtool::{Ethtool, EthtoolError};
use lb_affinity::nic::{ChannelCounts, Count, Nic, Queue};
use lb_affinity::{CpuSet, Interrupts, fs};
use namespace::ip;

/// Runs a test in a namespace of its own.
fn alone(test: impl FnOnce() + Send + 'static) {
    if let Err(panic) = namespace::alone(test) {
        std::panic::resume_unwind(panic);
    }
}

#[test]
#[ignore = "needs root"]
fn a_veth_with_four_queues() {
    alone(|| {
        ip(
            "link add veth0 numtxqueues 4 numrxqueues 4 type veth peer name veth1 numtxqueues 4 numrxqueues 4",
        );
        ip("link add link veth0 name above type macvlan");
        ip("link set veth0 up");
        ip("link set veth1 up");
        for (name, value) in [("rps_cpus", "1"), ("rps_flow_cnt", "100")] {
            std::fs::write(format!("/sys/class/net/veth0/queues/rx-2/{name}"), value).unwrap();
        }
        let interrupts = Interrupts::read(&fs::Real).unwrap();
        assert_eq!(Nic::names(&fs::Real).unwrap(), ["above", "lo", "veth0", "veth1"]);
        let nics = Nic::all(&fs::Real, &interrupts).unwrap();
        let veth = &nics[2];
        assert_eq!((veth.rx.len(), veth.tx.len(), &veth.device, veth.carrier), (4, 4, &None, Some(true)));
        assert_eq!((veth.speed, veth.interrupts.len()), (Some(10_000), 0));
        assert_eq!(veth.rx[2].rps_cpus, Some(CpuSet::from(0)));
        assert_eq!(
            (veth.rx[1].rps_cpus.clone(), veth.rx[2].rps_flow_count),
            (Some(CpuSet::new()), Some(128))
        );
        assert!(veth.serving(Queue::Rx(0)).next().is_none());
        assert_eq!(nics[0].lower, ["veth0"]);

        let mut ethtool = Ethtool::open().unwrap();
        let channels = ethtool.channels("veth0").unwrap();
        assert_eq!((channels.rx.max, channels.tx.max, channels.combined.max), (4, 4, 0));
        ethtool.set_channels("veth0", ChannelCounts { rx: Some(3), tx: Some(2), combined: None }).unwrap();
        let channels = ethtool.channels("veth0").unwrap();
        assert_eq!((channels.rx.count, channels.tx.count), (3, 2));
        let veth = Nic::read(&fs::Real, "veth0", &interrupts).unwrap();
        assert_eq!((veth.rx.len(), veth.tx.len()), (3, 2));

        // The kernel says no in its own words.
        let error = ethtool
            .set_channels("veth0", ChannelCounts { rx: Some(5), ..ChannelCounts::default() })
            .unwrap_err();
        assert!(matches!(&error, EthtoolError::Refused { message: Some(_), .. }), "{error:?}");
        assert!(error.to_string().starts_with("veth0: setting channels: Invalid argument"), "{error}");
        assert!(matches!(ethtool.rss("veth0"), Err(EthtoolError::Unsupported { .. })));
        assert!(matches!(ethtool.channels("lo"), Err(EthtoolError::Unsupported { .. })));
        assert!(matches!(ethtool.channels("none"), Err(EthtoolError::NoInterface { .. })));
        // The socket is still in step.
        assert_eq!(ethtool.channels("veth0").unwrap(), channels);
    });
}

#[test]
#[ignore = "needs root"]
fn a_tun_device() {
    alone(|| {
        ip("tuntap add dev tun0 mode tun multi_queue");
        ip("link set tun0 up");
        let nic = Nic::read(&fs::Real, "tun0", &Interrupts::read(&fs::Real).unwrap()).unwrap();
        assert_eq!((&nic.device, nic.carrier, nic.interrupts.len()), (&None, Some(false), 0));
        let mut ethtool = Ethtool::open().unwrap();
        // MAX_TAP_QUEUES; no program holds a queue.
        assert_eq!(ethtool.channels("tun0").unwrap().combined, Count { count: 0, max: 256 });
        assert!(matches!(ethtool.rss("tun0"), Err(EthtoolError::Unsupported { .. })));
    });
}

#[test]
#[ignore = "needs root"]
fn without_the_capability() {
    alone(|| {
        ip("link add veth0 numtxqueues 2 numrxqueues 2 type veth peer name veth1");
        // Of this thread alone.
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
        let mut ethtool = Ethtool::open().unwrap();
        assert_eq!(ethtool.channels("veth0").unwrap().rx.max, 2);
        let error = ethtool
            .set_channels("veth0", ChannelCounts { rx: Some(2), ..ChannelCounts::default() })
            .unwrap_err();
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}
