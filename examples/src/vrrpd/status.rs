//! What the daemon knows, as plain data: sent over the socket as JSON, shown as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use lb_vrrp::State;
use serde::{Deserialize, Serialize};

/// The whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The daemon's process.
    pub(crate) process: u32,
    /// Its configuration.
    pub(crate) config: String,
    /// What the machine is called.
    pub(crate) router_id: String,
    /// Since when it runs (RFC 3339).
    pub(crate) since: String,
    /// How often the configuration was read again.
    pub(crate) reloads: u32,
    /// The virtual routers, in the configuration's order.
    pub(crate) instances: Vec<InstanceStatus>,
    /// The sync groups.
    pub(crate) groups: Vec<GroupStatus>,
}

/// One virtual router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InstanceStatus {
    pub(crate) instance: String,
    pub(crate) state: State,
    /// Since when it is in that state (RFC 3339).
    pub(crate) since: String,
    pub(crate) interface: String,
    pub(crate) version: u8,
    pub(crate) vrid: u8,
    pub(crate) priority: Priority,
    /// Seconds between adverts: those of the active router, as learned.
    pub(crate) interval: f64,
    pub(crate) addresses: Vec<String>,
    /// Where its adverts come from.
    pub(crate) source: Option<IpAddr>,
    /// Who is active, as far as it knows: itself, or whom it hears.
    pub(crate) active_router: Option<ActiveRouter>,
    pub(crate) transitions: Transitions,
    pub(crate) adverts: Adverts,
    /// Dropped adverts by reason, those that are not zero.
    pub(crate) discards: BTreeMap<String, u32>,
    /// How its adverts are signed, if they are.
    pub(crate) signatures: Option<Signatures>,
    /// What keeps it from taking part.
    pub(crate) faults: Vec<String>,
    /// Why it has no sockets or no VMAC.
    pub(crate) trouble: Option<String>,
    pub(crate) tracks: Vec<TrackStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Priority {
    pub(crate) configured: u8,
    pub(crate) effective: u8,
}

/// `auth_hmac`, without the secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signatures {
    /// `enforce`, `permissive`, or `receive-only`.
    pub(crate) mode: String,
    /// The id of the key that it signs with.
    pub(crate) active_key: u8,
    /// The ids of all keys that it accepts.
    pub(crate) keys: Vec<u8>,
    /// Adverts without a signature that it took.
    pub(crate) unsigned_received: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ActiveRouter {
    pub(crate) address: IpAddr,
    pub(crate) priority: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transitions {
    pub(crate) to_active: u32,
    pub(crate) from_active: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adverts {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) priority_zero_sent: u32,
    pub(crate) priority_zero_received: u32,
    pub(crate) discarded: u64,
}

/// Something that it tracks, except interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrackStatus {
    pub(crate) name: String,
    /// `script`, `process`, `file`, or `interface`.
    pub(crate) kind: String,
    pub(crate) weight: i32,
    /// The last result: of a script or a process.
    pub(crate) up: Option<bool>,
    /// A file's number.
    pub(crate) number: Option<i32>,
}

/// A sync group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupStatus {
    pub(crate) group: String,
    /// `MASTER`, `BACKUP`, `FAULT`, or nothing while its members differ.
    pub(crate) state: Option<String>,
    pub(crate) members: Vec<String>,
}

const HEAD: [&str; 11] = [
    "INSTANCE",
    "STATE",
    "INTERFACE",
    "VRID",
    "PRIORITY",
    "ACTIVE ROUTER",
    "SINCE",
    "TRANSITIONS",
    "SENT",
    "RECEIVED",
    "ADDRESSES",
];

impl InstanceStatus {
    fn row(&self) -> [String; HEAD.len()] {
        let Priority { configured, effective } = self.priority;
        let priority = if configured == effective {
            effective.to_string()
        } else {
            format!("{effective} ({configured})")
        };
        let active = match (self.state, self.active_router) {
            (State::Active, _) => "this one".to_owned(),
            (_, Some(ActiveRouter { address, priority })) => format!("{address} ({priority})"),
            _ => "-".to_owned(),
        };
        [
            self.instance.clone(),
            self.state.to_string(),
            self.interface.clone(),
            self.vrid.to_string(),
            priority,
            active,
            self.since.clone(),
            self.transitions.to_active.to_string(),
            self.adverts.sent.to_string(),
            self.adverts.received.to_string(),
            self.addresses.join(" "),
        ]
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, config, router_id, since, .. } = self;
        writeln!(f, "{router_id}: vrrpd, process {process}, {config}, since {since}")?;
        let rows: Vec<_> = self.instances.iter().map(InstanceStatus::row).collect();
        let mut widths = HEAD.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |f: &mut fmt::Formatter<'_>, cells: &[&str]| {
            let padded: Vec<String> =
                cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", padded.join("  ").trim_end())
        };
        line(f, &HEAD)?;
        for (row, instance) in rows.iter().zip(&self.instances) {
            line(f, &row.each_ref().map(String::as_str))?;
            if !instance.faults.is_empty() {
                writeln!(f, "  fault: {}", instance.faults.join(", "))?;
            }
            if let Some(trouble) = &instance.trouble {
                writeln!(f, "  {trouble}")?;
            }
            if let Some(Signatures { mode, active_key, keys, unsigned_received }) = &instance.signatures {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                let keys = keys.join(" ");
                let taken = match unsigned_received {
                    0 => String::new(),
                    count => format!(", {count} taken without a signature"),
                };
                writeln!(f, "  auth_hmac: {mode}, active key {active_key} of {keys}{taken}")?;
            }
            if !instance.discards.is_empty() {
                let each: Vec<String> =
                    instance.discards.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
                writeln!(f, "  discarded: {}", each.join(", "))?;
            }
            for TrackStatus { name, kind, weight, up, number } in &instance.tracks {
                let found = match (up, number) {
                    (_, Some(number)) => number.to_string(),
                    (Some(true), _) => "up".to_owned(),
                    (Some(false), _) => "down".to_owned(),
                    _ => "-".to_owned(),
                };
                writeln!(f, "  {kind} {name}: {found}, weight {weight}")?;
            }
        }
        for GroupStatus { group, state, members } in &self.groups {
            let state = state.as_deref().unwrap_or("mixed");
            writeln!(f, "group {group}: {state}, {}", members.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up_and_the_json_reads_back() {
        let instance = InstanceStatus {
            instance: "HA1".into(),
            state: State::Backup,
            since: "2026-01-01T00:00:00Z".into(),
            interface: "eth0".into(),
            version: 2,
            vrid: 11,
            priority: Priority { configured: 100, effective: 40 },
            interval: 1.0,
            addresses: vec!["192.168.250.250/32".into()],
            source: None,
            active_router: Some(ActiveRouter { address: [192, 168, 250, 121].into(), priority: 150 }),
            transitions: Transitions { to_active: 1, from_active: 1 },
            adverts: Adverts {
                sent: 3,
                received: 9,
                priority_zero_sent: 0,
                priority_zero_received: 0,
                discarded: 2,
            },
            discards: [("ttl".to_owned(), 2)].into(),
            signatures: Some(Signatures {
                mode: "permissive".into(),
                active_key: 2,
                keys: vec![1, 2],
                unsigned_received: 4,
            }),
            faults: Vec::new(),
            trouble: None,
            tracks: vec![TrackStatus {
                name: "chk".into(),
                kind: "script".into(),
                weight: -60,
                up: Some(false),
                number: None,
            }],
        };
        let status = Status {
            process: 7,
            config: "/etc/vrrpd.toml".into(),
            router_id: "d1".into(),
            since: "2026-01-01T00:00:00Z".into(),
            reloads: 0,
            instances: vec![instance],
            groups: vec![GroupStatus { group: "G".into(), state: None, members: vec!["HA1".into()] }],
        };
        assert_eq!(
            status.to_string(),
            "d1: vrrpd, process 7, /etc/vrrpd.toml, since 2026-01-01T00:00:00Z\n\
             INSTANCE  STATE   INTERFACE  VRID  PRIORITY  ACTIVE ROUTER          SINCE                 TRANSITIONS  SENT  RECEIVED  ADDRESSES\n\
             HA1       Backup  eth0       11    40 (100)  192.168.250.121 (150)  2026-01-01T00:00:00Z  1            3     9         192.168.250.250/32\n  \
             auth_hmac: permissive, active key 2 of 1 2, 4 taken without a signature\n  \
             discarded: ttl 2\n  \
             script chk: down, weight -60\n\
             group G: mixed, HA1\n"
        );
        let json = serde_json::to_string(&status).expect("plain data");
        assert!(
            json.contains(r#""state":"backup""#)
                && json.contains(r#""priority":{"configured":100,"effective":40}"#)
        );
        assert_eq!(serde_json::from_str::<Status>(&json).expect("its own JSON"), status);
    }
}
