//! Makes a machine larger and smaller, and gives its virtual CPUs their places.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_affinity::thread::{ThreadError, pin_thread};
use lb_affinity::{CpuSet, thread};
use serde_json::{Value, json};

use super::arguments::QEMU;
use super::machine::Machine;
use crate::domain::{Memory, Pins};
use crate::error::VirtError;
use crate::hypervisor::Effect;

/// How long a guest may take to let a device go.
pub(super) const UNPLUG: Duration = Duration::from_secs(5);

impl Machine {
    /// The ids of the threads that are its virtual CPUs, in their order.
    fn vcpu_threads(&mut self) -> Result<Vec<u32>, VirtError> {
        let listed = self.tell("pin", "query-cpus-fast", json!({}))?;
        let mut threads = BTreeMap::new();
        for cpu in listed.as_array().into_iter().flatten() {
            if let (Some(index), Some(thread)) = (cpu["cpu-index"].as_u64(), cpu["thread-id"].as_u64()) {
                threads.insert(index, u32::try_from(thread).unwrap_or_default());
            }
        }
        Ok(threads.into_values().collect())
    }

    /// Pins its threads as its definition says; those that it does not name run wherever this program may.
    pub(super) fn apply_pins(&mut self) -> Result<(), VirtError> {
        let pins = self.live().pins.clone();
        self.pin_threads(&pins, false)
    }

    /// Pins its threads. `all`: also those without a pin, which may have had one.
    pub(super) fn pin_threads(&mut self, pins: &Pins, all: bool) -> Result<(), VirtError> {
        if pins.is_empty() && !all {
            return Ok(());
        }
        let vcpus = self.vcpu_threads()?;
        let said = |error: ThreadError| VirtError::Said {
            hypervisor: QEMU,
            operation: format!("pin {}", self.name()),
            words: error.to_string(),
        };
        let anywhere = thread::affinity().map_err(said)?;
        let others = self.process().map(super::process::Process::threads).unwrap_or_default();
        let others = others.into_iter().filter(|thread| !vcpus.contains(thread));
        let place = |set: Option<&CpuSet>| match set {
            Some(set) if !set.is_empty() => Some(set.clone()),
            _ => all.then(|| anywhere.clone()),
        };
        // Without KVM all virtual CPUs may share one thread, which then has the place of the last.
        let threads = (0..).zip(&vcpus).map(|(vcpu, thread)| (*thread, place(pins.vcpus.get(&vcpu))));
        let others: Vec<u32> = others.collect();
        let others = others.into_iter().map(|thread| (thread, place(Some(&pins.emulator))));
        for (thread, cpus) in threads.chain(others) {
            let Some(cpus) = cpus else { continue };
            match pin_thread(thread, &cpus) {
                // QEMU ends threads that have nothing to do.
                Ok(_) | Err(ThreadError::NoThread { .. }) => {}
                Err(error) => return Err(said(error)),
            }
        }
        Ok(())
    }

    /// Gives the running machine so many virtual CPUs. Fewer take effect if the guest lets them go. If not all come or go, it is written
    /// down how many it has then.
    pub(super) fn have_vcpus(&mut self, wanted: u32) -> Result<Effect, VirtError> {
        let plugged = self.plug_vcpus(wanted);
        if !matches!(plugged, Ok(Effect::Now)) {
            let slots = self.tell("resize", "query-hotpluggable-cpus", json!({}));
            let slots = slots.ok().and_then(|slots| slots.as_array().cloned());
            let count = slots.map(|slots| slots.iter().filter(|slot| slot["qom-path"].is_string()).count());
            if let (Some(run), Some(count)) =
                (&mut self.run, count.and_then(|count| u32::try_from(count).ok()))
            {
                run.spec.resize(Some(count), None);
                self.save_run()?;
            }
        }
        plugged
    }

    fn plug_vcpus(&mut self, wanted: u32) -> Result<Effect, VirtError> {
        let slots = self.tell("resize", "query-hotpluggable-cpus", json!({}))?;
        let mut slots: Vec<Value> = slots.as_array().cloned().unwrap_or_default();
        // As the guest numbers them.
        let place = |slot: &Value| {
            let number = |key: &str| slot["props"][key].as_u64().unwrap_or_default();
            ["socket-id", "die-id", "core-id", "thread-id"].map(number)
        };
        slots.sort_by_key(place);
        let id = |slot: &Value| place(slot).map(|number| number.to_string()).join("-");
        let present = |slot: &Value| slot["qom-path"].is_string();
        let has = slots.iter().filter(|slot| present(slot)).count();
        let wanted = wanted as usize;
        let mut effect = Effect::Now;
        for slot in slots.iter().filter(|slot| !present(slot)).take(wanted.saturating_sub(has)) {
            let mut device = slot["props"].clone();
            device["driver"] = slot["type"].clone();
            device["id"] = json!(format!("vcpu-{}", id(slot)));
            self.tell("resize", "device_add", device)?;
        }
        // Those that it was started with have no name, and stay.
        let plugged = |slot: &&Value| {
            slot["qom-path"].as_str().is_some_and(|path| path.starts_with("/machine/peripheral/"))
        };
        let surplus = has.saturating_sub(wanted);
        let goes: Vec<Value> = slots.iter().rev().filter(plugged).take(surplus).cloned().collect();
        if goes.len() < surplus {
            effect = Effect::NextBoot;
        } else {
            for slot in &goes {
                if !self.unplug(&format!("vcpu-{}", id(slot)))? {
                    effect = Effect::NextBoot;
                }
            }
        }
        if wanted > has {
            self.apply_pins()?;
        }
        Ok(effect)
    }

    /// Sets what the balloon leaves the guest.
    pub(super) fn inflate(&mut self, memory: Memory) -> Result<Effect, VirtError> {
        if !self.live().balloon {
            return Ok(Effect::NextBoot);
        }
        self.tell("resize", "balloon", json!({"value": memory.bytes()}))?;
        Ok(Effect::Now)
    }

    /// Asks the guest to let a device go. True if it has.
    pub(super) fn unplug(&mut self, id: &str) -> Result<bool, VirtError> {
        use super::qmp::QmpError;

        let operation = |name: &str| format!("detach {id} from {name}");
        let about = |event: &super::qmp::QmpEvent| {
            let ended = event.name == "DEVICE_DELETED" || event.name == "DEVICE_UNPLUG_GUEST_ERROR";
            ended && event.text("device") == id
        };
        // One of that name may have gone before, long after it was asked to.
        let forgotten = self.with_qmp(self.patience, |qmp| {
            qmp.forget(about);
            Ok(())
        });
        forgotten.map_err(|error| error.while_it(operation(self.name())))?;
        match self.ask("device_del", json!({"id": id})) {
            Ok(_) => {}
            // It is being asked already.
            Err(QmpError::Refused { words, .. }) if words.contains("in the process of unplug") => {}
            // It was never one that can go, or this guest has not said that it could let it go.
            Err(QmpError::Refused { words, .. })
                if words.contains("not supported") || words.contains("does not support hot") =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error.while_it(operation(self.name()))),
        }
        match self.with_qmp(self.patience, |qmp| qmp.wait_for(UNPLUG, about)) {
            Ok(event) => Ok(event.name == "DEVICE_DELETED"),
            Err(QmpError::Timeout { .. }) => Ok(false),
            Err(error) => Err(error.while_it(operation(self.name()))),
        }
    }
}
