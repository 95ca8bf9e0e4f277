//! What a machine has used: of its process by the kernel's count, of its disks by QEMU's.
//!
//! Network interfaces on a bridge are counted where the host sees them, at the tap devices that QEMU has. Those behind `nat` QEMU
//! translates by itself and does not count: they are not in the sum.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::arguments::node_name;
use super::machine::Machine;
use crate::domain::Memory;
use crate::error::VirtError;
use crate::hypervisor::{BlockStatistics, NetStatistics, Statistics};

impl Machine {
    /// Of a machine that runs.
    pub(super) fn used(&mut self) -> Result<Statistics, VirtError> {
        let blocks = self.tell("ask what it has used", "query-blockstats", json!({}))?;
        let balloon =
            self.ask("query-balloon", json!({})).ok().and_then(|balloon| balloon["actual"].as_u64());
        let spec = self.live();
        let process = self.process();
        let taps = process.map(super::process::Process::taps).unwrap_or_default();
        let net = taps.iter().map(|tap| tap_statistics(Path::new("/sys/class/net"), tap));
        Ok(Statistics {
            cpu_time: process.and_then(super::process::Process::cpu_time).unwrap_or_default(),
            vcpus: spec.vcpus,
            memory: balloon.map_or(spec.memory, Memory::from_bytes),
            resident: process.and_then(super::process::Process::resident).map(Memory::from_kib),
            disks: spec
                .disks
                .iter()
                .map(|disk| (disk.target.clone(), block_statistics(&blocks, &disk.target)))
                .collect(),
            net: net.fold(NetStatistics::default(), |sum, one| NetStatistics {
                received_bytes: sum.received_bytes + one.received_bytes,
                received: sum.received + one.received,
                sent_bytes: sum.sent_bytes + one.sent_bytes,
                sent: sum.sent + one.sent,
            }),
        })
    }
}

/// A disk's part of the answer to `query-blockstats`.
fn block_statistics(answer: &Value, target: &str) -> BlockStatistics {
    let node = node_name(target);
    let mut all = answer.as_array().into_iter().flatten();
    let Some(disk) = all.find(|disk| disk["node-name"] == *node) else { return BlockStatistics::default() };
    let number = |key: &str| disk["stats"][key].as_u64().unwrap_or_default();
    BlockStatistics {
        read_bytes: number("rd_bytes"),
        reads: number("rd_operations"),
        written_bytes: number("wr_bytes"),
        writes: number("wr_operations"),
    }
}

/// What went through a tap device: what the host receives there the guest has sent.
fn tap_statistics(root: &Path, tap: &str) -> NetStatistics {
    let number = |file: &str| {
        let text = fs::read_to_string(root.join(tap).join("statistics").join(file));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    };
    NetStatistics {
        received_bytes: number("tx_bytes"),
        received: number("tx_packets"),
        sent_bytes: number("rx_bytes"),
        sent: number("rx_packets"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_told_apart_and_what_is_missing_is_nothing() {
        let answer = json!([
            {"node-name": "node-vda", "stats": {"rd_bytes": 512, "rd_operations": 1, "wr_bytes": "new", "x": 1}},
            {"stats": {"rd_bytes": 7}},
        ]);
        let expected = BlockStatistics { read_bytes: 512, reads: 1, ..BlockStatistics::default() };
        assert_eq!(block_statistics(&answer, "vda"), expected);
        assert_eq!(block_statistics(&answer, "vdb"), BlockStatistics::default());
        assert_eq!(block_statistics(&Value::Null, "vda"), BlockStatistics::default());
    }

    #[test]
    fn what_a_tap_receives_the_guest_has_sent() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("tap0/statistics");
        fs::create_dir_all(&directory).unwrap();
        for (file, text) in
            [("rx_bytes", "10\n"), ("rx_packets", "1\n"), ("tx_bytes", "300\n"), ("tx_packets", "x")]
        {
            fs::write(directory.join(file), text).unwrap();
        }
        let expected = NetStatistics { received_bytes: 300, received: 0, sent_bytes: 10, sent: 1 };
        assert_eq!(tap_statistics(root.path(), "tap0"), expected);
    }
}
