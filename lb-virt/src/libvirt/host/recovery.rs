//! Goes on with a post-copy that has lost its connection.
//!
//! libvirt (since 8.5) keeps both copies then, and makes the same call once more to connect them anew. A connection that nobody has said
//! to be broken is broken off first: `virsh` is asked to, on either side, as the safe bindings can't.
//!
//! Source: libvirt's API reference (`VIR_MIGRATE_POSTCOPY_RESUME`, `VIR_DOMAIN_ABORT_JOB_POSTCOPY`).

use std::thread;
use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::sys;

use super::moving::{check_tls, over};
use super::{LIBVIRT, Libvirt};
use crate::error::VirtError;
use crate::migration::{Destination, Via};

const OPERATION: &str = "recover";
/// How long libvirt may take to notice that a connection was broken off.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// libvirt's states of a source's copy and of a target's, with the reasons: post-copy, and one that has lost its connection.
const SOURCE: [(u32, u32); 2] = [
    (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_POSTCOPY),
    (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
];
const TARGET: [(u32, u32); 2] = [
    (sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_POSTCOPY),
    (sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED),
];

impl Libvirt {
    pub(super) fn receive_rest_of(&mut self, name: &str, via: &Via) -> Result<Destination, VirtError> {
        if let Via::Tcp { tls: Some(tls), .. } = via {
            check_tls(name, tls)?;
        }
        self.stall(name, TARGET)?;
        Ok(self.destination(via))
    }

    pub(super) fn send_rest_of(&mut self, name: &str, to: &Destination) -> Result<(), VirtError> {
        to.tls.as_ref().map_or(Ok(()), |tls| check_tls(name, tls))?;
        let domain = self.stall(name, SOURCE)?;
        let (target, parameters) = over(to)?;
        let mut flags = sys::VIR_MIGRATE_LIVE
            | sys::VIR_MIGRATE_PERSIST_DEST
            | sys::VIR_MIGRATE_UNDEFINE_SOURCE
            | sys::VIR_MIGRATE_POSTCOPY
            | sys::VIR_MIGRATE_POSTCOPY_RESUME;
        if to.tls.is_some() {
            flags |= sys::VIR_MIGRATE_TLS;
        }
        self.call(name, domain, target, parameters, flags)
    }

    /// Sees to it that a post-copy stands; `[under way, stalled]` is how libvirt calls that on this side.
    fn stall(&self, name: &str, [goes, stands]: [(u32, u32); 2]) -> Result<Domain, VirtError> {
        let domain = self.connection.domain(name)?;
        let end = Instant::now() + PATIENCE;
        let mut told = false;
        loop {
            let state = domain.get_state();
            let (state, reason) =
                state.map_err(|error| self.connection.failed(name, "ask for the state of", &error))?;
            let now = (state, reason.cast_unsigned());
            // Its call says so a moment later.
            if now == stands && !self.moves.sends(name) {
                return Ok(domain);
            }
            if now != goes && now != stands {
                return Err(VirtError::NotMoving { name: name.into() });
            }
            if now == goes && !told {
                told = true;
                let aborted = self.virsh_of(name, &domain, "domjobabort", &["--postcopy"]);
                // It may have broken by itself meanwhile.
                if let Err(error) = aborted
                    && domain.get_state().is_ok_and(|(state, reason)| (state, reason.cast_unsigned()) == goes)
                {
                    return Err(error);
                }
            }
            if Instant::now() >= end {
                let operation = format!("{OPERATION} {name}");
                return Err(VirtError::Timeout { hypervisor: LIBVIRT, operation, after: PATIENCE });
            }
            thread::sleep(LOOK);
        }
    }
}
