//! Where a value is, how it is read and written there, and what a refusal means.

use std::path::Path;

use super::value::{Format, Value};
use super::write::Outcome;
use crate::Target;
use crate::fs::FileSystem;
use crate::nic::is_interface;

/// A file of [`Setting`](crate::Setting)'s, or an interface's channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) format: Format,
}

impl Place {
    /// Nothing for any other file, which is never to be written to, and for what is no name of an interface.
    pub(super) fn of(target: Target) -> Option<Self> {
        let format = match &target {
            Target::File(path) => Format::of(path)?,
            Target::Channels(interface) if is_interface(interface) => Format::Channels,
            Target::Channels(_) => return None,
        };
        Some(Self { target, format })
    }

    pub(super) fn value(&self, content: &[u8]) -> Value {
        self.format.value(content)
    }

    /// What is there now.
    pub(super) fn read(&self, files: &impl FileSystem) -> Result<Vec<u8>, Box<Outcome>> {
        match &self.target {
            Target::File(path) => match files.read(path) {
                Ok(content) => Ok(content.trim_ascii().to_vec()),
                Err(error) => Err(Outcome::of_error(files, path, self.format, None, &error).into()),
            },
            Target::Channels(interface) => match files.channels(interface) {
                Ok(channels) => Ok(channels.counts().to_string().into_bytes()),
                Err(error) => Err(Box::new(error.into())),
            },
        }
    }

    pub(super) fn write(&self, files: &impl FileSystem, content: &[u8]) -> Result<(), Box<Outcome>> {
        match &self.target {
            Target::File(path) => files
                .write(path, content)
                .map_err(|error| Outcome::of_error(files, path, self.format, Some(content), &error).into()),
            Target::Channels(interface) => {
                let Value::Channels(counts) = self.value(content) else {
                    let meaning = format!("{} is no number of channels", self.value(content));
                    return Err(Outcome::Failed { errno: None, meaning }.into());
                };
                files.set_channels(interface, counts).map_err(|error| Box::new(error.into()))
            }
        }
    }

    /// The file, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.target.path()
    }
}

/// A target's name as [`Setting`](crate::Setting) prints it: `eth0 rx-0 rps_cpus`.
pub(super) fn name_of(target: &Target) -> String {
    let shown = target.to_string();
    if target.path().is_none() {
        return shown;
    }
    match *shown.split('/').collect::<Vec<_>>() {
        ["", "proc", "irq", irq, "smp_affinity_list"] => format!("interrupt {irq} smp_affinity"),
        ["", "proc", "sys", "net", "core", file] => format!("net.core.{file}"),
        ["", "sys", "class", "net", interface, "queues", queue, file] => {
            format!("{interface} {queue} {file}")
        }
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Setting;

    #[test]
    fn targets_have_a_place_and_are_named_as_settings_are() {
        let interface = || "eth0".to_owned();
        for setting in [
            Setting::IrqAffinity { irq: 3, cpus: 1.into() },
            Setting::Rps { interface: interface(), queue: 1, cpus: 1.into() },
            Setting::RpsFlowCount { interface: interface(), queue: 2, count: 1 },
            Setting::RpsSockFlowEntries { count: 1 },
            Setting::Xps { interface: interface(), queue: 3, cpus: 1.into() },
            Setting::Channels { interface: interface(), counts: "combined 1".parse().unwrap() },
        ] {
            let shown = setting.to_string();
            assert_eq!(shown.split_once(" = ").unwrap().0, name_of(&setting.target()));
            assert!(Place::of(setting.target()).is_some(), "{setting}");
        }
    }

    #[test]
    fn what_is_no_interface_has_no_channels() {
        for (name, well) in [
            ("eth0", true),
            ("eth0.5", true),
            ("fifteen-letters", true),
            ("", false),
            (".", false),
            ("..", false),
            ("../eth0", false),
            ("eth 0", false),
            ("eth0\n", false),
            ("eth0\0", false),
            ("eth:0", false),
            ("sixteen-letters-", false),
        ] {
            assert_eq!(Place::of(Target::Channels(name.into())).is_some(), well, "{name:?}");
        }
    }
}
