//! Why something could not be done.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use crate::domain::SpecError;
use crate::state::WrongState;

/// Why a hypervisor did not do what it was asked. What it was asked has then not been done, and nothing else has changed, if the
/// variant says nothing else.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VirtError {
    /// It can't do that at all: [`Hypervisor::capabilities`](crate::Hypervisor::capabilities) says so before.
    #[error("{hypervisor} does not {operation}")]
    Unsupported {
        /// Which one.
        hypervisor: &'static str,
        /// What it was asked.
        operation: &'static str,
    },
    /// It has nothing that a part of the definition could be written as.
    #[error("machine {name}: {hypervisor} has no {what}: {cure}")]
    Inexpressible {
        /// The machine.
        name: String,
        /// Which one.
        hypervisor: &'static str,
        /// The part.
        what: String,
        /// What to write instead.
        cure: &'static str,
    },
    /// There is no such machine.
    #[error("there is no machine {name:?} on {host}")]
    NoMachine {
        /// Its name.
        name: String,
        /// Where it was looked for.
        host: String,
    },
    /// There is one of that name already.
    #[error("there is a machine {name:?} on {host} already: choose another name, or delete it")]
    MachineExists {
        /// Its name.
        name: String,
        /// Where.
        host: String,
    },
    /// Another machine has the identity.
    #[error(
        "machine {name}: its uuid {uuid} is that of machine {holder:?} on {host}: leave the uuid out, or delete the other"
    )]
    UuidTaken {
        /// The machine that would have it too.
        name: String,
        /// The identity.
        uuid: Uuid,
        /// The machine that has it.
        holder: String,
        /// Where.
        host: String,
    },
    /// The machine is doing something else.
    #[error("machine {name}: {source}")]
    State {
        /// The machine.
        name: String,
        /// Both states.
        source: WrongState,
    },
    /// The machine is being moved to another host, or from one.
    #[error("machine {name} can't be changed ({operation}) while it is being moved: wait, or cancel that")]
    Moving {
        /// The machine.
        name: String,
        /// What it was asked.
        operation: String,
    },
    /// The machine has begun to run on another host, and this one has the rest of its memory, which nobody else has.
    #[error(
        "machine {name} runs on another host, and part of its memory is here alone: it would be lost; let its migration go on, or recover \
         it (`Migration::recover`, `machines migrate --recover`); if that can't be done, give this half up (`Conclusion::GiveUp`, \
         `machines power-off --half`)"
    )]
    Half {
        /// The machine.
        name: String,
    },
    /// The machine is not being moved.
    #[error("machine {name} is not being moved")]
    NotMoving {
        /// The machine.
        name: String,
    },
    /// The definition is wrong.
    #[error("machine {name}: {source}")]
    Spec {
        /// The machine.
        name: String,
        /// What is wrong.
        source: SpecError,
    },
    /// The machine has no such part.
    #[error("machine {name} has no {what} {part:?}")]
    NoPart {
        /// The machine.
        name: String,
        /// What it was looked for as: `disk`, `network interface`, `snapshot`.
        what: &'static str,
        /// Its name.
        part: String,
    },
    /// The machine has one already.
    #[error("machine {name} has a {what} {part:?} already: choose another name, or remove it")]
    PartExists {
        /// The machine.
        name: String,
        /// What it is.
        what: &'static str,
        /// Its name.
        part: String,
    },
    /// It can't be that large, or that small, while it runs.
    #[error("machine {name} can't be resized to {wanted}: {limit}")]
    Resize {
        /// The machine.
        name: String,
        /// What was asked for.
        wanted: String,
        /// What is possible, and how to have more.
        limit: String,
    },
    /// There is no host at an address.
    #[error("no host is known by {uri:?}: {cure}")]
    Uri {
        /// The address.
        uri: String,
        /// What to write instead.
        cure: &'static str,
    },
    /// The hypervisor changes that only while the machine is shut off.
    #[error("{hypervisor} changes {change} only at rest: shut {name} off, and try again")]
    NotAtRest {
        /// The machine.
        name: String,
        /// Which one.
        hypervisor: &'static str,
        /// What was to be changed.
        change: &'static str,
    },
    /// A file that the machine needs.
    #[error("machine {name}: {path}: {source}")]
    File {
        /// The machine.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why it can't be used.
        source: io::Error,
    },
    /// What is written down of the machine is not what was written.
    #[error(
        "machine {name}: {path} can't be read: {source}; put back what was there, or remove what is left of the machine (`discard`, \
         `machines delete --broken`)"
    )]
    Broken {
        /// The machine.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A program that the hypervisor is driven by is not installed.
    #[error("{program} is not there: install the package {package}")]
    NoProgram {
        /// The program.
        program: PathBuf,
        /// What it comes with, on Debian.
        package: &'static str,
    },
    /// The hypervisor said no, in its own words.
    #[error("{hypervisor} could not {operation}: {words}")]
    Said {
        /// Which one.
        hypervisor: &'static str,
        /// What it was asked.
        operation: String,
        /// What it said.
        words: String,
    },
    /// The hypervisor did not answer. Whether it has done what it was asked is not known.
    #[error(
        "{hypervisor} has not answered within {after:?} to: {operation}; look what state the machine is in"
    )]
    Timeout {
        /// Which one.
        hypervisor: &'static str,
        /// What it was asked.
        operation: String,
        /// How long it was waited for.
        after: Duration,
    },
}

impl VirtError {
    /// Of a machine whose definition is wrong.
    pub(crate) fn spec(name: &str) -> impl FnOnce(SpecError) -> Self {
        move |source| Self::Spec { name: name.into(), source }
    }

    /// Of a machine that is doing something else.
    pub(crate) fn state(name: &str) -> impl FnOnce(WrongState) -> Self {
        move |source| Self::State { name: name.into(), source }
    }
}
