//! Makes a machine from another.

use super::{NAME, VENDOR, VirtualBox, not_saved, said, to_calls, write};
use crate::domain::Source;
use crate::error::VirtError;
use crate::hypervisor::{CloneRequest, Hypervisor};
use crate::state::Operation;

impl VirtualBox {
    /// Copies the disks. A linked clone of VirtualBox' ties the template to a snapshot, so there is none here.
    pub(super) fn clone_of(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        let uuid = self.find(template)?;
        let (info, spec) = self.described(template, &uuid)?;
        info.state().after(Operation::Clone).map_err(VirtError::state(template))?;
        let operation = format!("clone {template}");
        not_saved(&operation, &info)?;
        if info.is_stuck() {
            return Err(said(
                operation,
                "it has crashed, and its process holds its disks: power it off, and try again",
            ));
        }
        if self.machines()?.iter().any(|(name, _)| *name == request.name) {
            return Err(VirtError::MachineExists { name: request.name.clone(), host: NAME.into() });
        }
        if request.linked {
            return Err(write::inexpressible(&spec, "linked clones", "copy it whole: linked = false"));
        }
        let mut clone = spec.for_clone(request);
        let mut copies = Vec::new();
        for (own, theirs) in clone.disks.iter_mut().zip(&spec.disks) {
            // What both use is not copied.
            if own.source == theirs.source {
                continue;
            }
            let (Some(Source::File(to)), Some(from)) = (&mut own.source, &theirs.source) else { continue };
            // By its ending, as it is read.
            to.set_extension(from.path().extension().unwrap_or_default());
            copies.push((from.path().clone(), to.clone()));
        }
        let clone = clone.completed(VENDOR, &mut self.random);
        // What can't be defined is not copied; and its name is a part of paths.
        to_calls(&clone)?;
        let mut made = Vec::new();
        let mut copied = Ok(());
        for (from, to) in copies {
            let mut call = write::call(&["clonemedium", "disk"]);
            call.extend([from.into(), to.clone().into()]);
            copied = self.make(&operation, &call).map(drop);
            if copied.is_err() {
                break;
            }
            made.push(to);
        }
        let done = copied.and_then(|()| self.define(&clone));
        if done.is_err() {
            for image in made {
                let mut call = write::call(&["closemedium", "disk"]);
                call.extend([image.into(), "--delete".into()]);
                let _ = self.make(&operation, &call);
            }
        }
        done
    }
}
