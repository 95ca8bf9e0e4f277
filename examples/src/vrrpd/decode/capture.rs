//! From a capture file to packets of protocol 112: pcap and pcapng; Ethernet with VLAN tags, cooked captures, bare IP.

use std::io::Read;
use std::time::{Duration, SystemTime};

use etherparse::{EtherType, Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use lb_vrrp::wire::PROTOCOL;
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::Packet;

/// What the reader holds at first, and at most when a packet does not fit.
const BUFFER: usize = 1 << 18;
const LARGEST_BUFFER: usize = 1 << 24;

/// What a capture held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Packets of protocol 112.
    pub adverts: u64,
    /// Other packets.
    pub others: u64,
    /// Packets of link types that are not understood, and the last such type.
    pub unknown: Option<(u64, i32)>,
    /// Whether the file ends within a packet.
    pub cut: bool,
}

/// Why a capture can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// It is no capture.
    #[error("not a capture: give a pcap or pcapng file, as tcpdump -w writes them")]
    Form,
    /// It breaks off its own rules.
    #[error("damaged after {0} packets")]
    Damaged(u64),
    /// It can't be read.
    #[error("can't be read after {0} packets")]
    Read(u64),
}

/// An interface of a capture: its link type, and what its times mean.
#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Parts of a second.
    resolution: u64,
    /// Seconds.
    offset: i64,
}

/// Reads a capture and gives every packet of protocol 112 to `each`.
///
/// # Errors
/// If it is no capture, or is damaged; what came before was given. A file that only ends too early is none.
pub fn read(source: impl Read + Send, mut each: impl FnMut(Packet)) -> Result<Summary, CaptureError> {
    let mut reader = create_reader(BUFFER, source).map_err(|_| CaptureError::Form)?;
    let mut summary = Summary::default();
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut number = 0;
    let mut capacity = BUFFER;
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                if let Some((interface, time, data, cut)) = record(&block, &mut interfaces) {
                    number += 1;
                    match packet(interface.link, data) {
                        Found::Advert(packet) => {
                            summary.adverts += 1;
                            let cut = cut || packet.cut;
                            each(Packet { number, time, cut, ..packet });
                        }
                        Found::Other => summary.others += 1,
                        Found::Unknown(link) => {
                            let count = summary.unknown.map_or(0, |(count, _)| count);
                            summary.unknown = Some((count + 1, link));
                        }
                    }
                }
                reader.consume(offset);
            }
            Err(PcapError::Eof) => return Ok(summary),
            Err(PcapError::Incomplete(_)) => {
                if reader.reader_exhausted() {
                    summary.cut = true;
                    return Ok(summary);
                }
                refill(reader.as_mut(), number, &mut capacity)?;
            }
            Err(PcapError::UnexpectedEof) => {
                summary.cut = true;
                return Ok(summary);
            }
            Err(PcapError::BufferTooSmall) => grow(reader.as_mut(), number, &mut capacity)?,
            Err(PcapError::ReadError) => return Err(CaptureError::Read(number)),
            Err(_) => return Err(CaptureError::Damaged(number)),
        }
    }
}

fn refill(
    reader: &mut dyn PcapReaderIterator,
    number: u64,
    capacity: &mut usize,
) -> Result<(), CaptureError> {
    match reader.refill() {
        Ok(()) => Ok(()),
        Err(PcapError::BufferTooSmall) => grow(reader, number, capacity),
        Err(_) => Err(CaptureError::Read(number)),
    }
}

fn grow(reader: &mut dyn PcapReaderIterator, number: u64, capacity: &mut usize) -> Result<(), CaptureError> {
    *capacity *= 2;
    if *capacity > LARGEST_BUFFER || !reader.grow(*capacity) {
        return Err(CaptureError::Damaged(number));
    }
    Ok(())
}

type Record<'b> = (Interface, Option<SystemTime>, &'b [u8], bool);

/// The packet of a block, with its interface, its time, and whether the capture cut it.
fn record<'b>(block: &'b PcapBlockOwned<'_>, interfaces: &mut Vec<Interface>) -> Option<Record<'b>> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let resolution = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
            // The upper bits say whether frames have a check sequence.
            let link = Linktype(header.network.0 & 0xffff);
            *interfaces = vec![Interface { link, resolution, offset: 0 }];
            None
        }
        PcapBlockOwned::Legacy(packet) => {
            let interface = *interfaces.first()?;
            let ticks = u64::from(packet.ts_sec) * interface.resolution + u64::from(packet.ts_usec);
            Some((interface, time(ticks, interface), packet.data, packet.caplen < packet.origlen))
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            None
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            interfaces.push(Interface {
                link: interface.linktype,
                resolution: interface
                    .ts_resolution()
                    .filter(|&resolution| resolution > 0)
                    .unwrap_or(1_000_000),
                offset: interface.ts_offset(),
            });
            None
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let interface = *interfaces.get(usize::try_from(packet.if_id).ok()?)?;
            let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let data = packet.raw_packet_data();
            let data = data.get(..usize::try_from(packet.caplen).ok()?).unwrap_or(data);
            Some((interface, time(ticks, interface), data, packet.caplen < packet.origlen))
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let interface = *interfaces.first()?;
            let data = packet.raw_packet_data();
            let data = data.get(..usize::try_from(packet.origlen).ok()?).unwrap_or(data);
            Some((interface, None, data, data.len() < packet.origlen as usize))
        }
        PcapBlockOwned::NG(_) => None,
    }
}

/// The moment that `ticks` stand for, to the microsecond.
fn time(ticks: u64, interface: Interface) -> Option<SystemTime> {
    let seconds = i64::try_from(ticks / interface.resolution).ok()?.checked_add(interface.offset)?;
    let rest = u128::from(ticks % interface.resolution) * 1_000_000 / u128::from(interface.resolution);
    let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(rest).ok()? * 1_000);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

enum Found {
    Advert(Packet),
    Other,
    Unknown(i32),
}

/// What stands in front of IP, by link type (tcpdump.org/linktypes.html).
fn packet(link: Linktype, data: &[u8]) -> Found {
    let ether_type = |at: usize| Some(EtherType(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?])));
    let behind = |length: usize, ether_type: Option<EtherType>| {
        Some(LaxSlicedPacket::from_ether_type(ether_type?, data.get(length..)?))
    };
    let sliced = match link.0 {
        // Ethernet
        1 => LaxSlicedPacket::from_ethernet(data).ok(),
        // Bare IP: raw, two older numbers of it, IPv4 and IPv6.
        101 | 12 | 14 | 228 | 229 => LaxSlicedPacket::from_ip(data).ok(),
        // BSD's loopback: four bytes of address family, which IP's own version makes needless.
        0 | 108 => data.get(4..).and_then(|data| LaxSlicedPacket::from_ip(data).ok()),
        // Linux cooked, as `tcpdump -i any` writes it, and its second version.
        113 => behind(16, ether_type(14)),
        276 => behind(20, ether_type(0)),
        other => return Found::Unknown(other),
    };
    let Some(LaxSlicedPacket { net: Some(net), .. }) = sliced else { return Found::Other };
    let (ttl, payload) = match &net {
        LaxNetSlice::Ipv4(ip) => (ip.header().ttl(), ip.payload()),
        LaxNetSlice::Ipv6(ip) => (ip.header().hop_limit(), ip.payload()),
        LaxNetSlice::Arp(_) => return Found::Other,
    };
    let (source, destination) = match &net {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return Found::Other,
    };
    if payload.ip_number.0 != PROTOCOL {
        return Found::Other;
    }
    Found::Advert(Packet {
        number: 0,
        time: None,
        source,
        destination,
        ttl,
        cut: payload.incomplete,
        fragment: payload.fragmented,
        payload: if is_later_part(&net) { Vec::new() } else { payload.payload.to_vec() },
    })
}

/// Whether it is a fragment without the message's beginning: what it begins with is no version and no VRID.
fn is_later_part(net: &LaxNetSlice<'_>) -> bool {
    match net {
        LaxNetSlice::Ipv4(ip) => ip.header().fragments_offset().value() > 0,
        LaxNetSlice::Ipv6(ip) => ip.extensions().clone().into_iter().any(|extension| {
            matches!(extension, Ipv6ExtensionSlice::Fragment(part) if part.fragment_offset().value() > 0)
        }),
        LaxNetSlice::Arp(_) => false,
    }
}
