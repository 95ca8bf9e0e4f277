//! What a machine would have to send, were it moved: QEMU samples its pages, and libvirt says what it found.
//!
//! The safe bindings (crate `virt`) can't ask for that: `virsh` is told to. What of a guest's memory holds something libvirt does not
//! say; what all of its QEMU takes of the host's memory it does, which is up to 100 MiB more. So a small machine is expected to take
//! longer than it will, and a large one as long as it does.

use std::thread;
use std::time::{Duration, Instant};

use virt::domain::Domain;

use super::connection::LIBVIRT;
use super::{Hypervisor, Libvirt};
use crate::command::Program;
use crate::error::VirtError;
use crate::migration::Demand;
use crate::state::Operation;

/// What QEMU measures over, in seconds.
const LEAST: u64 = 1;
const MOST: u64 = 60;
/// How long it may take beyond that.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What libvirt says of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measured {
    /// In its own numbers: 0 never begun, 1 under way, 2 done.
    status: u64,
    /// In the host's clock: what tells one measurement from the one before.
    begun: Option<u64>,
    /// MiB a second.
    rate: Option<u64>,
}

/// By libvirt's `VIR_DOMAIN_DIRTYRATE_MEASURED`.
const DONE: u64 = 2;

impl Libvirt {
    pub(super) fn demand_of(&mut self, name: &str, over: Duration) -> Result<Demand, VirtError> {
        let domain = self.connection.domain(name)?;
        self.may(name, &domain, Operation::Pause)?;
        let spec = self.live(name, &domain)?.spec;
        let seconds = u64::try_from(over.as_millis().div_ceil(1000)).unwrap_or(MOST).clamp(LEAST, MOST);
        let before = self.measured(name, &domain)?;
        self.virsh_of(name, &domain, "domdirtyrate-calc", &["--seconds", &seconds.to_string()])?;
        let end = Instant::now() + Duration::from_secs(seconds) + PATIENCE;
        let rate = loop {
            thread::sleep(LOOK);
            let now = self.measured(name, &domain)?;
            // Until it has begun, the last one's answer stands.
            let is_new = before.status != DONE || now.begun != before.begun;
            match now.rate.filter(|_| now.status == DONE && is_new) {
                Some(rate) => break rate,
                None if Instant::now() < end => {}
                None => {
                    let operation = format!("measure how fast the guest of {name} writes");
                    let after = Duration::from_secs(seconds) + PATIENCE;
                    return Err(VirtError::Timeout { hypervisor: LIBVIRT, operation, after });
                }
            }
        };
        let memory = if spec.balloon { spec.most_memory() } else { spec.memory };
        let used = self.statistics(name)?.resident.map_or(memory, |resident| resident.min(memory));
        Ok(Demand { memory, used, dirty_rate: rate << 20, working_set: None })
    }

    fn measured(&self, name: &str, domain: &Domain) -> Result<Measured, VirtError> {
        Ok(measured_in(&self.virsh_of(name, domain, "domstats", &["--dirtyrate"])?))
    }

    /// What `virsh` says to a command for a machine.
    pub(super) fn virsh_of(
        &self,
        name: &str,
        domain: &Domain,
        command: &str,
        arguments: &[&str],
    ) -> Result<String, VirtError> {
        let unnamed = |error| self.connection.failed(name, "ask for the identity of", &error);
        let uuid = domain.get_uuid_string().map_err(unnamed)?;
        let virsh = Program::new(LIBVIRT, "virsh", "libvirt-clients");
        let call = virsh.call(format!("{command} {name}")).args(["-q", "-c", &self.connection.uri, command]);
        call.args(arguments).arg(uuid).run().map(|output| output.text())
    }
}

fn measured_in(said: &str) -> Measured {
    let number = |key: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        line.and_then(|number| number.parse().ok())
    };
    Measured {
        status: number("dirtyrate.calc_status").unwrap_or_default(),
        begun: number("dirtyrate.calc_start_time"),
        rate: number("dirtyrate.megabytes_per_second"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_found() {
        let said = "Domain: 'web1'\n  dirtyrate.calc_status=2\n  dirtyrate.calc_start_time=348414\n  dirtyrate.calc_period=1\n  \
                    dirtyrate.megabytes_per_second=39\n  dirtyrate.calc_mode=page-sampling\n";
        assert_eq!(measured_in(said), Measured { status: DONE, begun: Some(348_414), rate: Some(39) });
        let never = "Domain: 'web1'\n  dirtyrate.calc_status=0\n";
        assert_eq!(measured_in(never), Measured { status: 0, begun: None, rate: None });
        assert_eq!(measured_in("Domain: 'web1'\n").status, 0);
    }
}
