//! What every backend must do alike, tried on each.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub)] // a module of tests has no readers outside

#[path = "../support/guest.rs"]
mod guest;
#[path = "../support/lab.rs"]
mod lab;
mod suite;

use lb_virt::{DomainSpec, Memory, Sim};
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
    (@each $backend:ident $attributes:tt $($promise:ident)*) => {
        $(contract! { @one $backend $attributes $promise })*
    };
    (@one $backend:ident [$($attribute:tt)*] $promise:ident) => {
        #[test]
        $($attribute)*
        fn $promise() {
            super::suite::$promise(&mut super::$backend());
        }
    };
}

contract!(sim);
contract!(
    #[ignore = "needs QEMU"]
    qemu
);
