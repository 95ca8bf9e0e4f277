//! From items to a [`Config`], or to all that is wrong with it.

use std::path::Path;

use super::conf::Files;
use super::global::{self, Settings};
use super::item::Item;
use super::known::{Fate, LVS, fate};
use super::problem::{Findings, Problem};
use super::words::{Line, is_name};
use super::{Config, Global, instance, track};
use crate::director::config::{Place, hint, quoted};
use lb_vrrp::VirtualAddress;
use lb_vrrp::wire::Family;

/// What may stand at the top level.
pub(super) const TOP: [&str; 7] = [
    "global_defs",
    "track_file",
    "vrrp_instance",
    "vrrp_script",
    "vrrp_sync_group",
    "vrrp_track_file",
    "vrrp_track_process",
];

/// Builds what `items` say, as far as they make sense.
pub(super) fn build(file: &Path, items: &[Item], files: &dyn Files, findings: &mut Findings) -> Config {
    let mut global = Global::default();
    let mut settings = Settings::default();
    let mut lvs: Vec<(&str, &Place, Vec<String>)> = Vec::new();
    for item in items {
        let keyword = item.keyword();
        if keyword == "global_defs" {
            global::read(item, &mut global, &mut settings, findings);
        } else if LVS.contains(&keyword) {
            let line = item.place.line.to_string();
            match lvs.iter_mut().find(|(_, first, _)| first.file == item.place.file) {
                Some((_, _, lines)) => lines.push(line),
                None => lvs.push((keyword, &item.place, vec![line])),
            }
        } else if !TOP.contains(&keyword) {
            unknown("", "the top level", item, &TOP, findings);
        }
    }
    for (keyword, first, lines) in lvs {
        let lines = if lines.len() == 1 { String::new() } else { format!(" (lines {})", lines.join(", ")) };
        let message = format_args!("the LVS parts are skipped{lines}: the director balances the load");
        findings.warn(first, keyword, message);
    }
    let mut config = Config {
        global,
        instances: Vec::new(),
        groups: Vec::new(),
        scripts: Vec::new(),
        processes: Vec::new(),
        files: Vec::new(),
        warnings: Vec::new(),
    };
    for item in items {
        let (kind, understood) = match item.keyword() {
            "vrrp_script" => {
                ("track_script", track::script(item, findings).map(|it| config.scripts.push(it)))
            }
            "vrrp_track_process" => {
                ("track_process", track::process(item, findings).map(|it| config.processes.push(it)))
            }
            "track_file" | "vrrp_track_file" => {
                ("track_file", track::file(item, findings).map(|it| config.files.push(it)))
            }
            _ => continue,
        };
        if let (None, [name, ..]) = (understood, item.arguments()) {
            findings.broken(kind, name);
        }
    }
    for kind in [&["vrrp_script"][..], &["vrrp_track_process"], &["track_file", "vrrp_track_file"]] {
        once(items, kind, findings);
    }
    // Instances refer to what is tracked, groups to instances.
    for item in items.iter().filter(|item| item.keyword() == "vrrp_instance") {
        let built = instance::instance(item, &settings, &config, files, findings);
        config.instances.extend(built);
    }
    once(items, &["vrrp_instance"], findings);
    name_vmacs(&mut config, settings.vmac_prefix.as_deref().unwrap_or("vrrp"));
    for item in items.iter().filter(|item| item.keyword() == "vrrp_sync_group") {
        instance::group(item, &mut config, findings);
    }
    once(items, &["vrrp_sync_group"], findings);
    if !items.iter().any(|item| item.keyword() == "vrrp_instance") {
        let place = Place { file: quoted(&file.display().to_string()), line: 1 };
        findings.missing(&place, "the configuration", "vrrp_instance", "at least one instance");
    }
    together(&config, findings);
    config
}

/// Gives interfaces of virtual MAC addresses the names that keepalived gives them, which firewalls may know: `vrrp.VRID` and
/// `vrrp6.VRID`. What has none because the name is taken gets one of its own from the driver.
fn name_vmacs(config: &mut Config, prefix: &str) {
    for at in 0..config.instances.len() {
        let instance = &config.instances[at];
        if instance.vmac.as_ref().is_none_or(|vmac| vmac.name.is_some()) {
            continue;
        }
        let family = if instance.router.family() == Family::Ipv6 { "6" } else { "" };
        let name = format!("{prefix}{family}.{}", instance.router.vrid);
        let taken = config.instances.iter().any(|other| {
            other.interface == name
                || other.vmac.as_ref().is_some_and(|vmac| vmac.name.as_deref() == Some(name.as_str()))
        });
        if !taken && let Some(vmac) = &mut config.instances[at].vmac {
            vmac.name = Some(name);
        }
    }
}

/// Every name is there once.
fn once(items: &[Item], keywords: &[&str], findings: &mut Findings) {
    let mut names: Vec<&str> = Vec::new();
    for item in items.iter().filter(|item| keywords.contains(&item.keyword())) {
        let Some(name) = item.arguments().first() else { continue };
        if names.contains(&name.as_str()) {
            let section = format!("{} {}", item.keyword(), quoted(name));
            findings.conflict(&item.place, &section, "the name is taken: give each its own");
        }
        names.push(name);
    }
}

/// Instances that can't be on one link.
fn together(config: &Config, findings: &mut Findings) {
    for (at, instance) in config.instances.iter().enumerate() {
        let section = format!("vrrp_instance {}", instance.name);
        for other in &config.instances[..at] {
            let (one, two) = (&instance.router, &other.router);
            let same_interface = instance.interface == other.interface;
            let apart = !one.unicast_peers.is_empty()
                && !two.unicast_peers.is_empty()
                && !one.unicast_peers.iter().any(|peer| two.unicast_peers.contains(peer));
            if same_interface && one.vrid == two.vrid && one.family() == two.family() && !apart {
                let message = format!(
                    "virtual_router_id {} is that of {} on the same interface: give each its own",
                    one.vrid, other.name
                );
                findings.conflict(&instance.place, &section, message);
            }
            let shared = one.addresses.iter().find(|address| {
                let interface = instance.interface_of(address);
                let same = |theirs: &&VirtualAddress| theirs.address == address.address;
                two.addresses.iter().find(same).is_some_and(|same| other.interface_of(same) == interface)
            });
            if let Some(address) = shared {
                let message =
                    format!("{} floats with {} too: leave it with one of them", address.address, other.name);
                findings.conflict(&instance.place, &section, message);
            }
        }
    }
}

/// The name of a block, and what messages call the block.
pub(super) fn named(item: &Item, findings: &mut Findings) -> Option<(String, String)> {
    let name = match item.arguments() {
        [name] if is_name(name) => name.clone(),
        _ => {
            Line { item, section: "the top level", findings }.refuse("a name without spaces", &[]);
            return None;
        }
    };
    let section = format!("{} {}", item.keyword(), quoted(&name));
    if item.block.is_none() {
        findings.conflict(&item.place, &section, "nothing is said of it: add a block in braces");
        return None;
    }
    Some((name, section))
}

/// A keyword that nobody here acts on: left out, refused, or misspelt.
pub(super) fn unknown(block: &str, section: &str, item: &Item, known: &[&str], findings: &mut Findings) {
    let keyword = item.keyword();
    match fate(block, keyword) {
        Some(Fate::Met) => {}
        Some(Fate::Needless) => {
            findings.warn(
                &item.place,
                section,
                format_args!("`{keyword}` is passed over: it changes nothing here"),
            );
        }
        Some(Fate::LeftOut(instead)) => {
            findings.warn(&item.place, section, format_args!("`{keyword}` is left out: {instead}"));
        }
        Some(Fate::Refused(cure)) => findings.add(Problem::Unsupported {
            place: item.place.clone(),
            keyword: keyword.to_owned(),
            section: section.to_owned(),
            cure,
        }),
        None => {
            let near = hint(keyword, known.iter().copied());
            let accepted = || format!("; accepted: {}", known.join(", "));
            findings.add(Problem::Keyword {
                place: item.place.clone(),
                keyword: quoted(keyword),
                section: section.to_owned(),
                hint: if near.is_empty() { accepted() } else { near },
            });
        }
    }
}
