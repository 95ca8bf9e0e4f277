//! Before anything starts: may this thread do what every instance needs? And what the settings ask for beyond it.

use caps::{CapSet, Capability};
use nix::sys::mman::{MlockAllFlags, mlockall};

use super::{DriverError, Settings, sys};

/// Raw and packet sockets; addresses, interfaces and sysctls.
const NEEDED: [(Capability, &str); 2] =
    [(Capability::CAP_NET_RAW, "CAP_NET_RAW"), (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN")];

/// Names every capability that is missing, not just the first.
pub(super) fn check_capabilities() -> Result<(), DriverError> {
    let mut missing = Vec::new();
    for (capability, name) in NEEDED {
        let held =
            caps::has_cap(None, CapSet::Effective, capability).map_err(|error| DriverError::System {
                what: "reading the thread's capabilities",
                source: std::io::Error::other(error),
            })?;
        if !held {
            missing.push(name);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(DriverError::Capability { capabilities: missing }) }
}

/// Realtime scheduling and locked memory, as far as they are asked for.
pub(super) fn apply_privileges(settings: &Settings) -> Result<(), DriverError> {
    if settings.lock_memory {
        mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).map_err(|error| {
            DriverError::Privilege {
                what: "locking memory",
                capability: "CAP_IPC_LOCK",
                source: error.into(),
            }
        })?;
    }
    if let Some(priority) = settings.realtime_priority {
        sys::set_round_robin(priority).map_err(|source| DriverError::Privilege {
            what: "realtime scheduling (priorities are 1 to 99)",
            capability: "CAP_SYS_NICE",
            source,
        })?;
    }
    Ok(())
}
