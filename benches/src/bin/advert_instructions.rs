//! Does a fixed number of decodes, receptions and encodes of adverts, for a profiler to count: see
//! `tests/advert_instructions.rs`.
//!
//! Prints how many rounds a call of [`measured`] makes, and then one line a call, in order: what is done, the kind of
//! advert, the number of addresses.

use std::hint::black_box;

use lb_benches::adverts::{COUNTS, KINDS, Pair};
use lb_vrrp::wire::{Advert, ChecksumMode, MAX_MESSAGE};

const ROUNDS: u64 = 1024;

fn main() {
    println!("rounds {ROUNDS}");
    for kind in KINDS {
        for count in COUNTS {
            let Pair { active, transmit, mut backup, meta, message, now } = Pair::new(kind, count);
            measured(|| {
                let advert = Advert::decode(black_box(&meta), black_box(&message), ChecksumMode::Either);
                assert!(advert.is_ok());
            });
            println!("decode|{}|{count}", kind.name);
            measured(|| {
                let heard = backup.handle_packet(black_box(now), black_box(&meta), black_box(&message));
                assert!(heard.is_ok() != kind.signed);
            });
            println!("handle_packet|{}|{count}", kind.name);
            let mut buffer = [0; MAX_MESSAGE];
            measured(|| {
                let written = active.encode(black_box(&transmit), black_box(&mut buffer));
                assert!(written.is_ok());
            });
            println!("encode|{}|{count}", kind.name);
        }
    }
}

/// The profiler counts inside of this function only, and writes down the count at its end.
#[inline(never)]
fn measured(mut work: impl FnMut()) {
    for _ in 0..ROUNDS {
        work();
    }
    // So that the loop above is no tail call, which would leave this function before the work.
    black_box(());
}
