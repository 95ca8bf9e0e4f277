//! What an advert costs in instructions, which no noise of the machine changes: two runs give the same numbers.
//!
//! `cargo test -p lb-benches --test advert_instructions -- --ignored --nocapture` after `apt-get install valgrind` prints
//! the table.

#[path = "support/callgrind.rs"]
mod callgrind;

use lb_benches::adverts::COUNTS;

/// The most instructions with 1, 2 and 80 addresses: measured with Rust 1.95 for baseline x86-64, and a quarter more for
/// compilers to come. SHA-256 is done without the processor's own instructions for it, which callgrind does not know.
const BOUNDS: &[callgrind::Bound] = &[
    ("decode", "v2", [290.0, 300.0, 475.0]),
    ("handle_packet", "v2", [690.0, 695.0, 940.0]),
    ("encode", "v2", [375.0, 380.0, 620.0]),
    ("decode", "v3 IPv4", [305.0, 315.0, 495.0]),
    ("handle_packet", "v3 IPv4", [710.0, 715.0, 955.0]),
    ("encode", "v3 IPv4", [370.0, 375.0, 615.0]),
    ("decode", "v3 IPv6", [330.0, 325.0, 1055.0]),
    ("handle_packet", "v3 IPv6", [745.0, 735.0, 1690.0]),
    ("encode", "v3 IPv6", [400.0, 390.0, 1295.0]),
    ("decode", "v3 signed", [315.0, 320.0, 500.0]),
    ("handle_packet", "v3 signed", [13_920.0, 13_945.0, 35_025.0]),
    ("encode", "v3 signed", [13_555.0, 13_580.0, 34_720.0]),
];

#[test]
#[ignore = "needs valgrind"]
fn an_advert_stays_within_its_instructions() {
    callgrind::hold("advert_instructions", BOUNDS, COUNTS.map(usize::from));
}
