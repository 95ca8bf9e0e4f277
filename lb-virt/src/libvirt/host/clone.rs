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
use crate::libvirt::read::{child, parse};
use crate::libvirt::write::{piece, text, unwritable, within};
use crate::state::Operation;

impl Libvirt {
    pub(super) fn clone_of(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        check_name(&request.name).map_err(VirtError::spec(&request.name))?;
        let domain = self.connection.domain(template)?;
        self.may(template, &domain, Operation::Clone)?;
        let defined = self.defined(template, &domain)?;
        let spec = defined.spec.for_clone(request);
        let xml = without_variables(&amend(&defined.xml, &spec)?);
        if self.connection.find(&spec.name)?.is_some() {
            return Err(self.connection.machine_exists(&spec.name));
        }
        let mut copies = Copies::default();
        let result = copies
            .make(&self.connection, &defined.spec, &spec, request)
            .and_then(|()| self.define_new(&spec, &xml));
        if result.is_err() {
            copies.remove();
        }
        result
    }
}

/// Without the file of the firmware's variables, of which each machine needs its own: libvirt makes one.
fn without_variables(xml: &str) -> String {
    let Ok(document) = parse(xml) else { return xml.into() };
    let os = child(document.root_element(), "os");
    match os.and_then(|os| child(os, "nvram")) {
        Some(variables) => {
            let place = variables.range();
            format!("{}{}", &xml[..place.start], &xml[place.end..])
        }
        None => xml.into(),
    }
}

/// The images of a clone.
#[derive(Default)]
struct Copies {
    /// Where they are: known to libvirt for as long as they may have to be removed.
    pool: Option<Pool>,
    made: Vec<StorageVol>,
}

impl Copies {
    /// Copies the images of all disks that are written.
    fn make(
        &mut self,
        connection: &Connection,
        template: &DomainSpec,
        spec: &DomainSpec,
        request: &CloneRequest,
    ) -> Result<(), VirtError> {
        let pairs = template.disks.iter().zip(&spec.disks).filter(|(from, to)| from.source != to.source);
        for (from, to) in pairs {
            let (Some(Source::File(image) | Source::Block(image)), Some(target)) = (&from.source, &to.source)
            else {
                continue;
            };
            let failed = |error: Error| failed(connection, spec, image, target.path(), &error);
            let pool = match &mut self.pool {
                Some(pool) => pool,
                none => none.insert(Pool::at(connection, &request.directory, &request.name).map_err(failed)?),
            };
            let find = || StorageVol::lookup_by_path(connection.get(), &image.to_string_lossy());
            let beside = match find() {
                Ok(_) => None,
                Err(_) => {
                    let directory = image.parent().unwrap_or(Path::new("/"));
                    let name = format!("{}-template", request.name);
                    Some(Pool::at(connection, directory, &name).map_err(failed)?)
                }
            };
            let volume = find().map_err(failed)?;
            let capacity = volume.get_info().map_err(failed)?.capacity;
            let backing = request.linked.then_some(from);
            let xml = described(target.path(), to.format, capacity, backing)
                .map_err(|error| unwritable(spec, &error))?;
            let copied = match request.linked {
                true => StorageVol::create_xml(&pool.pool, &xml, 0),
                false => StorageVol::create_xml_from(&pool.pool, &xml, &volume, 0),
            };
            self.made.push(copied.map_err(failed)?);
            drop(beside);
        }
        Ok(())
    }

    /// Nothing half done; what can't be removed is named by the error of the next try.
    fn remove(&self) {
        self.made.iter().for_each(|volume| drop(volume.delete(0)));
    }
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
        // Of a volume that is there before it is made, it has no code.
        _ if words.contains("already in use") => (target, io::ErrorKind::AlreadyExists),
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
