//! Sysctls of interfaces: changed once, their old values kept, and put back when the last that needs the change is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use nix::net::if_::if_indextoname;

use super::journal::{Journal, Record};

/// A setting of an interface: `net/ipv4/conf/eth0/arp_ignore`, below `/proc/sys`.
///
/// The path is not written with dots: interfaces may have some in their names.
pub(super) fn path(family: &str, interface: &str, name: &str) -> String {
    format!("net/{family}/conf/{interface}/{name}")
}

/// The same setting of the interface `name`.
fn on(path: &str, name: &str) -> Option<String> {
    let (rest, setting) = path.rsplit_once('/')?;
    let (rest, _) = rest.rsplit_once('/')?;
    Some(format!("{rest}/{name}/{setting}"))
}

fn file(path: &str) -> String {
    format!("/proc/sys/{path}")
}

/// Writes without keeping the old value, for interfaces that will be deleted.
pub(super) fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(file(path), value)
}

/// What settings are changed to.
const CHANGED: &str = "1";

#[derive(Debug)]
struct Changed {
    original: String,
    users: u32,
}

/// What was changed, by path.
#[derive(Debug, Default)]
pub(super) struct Sysctls(BTreeMap<String, Changed>);

impl Sysctls {
    /// Sets `path` to 1 unless it is neither 1 nor 0: then somebody has chosen, and that stays.
    pub(super) fn require(&mut self, journal: &mut Journal, path: String) -> io::Result<()> {
        if let Some(changed) = self.0.get_mut(&path) {
            changed.users += 1;
            return Ok(());
        }
        let original = fs::read_to_string(file(&path))?.trim().to_owned();
        if original == "0" {
            journal.add(&Record::Sysctl { path: path.clone(), original: original.clone() })?;
            write(&path, CHANGED)?;
            self.0.insert(path, Changed { original, users: 1 });
        }
        Ok(())
    }

    /// One user less; the last puts the old value back, on the interface `index` whatever its name is now.
    pub(super) fn release(&mut self, journal: &mut Journal, path: &str, index: u32) -> io::Result<()> {
        let Some(changed) = self.0.get_mut(path) else { return Ok(()) };
        changed.users -= 1;
        if changed.users > 0 {
            return Ok(());
        }
        let Some(changed) = self.0.remove(path) else { return Ok(()) };
        let name = if_indextoname(index).ok();
        let renamed = name.as_deref().and_then(|name| name.to_str().ok()).and_then(|name| on(path, name));
        restore(renamed.as_deref().unwrap_or(path), &changed.original)?;
        journal.remove(&Record::Sysctl { path: path.to_owned(), original: changed.original })
    }
}

/// Whether `path` and `original` can be what [`Sysctls::require`] wrote down. A file in the run directory must not be able to
/// name any other file of the system.
pub(super) fn is_own(path: &str, original: &str) -> bool {
    let mut parts = path.split('/');
    let mut is = |accepted: &dyn Fn(&str) -> bool| parts.next().is_some_and(accepted);
    is(&|part| part == "net")
        && is(&|part| matches!(part, "ipv4" | "ipv6"))
        && is(&|part| part == "conf")
        && is(&|part| !matches!(part, "" | "." | ".."))
        && is(&|part| matches!(part, "arp_ignore" | "arp_filter" | "promote_secondaries"))
        && parts.next().is_none()
        && original == "0"
}

/// Writes an old value back, unless somebody has chosen another since. An interface that is gone has none.
pub(super) fn restore(path: &str, original: &str) -> io::Result<()> {
    if fs::read_to_string(file(path)).is_ok_and(|now| now.trim() != CHANGED) {
        return Ok(());
    }
    match write(path, original) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_follows_its_interface() {
        let path = path("ipv4", "eth0.7", "arp_ignore");
        assert_eq!(on(&path, "lan0").as_deref(), Some("net/ipv4/conf/lan0/arp_ignore"));
    }

    #[test]
    fn a_record_names_no_other_file() {
        for (path, original, own) in [
            ("net/ipv4/conf/eth0.7/arp_ignore", "0", true),
            ("net/ipv4/conf/eth0/promote_secondaries", "0", true),
            ("net/ipv4/conf/eth0/arp_ignore", "2", false),
            ("net/ipv4/conf/eth0/forwarding", "0", false),
            ("net/ipv4/conf/../arp_ignore", "0", false),
            ("net/ipv4/conf/eth0/arp_ignore/", "0", false),
            ("../../etc/passwd", "0", false),
            ("net/ipv4/ip_forward", "0", false),
            ("kernel/core_pattern", "0", false),
            ("", "0", false),
        ] {
            assert_eq!(is_own(path, original), own, "{path} {original}");
        }
    }
}
