//! Gives a running machine disks and network interfaces, and takes them.

use serde_json::{Value, json};

use super::arguments::{
    Board, QEMU, block_node, disk_device, most_nics, netdev, nic_device, nic_id, node_name,
};
use super::launch::complaint;
use super::machine::Machine;
use super::qmp::QmpError;
use crate::domain::{Disk, Nic};
use crate::error::VirtError;

impl Machine {
    /// Gives it a disk; nothing of it is left if it can't have it.
    pub(super) fn plug_disk(&mut self, disk: &Disk) -> Result<(), VirtError> {
        let operation = format!("attach {} to {}", disk.target, self.name());
        // What a guest let go too late has left its data.
        let node = node_name(&disk.target);
        let _ = self.ask("blockdev-del", json!({"node-name": node}));
        if let Some(data) = block_node(disk) {
            self.ask("blockdev-add", data).map_err(|error| match error {
                QmpError::Refused { words, .. } => {
                    let mut spec = self.live().clone();
                    spec.disks = vec![disk.clone()];
                    complaint(&spec, words, &operation)
                }
                other => other.while_it(&operation),
            })?;
        }
        let device = disk_device(self.live(), Board::of(self.live())?, disk, None)?;
        let added = self.add_one_of([Ok(device)], &operation);
        if added.is_err() {
            let _ = self.ask("blockdev-del", json!({"node-name": node}));
        }
        added.map(drop)
    }

    /// Takes a disk from it. False if the guest does not let it go.
    pub(super) fn unplug_disk(&mut self, target: &str) -> Result<bool, VirtError> {
        if !self.unplug(target)? {
            return Ok(false);
        }
        let node = node_name(target);
        match self.ask("blockdev-del", json!({"node-name": node})) {
            // A drive without a disc had none.
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(true),
            Err(error) => Err(error.while_it(format!("detach {target} from {}", self.name()))),
        }
    }

    /// Gives it a network interface, which has an address, and writes down where it sits; nothing of it is left if it can't have it.
    pub(super) fn plug_nic(&mut self, nic: &Nic) -> Result<(), VirtError> {
        let id = nic_id(nic, 0);
        let operation = format!("attach {id} to {}", self.name());
        let backend = netdev(self.live(), nic, &id)?;
        let _ = self.ask("netdev_del", json!({"id": backend["id"]}));
        self.ask("netdev_add", backend.clone()).map_err(|error| error.while_it(&operation))?;
        // Where another definition's would be; what has that place refuses.
        let (spec, board) = (self.live().clone(), Board::of(self.live())?);
        let count = spec.nics.len();
        let most = most_nics(board);
        let places = (count..most).chain(0..count.min(most));
        let taken = |place: &usize| spec.nics.iter().any(|nic| nic.place.map(usize::from) == Some(*place));
        let places = places.filter(|place| !taken(place)).filter_map(|place| u8::try_from(place).ok());
        let places = places.filter(|place| nic.place.is_none_or(|wanted| wanted == *place));
        let places: Vec<Nic> = places.map(|place| Nic { place: Some(place), ..nic.clone() }).collect();
        let devices = places.iter().map(|nic| nic_device(&spec, board, nic, count, None));
        match self.add_one_of(devices, &operation) {
            Ok(chosen) => {
                if let (Some(run), Some(nic)) = (&mut self.run, places.get(chosen)) {
                    run.spec.nics.push(nic.clone());
                }
                Ok(())
            }
            Err(error) => {
                let _ = self.ask("netdev_del", json!({"id": backend["id"]}));
                Err(error)
            }
        }
    }

    /// Writes down where its network interfaces sit as it runs: their numbers will change.
    pub(super) fn write_places_down(&mut self) {
        let nics = self.run.iter_mut().flat_map(|run| &mut run.spec.nics);
        for (number, nic) in nics.enumerate() {
            nic.place = u8::try_from(nic.place_as(number)).ok();
        }
    }

    /// Takes a network interface from it, which has an address. False if the guest does not let it go.
    pub(super) fn unplug_nic(&mut self, nic: &Nic) -> Result<bool, VirtError> {
        let id = nic_id(nic, 0);
        if !self.unplug(&id)? {
            return Ok(false);
        }
        let operation = format!("detach {id} from {}", self.name());
        self.ask("netdev_del", json!({"id": format!("net-{id}")}))
            .map_err(|error| error.while_it(operation))?;
        Ok(true)
    }

    /// Adds the first of these devices that QEMU takes, and says which one that was.
    fn add_one_of(
        &mut self,
        devices: impl IntoIterator<Item = Result<Value, VirtError>>,
        operation: &str,
    ) -> Result<usize, VirtError> {
        let mut refused = None;
        for (number, device) in devices.into_iter().enumerate() {
            match self.ask("device_add", device?) {
                Ok(_) => return Ok(number),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(match refused {
            Some(error) => error.while_it(operation),
            None => VirtError::Said {
                hypervisor: QEMU,
                operation: operation.into(),
                words: "its place is taken".into(),
            },
        })
    }

    /// Notes which devices the guest has let go since it was asked to, and did not do so at once.
    pub(super) fn forget_what_went(&mut self) -> Result<(), VirtError> {
        let Some(run) = self.run.as_ref().filter(|_| !self.silent) else { return Ok(()) };
        let defined = |disk: &Disk| self.spec.disks.iter().any(|other| other.target == disk.target);
        let disks = run.spec.disks.iter().filter(|disk| !defined(disk)).map(|disk| disk.target.clone());
        let defined = |nic: &Nic| self.spec.nics.iter().any(|other| other.mac == nic.mac);
        let nics = run.spec.nics.iter().filter(|nic| !defined(nic)).map(|nic| nic_id(nic, 0));
        let mut gone: Vec<String> = disks.chain(nics).collect();
        gone.retain(|id| !self.still_has(id));
        if gone.is_empty() {
            return Ok(());
        }
        self.write_places_down();
        if let Some(run) = &mut self.run {
            run.spec.disks.retain(|disk| !gone.contains(&disk.target));
            run.spec.nics.retain(|nic| !gone.contains(&nic_id(nic, 0)));
        }
        self.save_run()
    }

    /// Whether a device is still there that the guest was asked to let go.
    pub(super) fn still_has(&mut self, id: &str) -> bool {
        let there = self.ask("qom-list", json!({"path": format!("/machine/peripheral/{id}")}));
        !matches!(there, Err(QmpError::Refused { .. }))
    }
}
