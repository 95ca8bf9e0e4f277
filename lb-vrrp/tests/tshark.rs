//! Wireshark's dissector judges our adverts, and broken ones: it and we must agree.
//!
//! `cargo test -p lb-vrrp --test tshark -- --ignored` after `apt-get install tshark`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_vrrp::config::Auth;
use lb_vrrp::event::Transmit;
use lb_vrrp::wire::{
    Advert, ChecksumMode, Discard, Family, Interval, MAX_MESSAGE, Meta, PROTOCOL, TTL, Version,
};
use lb_vrrp::{Config, Timestamp, VirtualAddress, VirtualRouter};

/// An advert of ours: what it was made from, and its bytes.
struct Sent {
    config: Config,
    priority: u8,
    meta: Meta,
    message: Vec<u8>,
}

fn host(family: Family, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        Family::Ipv4 => [10, 9, high, low].into(),
        Family::Ipv6 => [0xfe80, 0, 0, 0, 0, 0, 0, number].into(),
    }
}

/// Adverts of every version, family and checksum mode, to the group and to a host, with few and many addresses.
fn adverts() -> Vec<Sent> {
    let kinds = [
        (Version::V2, Family::Ipv4, ChecksumMode::Either),
        (Version::V3, Family::Ipv4, ChecksumMode::PseudoHeader),
        (Version::V3, Family::Ipv4, ChecksumMode::MessageOnly),
        (Version::V3, Family::Ipv6, ChecksumMode::Either),
    ];
    let mut adverts = Vec::new();
    for (version, family, checksum) in kinds {
        for count in [1, 2, 3, 80, 255] {
            for (vrid, priority, interval) in [(1, 100, 100), (255, 0, 1), (51, 255, 4095)] {
                for unicast in [false, true] {
                    let addresses = (1..=count).map(|number| VirtualAddress::from(host(family, number)));
                    let mut config = Config::new(vrid, addresses);
                    config.version = version;
                    config.checksum = checksum;
                    config.interval = match version {
                        Version::V2 => Interval::from_seconds((interval >> 4) as u8 | 1).expect("good"),
                        Version::V3 => Interval::from_centiseconds(interval).expect("good"),
                    };
                    if version == Version::V2 && vrid == 51 {
                        config.auth = Auth::simple_text("geheim");
                    }
                    let destination = if unicast { host(family, 0x2002) } else { family.multicast() };
                    adverts.push(sent(config, priority, destination));
                }
            }
        }
    }
    adverts
}

fn sent(config: Config, priority: u8, destination: IpAddr) -> Sent {
    let source = host(config.family(), 0x2001);
    let router = VirtualRouter::new(config.clone(), Some(source)).expect("good");
    let mut buffer = [0; MAX_MESSAGE];
    let transmit = Transmit::new(source, destination, priority, Timestamp::ZERO);
    let message = router.encode(&transmit, &mut buffer).expect("it fits").to_vec();
    Sent { config, priority, meta: Meta::new(source, destination, TTL), message }
}

/// An Ethernet frame of at least 60 bytes with `payload` in an IP packet.
fn frame(meta: &Meta, vrid: u8, payload: &[u8]) -> Vec<u8> {
    let family = Family::of(meta.source);
    let mut frame = match meta.destination {
        IpAddr::V4(group) if group.is_multicast() => vec![1, 0, 0x5e, 0, 0, 0x12],
        IpAddr::V6(group) if group.is_multicast() => vec![0x33, 0x33, 0, 0, 0, 0x12],
        _ => vec![2, 0, 0, 0, 0, 2],
    };
    frame.extend(family.virtual_mac(vrid));
    match (meta.source, meta.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00]);
            let mut header = vec![0x45, 0xc0];
            header.extend((20 + payload.len() as u16).to_be_bytes());
            header.extend([0, 0, 0, 0, meta.ttl, PROTOCOL, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x6c, 0, 0, 0]);
            frame.extend((payload.len() as u16).to_be_bytes());
            frame.extend([PROTOCOL, meta.ttl]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => panic!("a packet has one family"),
    }
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Writes a capture (pcap, Ethernet) and gives its path.
fn capture<'a>(name: &str, frames: impl Iterator<Item = &'a Vec<u8>>) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("pcap");
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0xffff, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for (second, frame) in frames.enumerate() {
        for word in [second as u32, 0, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    std::fs::write(&path, bytes).expect("write the capture");
    path
}

/// What tshark says of each frame: the fields' values in order, several of one field with commas. `message_only`: how it sums
/// version 3.
fn tshark(path: &Path, message_only: bool, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-E", "separator=|", "-E", "aggregator=,"]);
    command.arg("-o").arg(format!("vrrp.v3_checksum_as_in_v2:{message_only}"));
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.arg("-r").arg(path).output().expect("tshark is missing: apt-get install tshark");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

const GOOD: &str = "1";
const BAD: &str = "0";

#[test]
#[ignore = "needs tshark"]
fn tshark_reads_our_adverts_as_we_meant_them() {
    const FIELDS: [&str; 15] = [
        "_ws.malformed",
        "vrrp.checksum.status",
        "vrrp.version",
        "vrrp.type",
        "vrrp.virt_rtr_id",
        "vrrp.prio",
        "vrrp.addr_count",
        "vrrp.checksum",
        "vrrp.adver_int",
        "vrrp.short_adver_int",
        "vrrp.reserved_mbz",
        "vrrp.auth_type",
        "vrrp.auth_string",
        "vrrp.ip_addr",
        "vrrp.ipv6_addr",
    ];
    let adverts = adverts();
    let frames: Vec<_> =
        adverts.iter().map(|sent| frame(&sent.meta, sent.config.vrid, &sent.message)).collect();
    assert!(frames.iter().any(|frame| frame.len() == 60), "some are padded");
    let path = capture("adverts", frames.iter());
    for message_only in [false, true] {
        let read = tshark(&path, message_only, &FIELDS);
        assert_eq!(read.len(), adverts.len());
        for (Sent { config, priority, message, .. }, read) in adverts.iter().zip(&read) {
            let family = config.family();
            // The other way of summing finds version 3 over IPv4 wrong, and nothing else.
            let good = match (config.version, family) {
                (Version::V3, Family::Ipv4) => (config.checksum == ChecksumMode::MessageOnly) == message_only,
                _ => true,
            };
            let v2 = config.version == Version::V2;
            let when = |is: bool, text: String| if is { text } else { String::new() };
            let addresses: Vec<_> = config.advertised().map(|address| address.to_string()).collect();
            let password = config.auth != Auth::None;
            let expected = [
                String::new(),
                if good { GOOD } else { BAD }.to_owned(),
                config.version.to_string(),
                "1".to_owned(),
                config.vrid.to_string(),
                priority.to_string(),
                addresses.len().to_string(),
                format!("0x{:02x}{:02x}", message[6], message[7]),
                when(v2, (config.interval.centiseconds() / 100).to_string()),
                when(!v2, config.interval.centiseconds().to_string()),
                when(!v2, "0".to_owned()),
                when(v2, u8::from(password).to_string()),
                when(password, "geheim".to_owned()),
                when(family == Family::Ipv4, addresses.join(",")),
                when(family == Family::Ipv6, addresses.join(",")),
            ];
            for ((field, read), expected) in FIELDS.iter().zip(read).zip(&expected) {
                assert_eq!(read, expected, "{field}, message only: {message_only}, {config:?}");
            }
        }
    }
}

/// tshark does not know the signature: it shows the message before it, and sums all there is.
#[cfg(feature = "auth-hmac")]
#[test]
#[ignore = "needs tshark"]
fn a_signature_disturbs_no_dissector() {
    use lb_vrrp::hmac::{Hmac, Key};

    let adverts: Vec<_> = adverts()
        .into_iter()
        .filter(|Sent { config, .. }| config.auth == Auth::None)
        .map(|Sent { config, priority, meta, .. }| {
            let hmac = Some(Hmac::new(Key::new(1, &[7; 32]).expect("good")));
            sent(Config { hmac, ..config }, priority, meta.destination)
        })
        .collect();
    let frames: Vec<_> = adverts.iter().map(|sent| frame(&sent.meta, 51, &sent.message)).collect();
    let read = tshark(
        &capture("signed", frames.iter()),
        false,
        &["_ws.malformed", "vrrp.checksum.status", "vrrp.ip_addr", "vrrp.ipv6_addr"],
    );
    assert_eq!(read.len(), adverts.len());
    for (Sent { config, .. }, read) in adverts.iter().zip(&read) {
        let six = config.family() == Family::Ipv6;
        let addresses: Vec<_> = config.advertised().map(|address| address.to_string()).collect();
        assert_eq!((&read[0][..], &read[if six { 3 } else { 2 }]), ("", &addresses.join(",")));
        assert!(!six || read[1] == GOOD, "IPv6 sums the signature too: {config:?}");
    }
}

#[test]
#[ignore = "needs tshark"]
fn tshark_finds_the_same_adverts_broken_as_we_do() {
    for (name, message_only) in [("broken", false), ("broken-message-only", true)] {
        let mode = if message_only { ChecksumMode::MessageOnly } else { ChecksumMode::PseudoHeader };
        let mut broken = Vec::new();
        for sent in adverts() {
            let Config { version, checksum, .. } = sent.config;
            let judged = match (version, sent.config.family()) {
                (Version::V3, Family::Ipv4) => checksum == mode,
                _ => true,
            };
            if !judged || sent.message.len() > 60 {
                continue;
            }
            // Version 2 ends with eight bytes that tshark does not ask for when there is no password.
            let optional = if version == Version::V2 { 8 } else { 0 };
            for length in 0..sent.message.len() - optional {
                broken.push((sent.meta, sent.message[..length].to_vec()));
            }
            // The first byte is left: with other versions and types tshark sees no advert, and says nothing.
            for bit in 8..sent.message.len() * 8 {
                let mut message = sent.message.clone();
                message[bit / 8] ^= 1 << (bit % 8);
                broken.push((sent.meta, message));
            }
            broken.push((sent.meta, sent.message));
        }
        let frames: Vec<_> = broken.iter().map(|(meta, message)| frame(meta, 51, message)).collect();
        let read = tshark(
            &capture(name, frames.iter()),
            message_only,
            &["_ws.malformed", "vrrp.checksum.status", "vrrp.version"],
        );
        assert_eq!(read.len(), broken.len());
        let mut good = 0;
        for ((meta, message), read) in broken.iter().zip(&read) {
            let ours = Advert::decode(meta, message, mode);
            let theirs = read[0].is_empty() && read[1] == GOOD && !read[2].is_empty();
            assert_eq!(ours.is_ok(), theirs, "we say {ours:?}, tshark {read:?}: {message:02x?}");
            if read[1] == BAD {
                let checksum = [Discard::Checksum, Discard::ChecksumMode, Discard::Length];
                assert!(ours.is_err_and(|reason| checksum.contains(&reason)), "{ours:?} {message:02x?}");
            }
            good += usize::from(theirs);
        }
        assert!(good > 10 && good * 100 < broken.len(), "{good} of {}", broken.len());
    }
}
