//! What a pick costs in instructions, which no noise of the machine changes: two runs give the same numbers.
//!
//! `cargo test -p lb-benches --test instructions -- --ignored --nocapture` after `apt-get install valgrind` prints
//! the table. Instructions are not time (an atomic read-modify-write is one of them and takes 2 to 10 ns: four are in a
//! whole path, and five where all threads share a cursor), but a lock, an allocation or a scan that creeps into a path
//! shows at once.

#[path = "support/callgrind.rs"]
mod callgrind;

/// The most instructions of one pick at 10, 100 and 1000 backends: measured with Rust 1.95 for baseline x86-64, and a
/// quarter more for compilers to come. Constant, logarithmic and linear algorithms read off the line.
///
/// The loop of the measurement and the making of the request are in it: some 25 instructions.
const BOUNDS: &[callgrind::Bound] = &[
    ("rr", "choice", [60.0, 60.0, 60.0]),
    ("wrr", "choice", [60.0, 60.0, 60.0]),
    ("swrr", "choice", [55.0, 55.0, 55.0]),
    ("rr striped", "choice", [70.0, 70.0, 70.0]),
    ("wrr striped", "choice", [70.0, 70.0, 70.0]),
    ("swrr striped", "choice", [65.0, 65.0, 65.0]),
    ("lc", "choice", [175.0, 270.0, 310.0]),
    ("wlc", "choice", [175.0, 270.0, 310.0]),
    ("lc striped", "choice", [180.0, 275.0, 320.0]),
    ("wlc striped", "choice", [180.0, 275.0, 320.0]),
    ("p2c striped", "choice", [155.0, 155.0, 155.0]),
    ("random", "choice", [90.0, 90.0, 90.0]),
    ("p2c", "choice", [170.0, 170.0, 170.0]),
    ("sh", "choice", [75.0, 75.0, 75.0]),
    ("maglev", "choice", [115.0, 115.0, 115.0]),
    ("rendezvous", "choice", [820.0, 2875.0, 23_160.0]),
    ("rr", "whole", [260.0, 260.0, 260.0]),
    ("wrr", "whole", [265.0, 265.0, 265.0]),
    ("swrr", "whole", [260.0, 260.0, 260.0]),
    ("rr striped", "whole", [270.0, 270.0, 270.0]),
    ("wrr striped", "whole", [275.0, 275.0, 275.0]),
    ("swrr striped", "whole", [270.0, 270.0, 270.0]),
    ("lc", "whole", [640.0, 1275.0, 1970.0]),
    ("wlc", "whole", [695.0, 1330.0, 2025.0]),
    ("lc striped", "whole", [665.0, 1300.0, 1995.0]),
    ("wlc striped", "whole", [720.0, 1355.0, 2050.0]),
    ("p2c striped", "whole", [355.0, 355.0, 355.0]),
    ("random", "whole", [290.0, 290.0, 290.0]),
    ("p2c", "whole", [365.0, 365.0, 365.0]),
    ("sh", "whole", [275.0, 275.0, 275.0]),
    ("maglev", "whole", [315.0, 315.0, 315.0]),
    ("rendezvous", "whole", [1020.0, 3080.0, 23_365.0]),
];

#[test]
#[ignore = "needs valgrind"]
fn a_pick_stays_within_its_instructions() {
    callgrind::hold("instructions", BOUNDS, lb_benches::fleet::SIZES);
}
