//! Where a value is, how it is read and written there, and what a refusal means.

use std::path::Path;

use super::value::{Format, Value};
use super::write::Outcome;
use crate::Target;
use crate::fs::FileSystem;

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

/// What the kernel takes for an interface's name (`dev_valid_name`; ip-link(8)).
pub(super) fn is_interface(name: &str) -> bool {
    let plain =
        |byte: u8| byte != b'/' && byte != b':' && byte != 0 && !byte.is_ascii_whitespace() && byte != 0x0b;
    (1..=15).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(plain)
}
