//! Whatever a connection begins with: it is a PROXY protocol header, the beginning of one, or refused, and stays what
//! it is however it is cut; and what it says is what the director would say.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use lb_examples::director::config::ProxyVersion;
use lb_examples::director::proxy_protocol::{Named, header, parse, read};
use libfuzzer_sys::fuzz_target;

/// No header needs more bytes than this to be known for one, or for none.
const LONGEST: usize = 2_048;

fuzz_target!(|bytes: &[u8]| {
    decoded(bytes);
    if let Some((client, local)) = addresses(bytes) {
        encoded(client, local);
    }
});

fn decoded(bytes: &[u8]) {
    let whole = parse(bytes);
    let decided = match &whole {
        Ok(None) => bytes.len(),
        Ok(Some((_, length))) => *length,
        Err(_) => bytes.len(),
    };
    assert!(decided <= bytes.len());
    assert!(bytes.len() < LONGEST || !matches!(whole, Ok(None)), "more is waited for than a header can have");
    // All of them in any header of usual length.
    for cut in (0..=bytes.len().min(LONGEST)).step_by(1 + bytes.len() / 128) {
        match (parse(&bytes[..cut]), &whole) {
            (Ok(None), _) => assert!(cut < decided || matches!(whole, Ok(None)), "whole, but not at {cut}"),
            (Ok(early), Ok(whole)) => assert!(cut >= decided && early == *whole, "another one at {cut}"),
            (Err(_), Err(_)) => {}
            (early, whole) => panic!("{early:?} at {cut}, and then {whole:?}"),
        }
    }
    let mut stream = bytes;
    let Poll::Ready(read) = pin!(read(&mut stream)).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for more than all of it")
    };
    match (read, whole) {
        (Ok((named, rest)), Ok(Some((same, length)))) => {
            assert_eq!(named, same);
            // It may have read less than all of it.
            assert_eq!([&rest[..], stream].concat(), &bytes[length..]);
            if let Some((client, local)) = named.addresses {
                said_alike(&bytes[..length], client, local);
                encoded(client, local);
            }
        }
        (Err(_), Ok(None) | Err(_)) => {}
        (read, whole) => panic!("{read:?} is not {whole:?}"),
    }
}

/// A header is as the director would write it, unless the protocol leaves a choice: how an IPv6 address is written,
/// whether an IPv4 address is mapped, and extensions.
fn said_alike(bytes: &[u8], client: SocketAddr, local: SocketAddr) {
    let version = if bytes[0] == b'P' { ProxyVersion::V1 } else { ProxyVersion::V2 };
    let own = header(version, client, local);
    let mapped = canonical(client, local) != (client, local);
    match version {
        _ if mapped => {}
        ProxyVersion::V1 if client.is_ipv6() => {}
        ProxyVersion::V1 => assert_eq!(own, bytes),
        ProxyVersion::V2 => {
            assert_eq!(own[..14], bytes[..14]);
            assert_eq!(own[16..], bytes[16..own.len()]);
        }
    }
}

/// What is written reads back, in both versions.
fn encoded(client: SocketAddr, local: SocketAddr) {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let sent = header(version, client, local);
        let named = Named { addresses: Some(canonical(client, local)) };
        assert_eq!(parse(&sent).expect("a header"), Some((named, sent.len())), "{version:?}");
    }
}

/// Both IPv4, or both IPv6 with an IPv4 address mapped; without an IPv6 address's flow and zone, which no header has.
fn canonical(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let pair = [client, local].map(|address| (address.ip().to_canonical(), address.port()));
    let both_v4 = pair.iter().all(|(ip, _)| ip.is_ipv4());
    let [client, local] = pair.map(|(ip, port)| match ip {
        IpAddr::V4(ip) if !both_v4 => SocketAddr::from((ip.to_ipv6_mapped(), port)),
        ip => SocketAddr::from((ip, port)),
    });
    (client, local)
}

/// Two addresses out of the first bytes.
fn addresses(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let address = |kind: u8, bytes: &[u8; 18]| {
        let [ip @ .., high, low] = *bytes;
        let port = u16::from_be_bytes([high, low]);
        let first = u32::from_be_bytes([ip[0], ip[1], ip[2], ip[3]]);
        match kind & 3 {
            0 => SocketAddr::from((Ipv4Addr::from(first), port)),
            1 => SocketAddr::from((Ipv4Addr::from(first).to_ipv6_mapped(), port)),
            _ => SocketAddr::from((Ipv6Addr::from(ip), port)),
        }
    };
    let (&kind, rest) = bytes.split_first()?;
    let (client, rest) = rest.split_first_chunk()?;
    let local = rest.first_chunk()?;
    Some((address(kind, client), address(kind >> 2, local)))
}
