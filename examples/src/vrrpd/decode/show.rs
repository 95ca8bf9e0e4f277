//! A packet as a line for people, and as JSON.

use std::fmt;
use std::time::{Duration, SystemTime};

use lb_vrrp::wire::{AuthField, Version};
use serde_json::{Value, json};

use super::{Packet, coverage_name, seconds};

/// The last moment that RFC 3339 can say: the end of the year 9999.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// Shows a packet with its verdict.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'p>(pub &'p Packet);

fn time(time: Option<SystemTime>) -> Option<String> {
    let known =
        time.filter(|time| time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since <= LAST))?;
    Some(humantime::format_rfc3339_micros(known).to_string())
}

fn auth_name(auth: AuthField) -> String {
    match auth {
        AuthField::None => "none".to_owned(),
        AuthField::SimpleText(_) => "simple-text".to_owned(),
        AuthField::Other(kind, _) => format!("type-{kind}"),
    }
}

impl Shown<'_> {
    /// One object: what the packet says, `valid`, and if it is not, `reason` (a word) and `detail` (a sentence). What can't be
    /// read is null.
    #[must_use]
    pub fn json(&self) -> Value {
        let Self(packet) = self;
        let verdict = packet.verdict();
        let advert = verdict.ok();
        let auth = advert.filter(|advert| advert.version == Version::V2).map(|advert| auth_name(advert.auth));
        let addresses: Option<Vec<_>> = advert.map(|advert| advert.addresses.iter().collect());
        json!({
            "packet": packet.number,
            "time": time(packet.time),
            "source": packet.source,
            "destination": packet.destination,
            "ttl": packet.ttl,
            "version": packet.version(),
            "vrid": packet.vrid(),
            "priority": packet.priority(),
            "interval": advert.map(|advert| seconds(advert.interval)),
            "addresses": addresses,
            "auth": auth,
            "checksum": advert.map(|advert| coverage_name(advert.coverage)),
            "trailer": advert.map(|advert| advert.trailer.len()),
            "valid": verdict.is_ok(),
            "reason": verdict.err().map(super::Reason::name),
            "detail": verdict.err().map(|reason| reason.to_string()),
        })
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(packet) = self;
        let Packet { source, destination, ttl, .. } = packet;
        let time = time(packet.time).unwrap_or_else(|| format!("packet {}", packet.number));
        write!(f, "{time} {source} > {destination} ttl {ttl}")?;
        let claims = [("v", packet.version()), (" vrid ", packet.vrid()), (" priority ", packet.priority())];
        f.write_str(" ")?;
        for (name, value) in claims {
            if let Some(value) = value {
                write!(f, "{name}{value}")?;
            }
        }
        match packet.verdict() {
            Ok(advert) => {
                write!(f, " every {} of", advert.interval)?;
                for address in advert.addresses.iter() {
                    write!(f, " {address}")?;
                }
                if advert.auth != AuthField::None {
                    write!(f, " auth {}", auth_name(advert.auth))?;
                }
                write!(f, " checksum over {}: valid", coverage_name(advert.coverage))
            }
            Err(reason) => write!(f, ": invalid, {}: {reason}", reason.name()),
        }
    }
}
