//! What a pick costs in instructions, which no noise of the machine changes: two runs give the same numbers.
//!
//! `cargo test -p lb-benches --test instructions -- --ignored --nocapture` after `apt-get install valgrind` prints
//! the table. Instructions are not time (an atomic read-modify-write is one of them and takes 2 to 10 ns: none is in a
//! whole path, and one where all threads share a cursor), but a lock, an allocation or a scan that creeps into a path
//! shows at once.

#[path = "support/callgrind.rs"]
mod callgrind;

/// The most instructions of one pick at 10, 100 and 1000 backends: measured with Rust 1.95 for baseline x86-64, and a
/// quarter more for compilers to come. Constant, logarithmic and linear algorithms read off the line.
///
/// The loop of the measurement and the making of the request are in it: some 25 instructions.
const BOUNDS: &[callgrind::Bound] = &[
    ("rr", "choice", [65.0, 65.0, 60.0]),
    ("wrr", "choice", [75.0, 70.0, 75.0]),
    ("swrr", "choice", [65.0, 65.0, 65.0]),
    ("rr striped", "choice", [75.0, 70.0, 70.0]),
    ("wrr striped", "choice", [85.0, 80.0, 80.0]),
    ("swrr striped", "choice", [75.0, 70.0, 70.0]),
    ("lc", "choice", [185.0, 280.0, 320.0]),
    ("wlc", "choice", [185.0, 280.0, 320.0]),
    ("lc striped", "choice", [190.0, 285.0, 330.0]),
    ("wlc striped", "choice", [190.0, 285.0, 330.0]),
    ("p2c striped", "choice", [175.0, 175.0, 175.0]),
    ("random", "choice", [100.0, 100.0, 100.0]),
    ("p2c", "choice", [180.0, 180.0, 180.0]),
    ("sh", "choice", [80.0, 80.0, 80.0]),
    ("maglev", "choice", [125.0, 125.0, 125.0]),
    ("rendezvous", "choice", [825.0, 2885.0, 23_170.0]),
    ("rr", "whole", [370.0, 365.0, 365.0]),
    ("wrr", "whole", [375.0, 375.0, 375.0]),
    ("swrr", "whole", [365.0, 365.0, 365.0]),
    ("rr striped", "whole", [375.0, 370.0, 375.0]),
    ("wrr striped", "whole", [385.0, 380.0, 385.0]),
    ("swrr striped", "whole", [375.0, 370.0, 375.0]),
    ("lc", "whole", [950.0, 1585.0, 2280.0]),
    ("wlc", "whole", [1005.0, 1640.0, 2335.0]),
    ("lc striped", "whole", [965.0, 1600.0, 2295.0]),
    ("wlc striped", "whole", [1020.0, 1655.0, 2350.0]),
    ("p2c striped", "whole", [475.0, 475.0, 475.0]),
    ("random", "whole", [400.0, 400.0, 400.0]),
    ("p2c", "whole", [520.0, 520.0, 525.0]),
    ("sh", "whole", [380.0, 380.0, 380.0]),
    ("maglev", "whole", [425.0, 425.0, 425.0]),
    ("rendezvous", "whole", [1130.0, 3185.0, 23_475.0]),
];

#[test]
#[ignore = "needs valgrind"]
fn a_pick_stays_within_its_instructions() {
    callgrind::hold("instructions", BOUNDS, lb_benches::fleet::SIZES);
}
