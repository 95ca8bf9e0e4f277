//! Sysctls of interfaces: changed once, their old values kept, and put back when the last that needs the change is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::journal::{Journal, Record};

/// A setting of an interface: `net/ipv4/conf/eth0/arp_ignore`, below `/proc/sys`.
///
/// The path is not written with dots: interfaces may have some in their names.
pub(super) fn path(family: &str, interface: &str, name: &str) -> String {
    format!("net/{family}/conf/{interface}/{name}")
}

fn file(path: &str) -> String {
    format!("/proc/sys/{path}")
}

/// Writes without keeping the old value, for interfaces that will be deleted.
pub(super) fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(file(path), value)
}

#[derive(Debug)]
struct Changed {
    original: String,
    users: u32,
}

/// What was changed, by path.
#[derive(Debug, Default)]
pub(super) struct Sysctls(BTreeMap<String, Changed>);

impl Sysctls {
    /// Sets `path` to `value` unless it is neither `value` nor 0: then somebody has chosen, and that stays.
    pub(super) fn require(&mut self, journal: &mut Journal, path: String, value: &str) -> io::Result<()> {
        if let Some(changed) = self.0.get_mut(&path) {
            changed.users += 1;
            return Ok(());
        }
        let original = fs::read_to_string(file(&path))?.trim().to_owned();
        if original == "0" {
            journal.add(&Record::Sysctl { path: path.clone(), original: original.clone() })?;
            write(&path, value)?;
            self.0.insert(path, Changed { original, users: 1 });
        }
        Ok(())
    }

    /// One user less; the last puts the old value back.
    pub(super) fn release(&mut self, journal: &mut Journal, path: &str) -> io::Result<()> {
        let Some(changed) = self.0.get_mut(path) else { return Ok(()) };
        changed.users -= 1;
        if changed.users > 0 {
            return Ok(());
        }
        let Some(changed) = self.0.remove(path) else { return Ok(()) };
        restore(path, &changed.original)?;
        journal.remove(&Record::Sysctl { path: path.to_owned(), original: changed.original })
    }
}

/// Writes an old value back. An interface that is gone has none.
pub(super) fn restore(path: &str, original: &str) -> io::Result<()> {
    match write(path, original) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
