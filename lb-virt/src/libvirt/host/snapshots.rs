//! States of a machine that libvirt keeps: inside its images.

use std::time::Duration;

use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::Libvirt;
use crate::domain::check_name;
use crate::error::VirtError;
use crate::hypervisor::{EventKind, Snapshot};
use crate::libvirt::read::{child, parse};
use crate::libvirt::write::{piece, text, unwritable, within};
use crate::state::State;

const WHAT: &str = "snapshot";

impl Libvirt {
    fn find_snapshot(
        &self,
        name: &str,
        domain: &Domain,
        snapshot: &str,
    ) -> Result<Option<DomainSnapshot>, VirtError> {
        if snapshot.contains('\0') {
            return Ok(None);
        }
        match DomainSnapshot::lookup_by_name(domain, snapshot, 0) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.code() == ErrorNumber::NoDomainSnapshot => Ok(None),
            Err(error) => Err(self.connection.failed(name, "find a snapshot of", &error)),
        }
    }

    fn snapshot(&self, name: &str, domain: &Domain, snapshot: &str) -> Result<DomainSnapshot, VirtError> {
        let missing = || VirtError::NoPart { name: name.into(), what: WHAT, part: snapshot.into() };
        self.find_snapshot(name, domain, snapshot)?.ok_or_else(missing)
    }

    pub(super) fn keep_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        check_name(snapshot).map_err(VirtError::spec(name))?;
        let domain = self.connection.domain(name)?;
        if self.find_snapshot(name, &domain, snapshot)?.is_some() {
            return Err(VirtError::PartExists { name: name.into(), what: WHAT, part: snapshot.into() });
        }
        self.must_stay(name, "take a snapshot")?;
        let spec = self.defined(name, &domain)?.spec;
        let xml = piece(|xml| within(xml, "domainsnapshot", &[], |xml| text(xml, "name", snapshot)));
        let xml = xml.map_err(|error| unwritable(&spec, &error))?;
        let taken = DomainSnapshot::create_xml(&domain, &xml, 0);
        taken.map_err(|error| self.connection.failed_by_file(&spec, "take a snapshot of", &error))?;
        Ok(())
    }

    pub(super) fn list_snapshots(&mut self, name: &str) -> Result<Vec<Snapshot>, VirtError> {
        let domain = self.connection.domain(name)?;
        let failed = |error: Error| self.connection.failed(name, "list snapshots of", &error);
        // Those taken within one second are one after the other in their tree.
        let kept = domain.list_all_snapshots(sys::VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL).map_err(failed)?;
        let mut snapshots = Vec::with_capacity(kept.len());
        for one in &kept {
            let xml = one.get_xml_desc(0).map_err(failed)?;
            snapshots.extend(described(&xml));
        }
        snapshots.sort_by_key(|one| one.taken);
        Ok(snapshots)
    }

    pub(super) fn go_back_to_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let domain = self.connection.domain(name)?;
        self.must_stay(name, "go to or from a snapshot")?;
        let found = self.snapshot(name, &domain, snapshot)?;
        let reverted = found.revert(0).or_else(|error| match error.code() {
            // The machine runs, and was another then: its process has to be another too.
            ErrorNumber::SnapshotRevertRisky => found.revert(sys::VIR_DOMAIN_SNAPSHOT_REVERT_FORCE),
            _ => Err(error),
        });
        self.look_at(name);
        reverted.map_err(|error| self.connection.failed(name, "restore a snapshot of", &error))?;
        self.watch.tell(name, EventKind::Changed);
        Ok(())
    }

    pub(super) fn forget_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let domain = self.connection.domain(name)?;
        self.must_stay(name, "go to or from a snapshot")?;
        let found = self.snapshot(name, &domain, snapshot)?;
        found.delete(0).map_err(|error| self.connection.failed(name, "delete a snapshot of", &error))
    }

    pub(super) fn delete_all_snapshots(&mut self, name: &str) -> Result<(), VirtError> {
        let domain = self.connection.domain(name)?;
        let failed = |error: Error| self.connection.failed(name, "delete the snapshots of", &error);
        for root in domain.list_all_snapshots(sys::VIR_DOMAIN_SNAPSHOT_LIST_ROOTS).map_err(failed)? {
            root.delete(sys::VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN).map_err(failed)?;
        }
        Ok(())
    }
}

/// What libvirt's snapshot XML says: <https://libvirt.org/formatsnapshot.html>.
fn described(xml: &str) -> Option<Snapshot> {
    let document = parse(xml).ok()?;
    let word = |name| child(document.root_element(), name).and_then(|element| element.text()).map(str::trim);
    Some(Snapshot {
        name: word("name")?.into(),
        state: match word("state") {
            Some("running") => State::Running,
            Some("blocked") => State::Blocked,
            Some("paused") => State::Paused,
            Some("shutdown") => State::ShuttingDown,
            // One of the disks alone is as if the power had failed.
            Some("shutoff" | "disk-snapshot") => State::ShutOff,
            Some("crashed") => State::Crashed,
            Some("pmsuspended") => State::Suspended,
            _ => State::Unknown,
        },
        taken: Duration::from_secs(word("creationTime").and_then(|time| time.parse().ok()).unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_read() {
        let xml = "<domainsnapshot><name>a</name><state>running</state><creationTime>7</creationTime></domainsnapshot>";
        let expected = Snapshot { name: "a".into(), state: State::Running, taken: Duration::from_secs(7) };
        assert_eq!(described(xml), Some(expected));
        assert_eq!(described("<domainsnapshot/>"), None);
    }
}
