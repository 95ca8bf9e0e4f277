//! [`Libvirt`]: machines of whatever libvirt reaches.

mod clone;
mod connection;
mod definition;
mod demand;
mod devices;
mod moving;
mod recovery;
mod snapshots;
mod usage;
mod watch;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::{DomainType, to_xml};
use crate::domain::{Disk, DomainSpec, Mac, Memory, Nic, Pins};
use crate::error::VirtError;
use crate::hypervisor::{
    Capabilities, CloneRequest, ConsoleAddress, Effect, Event, EventKind, Host, Hypervisor, Snapshot,
    Statistics, Summary,
};
use crate::migration::{Conclusion, Control, Demand, Destination, Sample, Settings, Via};
use crate::state::{Operation, State};
use crate::wait::until;
use connection::{Connection, LIBVIRT, state_of};
use moving::Moves;
use watch::{Seen, Watch};

/// How often machines are looked at while events are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// As the trait's own refusals say it.
const MOVE: &str = "move machines while they run";
const RECOVER: &str = "recover a post-copy that has lost its connection";

/// What works behind libvirt. What each can do: <https://libvirt.org/hvsupport.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Test,
    Qemu,
    Xen,
    Vbox,
}

impl Driver {
    /// By what libvirt calls it.
    fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "test" => Some(Self::Test),
            "qemu" => Some(Self::Qemu),
            "xen" => Some(Self::Xen),
            "vbox" => Some(Self::Vbox),
            _ => None,
        }
    }

    fn capabilities(self) -> Capabilities {
        use Capabilities as C;
        match self {
            Self::Test => {
                C::REBOOT | C::HOT_VCPUS | C::PINNING | C::SNAPSHOTS | C::CLONE | C::EVENTS | C::HOT_MEMORY
            }
            Self::Qemu => C::all(),
            Self::Xen => {
                C::REBOOT
                    | C::WAKE
                    | C::HOT_VCPUS
                    | C::HOT_MEMORY
                    | C::PINNING
                    | C::HOT_DISKS
                    | C::HOT_NICS
                    | C::CLONE
                    | C::CONSOLE
                    | C::EVENTS
            }
            Self::Vbox => C::REBOOT | C::SNAPSHOTS | C::EVENTS,
        }
    }

    /// How its addresses begin.
    const fn vendor(self) -> [u8; 3] {
        match self {
            Self::Test | Self::Qemu => [0x52, 0x54, 0],
            Self::Xen => [0, 0x16, 0x3e],
            Self::Vbox => [0x08, 0, 0x27],
        }
    }
}

/// A hypervisor that libvirt reaches: QEMU and KVM (`qemu:///system`), Xen (`xen:///`), VirtualBox (`vbox:///`), libvirt's own
/// make-believe (`test:///default`), on this host or on another (`qemu+ssh://node2/system`, `qemu+tls://node2/system`).
///
/// ```no_run
/// use lb_virt::libvirt::Libvirt;
/// use lb_virt::{DomainSpec, Hypervisor, Memory};
///
/// let mut host = Libvirt::open("qemu:///system")?;
/// host.define(&DomainSpec::new("web1", 2, Memory::from_mib(512)))?;
/// host.start("web1")?;
/// # Ok::<(), lb_virt::VirtError>(())
/// ```
///
/// * What libvirt knows of a machine beyond a [`DomainSpec`] stays when it is changed.
/// * A connection that breaks is noticed within 20 s: what was asked then fails, and so does all that follows; open another.
/// * Events are found by looking at all machines five times a second while somebody waits: what others do and undo between two looks
///   is not told, nor that a guest has started anew. What is done over this connection always is.
/// * Two programs that define a machine of one name and identity at once are not told apart: the later definition holds.
/// * Clones' images are made by libvirt's storage driver, so on the host itself, wherever that is.
/// * While a machine is moved, libvirt sees to it that one copy runs in the end: [`receive`](Hypervisor::receive) only notes what is to
///   come, the copy is there once it is [sent](Hypervisor::send), and when all has gone over the source has none any more. `virsh` (of
///   the package `libvirt-clients`) is needed to cancel it, for post-copy, to know the downtime, and to measure how fast guests write.
/// * A post-copy that has lost its connection is recovered by libvirt 8.5 and later.
/// * Certificates for encrypted migrations are those of libvirt's own configuration, on both hosts: nothing else can be said to it, so
///   [`Tls::directory`](crate::migration::Tls::directory) must be empty.
/// * Of Xen and VirtualBox it is known from libvirt's documentation alone what they can do.
#[derive(Debug)]
pub struct Libvirt {
    connection: Connection,
    driver: Driver,
    domain_type: DomainType,
    watch: Watch,
    moves: Moves,
}

impl Libvirt {
    /// Connects to a hypervisor: <https://libvirt.org/uri.html>. Machines run on the hardware if libvirt says that it can;
    /// [`run_as`](Self::run_as) chooses otherwise.
    ///
    /// # Errors
    /// [`VirtError::Said`] if it can't be reached, or is none that a [`DomainSpec`] can be written for.
    pub fn open(uri: &str) -> Result<Self, VirtError> {
        let connection = Connection::open(uri)?;
        let asked = |error: Error| connection.said(format!("ask {uri} what it is"), &error);
        let name = connection.get().get_type().map_err(asked)?;
        let driver = Driver::from_name(&name).ok_or_else(|| VirtError::Said {
            hypervisor: LIBVIRT,
            operation: format!("open {uri}"),
            words: format!("no definition can be written for {name}: use QEMU, Xen, VirtualBox or test"),
        })?;
        let domain_type = match driver {
            Driver::Test => DomainType::Test,
            Driver::Xen => DomainType::Xen,
            Driver::Vbox => DomainType::Vbox,
            Driver::Qemu => {
                let offers = connection.get().get_capabilities().map_err(asked)?;
                if offers.contains("<domain type='kvm'") { DomainType::Kvm } else { DomainType::Qemu }
            }
        };
        let mut host =
            Self { connection, driver, domain_type, watch: Watch::default(), moves: Moves::default() };
        host.watch = Watch::of(host.look_at_all()?);
        Ok(host)
    }

    /// Defines machines of another type from now on: [`DomainType::Qemu`] where KVM is offered, and runs no guests.
    #[must_use]
    pub const fn run_as(mut self, domain_type: DomainType) -> Self {
        self.domain_type = domain_type;
        self
    }

    /// What machines are defined as.
    #[must_use]
    pub const fn domain_type(&self) -> DomainType {
        self.domain_type
    }

    fn can(&self, capability: Capabilities) -> bool {
        self.driver.capabilities().contains(capability)
    }

    fn may_use(&self, capability: Capabilities, operation: &'static str) -> Result<(), VirtError> {
        if self.can(capability) { Ok(()) } else { Err(self.unsupported(operation)) }
    }

    fn state_of(&self, name: &str, domain: &Domain) -> Result<State, VirtError> {
        match domain.get_state() {
            Ok((state, _)) => Ok(state_of(state)),
            Err(error) => Err(self.connection.failed(name, "ask for the state of", &error)),
        }
    }

    /// Whether a machine's state lets an operation be done.
    fn may(&self, name: &str, domain: &Domain, operation: Operation) -> Result<State, VirtError> {
        let state = self.state_of(name, domain)?;
        state.after(operation).map_err(VirtError::state(name))?;
        Ok(state)
    }

    /// Does what changes a machine's state; `act` is told what that was when it was found to be right.
    fn operate(
        &mut self,
        name: &str,
        operation: Operation,
        act: impl FnOnce(&Domain, State) -> Result<(), Error>,
    ) -> Result<(), VirtError> {
        let domain = self.connection.domain(name)?;
        let before = self.may(name, &domain, operation)?;
        self.may_while_moving(name, &domain, operation)?;
        if let Err(error) = act(&domain, before) {
            // Somebody else was quicker.
            if error.code() == ErrorNumber::OperationInvalid {
                self.may(name, &domain, operation)?;
            }
            return Err(match self.spec(name) {
                Ok(spec) if operation == Operation::Start => {
                    self.connection.failed_by_file(&spec, &operation.to_string(), &error)
                }
                _ => self.connection.failed(name, &operation.to_string(), &error),
            });
        }
        self.look_at(name);
        Ok(())
    }

    /// Tells what has become of a machine. What can't be seen now is seen at the next look at all of them.
    fn look_at(&mut self, name: &str) {
        // Looked up anew: a machine's number of its run is the one of the look-up.
        let domain = match self.connection.find(name) {
            Ok(Some(domain)) => domain,
            Ok(None) => {
                if let Ok(all) = self.look_at_all() {
                    self.watch.see_all(all);
                }
                return;
            }
            Err(_) => return,
        };
        if let (Ok(uuid), Ok(state)) = (domain.get_uuid(), self.state_of(name, &domain)) {
            self.watch.see(uuid, Seen { name: name.into(), state, run: domain.get_id() });
        }
    }

    fn look_at_all(&self) -> Result<BTreeMap<Uuid, Seen>, VirtError> {
        let mut all = BTreeMap::new();
        self.each(|domain| {
            let state = state_of(domain.get_state()?.0);
            all.insert(domain.get_uuid()?, Seen { name: domain.get_name()?, state, run: domain.get_id() });
            Ok(())
        })?;
        Ok(all)
    }

    /// Asks every machine; those that have gone meanwhile are passed over.
    fn each(&self, mut ask: impl FnMut(&Domain) -> Result<(), Error>) -> Result<(), VirtError> {
        let asked = |error: Error| self.connection.said("list machines", &error);
        for domain in self.connection.get().list_all_domains(0).map_err(asked)? {
            match ask(&domain) {
                Err(error) if error.code() == ErrorNumber::NoDomain => {}
                result => result.map_err(asked)?,
            }
        }
        Ok(())
    }

    /// That there is no machine of that name yet, nor one with that identity.
    fn must_be_new(&self, spec: &DomainSpec) -> Result<(), VirtError> {
        if self.connection.find(&spec.name)?.is_some() {
            return Err(self.connection.machine_exists(&spec.name));
        }
        let Some(uuid) = spec.uuid else { return Ok(()) };
        let holder = Domain::lookup_by_uuid(self.connection.get(), uuid).and_then(|domain| domain.get_name());
        match holder {
            Ok(holder) => {
                let host = self.connection.uri.clone();
                Err(VirtError::UuidTaken { name: spec.name.clone(), uuid, holder, host })
            }
            Err(error) if error.code() == ErrorNumber::NoDomain => Ok(()),
            Err(error) => Err(self.connection.said(format!("find {uuid}"), &error)),
        }
    }

    /// Defines what is not there yet. libvirt would take a machine of that name and identity for the one to be changed.
    fn define_new(&mut self, spec: &DomainSpec, xml: &str) -> Result<(), VirtError> {
        self.must_be_new(spec)?;
        self.define_xml(spec, xml)?;
        self.look_at(&spec.name);
        Ok(())
    }

    fn define_xml(&self, spec: &DomainSpec, xml: &str) -> Result<(), VirtError> {
        let defined = Domain::define_xml_flags(self.connection.get(), xml, sys::VIR_DOMAIN_DEFINE_VALIDATE);
        match defined {
            Ok(_) => Ok(()),
            Err(error) if error.code() == ErrorNumber::DomExist => {
                Err(self.connection.machine_exists(&spec.name))
            }
            Err(error) => Err(self.connection.failed_by_file(spec, "define", &error)),
        }
    }
}

/// Ends a machine that was found to have crashed, and can have been kept to be looked at. What another program has started since is
/// left alone.
fn end_crashed(domain: &Domain, found: State) -> Result<(), Error> {
    let still = |domain: &Domain| {
        Ok::<_, Error>(domain.is_active()? && state_of(domain.get_state()?.0) == State::Crashed)
    };
    if found == State::Crashed && still(domain)? { domain.destroy() } else { Ok(()) }
}

/// Forgets a machine that does not run, with all that libvirt keeps for it. `variables`: what becomes of the file of its firmware's.
fn undefine(domain: &Domain, variables: u32) -> Result<(), Error> {
    let (saved, snapshots) =
        (sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE, sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA);
    // Not every driver has, or knows, all of it.
    for flags in [saved | snapshots | variables, saved | snapshots, saved] {
        match domain.undefine_flags(flags) {
            Err(error) if matches!(error.code(), ErrorNumber::NoSupport | ErrorNumber::InvalidArg) => {}
            result => return result.map(drop),
        }
    }
    domain.undefine()
}

impl Hypervisor for Libvirt {
    fn name(&self) -> &'static str {
        LIBVIRT
    }

    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    fn host(&mut self) -> Result<Host, VirtError> {
        let connect = self.connection.get();
        let asked = |error: Error| self.connection.said("describe the host", &error);
        let node = connect.get_node_info().map_err(asked)?;
        let version =
            |number: u32| format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000);
        Ok(Host {
            name: connect.get_hostname().map_err(asked)?,
            version: format!(
                "{} {} (libvirt {})",
                connect.get_type().map_err(asked)?,
                version(connect.get_hyp_version().map_err(asked)?),
                version(connect.get_lib_version().map_err(asked)?)
            ),
            cpus: node.cpus,
            memory: Memory::from_kib(node.memory),
            // Not every driver says so.
            free_memory: connect.get_free_memory().ok().map(Memory::from_bytes),
            accelerated: !matches!(self.domain_type, DomainType::Qemu),
        })
    }

    fn list(&mut self) -> Result<Vec<Summary>, VirtError> {
        let mut all = Vec::new();
        self.each(|domain| {
            let info = domain.get_info()?;
            all.push(Summary {
                name: domain.get_name()?,
                uuid: Some(domain.get_uuid()?),
                state: state_of(info.state),
                vcpus: info.nr_virt_cpu,
                memory: Memory::from_kib(info.memory),
            });
            Ok(())
        })?;
        all.sort_by(|one: &Summary, other| one.name.cmp(&other.name));
        Ok(all)
    }

    fn state(&mut self, name: &str) -> Result<State, VirtError> {
        if self.moves.has_sent(name) {
            self.must_stay(name, "ask for its state")?;
        }
        self.state_of(name, &self.connection.domain(name)?)
    }

    fn spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        Ok(self.defined(name, &self.connection.domain(name)?)?.spec)
    }

    fn define(&mut self, spec: &DomainSpec) -> Result<(), VirtError> {
        let spec = spec.clone().with_targets();
        let xml = to_xml(&spec, self.domain_type)?;
        self.define_new(&spec, &xml)
    }

    fn delete(&mut self, name: &str) -> Result<(), VirtError> {
        if self.can(Capabilities::SNAPSHOTS) {
            let domain = self.connection.domain(name)?;
            self.may(name, &domain, Operation::Delete)?;
            self.may_while_moving(name, &domain, Operation::Delete)?;
            self.delete_all_snapshots(name)?;
        }
        let mut started = false;
        let deleted = self.operate(name, Operation::Delete, |domain, before| {
            end_crashed(domain, before)?;
            // One that runs would lose its definition alone.
            started = domain.is_active()?;
            if started { Ok(()) } else { undefine(domain, sys::VIR_DOMAIN_UNDEFINE_NVRAM) }
        });
        if started {
            let domain = self.connection.domain(name)?;
            self.may(name, &domain, Operation::Delete)?;
        }
        deleted
    }

    fn start(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Start, |domain, before| {
            end_crashed(domain, before)?;
            domain.create().map(drop)
        })
    }

    fn shut_down(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::ShutDown, |domain, _| domain.shutdown().map(drop))
    }

    fn power_off(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::PowerOff, |domain, _| domain.destroy())
    }

    fn pause(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Pause, |domain, _| domain.suspend().map(drop))
    }

    fn resume(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Resume, |domain, _| domain.resume().map(drop))
    }

    fn reboot(&mut self, name: &str) -> Result<(), VirtError> {
        self.may_use(Capabilities::REBOOT, "reboot machines")?;
        self.operate(name, Operation::Reboot, |domain, _| domain.reboot(sys::VIR_DOMAIN_REBOOT_DEFAULT))
    }

    fn wake(&mut self, name: &str) -> Result<(), VirtError> {
        self.may_use(Capabilities::WAKE, "wake machines")?;
        self.operate(name, Operation::Wake, |domain, _| domain.pm_wakeup(0).map(drop))
    }

    fn set_vcpus(&mut self, name: &str, vcpus: u32) -> Result<Effect, VirtError> {
        self.resize_vcpus(name, vcpus)
    }

    fn set_memory(&mut self, name: &str, memory: Memory) -> Result<Effect, VirtError> {
        self.resize_memory(name, memory)
    }

    fn pin(&mut self, name: &str, pins: &Pins) -> Result<Effect, VirtError> {
        self.may_use(Capabilities::PINNING, "pin virtual CPUs")?;
        self.set_pins(name, pins)
    }

    fn attach_disk(&mut self, name: &str, disk: &Disk) -> Result<Effect, VirtError> {
        self.give_disk(name, disk)
    }

    fn detach_disk(&mut self, name: &str, target: &str) -> Result<Effect, VirtError> {
        self.take_disk(name, target)
    }

    fn attach_nic(&mut self, name: &str, nic: &Nic) -> Result<Effect, VirtError> {
        self.give_nic(name, nic)
    }

    fn detach_nic(&mut self, name: &str, mac: Mac) -> Result<Effect, VirtError> {
        self.take_nic(name, mac)
    }

    fn take_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        self.may_use(Capabilities::SNAPSHOTS, "take snapshots")?;
        self.keep_snapshot(name, snapshot)
    }

    fn snapshots(&mut self, name: &str) -> Result<Vec<Snapshot>, VirtError> {
        self.may_use(Capabilities::SNAPSHOTS, "take snapshots")?;
        self.list_snapshots(name)
    }

    fn restore_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        self.may_use(Capabilities::SNAPSHOTS, "take snapshots")?;
        self.go_back_to_snapshot(name, snapshot)
    }

    fn delete_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        self.may_use(Capabilities::SNAPSHOTS, "take snapshots")?;
        self.forget_snapshot(name, snapshot)
    }

    fn clone_machine(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        self.may_use(Capabilities::CLONE, "clone machines")?;
        self.clone_of(template, request)
    }

    fn console(&mut self, name: &str) -> Result<ConsoleAddress, VirtError> {
        self.may_use(Capabilities::CONSOLE, "have a console to connect to")?;
        self.console_of(name)
    }

    fn statistics(&mut self, name: &str) -> Result<Statistics, VirtError> {
        self.usage_of(name)
    }

    fn demand(&mut self, name: &str, over: Duration) -> Result<Demand, VirtError> {
        self.may_use(Capabilities::DIRTY_RATE, "measure how fast guests write")?;
        self.demand_of(name, over)
    }

    fn running_spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        Ok(self.live(name, &self.connection.domain(name)?)?.spec)
    }

    fn receive(
        &mut self,
        running: &DomainSpec,
        defined: &DomainSpec,
        via: &Via,
    ) -> Result<Destination, VirtError> {
        self.may_use(Capabilities::LIVE_MIGRATION, MOVE)?;
        self.expect_machine(running, defined, via)
    }

    fn send(&mut self, name: &str, to: &Destination, settings: &Settings) -> Result<(), VirtError> {
        self.may_use(Capabilities::LIVE_MIGRATION, MOVE)?;
        self.send_machine(name, to, settings)
    }

    fn receive_rest(&mut self, name: &str, via: &Via) -> Result<Destination, VirtError> {
        self.may_use(Capabilities::POST_COPY_RECOVERY, RECOVER)?;
        self.receive_rest_of(name, via)
    }

    fn send_rest(&mut self, name: &str, to: &Destination) -> Result<(), VirtError> {
        self.may_use(Capabilities::POST_COPY_RECOVERY, RECOVER)?;
        self.send_rest_of(name, to)
    }

    fn migration(&mut self, name: &str, wait: Duration) -> Result<Option<Sample>, VirtError> {
        self.may_use(Capabilities::LIVE_MIGRATION, MOVE)?;
        self.migration_of(name, wait)
    }

    fn control_migration(&mut self, name: &str, control: Control) -> Result<(), VirtError> {
        self.may_use(Capabilities::LIVE_MIGRATION, MOVE)?;
        self.control(name, control)
    }

    fn conclude(&mut self, name: &str, conclusion: Conclusion) -> Result<(), VirtError> {
        self.may_use(Capabilities::LIVE_MIGRATION, MOVE)?;
        self.conclude_migration(name, conclusion)
    }

    fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, VirtError> {
        let end = until(timeout);
        loop {
            if let Some(event) = self.watch.next() {
                return Ok(Some(event));
            }
            let all = self.look_at_all()?;
            self.watch.see_all(all);
            if let Some(event) = self.watch.next() {
                return Ok(Some(event));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(left.min(LOOK_EVERY));
        }
    }
}

impl Libvirt {
    fn changed(&mut self, name: &str) {
        self.watch.tell(name, EventKind::Changed);
    }
}
