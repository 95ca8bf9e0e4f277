//! A connection to a hypervisor by libvirt, and what its errors mean.

use std::io;
use std::sync::OnceLock;
use std::thread;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber, clear_error_callback};
use virt::event::{event_register_default_impl, event_run_default_impl};
use virt::sys;

use crate::domain::DomainSpec;
use crate::error::VirtError;
use crate::state::State;

pub(super) const LIBVIRT: &str = "libvirt";

/// A remote host that says nothing for so many seconds is asked whether it is there,
const KEEPALIVE_SECONDS: i32 = 5;
/// and if it does not answer so often, the connection is given up.
const KEEPALIVE_COUNT: u32 = 3;

/// Closes itself.
#[derive(Debug)]
pub(super) struct Connection {
    connect: Connect,
    pub(super) uri: String,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nothing is left to be done about a connection that can't even be closed.
        let _ = self.connect.close();
    }
}

/// libvirt hears from its hosts in an event loop: one thread for the whole process, started once and never ended. Without it nobody
/// notices that a host has gone.
fn event_loop() -> Result<(), VirtError> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        // It would print every error that is returned as well.
        clear_error_callback();
        event_register_default_impl().map_err(|error| error.message().to_owned())?;
        let turn = || while event_run_default_impl().is_ok() {};
        let spawned = thread::Builder::new().name("libvirt-events".into()).spawn(turn);
        spawned.map(drop).map_err(|error| error.to_string())
    });
    let failed = |words: &String| VirtError::Said {
        hypervisor: LIBVIRT,
        operation: "start its event loop".into(),
        words: words.clone(),
    };
    started.as_ref().copied().map_err(failed)
}

impl Connection {
    pub(super) fn open(uri: &str) -> Result<Self, VirtError> {
        let refused = |words: &str| VirtError::Said {
            hypervisor: LIBVIRT,
            operation: format!("open {uri}"),
            words: words.into(),
        };
        if uri.contains('\0') {
            return Err(refused("a NUL is in the URI: write one as on https://libvirt.org/uri.html"));
        }
        event_loop()?;
        let connect = Connect::open(Some(uri)).map_err(|error| refused(error.message()))?;
        // Only connections to a daemon have it.
        let _ = connect.set_keep_alive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT);
        Ok(Self { connect, uri: uri.into() })
    }

    /// Whether its host is this one: the URI names no other.
    pub(super) fn is_local(&self) -> bool {
        self.uri.split_once("://").is_none_or(|(_, rest)| rest.starts_with('/'))
    }

    pub(super) fn get(&self) -> &Connect {
        &self.connect
    }

    /// libvirt's words; after those of a broken connection, what to do.
    pub(super) fn said(&self, operation: impl Into<String>, error: &Error) -> VirtError {
        let mut words = error.message().to_owned();
        if !self.connect.is_alive().unwrap_or(false) {
            words.push_str(" (the connection is lost: open it again)");
        }
        VirtError::Said { hypervisor: LIBVIRT, operation: operation.into(), words }
    }

    pub(super) fn no_machine(&self, name: &str) -> VirtError {
        VirtError::NoMachine { name: name.into(), host: self.uri.clone() }
    }

    pub(super) fn machine_exists(&self, name: &str) -> VirtError {
        VirtError::MachineExists { name: name.into(), host: self.uri.clone() }
    }

    /// A machine; `None` if there is none of that name.
    pub(super) fn find(&self, name: &str) -> Result<Option<Domain>, VirtError> {
        if name.contains('\0') {
            return Ok(None);
        }
        match Domain::lookup_by_name(&self.connect, name) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if error.code() == ErrorNumber::NoDomain => Ok(None),
            Err(error) => Err(self.said(format!("find {name}"), &error)),
        }
    }

    pub(super) fn domain(&self, name: &str) -> Result<Domain, VirtError> {
        self.find(name)?.ok_or_else(|| self.no_machine(name))
    }

    /// What an error of an operation on a machine means.
    pub(super) fn failed(&self, name: &str, operation: &str, error: &Error) -> VirtError {
        match error.code() {
            ErrorNumber::NoDomain => self.no_machine(name),
            _ => self.said(format!("{operation} {name}"), error),
        }
    }

    /// As [`failed`](Self::failed), where it can be a file's fault: libvirt and QEMU name it in their words.
    pub(super) fn failed_by_file(&self, spec: &DomainSpec, operation: &str, error: &Error) -> VirtError {
        let words = error.message();
        let sources = spec.disks.iter().filter_map(|disk| disk.source.as_ref());
        let mut paths: Vec<_> = sources.map(|source| source.path()).collect();
        paths.extend(
            spec.kernel.iter().flat_map(|kernel| [Some(&kernel.image), kernel.initrd.as_ref()]).flatten(),
        );
        // The longest first: one can be the beginning of another.
        paths.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
        let named = paths.into_iter().find(|path| path.to_str().is_some_and(|path| words.contains(path)));
        match (named, kind_of(words)) {
            (Some(path), Some(kind)) => VirtError::File {
                name: spec.name.clone(),
                path: path.clone(),
                source: io::Error::new(kind, words.to_owned()),
            },
            _ => self.failed(&spec.name, operation, error),
        }
    }
}

/// What is wrong with a file, by what libvirt, its lock managers and QEMU say.
fn kind_of(words: &str) -> Option<io::ErrorKind> {
    let kind = [
        ("No such file", io::ErrorKind::NotFound),
        ("Permission denied", io::ErrorKind::PermissionDenied),
        ("No space left", io::ErrorKind::StorageFull),
        // QEMU: Failed to get "write" lock, Failed to get shared "write" lock.
        ("Failed to get \"", io::ErrorKind::ResourceBusy),
        ("Failed to get shared \"", io::ErrorKind::ResourceBusy),
        ("another process using", io::ErrorKind::ResourceBusy),
        ("Failed to acquire lock", io::ErrorKind::ResourceBusy),
        ("is locked", io::ErrorKind::ResourceBusy),
    ];
    kind.into_iter().find(|(part, _)| words.contains(part)).map(|(_, kind)| kind)
}

/// libvirt's state in this crate's words.
pub(super) fn state_of(state: sys::virDomainState) -> State {
    match state {
        sys::VIR_DOMAIN_NOSTATE => State::NoState,
        sys::VIR_DOMAIN_RUNNING => State::Running,
        sys::VIR_DOMAIN_BLOCKED => State::Blocked,
        sys::VIR_DOMAIN_PAUSED => State::Paused,
        sys::VIR_DOMAIN_SHUTDOWN => State::ShuttingDown,
        sys::VIR_DOMAIN_SHUTOFF => State::ShutOff,
        sys::VIR_DOMAIN_CRASHED => State::Crashed,
        sys::VIR_DOMAIN_PMSUSPENDED => State::Suspended,
        _ => State::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blockdev_is_no_lock() {
        for (words, kind) in [
            ("Could not open '/a': No such file or directory", Some(io::ErrorKind::NotFound)),
            ("blockdev: '/a': Failed to get \"write\" lock", Some(io::ErrorKind::ResourceBusy)),
            (
                "Failed to get shared \"write\" lock\nIs another process using the image [/a]?",
                Some(io::ErrorKind::ResourceBusy),
            ),
            ("resource busy: Failed to acquire lock: error -243", Some(io::ErrorKind::ResourceBusy)),
            ("-blockdev {\"filename\":\"/a\"}: Image is not in qcow2 format", None),
            ("block device '/a' has no medium", None),
        ] {
            assert_eq!(kind_of(words), kind, "{words}");
        }
    }
}
