//! The definitions that are kept: files of xl's, by this crate or by hand.
//!
//! A machine's name is the one that xl reads in its file. Of files with the same name in them, the one that is called so is it, or
//! the first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lb_affinity::CpuSet;

use super::amend::amend;
use super::read::{self, Outline};
use super::tables::Row;
use super::{Found, NAME, Xen, from_json, no_file, said, to_config, write};
use crate::domain::{DomainSpec, Memory, check_name};
use crate::error::VirtError;
use crate::hypervisor::{Effect, Summary};
use crate::state::State;

impl Xen {
    /// Where the definition of a machine is put that has none.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.cfg"))
    }

    /// Files of definitions, with what they are called.
    fn files(&self) -> Result<Vec<(String, PathBuf)>, VirtError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(no_file("", &self.directory, source)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| no_file("", &self.directory, source))?.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".cfg"));
            if let Some(name) = name.filter(|name| check_name(name).is_ok()) {
                files.push((name.to_owned(), path.clone()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// A machine's file.
    pub(super) fn file(&self, name: &str) -> Result<Option<PathBuf>, VirtError> {
        // No other text becomes a path.
        let own = check_name(name).is_ok().then(|| self.path(name)).filter(|path| path.is_file());
        if let Some(path) = &own
            // One that xl can't read is what it is called; xl says the rest when it is used.
            && self.readable(path)?.is_none_or(|outline| outline.name == name)
        {
            return Ok(own);
        }
        for (_, path) in self.files()?.into_iter().filter(|(_, path)| own.as_ref() != Some(path)) {
            // The name is in the text, so most need not be read by xl.
            let may_be = fs::read_to_string(&path).is_ok_and(|text| text.contains(name));
            if may_be && self.readable(&path)?.is_some_and(|outline| outline.name == name) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// What a file says at least; `None` if xl refuses it.
    fn readable(&self, path: &Path) -> Result<Option<Outline>, VirtError> {
        match self.outline(path) {
            Ok(outline) => Ok(Some(outline)),
            Err(VirtError::Said { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that are kept, as a list shows them; they are as large as those that run.
    pub(super) fn kept(&self, rows: &[Row]) -> Result<Vec<Summary>, VirtError> {
        let mut machines: Vec<Summary> = Vec::new();
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (file, path) in self.files()? {
            let outline = self.readable(&path)?;
            let name = outline.as_ref().map_or_else(|| file.clone(), |outline| outline.name.clone());
            if name == file { &mut own } else { &mut others }.push((name, outline));
        }
        for (name, outline) in own.into_iter().chain(others) {
            if machines.iter().any(|other| other.name == name) {
                continue;
            }
            let row = rows.iter().find(|row| row.name == name);
            // Of what xl refuses there is no more than that it is there.
            let (vcpus, memory) =
                outline.as_ref().map_or((0, Memory::default()), |outline| (outline.vcpus, outline.memory));
            machines.push(Summary {
                state: row.map_or(State::ShutOff, |row| row.state),
                vcpus: row.map_or(vcpus, |row| row.vcpus),
                memory: row.map_or(memory, |row| row.memory),
                uuid: outline.and_then(|outline| outline.uuid),
                name,
            });
        }
        Ok(machines)
    }

    /// What `xl` reads in a file: in JSON, and the text.
    fn json(&self, path: &Path) -> Result<(String, String), VirtError> {
        let operation = format!("read {}", path.display());
        let json = self.xl(operation, &["-N", "create"]).arg(path).run()?.text();
        let config = fs::read(path).map_err(|source| no_file("", path, source))?;
        Ok((json, String::from_utf8_lossy(&config).into_owned()))
    }

    pub(super) fn outline(&self, path: &Path) -> Result<Outline, VirtError> {
        let (json, config) = self.json(path)?;
        let mut outline =
            read::outline(&json).map_err(|error| said(format!("read {}", path.display()), error))?;
        outline.uuid = outline.uuid.filter(|uuid| read::says(&config, *uuid));
        Ok(outline)
    }

    /// The definition in a file.
    pub(super) fn read(&self, path: &Path, cpus: &CpuSet) -> Result<DomainSpec, VirtError> {
        let (json, config) = self.json(path)?;
        let mut spec =
            from_json(&json, cpus).map_err(|error| said(format!("read {}", path.display()), error))?;
        spec.uuid = spec.uuid.filter(|uuid| read::says(&config, *uuid));
        read::own(&config, &mut spec);
        Ok(spec)
    }

    pub(super) fn defined(&self, found: &Found) -> Result<DomainSpec, VirtError> {
        match (&found.file, &found.row) {
            (Some(path), _) => self.read(path, &self.cpus()?),
            (None, Some(row)) => self.running(row),
            (None, None) => Err(VirtError::NoMachine { name: found.name.clone(), host: NAME.into() }),
        }
    }

    /// Checks a definition, and lets `xl` read what is written of it; the file is not a machine's yet.
    pub(super) fn write(&self, spec: &DomainSpec) -> Result<PathBuf, VirtError> {
        let config = to_config(spec)?;
        let cpus = self.cpus()?;
        // xl passes over those that are not there.
        if let Some((vcpu, _)) = spec.pins.vcpus.iter().find(|(_, pinned)| !pinned.is_subset(&cpus)) {
            let what = format!("CPU for virtual CPU {vcpu} beyond the host's {cpus}");
            return Err(write::inexpressible(spec, what, "pin it to those that there are"));
        }
        let path = self.directory.join(format!(".{}.new", spec.name));
        let written = fs::create_dir_all(&self.directory).and_then(|()| fs::write(&path, config));
        written.map_err(|source| no_file(&spec.name, &path, source))?;
        let judged = self.read(&path, &cpus);
        if let Err(error) = judged {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(path)
    }

    /// Writes a machine's file as it is to be, beside it. What no definition says stays as it is.
    fn rewrite(&self, name: &str, file: &Path, spec: &DomainSpec) -> Result<PathBuf, VirtError> {
        let new = self.write(spec)?;
        let written = self.amended(name, file, &new, spec);
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written.map(|()| new)
    }

    fn amended(&self, name: &str, file: &Path, new: &Path, spec: &DomainSpec) -> Result<(), VirtError> {
        let by_hand = |what: String| {
            let words =
                format!("{what} in {} can't be changed without loss: edit it by hand", file.display());
            said(format!("change {name}"), words)
        };
        let cpus = self.cpus()?;
        let (before, after) = (self.read(file, &cpus)?, self.read(new, &cpus)?);
        let text = fs::read_to_string(file).map_err(|source| no_file(name, file, source))?;
        let text = amend(&text, &to_config(&before)?, &to_config(spec)?).map_err(by_hand)?;
        fs::write(new, text).map_err(|source| no_file(name, new, source))?;
        if self.read(new, &cpus)? == after { Ok(()) } else { Err(by_hand("what it says".into())) }
    }

    /// Changes a machine: `live` does to the one that runs what can be done at once, and then its definition is changed too.
    pub(super) fn change(
        &self,
        found: &Found,
        spec: &DomainSpec,
        live: Option<impl FnOnce(&Row) -> Result<(), VirtError>>,
    ) -> Result<Effect, VirtError> {
        let name = &found.name;
        spec.validate().map_err(VirtError::spec(name))?;
        let new = match &found.file {
            Some(file) => Some(self.rewrite(name, file, spec)?),
            None if live.is_some() => None,
            None => {
                let words = format!(
                    "it has no definition in {}, and can't be changed while it runs",
                    self.directory.display()
                );
                return Err(said(format!("change {name}"), words));
            }
        };
        let effect = match (&found.row, live) {
            (None, _) => Effect::Now,
            (Some(_), None) => Effect::NextBoot,
            (Some(row), Some(live)) => {
                if let Err(error) = live(row) {
                    new.iter().for_each(|new| drop(fs::remove_file(new)));
                    return Err(error);
                }
                Effect::Now
            }
        };
        if let (Some(new), Some(path)) = (new, &found.file) {
            fs::rename(new, path).map_err(|source| no_file(name, path, source))?;
        }
        Ok(effect)
    }
}
