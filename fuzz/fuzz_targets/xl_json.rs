//! Whatever `xl`, or somebody in its name, says a machine is: an error, or a definition that is right; and what is written of that
//! holds every one of its words inside quotes.
#![no_main]

use lb_affinity::CpuSet;
use lb_virt::VirtError;
use lb_virt::xen::{from_json, to_config};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(spec) = from_json(text, &CpuSet::first_n(4)) else { return };
    spec.validate().expect("what is read is right");
    match to_config(&spec) {
        Ok(config) => {
            for line in config.lines().filter(|line| !line.starts_with('#')) {
                let (key, value) = line.split_once(" = ").expect("a line is a key and a value");
                assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                let number = value.bytes().all(|byte| byte.is_ascii_digit());
                assert!(number || value.ends_with(['"', ']']), "{line}");
            }
        }
        Err(error) => assert!(matches!(error, VirtError::Inexpressible { .. }), "{error}"),
    }
});
