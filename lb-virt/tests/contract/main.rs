//! What every backend must do alike, tried on each.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub)] // a module of tests has no readers outside

#[path = "../support/guest.rs"]
mod guest;
#[path = "../support/lab.rs"]
mod lab;
#[cfg(feature = "libvirt")]
#[path = "../libvirtd/mod.rs"]
mod libvirtd;
mod moving;
#[path = "../stand_ins/mod.rs"]
mod stand_ins;
mod suite;

use std::fs;
use std::path::Path;

use lb_virt::domain::{Bus, Console, Disk, Nic, NicModel};
use lb_virt::virtualbox::VirtualBox;
use lb_virt::xen::Xen;
use lb_virt::{DomainSpec, Memory, Sim};
use stand_ins::Directory;
use suite::Fixture;

fn sim() -> Fixture {
    Fixture {
        host: Box::new(Sim::new("node1", 8, Memory::from_mib(8192))),
        spec: Box::new(|name| DomainSpec::new(name, 2, Memory::from_mib(256))),
        disk: "/srv/images/more.qcow2".into(),
        directory: "/srv/images".into(),
        keeper: Box::new(()),
    }
}

/// Real QEMUs, which translate.
fn qemu() -> Fixture {
    let lab = lab::Lab::new();
    let (host, images) = (lab.host("node1"), lab.images());
    let disk = images.join("more.qcow2");
    guest::image(&disk);
    Fixture {
        host: Box::new(host),
        disk,
        directory: images.clone(),
        spec: Box::new(move |name| lab::spec(&images, name)),
        keeper: Box::new(lab),
    }
}

/// libvirt's make-believe: a host of each test's own, for all who open `test:///default` in one process share one.
#[cfg(feature = "libvirt")]
fn libvirt_test() -> Fixture {
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Node(std::path::PathBuf);
    impl Drop for Node {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let node = Node(std::env::temp_dir().join(format!("lb-virt-node-{}-{number}.xml", std::process::id())));
    std::fs::write(&node.0, "<node><cpu><active>8</active></cpu><memory>8388608</memory></node>").unwrap();
    Fixture {
        host: Box::new(lb_virt::libvirt::Libvirt::open(&format!("test://{}", node.0.display())).unwrap()),
        spec: Box::new(|name| DomainSpec::new(name, 2, Memory::from_mib(256))),
        disk: "/srv/images/more.qcow2".into(),
        directory: "/srv/images".into(),
        keeper: Box::new(node),
    }
}

/// QEMU, translating, behind a libvirtd of each test's own.
#[cfg(feature = "libvirt")]
fn libvirt_qemu() -> Fixture {
    let mut daemon = libvirtd::Daemon::start();
    let images = daemon.images();
    Fixture {
        host: Box::new(daemon.open()),
        disk: libvirtd::image(&images.join("more.qcow2")).into(),
        directory: images.clone(),
        spec: Box::new(move |name| libvirtd::spec(&images, name)),
        keeper: Box::new(daemon),
    }
}

/// Two simulated hosts on one network.
fn sims() -> moving::Pair {
    let network = lb_virt::sim::Network::new();
    let host = |name| Box::new(Sim::new(name, 8, Memory::from_mib(8192)).on(&network));
    moving::Pair {
        here: host("node1"),
        there: host("node2"),
        waits: true,
        spec: Box::new(|name| {
            DomainSpec::new(name, 2, Memory::from_mib(256)).disk(Disk::file("/srv/images/a.qcow2").shared())
        }),
        at_work: Box::new(|_| ()),
        keeper: Box::new(()),
    }
}

/// The program of these tests is also the stand-ins that the backends run.
#[test]
fn stand_ins_answer() {
    stand_ins::serve();
    let nowhere = Path::new("/nowhere");
    assert_eq!(stand_ins::xl::answer(nowhere, &["explode"]).code, 1);
    assert_eq!(stand_ins::vbox::answer(nowhere, &["explode"]).code, 1);
}

fn own_directory(backend: &str) -> Directory {
    let test = std::thread::current().name().unwrap_or_default().replace("::", "-");
    Directory::new(&format!("contract-{backend}-{test}"))
}

fn xen() -> Fixture {
    let directory = own_directory("xen");
    let xl = stand_ins::install(&directory.0, "xl", "stand_ins_answer");
    Fixture {
        host: Box::new(Xen::new(directory.0.join("machines")).program(xl)),
        spec: Box::new(|name| {
            DomainSpec::new(name, 2, Memory::from_mib(256))
                .disk(Disk::block("/dev/null").on(Bus::Xen))
                .nic(Nic::bridge("virbr1").model(NicModel::Netfront))
        }),
        disk: directory.image("more.img"),
        directory: directory.0.clone(),
        keeper: Box::new(directory),
    }
}

fn virtualbox() -> Fixture {
    let directory = own_directory("virtualbox");
    let program = stand_ins::install(&directory.0, "VBoxManage", "stand_ins_answer");
    let images = directory.0.clone();
    Fixture {
        host: Box::new(VirtualBox::new().program(program)),
        spec: Box::new(move |name| {
            // VirtualBox lets no two machines have one image.
            let image = images.join(format!("{name}.vdi"));
            fs::write(&image, "").unwrap();
            let mut spec = DomainSpec::new(name, 2, Memory::from_mib(256))
                .disk(Disk::file(image).on(Bus::Sata))
                .nic(Nic::nat().model(NicModel::E1000));
            spec.console = Console::Socket("/run/web1.sock".into());
            spec
        }),
        disk: directory.image("more.vdi"),
        directory: directory.0.clone(),
        keeper: Box::new(directory),
    }
}

/// Two directories of QEMUs' machines, which reach the same images. What is sent is 64 MiB.
fn qemus() -> moving::Pair {
    let lab = std::rc::Rc::new(lab::Lab::new());
    let (images, console) = (lab.images(), lab.clone());
    let work = guest::Work { pages: 16_384, dirty: 10 };
    moving::Pair {
        here: Box::new(lab.host("node1")),
        there: Box::new(lab.host("node2")),
        waits: true,
        spec: Box::new(move |name| lab::working_spec(&images, name, work)),
        at_work: Box::new(move |name| {
            console.counts_beyond(name, 0);
        }),
        keeper: Box::new(lab),
    }
}

/// Two libvirtds, which reach the same images. What is sent is 64 MiB that the guest writes to all the time.
#[cfg(feature = "libvirt")]
fn libvirt_qemus() -> moving::Pair {
    let (mut source, mut target) = (libvirtd::Daemon::start(), libvirtd::Daemon::start());
    let (images, uri) = (source.images(), source.uri());
    moving::Pair {
        here: Box::new(source.open()),
        there: Box::new(target.open()),
        waits: false,
        spec: Box::new(move |name| {
            let image = images.join(format!("{name}.qcow2"));
            let made = image.exists();
            let mut spec = libvirtd::spec(&images, name);
            spec.disks.iter_mut().for_each(|disk| disk.shared = true);
            if !made {
                libvirtd::make_busy(&image);
            }
            spec
        }),
        at_work: Box::new(move |name| libvirtd::boots(&uri, name)),
        keeper: Box::new((source, target)),
    }
}

/// One test for each promise, with the attributes that a backend needs.
macro_rules! contract {
    ($(#[$meta:meta])* $backend:ident) => {
        mod $backend {
            contract! { @each $backend [$(#[$meta])*]
                a_machine_lives
                states_and_operations_follow_the_table
                what_is_not_there_is_named
                names_are_unique
                wrong_definitions_leave_nothing
                capabilities_are_kept
                machines_are_resized
                pins_are_kept
                devices_come_and_go
                snapshots_bring_back_what_was
                clones_are_machines_of_their_own
                statistics_are_of_what_runs
                events_come_in_order
            }
        }
    };
    // The promises of what moves machines, between two hosts.
    (moving $(#[$meta:meta])* $backend:ident) => {
        mod $backend {
            contract! { @moving $backend [$(#[$meta])*]
                a_machine_moves_there_and_back
                a_paused_machine_stays_so
                what_is_on_its_way_is_not_changed
                its_end_on_either_side_is_noticed
                a_policy_is_followed
            }
        }
    };
    (@each $backend:ident $attributes:tt $($promise:ident)*) => {
        $(contract! { @one suite $backend $attributes $promise })*
    };
    (@moving $backend:ident $attributes:tt $($promise:ident)*) => {
        $(contract! { @one moving $backend $attributes $promise })*
    };
    (@one $suite:ident $backend:ident [$($attribute:tt)*] $promise:ident) => {
        #[test]
        $($attribute)*
        fn $promise() {
            super::$suite::$promise(&mut super::$backend());
        }
    };
}

contract!(sim);
contract!(virtualbox);
contract!(moving sims);
contract!(
    moving #[ignore = "needs QEMU"]
    qemus
);
contract!(
    #[ignore = "needs QEMU"]
    qemu
);
contract!(xen);
#[cfg(feature = "libvirt")]
contract!(libvirt_test);
#[cfg(feature = "libvirt")]
contract!(
    #[ignore = "needs root, libvirt-daemon and QEMU"]
    libvirt_qemu
);
#[cfg(feature = "libvirt")]
contract!(
    moving #[ignore = "needs root, libvirt-daemon, libvirt-clients and QEMU"]
    libvirt_qemus
);

/// What was not built is not passed over in silence.
#[cfg(not(feature = "libvirt"))]
#[test]
#[ignore = "needs libvirt"]
fn libvirt() {
    panic!("libvirt is not tried without the feature: use `--features libvirt` (it needs libvirt-dev)");
}
