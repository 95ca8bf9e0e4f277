//! `vrrp_instance` and `vrrp_sync_group`.

use lb_vrrp::config::{AddressCheck, Auth, InterfaceName, LosingAdvert, OWNER};
use lb_vrrp::hmac::Mode;
use lb_vrrp::track::{Check, Weight};
use lb_vrrp::wire::{Family, Interval, TTL, Version};
use lb_vrrp::{ConfigError, State, VirtualAddress};

use super::build::{named, unknown};
use super::conf::Files;
use super::global::Settings;
use super::hmac::hmac;
use super::item::Item;
use super::problem::{At, Findings, Problem};
use super::track::tracks;
use super::words::{Line, is_interface};
use super::{Config, Group, Hooks, Instance, Target, Track, Vmac};
use crate::director::config::{Place, hint};

const KEYWORDS: [&str; 39] = [
    "accept",
    "advert_int",
    "auth_hmac",
    "authentication",
    "garp_lower_prio_delay",
    "garp_lower_prio_repeat",
    "garp_master_delay",
    "garp_master_refresh",
    "garp_master_refresh_repeat",
    "garp_master_repeat",
    "interface",
    "lower_prio_no_advert",
    "mcast_src_ip",
    "no_accept",
    "nopreempt",
    "notify",
    "notify_backup",
    "notify_fault",
    "notify_master",
    "notify_stop",
    "preempt",
    "preempt_delay",
    "priority",
    "skip_check_adv_addr",
    "state",
    "strict_mode",
    "track_file",
    "track_interface",
    "track_process",
    "track_script",
    "unicast_peer",
    "unicast_src_ip",
    "unicast_ttl",
    "use_vmac",
    "version",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "virtual_router_id",
    "vmac_xmit_base",
];

/// Reads a `vrrp_instance`.
pub(super) fn instance(
    item: &Item,
    settings: &Settings,
    config: &Config,
    files: &dyn Files,
    findings: &mut Findings,
) -> Option<Instance> {
    let (name, section) = named(item, findings)?;
    let mut settings = settings.clone();
    let mut instance = Instance {
        name,
        place: item.place.clone(),
        interface: String::new(),
        router: lb_vrrp::Config::new(0, []),
        source: None,
        vmac: None,
        tracks: Vec::new(),
        hooks: Hooks::default(),
    };
    let mut state = State::Backup;
    let mut transmit_base = false;
    let mut version_said = None;
    for item in item.lines() {
        let line = &mut Line { item, section: &section, findings };
        let keyword = item.keyword();
        let router = &mut instance.router;
        match keyword {
            "state" => {
                let accepted = "MASTER or BACKUP";
                let read = |word: &str| word.parse().ok().filter(|&state| state != State::Initialize);
                state = line.one(accepted, read).unwrap_or_default();
            }
            "interface" => instance.interface = line.interface().unwrap_or_default(),
            "virtual_router_id" => router.vrid = line.integer(1..=255).map_or(0, |number| number as u8),
            "priority" => {
                router.priority = line.integer(1..=255).map_or(router.priority, |number| number as u8)
            }
            "advert_int" => router.interval = interval(line).unwrap_or(router.interval),
            "nopreempt" => router.preempt = !line.switch().unwrap_or_default(),
            "preempt" => router.preempt = line.switch().unwrap_or(true),
            "accept" => router.accept = line.switch().unwrap_or(true),
            "no_accept" => router.accept = !line.switch().unwrap_or_default(),
            "preempt_delay" => router.preempt_delay = line.seconds(0..=1000).unwrap_or_default(),
            "auth_hmac" => router.hmac = hmac(item, &section, files, findings),
            "authentication" => router.auth = authentication(item, &section, findings),
            "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                for entry in item.lines() {
                    let section = format!("{keyword} of {section}");
                    let line = &mut Line { item: entry, section: &section, findings };
                    if let Some(mut address) = address(line) {
                        address.advertised = keyword == "virtual_ipaddress";
                        router.addresses.push(address);
                    }
                }
            }
            "unicast_peer" => unicast(item, &section, router, findings),
            "unicast_src_ip" | "mcast_src_ip" => instance.source = line.address(),
            "unicast_ttl" => {
                if line.integer(0..=255).is_some_and(|ttl| ttl != i64::from(TTL)) {
                    line.warn("`unicast_ttl` is left out: adverts are sent with TTL 255");
                }
            }
            "use_vmac" => instance.vmac = vmac(line),
            "vmac_xmit_base" => transmit_base = line.switch().unwrap_or_default(),
            "track_interface" | "track_script" | "track_process" | "track_file" => {
                instance.tracks.extend(tracks(item, &section, config, findings));
            }
            _ if hook(keyword, line, &mut instance.hooks) => {}
            _ if settings.read(keyword, line) => {
                if keyword == "version" {
                    version_said = Some(item.place.clone());
                }
            }
            _ => unknown("vrrp_instance", &section, item, &KEYWORDS, findings),
        }
    }
    if let Some(vmac) = &mut instance.vmac {
        vmac.transmit_base = transmit_base;
    }
    let said = |keyword: &str| item.lines().iter().any(|line| line.keyword() == keyword);
    for (keyword, accepted) in
        [("interface", "an interface's name"), ("virtual_router_id", "a whole number, 1 to 255")]
    {
        if !said(keyword) {
            findings.missing(&item.place, &section, keyword, accepted);
        }
    }
    let line =
        |keyword: &str| item.lines().iter().rfind(|line| line.keyword() == keyword).map(|line| &line.place);
    let at = |keyword: &str| line(keyword).unwrap_or(&item.place);
    apply(&mut instance, &settings, version_said.as_ref(), &section, &at, findings);
    if state == State::Active {
        // keepalived.conf(5): "For this to work, the initial state must not be MASTER".
        let router = &mut instance.router;
        if !router.preempt {
            findings.warn(
                at("nopreempt"),
                &section,
                "`nopreempt` is left out, as keepalived does with `state MASTER`",
            );
            router.preempt = true;
        }
        if !router.preempt_delay.is_zero() {
            let message = "`preempt_delay` is left out, as keepalived does with `state MASTER`";
            findings.warn(at("preempt_delay"), &section, message);
            router.preempt_delay = std::time::Duration::ZERO;
        }
    }
    for address in &mut instance.router.addresses {
        let own = |name: &InterfaceName| name.as_str() == instance.interface;
        address.interface = address.interface.filter(|name| !own(name));
    }
    // It is tracked anyway.
    let own = Target::Interface(instance.interface.clone());
    instance.tracks.retain(|track| {
        if track.target == own && track.check.weight != Weight::FAULT {
            let message = format_args!(
                "the weight of {} is left out, as keepalived does: without its own interface an instance is at fault",
                instance.interface
            );
            findings.warn(at("track_interface"), &section, message);
        }
        track.target != own
    });
    // So are the interfaces of its other addresses. Listed, they are named in the log and in the status.
    for name in instance.router.addresses.iter().filter_map(|address| address.interface) {
        let track = Track { target: Target::Interface(name.into()), check: Check::default() };
        if !instance.tracks.contains(&track) {
            instance.tracks.push(track);
        }
    }
    let understood = instance.router.vrid != 0 && !instance.interface.is_empty();
    if understood && let Err(source) = instance.router.validate() {
        let place = match source {
            ConfigError::Interval { .. } => at("advert_int"),
            ConfigError::PeerFamily { .. } | ConfigError::Peer { .. } => at("unicast_peer"),
            ConfigError::Hmac(_) => at("auth_hmac"),
            ConfigError::NoAddresses => &item.place,
            _ => at("virtual_ipaddress"),
        };
        findings.add(Problem::Router { place: place.clone(), section, source });
    }
    Some(instance)
}

/// What depends on several lines.
fn apply<'p>(
    instance: &mut Instance,
    settings: &Settings,
    version_said: Option<&Place>,
    section: &str,
    at: &dyn Fn(&str) -> &'p Place,
    findings: &mut Findings,
) {
    let router = &mut instance.router;
    let ipv6 = router.family() == Family::Ipv6;
    router.version = settings.version.unwrap_or(Version::V2);
    if ipv6 && router.version == Version::V2 {
        if let Some(place) = version_said {
            findings.warn(place, section, "IPv6 has version 3 alone: version 3 is used");
        }
        router.version = Version::V3;
    }
    router.garp = settings.garp();
    router.startup_delay = settings.startup_delay;
    router.require_link_local = settings.strict;
    let silent = settings.lower_prio_no_advert.unwrap_or(settings.strict);
    router.losing_advert = if silent { LosingAdvert::Discard } else { LosingAdvert::Answer };
    router.address_check =
        if settings.skip_check_adv_addr { AddressCheck::Report } else { AddressCheck::Drop };
    if let Some(hmac) = &router.hmac
        && settings.strict
        && hmac.mode != Mode::Enforce
    {
        findings.conflict(
            at("auth_hmac"),
            section,
            "strict mode takes signed adverts alone: write `mode enforce`, or remove strict mode until all routers sign",
        );
    }
    if router.auth != Auth::None {
        let place = at("authentication");
        if router.hmac.is_some() {
            findings.warn(
                place,
                section,
                "authentication is left out, as keepalived does: auth_hmac replaces it",
            );
            router.auth = Auth::None;
        } else if router.version == Version::V3 || settings.strict {
            let why = if settings.strict { "strict mode has none" } else { "version 3 has none" };
            findings.warn(
                place,
                section,
                format_args!("authentication is left out, as keepalived does: {why}"),
            );
            router.auth = Auth::None;
        } else {
            let message =
                "auth_pass is sent in the clear: it guards against mistakes and protects against nobody";
            findings.warn(place, section, message);
        }
    }
    if settings.strict && !router.unicast_peers.is_empty() {
        findings.conflict(
            at("unicast_peer"),
            section,
            "strict mode has no unicast peers: remove one of both",
        );
    }
    if let Some(source) = instance.source
        && router.priority != OWNER
        && router.addresses.iter().any(|floating| floating.address == source)
    {
        let message = format!("the source {source} floats: name an address that does not move");
        findings.conflict(at(keyword(router)), section, message);
    }
    if let Some(source) = instance.source.filter(|&source| Family::of(source) != router.family()) {
        let message = format!("the source {source} is not {} like the addresses", router.family());
        findings.conflict(at(keyword(router)), section, message);
    } else if let Some(source) = instance.source.filter(|&source| !router.sends_from(source)) {
        let message = format!(
            "the source {source} is not link-local, as adverts to the group of IPv6 need: name one in fe80::/10"
        );
        findings.conflict(at(keyword(router)), section, message);
    }
}

/// How the source was most likely named.
fn keyword(router: &lb_vrrp::Config) -> &'static str {
    if router.unicast_peers.is_empty() { "mcast_src_ip" } else { "unicast_src_ip" }
}

fn interval(line: &mut Line<'_>) -> Option<Interval> {
    let time = line.seconds(0..=255)?;
    let interval = Interval::try_from(time).ok();
    if interval.is_none() {
        line.refuse("1 to 255 whole seconds (version 2), or 0.01 to 40.95 seconds (version 3)", &[]);
    }
    interval
}

fn authentication(item: &Item, section: &str, findings: &mut Findings) -> Auth {
    let mut password = None;
    let mut simple = false;
    let section = &format!("authentication of {section}");
    for item in item.lines() {
        let line = &mut Line { item, section, findings };
        match item.keyword() {
            "auth_type" => match item.arguments() {
                [word] if word.eq_ignore_ascii_case("PASS") => simple = true,
                [word] if word.eq_ignore_ascii_case("AH") => findings.add(Problem::Unsupported {
                    place: item.place.clone(),
                    keyword: "auth_type AH".to_owned(),
                    section: section.clone(),
                    cure: "use PASS, or none, on all routers",
                }),
                _ => line.refuse("PASS", &["PASS"]),
            },
            "auth_pass" => match item.arguments() {
                [word] if !word.is_empty() => {
                    if word.len() > 8 {
                        line.warn("only the first eight characters of auth_pass count");
                    }
                    password = Some(word.clone());
                }
                // The words are not repeated: they are a password.
                _ => findings.conflict(&item.place, section, "auth_pass takes one word of 1 to 8 characters"),
            },
            _ => unknown("authentication", section, item, &["auth_type", "auth_pass"], findings),
        }
    }
    match password {
        Some(password) if simple => Auth::simple_text(&password),
        Some(_) if !item.lines().iter().any(|line| line.keyword() == "auth_type") => {
            findings.missing(&item.place, section, "auth_type", "PASS");
            Auth::None
        }
        None if simple => {
            findings.missing(&item.place, section, "auth_pass", "one word of 1 to 8 characters");
            Auth::None
        }
        _ => Auth::None,
    }
}

/// `192.0.2.1/24 dev eth0`: the address, with the interface if one is named.
fn address(line: &mut Line<'_>) -> Option<VirtualAddress> {
    const ADDRESS: &str = "an address like 192.0.2.1/24, then perhaps dev and an interface";
    const OPTIONS: [&str; 15] = [
        "dev",
        "brd",
        "broadcast",
        "label",
        "scope",
        "peer",
        "preferred_lft",
        "track_group",
        "home",
        "-nodad",
        "mngtmpaddr",
        "noprefixroute",
        "autojoin",
        "no_track",
        "use_vmac",
    ];
    let mut interface = None;
    let mut meant = line.item.keyword();
    let address = meant.parse::<VirtualAddress>().ok();
    let mut understood = address.is_some();
    let mut words = line.item.arguments().iter();
    while understood && let Some(option) = words.next() {
        meant = option;
        understood = match option.as_str() {
            "dev" => {
                interface = words.next().and_then(|name| name.parse().ok());
                interface.is_some()
            }
            // IPv6 addresses are always added so.
            "-nodad" => true,
            "brd" | "broadcast" | "label" | "scope" | "peer" | "preferred_lft" | "track_group" => {
                line.warn(format_args!("`{option}` is left out"));
                words.next().is_some()
            }
            known if OPTIONS.contains(&known) => {
                line.warn(format_args!("`{option}` is left out"));
                true
            }
            _ => false,
        };
    }
    if !understood {
        let accepted = format!("{ADDRESS}{}", hint(meant, OPTIONS));
        let shown = line.item.words.join(" ");
        let (place, section) = (&line.item.place, line.section);
        line.findings.refuse(&At { place, section, keyword: "address", value: &shown }, &accepted, &[]);
    }
    address.filter(|_| understood).map(|address| VirtualAddress { interface, ..address })
}

/// `unicast_peer { 192.0.2.2 min_ttl 254 max_ttl 255 }`.
fn unicast(item: &Item, section: &str, router: &mut lb_vrrp::Config, findings: &mut Findings) {
    const PEER: &str = "an address, then perhaps min_ttl and max_ttl with a number each";
    let section = &format!("unicast_peer of {section}");
    if item.lines().is_empty() {
        findings.conflict(
            &item.place,
            section,
            "no peer is named: name one, or remove the block for multicast",
        );
    }
    for entry in item.lines() {
        let line = &mut Line { item: entry, section, findings };
        let mut bounds = (0, TTL);
        let mut words = entry.arguments().chunks_exact(2);
        let understood = words.all(|pair| match (pair[0].as_str(), pair[1].parse()) {
            ("min_ttl", Ok(least)) => {
                bounds.0 = least;
                true
            }
            ("max_ttl", Ok(most)) => {
                bounds.1 = most;
                true
            }
            _ => false,
        });
        let even = entry.arguments().len().is_multiple_of(2);
        let (Ok(peer), true) = (entry.keyword().parse(), understood && even) else {
            let shown = entry.words.join(" ");
            let at = At { place: &entry.place, section, keyword: "peer", value: &shown };
            line.findings.refuse(&at, PEER, &["min_ttl", "max_ttl"]);
            continue;
        };
        let bounds = bounds.0..=bounds.1;
        if !router.unicast_peers.is_empty() && router.accepted_ttl != bounds {
            let message = "the peers have different TTL bounds: vrrpd has one pair for all";
            findings.conflict(&entry.place, section, message);
        }
        router.accepted_ttl = bounds;
        router.unicast_peers.push(peer);
    }
}

/// `use_vmac [NAME]`.
fn vmac(line: &mut Line<'_>) -> Option<Vmac> {
    match line.item.arguments() {
        [] => Some(Vmac::default()),
        [word] if matches!(word.as_str(), "on" | "yes" | "true") => Some(Vmac::default()),
        [word] if matches!(word.as_str(), "off" | "no" | "false") => None,
        [name] if is_interface(name) => Some(Vmac { name: Some(name.clone()), transmit_base: false }),
        _ => {
            line.refuse("nothing, or an interface's name; the MAC address is the RFC's", &[]);
            None
        }
    }
}

/// One of the notify scripts; whether it was one.
fn hook(keyword: &str, line: &mut Line<'_>, hooks: &mut Hooks) -> bool {
    let hook = match keyword {
        "notify" => &mut hooks.any,
        "notify_master" => &mut hooks.master,
        "notify_backup" => &mut hooks.backup,
        "notify_fault" => &mut hooks.fault,
        "notify_stop" => &mut hooks.stop,
        _ => return false,
    };
    *hook = line.command();
    true
}

/// Reads a `vrrp_sync_group`, and lets its members track what it tracks.
pub(super) fn group(item: &Item, config: &mut Config, findings: &mut Findings) {
    const KEYWORDS: [&str; 12] = [
        "global_tracking",
        "group",
        "notify",
        "notify_backup",
        "notify_fault",
        "notify_master",
        "notify_stop",
        "sync_group_tracking_weight",
        "track_file",
        "track_interface",
        "track_process",
        "track_script",
    ];
    let Some((name, section)) = named(item, findings) else { return };
    let mut group = Group { name, members: Vec::new(), hooks: Hooks::default() };
    let mut shared = Vec::new();
    let mut weights = false;
    for item in item.lines() {
        let line = &mut Line { item, section: &section, findings };
        match item.keyword() {
            "group" => {
                for entry in item.lines() {
                    for member in &entry.words {
                        member_of(&mut group, member, entry, &section, config, findings);
                    }
                }
            }
            "track_interface" | "track_script" | "track_process" | "track_file" => {
                shared.extend(tracks(item, &section, config, findings));
            }
            "sync_group_tracking_weight" => weights = line.switch().unwrap_or_default(),
            "global_tracking" => {}
            keyword if hook(keyword, line, &mut group.hooks) => {}
            _ => unknown("vrrp_sync_group", &section, item, &KEYWORDS, findings),
        }
    }
    let named =
        item.lines().iter().filter(|line| line.keyword() == "group").map(|line| line.lines().len()).sum();
    match named {
        0 => findings.conflict(&item.place, &section, "no instance is in it: name them in `group`"),
        1 if group.members.len() == 1 => {
            findings.warn(&item.place, &section, "it has one instance alone: nothing is kept in step")
        }
        _ => {}
    }
    for &member in &group.members {
        let Some(instance) = config.instances.get_mut(member) else { continue };
        let section = format!("vrrp_instance {}", instance.name);
        if !weights {
            // keepalived 2.2.7 runs no script with a weight for a member, so that none of them can bring the group down.
            instance.tracks.retain(|track| {
                let dropped = match track.target {
                    Target::Script(at) if track.check.weight != Weight::FAULT => config.scripts.get(at),
                    _ => None,
                };
                if let Some(script) = dropped {
                    let message = format_args!(
                        "track_script {} is left out, as it has a weight and a group has one priority: set \
                         sync_group_tracking_weight in the group to keep it, or weight 0 to make it a fault",
                        script.name
                    );
                    findings.warn(&instance.place, &section, message);
                }
                dropped.is_none()
            });
        }
        if !weights && instance.tracks.iter().any(|track| track.check.weight != Weight::FAULT) {
            let message = "weights of its own are taken as 0, a fault, as its group is one: set \
                           sync_group_tracking_weight in the group to keep them";
            findings.warn(&instance.place, &section, message);
            for track in &mut instance.tracks {
                track.check.weight = Weight::FAULT;
            }
        }
        instance.tracks.extend(shared.iter().cloned());
    }
    config.groups.push(group);
}

fn member_of(
    group: &mut Group,
    member: &str,
    entry: &Item,
    section: &str,
    config: &Config,
    findings: &mut Findings,
) {
    let Some(at) = config.instances.iter().position(|instance| instance.name == member) else {
        let known: Vec<&str> = config.instances.iter().map(|instance| instance.name.as_str()).collect();
        let at = At { place: &entry.place, section, keyword: "group", value: member };
        findings.refuse(&at, "the name of a vrrp_instance", &known);
        return;
    };
    let taken = config.groups.iter().any(|other| other.members.contains(&at)) || group.members.contains(&at);
    if taken {
        let message = format!("{member} is in a group already: leave it in one");
        findings.conflict(&entry.place, section, message);
        return;
    }
    group.members.push(at);
}
