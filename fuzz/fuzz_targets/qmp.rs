//! Whatever comes over a QEMU's socket, in whatever pieces: messages, or errors that say what is wrong; the same for any pieces.
#![no_main]

use lb_virt::qemu::qmp::{Frames, LONGEST, Message};
use libfuzzer_sys::fuzz_target;

/// All that can be taken: messages as they are, errors as they read.
fn drain(frames: &mut Frames, messages: &mut Vec<Result<Message, String>>) {
    while let Some(message) = frames.take().map_err(|error| error.to_string()).transpose() {
        if let Err(words) = &message {
            assert!(words.len() < 4096, "an error is to be read");
        }
        messages.push(message);
    }
}

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (cuts, bytes) = input;
    assert!(bytes.len() < LONGEST);
    let (mut whole, mut expected) = (Frames::default(), Vec::new());
    whole.push(bytes);
    drain(&mut whole, &mut expected);
    let (mut frames, mut messages, mut rest) = (Frames::default(), Vec::new(), bytes);
    for cut in cuts {
        let (piece, other) = rest.split_at(usize::from(cut).min(rest.len()));
        frames.push(piece);
        drain(&mut frames, &mut messages);
        rest = other;
    }
    frames.push(rest);
    drain(&mut frames, &mut messages);
    assert_eq!(messages, expected);
    assert_eq!(frames.is_partial(), whole.is_partial());
    // After the end of a line, what comes next is understood.
    frames.push(b"\n{\"return\": {}, \"id\": 7}\n");
    messages.clear();
    drain(&mut frames, &mut messages);
    assert!(matches!(messages.last(), Some(Ok(Message::Return { id: Some(7), .. }))), "{messages:?}");
});
