//! Whatever `VBoxManage`, or somebody in its name, says a machine is: an error, or a definition that is right, whose texts stay
//! arguments.
#![no_main]

use lb_virt::VirtError;
use lb_virt::virtualbox::{Info, to_calls};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (info, own) = text.split_once('\0').unwrap_or((text, ""));
    let Ok(info) = Info::read(info) else { return };
    let _ = info.state();
    let Ok(spec) = info.spec(own) else { return };
    spec.validate().expect("what is read is right");
    match to_calls(&spec) {
        Ok(calls) => assert!(calls.iter().flatten().all(|word| !word.is_empty()), "{calls:?}"),
        Err(error) => assert!(matches!(error, VirtError::Inexpressible { .. }), "{error}"),
    }
});
