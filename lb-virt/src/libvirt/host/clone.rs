//! Machines made from others. libvirt copies no machines, but it copies volumes of its storage pools, on its own host. So the
//! directories of the images are made pools of for so long, where they are none.

use std::io;
use std::path::Path;

use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use super::Libvirt;
use super::connection::Connection;
use crate::domain::{Disk, DomainSpec, Format, Source, check_name};
use crate::error::VirtError;
use crate::hypervisor::CloneRequest;
use crate::libvirt::amend;
use crate::libvirt::write::{piece, text, unwritable, within};
use crate::state::{Operation, WrongState};

impl Libvirt {
    pub(super) fn clone_of(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        check_name(&request.name).map_err(|source| VirtError::Spec { name: request.name.clone(), source })?;
        let domain = self.connection.domain(template)?;
        let state = self.state_of(template, &domain)?;
        if state.is_active() {
            // As with a cold migration: its disks must stand still.
            let source = WrongState { operation: Operation::MigrateCold, state };
            return Err(VirtError::State { name: template.into(), source });
        }
        let defined = self.defined(template, &domain)?;
        let spec = defined.spec.for_clone(request);
        let xml = without_variables(&amend(&defined.xml, &spec)?);
        if self.connection.find(&spec.name)?.is_some() {
            return Err(self.connection.machine_exists(&spec.name));
        }
        let mut made = Vec::new();
        let result = copy_all(&self.connection, &defined.spec, &spec, request, &mut made)
            .and_then(|()| self.define_new(&spec, &xml));
        if result.is_err() {
            // Nothing half done; what can't be removed is named by the error of the next try.
            made.iter().for_each(|volume: &StorageVol| drop(volume.delete(0)));
        }
        result
    }
}

/// Without the file of the firmware's variables, of which each machine needs its own: libvirt makes one.
fn without_variables(xml: &str) -> String {
    let Ok(document) = crate::libvirt::read::parse(xml) else { return xml.into() };
    let os = crate::libvirt::read::child(document.root_element(), "os");
    match os.and_then(|os| crate::libvirt::read::child(os, "nvram")) {
        Some(variables) => {
            let place = variables.range();
            format!("{}{}", &xml[..place.start], &xml[place.end..])
        }
        None => xml.into(),
    }
}

/// Copies the images of all disks that are written.
fn copy_all(
    connection: &Connection,
    template: &DomainSpec,
    spec: &DomainSpec,
    request: &CloneRequest,
    made: &mut Vec<StorageVol>,
) -> Result<(), VirtError> {
    let pairs = template.disks.iter().zip(&spec.disks).filter(|(from, to)| from.source != to.source);
    for (from, to) in pairs {
        let (Some(Source::File(image) | Source::Block(image)), Some(target)) = (&from.source, &to.source)
        else {
            continue;
        };
        let failed = |error: Error| failed(connection, spec, image, target.path(), &error);
        let pool = Pool::at(connection, &request.directory, &request.name).map_err(failed)?;
        // Volumes of one pool are copied while none of another is locked.
        let source_pool = match StorageVol::lookup_by_path(connection.get(), &image.to_string_lossy()) {
            Ok(_) => None,
            Err(_) => {
                let directory = image.parent().unwrap_or(Path::new("/"));
                Some(Pool::at(connection, directory, &format!("{}-template", request.name)).map_err(failed)?)
            }
        };
        let volume =
            StorageVol::lookup_by_path(connection.get(), &image.to_string_lossy()).map_err(failed)?;
        let capacity = volume.get_info().map_err(failed)?.capacity;
        let backing = request.linked.then_some(from);
        let xml = described(target.path(), to.format, capacity, backing)
            .map_err(|error| unwritable(spec, &error))?;
        let copied = match request.linked {
            true => StorageVol::create_xml(&pool.pool, &xml, 0),
            false => StorageVol::create_xml_from(&pool.pool, &xml, &volume, 0),
        };
        made.push(copied.map_err(failed)?);
        drop(source_pool);
    }
    Ok(())
}

/// A volume's XML: <https://libvirt.org/formatstorage.html>.
fn described(path: &Path, format: Format, capacity: u64, backing: Option<&Disk>) -> io::Result<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let of_format = |xml: &mut _, format: Format| {
        let format: [(&str, &str); 1] = [("type", format.name())];
        within(xml, "format", &format, |_| Ok(()))
    };
    piece(|xml| {
        within(xml, "volume", &[], |xml| {
            text(xml, "name", &name)?;
            // In bytes, as without a unit.
            text(xml, "capacity", &capacity.to_string())?;
            within(xml, "target", &[], |xml| of_format(xml, format))?;
            let Some((disk, source)) = backing.and_then(|disk| Some((disk, disk.source.as_ref()?))) else {
                return Ok(());
            };
            within(xml, "backingStore", &[], |xml| {
                text(xml, "path", &source.path().to_string_lossy())?;
                of_format(xml, disk.format)
            })
        })
    })
}

/// What an error in copying means.
fn failed(
    connection: &Connection,
    spec: &DomainSpec,
    image: &Path,
    target: &Path,
    error: &Error,
) -> VirtError {
    let words = error.message();
    let (path, kind) = match error.code() {
        ErrorNumber::NoStorageVolume => (image, io::ErrorKind::NotFound),
        ErrorNumber::StorageVolExist => (target, io::ErrorKind::AlreadyExists),
        _ if words.contains("No space left") => (target, io::ErrorKind::StorageFull),
        _ => return connection.said(format!("copy {} for {}", image.display(), spec.name), error),
    };
    VirtError::File {
        name: spec.name.clone(),
        path: path.into(),
        source: io::Error::new(kind, words.to_owned()),
    }
}

/// A directory as libvirt's storage knows it; if it did not before, only until this is dropped. Its files stay.
struct Pool {
    pool: StoragePool,
    passing: bool,
}

impl Pool {
    fn at(connection: &Connection, directory: &Path, name: &str) -> Result<Self, Error> {
        let path = directory.to_string_lossy();
        let known = StoragePool::lookup_by_target_path(connection.get(), &path);
        let found = match known {
            Ok(pool) => {
                let passing = !pool.is_active()?;
                if passing {
                    pool.create(0)?;
                }
                Self { pool, passing }
            }
            Err(_) => {
                let xml = piece(|xml| {
                    within(xml, "pool", &[("type", "dir")], |xml| {
                        text(xml, "name", &format!("lb-virt-{name}"))?;
                        within(xml, "target", &[], |xml| text(xml, "path", &path))
                    })
                });
                let pool = StoragePool::create_xml(connection.get(), &xml.unwrap_or_default(), 0)?;
                Self { pool, passing: true }
            }
        };
        // Files that came since.
        found.pool.refresh(0)?;
        Ok(found)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.passing {
            // At worst libvirt goes on knowing a directory.
            let _ = self.pool.destroy();
        }
    }
}
