//! RFS's table of flows, which the whole system has but once: it is there only while a layout that wants it is measured.

use super::ExperimentError;
use super::lab::Namespace;
use lb_affinity::Setting;
use lb_affinity::apply::{Applier, IfChanged};
use lb_affinity::fs::Real;

/// The journal: what a run that was killed has left is put back by the next one. Not where a director of this machine has its own.
const DIRECTORY: &str = "/run/lb-peers-affinity";

/// The table, as it was found.
pub(super) struct FlowTable {
    home: Namespace,
    applier: Applier<Real>,
}

impl FlowTable {
    /// For the thread that calls, which is at home.
    pub(super) fn new(nr_cpu_ids: u32) -> Result<Self, ExperimentError> {
        let home = Namespace::here()?;
        let applier = Applier::open(Real, DIRECTORY, nr_cpu_ids)?;
        let mut table = Self { home, applier };
        table.restore()?;
        Ok(table)
    }

    /// Does `work` with a table of so many flows, or with the one that was found.
    pub(super) fn during<T>(
        &mut self,
        entries: Option<u32>,
        work: impl FnOnce() -> Result<T, ExperimentError>,
    ) -> Result<T, ExperimentError> {
        let Some(count) = entries else { return work() };
        self.home.enter()?;
        self.applier.apply(&[Setting::RpsSockFlowEntries { count }])?;
        let result = work();
        // Whatever came of the work.
        let restored = self.restore();
        let result = result?;
        restored?;
        Ok(result)
    }

    fn restore(&mut self) -> Result<(), ExperimentError> {
        self.home.enter()?;
        self.applier.restore(IfChanged::Leave)?;
        Ok(())
    }
}

impl Drop for FlowTable {
    fn drop(&mut self) {
        // A panic comes by here with a table still set.
        match self.restore() {
            Ok(()) => drop(std::fs::remove_dir_all(DIRECTORY)),
            Err(error) => eprintln!("lb-peers: {error}; the next run tries again"),
        }
    }
}
