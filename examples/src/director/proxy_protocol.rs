//! HAProxy's PROXY protocol, versions 1 and 2: the first bytes of a connection name the client that it is made for.
//! Source: "The PROXY protocol, versions 1 & 2" (proxy-protocol.txt, Willy Tarreau).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::config::ProxyVersion;

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its CRLF.
const LONGEST_V1: usize = 107;
/// The most that is read of a version 2 header: addresses and any reasonable extensions.
const LONGEST_V2: usize = 2_048;

/// What a header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The client and what it connected to; `None` when the proxy speaks for itself (`LOCAL`) or does not know.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// The header of a connection from `client`, which connected to `local`.
#[must_use]
pub fn header(version: ProxyVersion, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (client, local) = same_family(client, local);
    match version {
        ProxyVersion::V1 => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", client.ip(), local.ip(), client.port(), local.port())
                .into_bytes()
        }
        ProxyVersion::V2 => {
            let mut out = SIGNATURE.to_vec();
            // Version 2, command PROXY.
            out.push(0x21);
            let (family, length) = if client.is_ipv4() { (0x11, 12_u16) } else { (0x21, 36) };
            out.push(family);
            out.extend_from_slice(&length.to_be_bytes());
            for ip in [client.ip(), local.ip()] {
                match ip {
                    IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
                }
            }
            out.extend_from_slice(&client.port().to_be_bytes());
            out.extend_from_slice(&local.port().to_be_bytes());
            out
        }
    }
}

/// The protocol has no header for two families at once.
fn same_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, local) = (plain(client), plain(local));
    if client.is_ipv4() == local.is_ipv4() { (client, local) } else { (mapped(client), mapped(local)) }
}

/// Reads a header and what came behind it in the same read.
///
/// # Errors
/// Those of the socket; `InvalidData` when it is no header of either version.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Named, Bytes)> {
    let mut got = BytesMut::with_capacity(512);
    loop {
        if let Some((named, length)) = parse(&got)? {
            got.advance(length);
            return Ok((named, got.freeze()));
        }
        if stream.read_buf(&mut got).await? == 0 {
            let what = if got.is_empty() { "before" } else { "within" };
            let what = format!("the connection ended {what} its PROXY protocol header");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
    }
}

/// What the header says and how long it is; `None` while it is not whole.
///
/// # Errors
/// `InvalidData` when `data` is not the beginning of a header of either version.
pub fn parse(data: &[u8]) -> io::Result<Option<(Named, usize)>> {
    let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let common = data.len().min(SIGNATURE.len());
    if data[..common] == SIGNATURE[..common] {
        return parse_v2(data);
    }
    let start = b"PROXY ";
    let common = data.len().min(start.len());
    if data[..common] != start[..common] {
        return invalid("the connection does not begin with a PROXY protocol header");
    }
    match memchr::memchr(b'\n', &data[..data.len().min(LONGEST_V1)]) {
        Some(end) => match line(&data[..end]) {
            Some(named) => Ok(Some((named, end + 1))),
            None => invalid("malformed PROXY protocol line"),
        },
        None if data.len() >= LONGEST_V1 => invalid("a PROXY protocol line of more than 107 bytes"),
        None => Ok(None),
    }
}

/// `PROXY TCP4 192.0.2.7 192.0.2.1 40000 80\r`.
fn line(line: &[u8]) -> Option<Named> {
    let text = std::str::from_utf8(line.strip_suffix(b"\r")?).ok()?;
    let mut words = text.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Named { addresses: None });
    }
    let (client, local): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    let fits = match family {
        "TCP4" => client.is_ipv4() && local.is_ipv4(),
        "TCP6" => client.is_ipv6() && local.is_ipv6(),
        _ => false,
    };
    let addresses = (SocketAddr::new(client, from), SocketAddr::new(local, to));
    (fits && words.next().is_none()).then_some(Named { addresses: Some(addresses) })
}

/// A port: no sign, and no leading zeros, which could be taken for octal.
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    text.parse().ok().filter(|_| plain)
}

fn parse_v2(data: &[u8]) -> io::Result<Option<(Named, usize)>> {
    let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let Some(fixed) = data.get(12..16) else { return Ok(None) };
    let length = 16 + usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if length > LONGEST_V2 {
        return invalid("a PROXY protocol header of more than 2048 bytes");
    }
    let local = match fixed[0] {
        0x20 => true,
        0x21 => false,
        _ => return invalid("an unknown version or command of the PROXY protocol"),
    };
    // Section 2.2: values that the specification does not assign must be refused. LOCAL has none that matter.
    let size = match fixed[1] {
        _ if local => 0,
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return invalid("an unknown address family or transport of the PROXY protocol"),
    };
    let Some(whole) = data.get(..length) else { return Ok(None) };
    let Some((mut rest, extensions)) = whole[16..].split_at_checked(size) else {
        return invalid("a PROXY protocol header too short for its addresses");
    };
    // Without addresses there is no telling where extensions begin.
    if size > 0 {
        check_extensions(whole, extensions)?;
    }
    let addresses = match (local, fixed[1]) {
        (false, 0x11) => {
            let (client, local) = (Ipv4Addr::from(rest.get_u32()), Ipv4Addr::from(rest.get_u32()));
            Some((
                SocketAddr::new(client.into(), rest.get_u16()),
                SocketAddr::new(local.into(), rest.get_u16()),
            ))
        }
        (false, 0x21) => {
            let (client, local) = (Ipv6Addr::from(rest.get_u128()), Ipv6Addr::from(rest.get_u128()));
            Some((
                SocketAddr::new(client.into(), rest.get_u16()),
                SocketAddr::new(local.into(), rest.get_u16()),
            ))
        }
        // A datagram's or a local socket's, neither of which a client here can have.
        _ => None,
    };
    Ok(Some((Named { addresses }, length)))
}

/// Section 2.2.1: extensions are a type, a length and a value each. One of them may be a checksum of the `whole` header
/// with zeros in its own place; the others are nobody's concern here.
fn check_extensions(whole: &[u8], mut extensions: &[u8]) -> io::Result<()> {
    const CRC32C: u8 = 0x03;
    let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    while let [kind, high, low, rest @ ..] = extensions {
        let at = whole.len() - rest.len();
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, next)) = rest.split_at_checked(length) else { break };
        if *kind == CRC32C {
            const ALGORITHM: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
            let mut digest = ALGORITHM.digest();
            digest.update(&whole[..at]);
            digest.update(&vec![0; length]);
            digest.update(next);
            if value != digest.finalize().to_be_bytes() {
                return invalid("a PROXY protocol header whose checksum is wrong");
            }
        }
        extensions = next;
    }
    if extensions.is_empty() {
        Ok(())
    } else {
        invalid("a PROXY protocol header whose extensions do not fit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn headers_read_back_however_they_are_cut() {
        for (client, local) in
            [("192.0.2.7:40000", "192.0.2.1:80"), ("[2001:db8::7]:40000", "[2001:db8::1]:80")]
        {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let mut sent = header(version, address(client), address(local));
                for cut in 0..sent.len() {
                    assert_eq!(parse(&sent[..cut]).unwrap(), None, "{version:?} cut at {cut}");
                }
                sent.extend_from_slice(b"GET /");
                let (named, rest) = read(&mut &sent[..]).await.unwrap();
                assert_eq!(named.addresses, Some((address(client), address(local))), "{version:?}");
                assert_eq!(&rest[..], b"GET /");
                for (cut, what) in [(0, "before"), (9, "within")] {
                    let error = read(&mut &sent[..cut]).await.unwrap_err().to_string();
                    assert_eq!(error, format!("the connection ended {what} its PROXY protocol header"));
                }
            }
        }
    }

    #[test]
    fn mixed_families_become_mapped_addresses() {
        let sent = header(ProxyVersion::V1, address("192.0.2.7:1"), address("[2001:db8::1]:2"));
        assert_eq!(sent, b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n");
    }

    #[test]
    fn who_is_not_named_is_nobody() {
        for sent in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY UNKNOWN 1 2 3 4\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x20\xff\0\x01x",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0cabcdabcdabcd",
        ] {
            assert_eq!(parse(sent).unwrap(), Some((Named { addresses: None }, sent.len())), "{sent:?}");
        }
    }

    #[test]
    fn a_checksum_must_be_right() {
        // Two extensions: an authority, and the checksum of all.
        let mut sent =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x17\xc0\0\x02\x07\xc0\0\x02\x01\x9c\x40\0\x50".to_vec();
        sent.extend_from_slice(b"\x02\0\x01a\x03\0\x04\0\0\0\0");
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&sent);
        let place = sent.len() - 4;
        sent[place..].copy_from_slice(&sum.to_be_bytes());
        let named = Named { addresses: Some((address("192.0.2.7:40000"), address("192.0.2.1:80"))) };
        assert_eq!(parse(&sent).unwrap(), Some((named, sent.len())));
        for at in [16, 31, place] {
            let mut other = sent.clone();
            other[at] ^= 1;
            let error = parse(&other).unwrap_err().to_string();
            assert_eq!(error, "a PROXY protocol header whose checksum is wrong", "byte {at}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        for sent in [
            &b"G"[..],
            b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 80\n",
            b"PROXY TCP4 2001:db8::7 192.0.2.1 40000 80\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 80 9\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 40000\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 70000 80\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 080\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 00 80\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 +40000 80\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x41\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x13\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x10\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x01\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0fabcdabcdabcd\x04\0\x01",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0eabcdabcdabcd\x04\0",
        ] {
            assert!(parse(sent).is_err(), "{sent:?}");
        }
        assert!(parse(&[b'P', b'R', b'O', b'X', b'Y', b' '].repeat(30)).is_err());
    }
}
