//! Makes a clone's images.

use std::fs::{self, File};
use std::path::PathBuf;

use super::{launch, snapshot, store};
use crate::domain::{DomainSpec, Source};
use crate::error::VirtError;

/// Copies the images that a clone has for itself. `made` are those that were made here and are there when it fails.
pub(super) fn copy_disks(
    template: &DomainSpec,
    clone: &DomainSpec,
    linked: bool,
    made: &mut Vec<PathBuf>,
) -> Result<(), VirtError> {
    for (theirs, own) in template.disks.iter().zip(&clone.disks) {
        let (Some(from), Some(Source::File(to))) = (&theirs.source, &own.source) else { continue };
        if theirs.source == own.source {
            continue;
        }
        fs::metadata(from.path()).map_err(store::failed(&template.name, from.path()))?;
        // From here on it is this clone's: another of that name may be made from another template at the same time.
        File::create_new(to).map_err(store::failed(&clone.name, to))?;
        made.push(to.clone());
        let call = snapshot::qemu_img();
        let call = call.call(format!("clone {}", template.name));
        let call = if linked {
            let call = call.args(["create", "-q", "-f", own.format.name(), "-F", theirs.format.name(), "-b"]);
            call.arg(from.path()).arg(to)
        } else {
            let call = call.args(["convert", "-q", "-f", theirs.format.name(), "-O", own.format.name()]);
            call.arg(from.path()).arg(to)
        };
        call.run().map_err(|error| match error {
            VirtError::Said { words, operation, .. } => launch::complaint(clone, words, &operation),
            other => other,
        })?;
    }
    Ok(())
}
