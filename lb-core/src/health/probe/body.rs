//! The body of an HTTP/1 answer as it arrives: where it ends, and whether a text is in it.

use alloc::string::String;
use alloc::vec::Vec;

/// How the end of a body shows (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// In the chunks themselves.
    Chunked,
    /// With the end of the connection.
    Close,
}

/// The most bytes that a chunk's first line, with its extensions, or a line end may have.
const LONGEST_CHUNK_LINE: usize = 4096;

/// Takes bytes off the wire, gives those of the body.
#[derive(Debug)]
pub(super) enum Decoder {
    Plain {
        left: Option<u64>,
    },
    Chunk {
        /// What has come of the line that is being read.
        line: Vec<u8>,
        /// Bytes of the chunk that are still to come.
        left: u64,
        /// The line is to give a size; otherwise it is the end of the chunk before.
        sizes: bool,
    },
    Done,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Plain { left: Some(length) },
            Framing::Close => Self::Plain { left: None },
            Framing::Chunked => Self::Chunk { line: Vec::new(), left: 0, sizes: true },
        }
    }

    /// Whether the body is complete. One that only the connection ends never is, before that.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Whether the end of the connection is a proper end of the body.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self, Self::Done | Self::Plain { left: None })
    }

    /// Appends the body's part of `bytes` to `body`; what comes after the body's end is dropped.
    pub(super) fn decode(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            match self {
                Self::Done => break,
                Self::Plain { left: None } => {
                    body.extend_from_slice(bytes);
                    break;
                }
                Self::Plain { left: Some(left) } => {
                    bytes = copy(bytes, left, body);
                    if *left == 0 {
                        *self = Self::Done;
                    }
                }
                Self::Chunk { left, .. } if *left > 0 => bytes = copy(bytes, left, body),
                Self::Chunk { line, left, sizes } => {
                    let (byte, rest) = (bytes[0], &bytes[1..]);
                    line.push(byte);
                    bytes = rest;
                    if line.len() > LONGEST_CHUNK_LINE {
                        return Err("a chunk's first line that does not end");
                    }
                    if byte != b'\n' {
                        continue;
                    }
                    // The parser takes no digits at all for a zero, which would end the body.
                    let size = line[0].is_ascii_hexdigit().then(|| httparse::parse_chunk_size(line));
                    match size {
                        // The line end after a chunk's data comes before the next chunk's size.
                        _ if !*sizes && line == b"\r\n" => *sizes = true,
                        Some(Ok(httparse::Status::Complete((_, 0)))) if *sizes => {
                            *self = Self::Done;
                            break;
                        }
                        Some(Ok(httparse::Status::Complete((_, size)))) if *sizes => {
                            (*left, *sizes) = (size, false)
                        }
                        _ => return Err("a chunk without a proper size"),
                    }
                    line.clear();
                }
            }
        }
        Ok(())
    }
}

/// Moves up to `left` of `bytes` to `body`; gives the rest.
fn copy<'a>(bytes: &'a [u8], left: &mut u64, body: &mut Vec<u8>) -> &'a [u8] {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    body.extend_from_slice(&bytes[..count]);
    *left -= count as u64;
    &bytes[count..]
}

/// Looks for a text in what arrives piece by piece, in the first `limit` bytes.
#[derive(Debug)]
pub(super) struct Search<'a> {
    text: &'a [u8],
    limit: usize,
    body: Vec<u8>,
    /// The body before here does not contain the beginning of an occurrence.
    looked: usize,
}

impl<'a> Search<'a> {
    pub(super) fn new(text: &'a str, limit: usize) -> Self {
        Self { text: text.as_bytes(), limit, body: Vec::new(), looked: 0 }
    }

    /// Takes what `decode` appends to the body; says whether the text has now been found.
    pub(super) fn found<E>(&mut self, decode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<bool, E> {
        decode(&mut self.body)?;
        self.body.truncate(self.limit);
        let found =
            self.text.is_empty() || self.body[self.looked..].windows(self.text.len()).any(|w| w == self.text);
        self.looked = self.looked.max((self.body.len() + 1).saturating_sub(self.text.len()));
        Ok(found)
    }

    pub(super) fn is_full(&self) -> bool {
        self.body.len() >= self.limit
    }

    pub(super) fn searched(&self) -> usize {
        self.body.len()
    }

    /// The first bytes, for a message.
    pub(super) fn start(&self) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(80)]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), &'static str> {
        let (mut decoder, mut body) = (Decoder::new(framing), Vec::new());
        for piece in pieces {
            decoder.decode(piece, &mut body)?;
        }
        Ok((body, decoder.is_done()))
    }

    #[test]
    fn framings() {
        use Framing::{Chunked, Close, Length};
        for (framing, wire, body, done) in [
            (Length(0), &b"more"[..], &b""[..], true),
            (Length(3), b"abcdef", b"abc", true),
            (Length(9), b"abcdef", b"abcdef", false),
            (Close, b"abc", b"abc", false),
            (Chunked, b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", b"abcde", true),
            (Chunked, b"0\r\n\r\n", b"", true),
            (Chunked, b"A\r\nabc", b"abc", false),
        ] {
            let got = decode(framing, &[wire]).unwrap();
            assert_eq!((&*got.0, got.1), (body, done), "{framing:?} {}", wire.escape_ascii());
        }
        for wire in [
            &b"x\r\n"[..],
            b"3\r\nabcd\r\n",
            b"3\r\nabc0\r\n",
            b"\r\n\r\n",
            b"-1\r\n",
            b"ffffffffffffffffff\r\n",
            &[b'1'; 5000],
        ] {
            assert!(decode(Chunked, &[wire]).is_err(), "{}", wire.escape_ascii());
        }
    }

    proptest! {
        /// However a chunked body is cut on the wire, it is the same body, and the same texts are found in it.
        #[test]
        fn cuts_do_not_matter(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..8),
            cuts in proptest::collection::vec(1usize..9, 1..20),
            text in "[a-c]{1,3}",
            limit in 0usize..100,
        ) {
            let chunks: Vec<Vec<u8>> = chunks.into_iter().map(|c| c.into_iter().map(|b| b'a' + b % 3).collect()).collect();
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(alloc::format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut whole = chunks.concat();
            let (mut decoder, mut search, mut found) = (Decoder::new(Framing::Chunked), Search::new(&text, limit), false);
            let (mut rest, mut cuts) = (&wire[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                found |= search.found(|body| decoder.decode(piece, body)).unwrap();
                rest = after;
            }
            prop_assert!(decoder.is_done());
            whole.truncate(limit);
            prop_assert_eq!(search.searched(), whole.len());
            prop_assert_eq!(found, whole.windows(text.len()).any(|w| w == text.as_bytes()));
        }

        /// Anything at all from the wire: an error or a body, never a panic nor more body than wire.
        #[test]
        fn garbage(wire in proptest::collection::vec(any::<u8>(), 0..200), length: u64) {
            for framing in [Framing::Chunked, Framing::Close, Framing::Length(length)] {
                if let Ok((body, _)) = decode(framing, &[&wire]) {
                    prop_assert!(body.len() <= wire.len());
                }
            }
        }
    }
}
