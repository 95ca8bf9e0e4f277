//! What the kernel of Domain-0 counts of what it moves for a machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::domain::Bus;
use crate::hypervisor::{BlockStatistics, NetStatistics};

/// The kernel counts in sectors of 512 bytes, whatever the disk's are.
const SECTOR: u64 = 512;

/// What went through a machine's interfaces. The host's end of one is `vifID.NUMBER`: what it receives, the guest has sent. One
/// that is emulated has a second end, `-emu`.
pub(super) fn network(sysfs: &Path, id: u32) -> NetStatistics {
    let mut sum = NetStatistics::default();
    let ends = fs::read_dir(sysfs.join("class/net")).into_iter().flatten().filter_map(Result::ok);
    let prefix = format!("vif{id}.");
    for end in ends.filter(|end| end.file_name().to_string_lossy().starts_with(&prefix)) {
        let counter = |name: &str| counter(&end.path().join("statistics").join(name)).unwrap_or_default();
        sum.received_bytes += counter("tx_bytes");
        sum.received += counter("tx_packets");
        sum.sent_bytes += counter("rx_bytes");
        sum.sent += counter("rx_packets");
    }
    sum
}

/// What went to and from a machine's block devices: those that the kernel counts.
pub(super) fn disks(
    sysfs: &Path,
    id: u32,
    targets: impl Iterator<Item = (Bus, String)>,
) -> BTreeMap<String, BlockStatistics> {
    let counted = targets.filter_map(|(bus, target)| {
        let number = number(bus, bus.place(&target)?)?;
        let device = sysfs.join(format!("bus/xen-backend/devices/vbd-{id}-{number}/statistics"));
        let counter = |name: &str| counter(&device.join(name));
        let statistics = BlockStatistics {
            read_bytes: counter("rd_sect")?.saturating_mul(SECTOR),
            reads: counter("rd_req")?,
            written_bytes: counter("wr_sect")?.saturating_mul(SECTOR),
            writes: counter("wr_req")?,
        };
        Some((target, statistics))
    });
    counted.collect()
}

fn counter(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number of a virtual disk (xen-vbd-interface(7)); `None` for one that has none.
fn number(bus: Bus, place: u32) -> Option<u32> {
    match (bus, place) {
        (Bus::Xen, 0..16) => Some(202 << 8 | place << 4),
        (Bus::Xen, _) => Some(1 << 28 | place << 8),
        (Bus::Ide, 0..2) => Some(3 << 8 | place << 6),
        (Bus::Ide, 2..4) => Some(22 << 8 | (place - 2) << 6),
        (Bus::Scsi, 0..16) => Some(8 << 8 | place << 4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_numbers() {
        for (target, bus, expected) in [
            ("xvda", Bus::Xen, Some(51712)),
            ("xvdb", Bus::Xen, Some(51728)),
            ("xvdq", Bus::Xen, Some(268_439_552)),
            ("hda", Bus::Ide, Some(768)),
            ("hdb", Bus::Ide, Some(832)),
            ("hdc", Bus::Ide, Some(5632)),
            ("sda", Bus::Scsi, Some(2048)),
            ("sdq", Bus::Scsi, None),
        ] {
            assert_eq!(number(bus, bus.place(target).unwrap()), expected, "{target}");
        }
    }

    #[test]
    fn the_kernels_counters_are_read() {
        let sysfs = std::env::temp_dir().join(format!("lb-virt-usage-{}", std::process::id()));
        let write = |directory: &str, counters: &[(&str, u64)]| {
            let directory = sysfs.join(directory).join("statistics");
            fs::create_dir_all(&directory).unwrap();
            for (name, value) in counters {
                fs::write(directory.join(name), format!("{value}\n")).unwrap();
            }
        };
        let counters = [("tx_bytes", 100), ("tx_packets", 1), ("rx_bytes", 300), ("rx_packets", 3)];
        for end in ["vif3.0", "vif3.1-emu", "vif30.0", "eth0"] {
            write(&format!("class/net/{end}"), &counters);
        }
        write(
            "bus/xen-backend/devices/vbd-3-51712",
            &[("rd_sect", 8), ("rd_req", 2), ("wr_sect", 4), ("wr_req", 1)],
        );
        let net = network(&sysfs, 3);
        assert_eq!((net.received_bytes, net.received, net.sent_bytes, net.sent), (200, 2, 600, 6));
        let targets = [(Bus::Xen, "xvda".to_owned()), (Bus::Xen, "xvdb".to_owned())];
        let disks = disks(&sysfs, 3, targets.into_iter());
        let block = BlockStatistics { read_bytes: 4096, reads: 2, written_bytes: 2048, writes: 1 };
        assert_eq!(disks.into_iter().collect::<Vec<_>>(), [("xvda".to_owned(), block)]);
        assert_eq!(network(Path::new("/nowhere"), 3), NetStatistics::default());
        fs::remove_dir_all(sysfs).unwrap();
    }
}
