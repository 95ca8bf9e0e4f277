//! Whatever a capture file holds: it is read to its end or to the first damage, and every packet has one verdict.
#![no_main]

use lb_examples::vrrpd::decode::{Shown, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut count = 0;
    let summary = read(bytes, |packet| {
        count += 1;
        let (json, line) = (Shown(&packet).json(), Shown(&packet).to_string());
        assert!(!line.contains(char::is_control), "{line:?}");
        match packet.verdict() {
            Ok(advert) => {
                assert!(
                    packet.ttl == 255 && !packet.fragment && advert.vrid != 0 && !advert.addresses.is_empty()
                );
                assert_eq!(
                    (&json["valid"], &json["version"]),
                    (&true.into(), &advert.version.number().into())
                );
                assert!(line.ends_with(": valid"));
            }
            Err(reason) => {
                assert_eq!((&json["valid"], &json["reason"]), (&false.into(), &reason.name().into()));
                assert!(line.contains(": invalid, "));
            }
        }
    });
    if let Ok(summary) = summary {
        assert_eq!(summary.adverts, count);
    }
});
