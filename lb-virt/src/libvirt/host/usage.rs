//! What a machine has used.

use std::time::Duration;

use virt::error::Error;
use virt::sys;

use super::Libvirt;
use crate::domain::Memory;
use crate::error::VirtError;
use crate::hypervisor::Statistics;
use crate::libvirt::read::{child, parse};

impl Libvirt {
    pub(super) fn usage_of(&mut self, name: &str) -> Result<Statistics, VirtError> {
        let domain = self.connection.domain(name)?;
        if !self.state_of(name, &domain)?.is_active() {
            return Ok(Statistics::default());
        }
        let asked = || -> Result<Statistics, Error> {
            let info = domain.get_info()?;
            let xml = domain.get_xml_desc(0)?;
            let mut usage = Statistics {
                cpu_time: Duration::from_nanos(info.cpu_time),
                vcpus: info.nr_virt_cpu,
                memory: Memory::from_kib(info.memory),
                // Not every driver says it.
                resident: domain.memory_stats(0).ok().and_then(|all| {
                    let resident = all.iter().find(|one| one.tag == sys::VIR_DOMAIN_MEMORY_STAT_RSS);
                    resident.map(|one| Memory::from_kib(one.val))
                }),
                ..Statistics::default()
            };
            for disk in with_source(&xml) {
                let used = domain.get_block_stats(&disk)?;
                let disk = usage.disks.entry(disk).or_default();
                // What is not counted is -1.
                let count = |number: i64| number.max(0).cast_unsigned();
                disk.reads = count(used.rd_req);
                disk.read_bytes = count(used.rd_bytes);
                disk.writes = count(used.wr_req);
                disk.written_bytes = count(used.wr_bytes);
            }
            for device in of_the_host(&xml) {
                let used = domain.interface_stats(&device)?;
                let count = |number: i64| number.max(0).cast_unsigned();
                usage.net.received_bytes += count(used.rx_bytes);
                usage.net.received += count(used.rx_packets);
                usage.net.sent_bytes += count(used.tx_bytes);
                usage.net.sent += count(used.tx_packets);
            }
            Ok(usage)
        };
        match asked() {
            Ok(usage) => Ok(usage),
            // It has ended meanwhile.
            Err(_) if !self.state_of(name, &domain)?.is_active() => Ok(Statistics::default()),
            Err(error) => Err(self.connection.failed(name, "count what is used by", &error)),
        }
    }
}

/// The names of the disks that have data; an empty drive counts nothing.
fn with_source(xml: &str) -> Vec<String> {
    of_devices(xml, "disk", |disk| {
        child(disk, "source")?;
        child(disk, "target")?.attribute("dev")
    })
}

/// The host's ends of the network interfaces; one behind the hypervisor's own addresses has none, and counts nothing.
fn of_the_host(xml: &str) -> Vec<String> {
    of_devices(xml, "interface", |interface| child(interface, "target")?.attribute("dev"))
}

fn of_devices(
    xml: &str,
    name: &str,
    text: impl for<'a> Fn(roxmltree::Node<'a, '_>) -> Option<&'a str>,
) -> Vec<String> {
    let Ok(document) = parse(xml) else { return Vec::new() };
    let devices = child(document.root_element(), "devices");
    let all = devices.iter().flat_map(|devices| devices.children());
    all.filter(|node| node.has_tag_name(name)).filter_map(|node| text(node).map(Into::into)).collect()
}
