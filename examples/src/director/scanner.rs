//! The shape of an HTTP/1 request stream, checked byte for byte before the HTTP engine sees it.
//!
//! Two programs that disagree on where a request ends can be made to see different requests: request smuggling. The
//! engine forgives what RFC 9112 lets a lone server forgive (a bare LF as a line's end, `Content-Length` beside
//! `Transfer-Encoding`); a proxy must not. So this scanner follows the framing by itself, by the strict grammar, and
//! where a stream leaves it, the scanner spoils the bytes from there on: into what the engine can accept nowhere, so
//! that it answers 400 and closes. Both agree, or nobody goes on.

/// Why a stream was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// RFC 9112 section 6.3: a sender must not send both.
    BothLengths,
    /// Two lengths that differ.
    DifferingLengths,
    /// A length that is not a plain decimal number.
    BadLength,
    /// Anything but one `chunked`, or any with HTTP/1.0.
    BadTransferEncoding,
    /// A CR that no LF follows.
    BareCr,
    /// A line that ends without CR.
    BareLf,
    /// A NUL byte.
    Nul,
    /// A header line that goes on in the next one, obsolete since RFC 7230.
    Folded,
    /// White space between a header's name and its colon.
    SpaceBeforeColon,
    /// More header bytes than the frontend takes.
    HeaderTooLarge,
    /// A chunk that is not `size CRLF data CRLF`.
    BadChunk,
    /// A trailer that is no header line.
    BadTrailer,
}

impl Refused {
    /// For logs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::BothLengths => "both Content-Length and Transfer-Encoding",
            Self::DifferingLengths => "differing Content-Length",
            Self::BadLength => "a Content-Length that is no number",
            Self::BadTransferEncoding => "a Transfer-Encoding other than chunked",
            Self::BareCr => "a bare CR in the header",
            Self::BareLf => "a line that ends in a bare LF",
            Self::Nul => "a NUL byte",
            Self::Folded => "a folded header line",
            Self::SpaceBeforeColon => "white space before a header's colon",
            Self::HeaderTooLarge => "a header larger than max-header-bytes",
            Self::BadChunk => "a malformed chunk",
            Self::BadTrailer => "a malformed trailer",
        }
    }
}

/// The longest chunk-size line with its extensions, and the most trailer bytes.
const MAX_CHUNK_LINE: usize = 4_096;

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before a request or in its header.
    Head,
    /// In a body of known length: so many bytes to go.
    Fixed(u64),
    /// At a chunk's size line.
    ChunkSize,
    /// In a chunk: so many bytes to go.
    ChunkData(u64),
    /// At the CRLF after a chunk's data; whether the CR is there.
    ChunkEnd(bool),
    /// In the trailers.
    Trailer,
    /// Left the grammar.
    Refused(Refused),
}

/// Follows one connection's requests.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// The start of a line whose end has not been read.
    carry: Vec<u8>,
    /// Bytes of the present header, or of the present chunk line or trailers; after a refusal, those spoilt.
    seen: usize,
    limit: usize,
    head: Head,
}

/// What the present header said of its body.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    request_line: bool,
    http11: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Scanner {
    /// A scanner at the start of a connection whose headers may have `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { state: State::Head, carry: Vec::new(), seen: 0, limit, head: Head::default() }
    }

    /// Why the stream was refused, if it was.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        match self.state {
            State::Refused(why) => Some(why),
            _ => None,
        }
    }

    /// Whether a request has begun whose header has not ended.
    #[must_use]
    pub fn in_head(&self) -> bool {
        matches!(self.state, State::Head) && self.seen > 0
    }

    /// Checks what was just read; spoils it from where it leaves the grammar, and all that is read later.
    pub fn scan(&mut self, data: &mut [u8]) {
        let mut at = 0;
        while at < data.len() {
            if let State::Refused(why) = self.state {
                self.spoil(&mut data[at..], why);
                return;
            }
            match self.step(&data[at..]) {
                Ok(used) => at += used,
                Err(why) => self.begin(State::Refused(why)),
            }
        }
    }

    /// Takes at least one byte, or finds what is wrong with the next one.
    fn step(&mut self, data: &[u8]) -> Result<usize, Refused> {
        match &mut self.state {
            State::Head => self.head_line(data),
            State::ChunkSize | State::Trailer => self.chunk_line(data),
            State::Fixed(left) | State::ChunkData(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                *left -= used as u64;
                if *left == 0 {
                    self.state = match self.state {
                        State::Fixed(_) => State::Head,
                        _ => State::ChunkEnd(false),
                    };
                }
                Ok(used)
            }
            State::ChunkEnd(cr) => match (*cr, data[0]) {
                (false, b'\r') => {
                    *cr = true;
                    Ok(1)
                }
                (true, b'\n') => {
                    self.begin(State::ChunkSize);
                    Ok(1)
                }
                _ => Err(Refused::BadChunk),
            },
            State::Refused(why) => Err(*why),
        }
    }

    /// Overwrites `data` with what the engine refuses, whatever it has read before. A few bytes of it are enough.
    fn spoil(&mut self, data: &mut [u8], why: Refused) {
        let pattern: &[u8] = match why {
            // Nowhere does it end, so the engine gives it up for its size.
            Refused::HeaderTooLarge => b"a",
            // No chunk's size, extension or end, and no trailer, has two CR in a row.
            Refused::BadChunk | Refused::BadTrailer => b"\r",
            // No header has a NUL; the engine may look for one only when it sees the header's end.
            _ => b"\0\r\n\r\n",
        };
        for byte in data {
            *byte = pattern[self.seen % pattern.len()];
            self.seen += 1;
        }
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.seen = 0;
    }

    /// The next line of a header, or the part of it that is there.
    fn head_line(&mut self, data: &[u8]) -> Result<usize, Refused> {
        let end = memchr::memchr(b'\n', data);
        let used = end.map_or(data.len(), |end| end + 1);
        self.seen += used;
        if self.seen > self.limit {
            return Err(Refused::HeaderTooLarge);
        }
        let Some(end) = end else {
            self.carry.extend_from_slice(data);
            return Ok(used);
        };
        if self.carry.is_empty() {
            self.whole_line(&data[..end])?;
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(&data[..end]);
            self.whole_line(&line)?;
            line.clear();
            self.carry = line;
        }
        Ok(used)
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Refused> {
        let line = line.strip_suffix(b"\r").ok_or(Refused::BareLf)?;
        if let Some(at) = memchr::memchr2(b'\r', 0, line) {
            return Err(if line[at] == 0 { Refused::Nul } else { Refused::BareCr });
        }
        match (line.is_empty(), self.head.request_line) {
            (true, true) => self.end_of_head(),
            // RFC 9112 section 2.2: empty lines before a request are ignored. They count as header bytes.
            (true, false) => Ok(()),
            (false, false) => {
                self.head.request_line = true;
                self.head.http11 = !line.ends_with(b" HTTP/1.0");
                Ok(())
            }
            (false, true) => self.field(line),
        }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refused> {
        const LENGTH: &[u8] = b"content-length";
        const ENCODING: &[u8] = b"transfer-encoding";
        if line[0] == b' ' || line[0] == b'\t' {
            return Err(Refused::Folded);
        }
        let Some(colon) = memchr::memchr(b':', line) else { return Ok(()) };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.ends_with(b" ") || name.ends_with(b"\t") {
            return Err(Refused::SpaceBeforeColon);
        }
        if name.len() == LENGTH.len() && name.eq_ignore_ascii_case(LENGTH) {
            let length = decimal(value.trim_ascii()).ok_or(Refused::BadLength)?;
            if self.head.length.is_some_and(|other| other != length) {
                return Err(Refused::DifferingLengths);
            }
            self.head.length = Some(length);
        } else if name.len() == ENCODING.len() && name.eq_ignore_ascii_case(ENCODING) {
            if self.head.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Refused::BadTransferEncoding);
            }
            self.head.chunked = true;
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Refused> {
        let next = match std::mem::take(&mut self.head) {
            Head { chunked: true, length: Some(_), .. } => return Err(Refused::BothLengths),
            Head { chunked: true, http11: false, .. } => return Err(Refused::BadTransferEncoding),
            Head { chunked: true, .. } => State::ChunkSize,
            Head { length: Some(length @ 1..), .. } => State::Fixed(length),
            _ => State::Head,
        };
        self.begin(next);
        Ok(())
    }

    /// The next line of a chunk's size or of the trailers, or the part of it that is there.
    fn chunk_line(&mut self, data: &[u8]) -> Result<usize, Refused> {
        let end = memchr::memchr(b'\n', data);
        let used = end.map_or(data.len(), |end| end + 1);
        self.seen += used;
        if self.seen > MAX_CHUNK_LINE {
            return Err(Refused::BadChunk);
        }
        self.carry.extend_from_slice(&data[..end.unwrap_or(data.len())]);
        if end.is_none() {
            // A size that cannot become right is refused before its line ends.
            let early = matches!(self.state, State::ChunkSize) && !self.carry[0].is_ascii_hexdigit();
            return if early { Err(Refused::BadChunk) } else { Ok(used) };
        }
        let mut line = std::mem::take(&mut self.carry);
        let next = self.whole_chunk_line(&line)?;
        line.clear();
        self.carry = line;
        match next {
            Some(state) => self.begin(state),
            None => self.state = State::Trailer,
        }
        Ok(used)
    }

    /// The state after this line; `None` for the next trailer, which shares the limit of those before.
    fn whole_chunk_line(&self, line: &[u8]) -> Result<Option<State>, Refused> {
        let in_trailer = matches!(self.state, State::Trailer);
        let why = if in_trailer { Refused::BadTrailer } else { Refused::BadChunk };
        let line = line.strip_suffix(b"\r").ok_or(why)?;
        if memchr::memchr2(b'\r', 0, line).is_some() {
            return Err(why);
        }
        if in_trailer {
            return match line.first() {
                None => Ok(Some(State::Head)),
                Some(b' ' | b'\t' | b':') => Err(why),
                Some(_) => Ok(None),
            };
        }
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        // 15 digits: below 2^60, beyond any body, and no arithmetic on it can overflow.
        if digits == 0 || digits > 15 {
            return Err(Refused::BadChunk);
        }
        let extension = line[digits..].trim_ascii_start();
        if !extension.is_empty() && !extension.starts_with(b";") {
            return Err(Refused::BadChunk);
        }
        let size = line[..digits].iter().fold(0, |size, &digit| size * 16 + u64::from(hex(digit)));
        Ok(Some(if size == 0 { State::Trailer } else { State::ChunkData(size) }))
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n";

    /// Feeds `text` in pieces of `piece` bytes; what came of it.
    fn scan(text: &str, piece: usize) -> (Option<Refused>, Vec<u8>) {
        let mut scanner = Scanner::new(1_024);
        let mut data = text.as_bytes().to_vec();
        for part in data.chunks_mut(piece) {
            scanner.scan(part);
        }
        (scanner.refused(), data)
    }

    #[test]
    fn requests_that_follow_the_grammar_pass_unchanged_however_they_are_cut() {
        for text in [
            format!("{GET}\r\n"),
            format!("\r\n{GET}\r\n{GET}Content-Length: 0\r\n\r\n{GET}\r\n"),
            format!("{GET}Content-Length: 5\r\nContent-length:5\r\n\r\n\0\r\n\0x{GET}\r\n"),
            format!("{GET}Transfer-Encoding: Chunked\r\n\r\n3\r\na\r\0\r\n0\r\n\r\n{GET}\r\n"),
            format!(
                "{GET}Transfer-Encoding: chunked\r\n\r\nA ;x=y\r\n0123456789\r\n0\r\nT: v\r\nU: w\r\n\r\n{GET}\r\n"
            ),
        ] {
            for piece in [1, 2, 3, 7, text.len()] {
                let (refused, data) = scan(&text, piece);
                assert_eq!(refused, None, "{text:?} in pieces of {piece}");
                assert_eq!(data, text.as_bytes(), "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn requests_that_two_programs_could_read_differently_are_spoilt_however_they_are_cut() {
        use Refused::*;
        let chunked = format!("{GET}Transfer-Encoding: chunked\r\n\r\n");
        for (text, why) in [
            (format!("{GET}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), BothLengths),
            (format!("{GET}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"), BothLengths),
            (format!("{GET}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), DifferingLengths),
            (format!("{GET}Content-Length: 5, 5\r\n\r\n"), BadLength),
            (format!("{GET}Content-Length: +5\r\n\r\n"), BadLength),
            (format!("{GET}Content-Length: \r\n\r\n"), BadLength),
            (format!("{GET}Content-Length: 0x5\r\n\r\n"), BadLength),
            (format!("{GET}Content-Length: 99999999999999999999\r\n\r\n"), BadLength),
            (format!("{GET}Transfer-Encoding: gzip, chunked\r\n\r\n"), BadTransferEncoding),
            (format!("{GET}Transfer-Encoding: xchunked\r\n\r\n"), BadTransferEncoding),
            (
                format!("{GET}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
                BadTransferEncoding,
            ),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), BadTransferEncoding),
            (format!("{GET}X: a\rb\r\n\r\n"), BareCr),
            (format!("{GET}X: a\nY: b\r\n\r\n"), BareLf),
            ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), BareLf),
            (format!("{GET}X: a\0b\r\n\r\n"), Nul),
            (format!("{GET}X: a\r\n b\r\n\r\n"), Folded),
            (format!("{GET}Content-Length : 5\r\n\r\n"), SpaceBeforeColon),
            (format!("{GET}X: {}\r\n\r\n", "a".repeat(2_000)), HeaderTooLarge),
            (format!("{chunked}-1\r\n"), BadChunk),
            (format!("{chunked}\r\n"), BadChunk),
            (format!("{chunked}0x3\r\nabc\r\n"), BadChunk),
            (format!("{chunked}3\nabc\r\n"), BadChunk),
            (format!("{chunked}3\r\nabcd\r\n"), BadChunk),
            (format!("{chunked}3\r\nabc\n"), BadChunk),
            (format!("{chunked}1000000000000000\r\n"), BadChunk),
            (format!("{chunked}0\r\n x\r\n\r\n"), BadTrailer),
            (format!("{chunked}3;{}\r\n", "x".repeat(5_000)), BadChunk),
        ] {
            for piece in [1, 2, 3, 7, text.len()] {
                let (refused, data) = scan(&text, piece);
                assert_eq!(refused, Some(why), "{text:?} in pieces of {piece}");
                if piece == text.len() {
                    assert_ne!(data, text.as_bytes(), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn it_is_in_a_header_from_the_first_byte_to_the_last() {
        let mut scanner = Scanner::new(1_024);
        assert!(!scanner.in_head());
        scanner.scan(&mut b"G".to_vec());
        assert!(scanner.in_head());
        scanner.scan(&mut b"ET / HTTP/1.1\r\nContent-Length: 2\r\n\r\n".to_vec());
        assert!(!scanner.in_head());
        scanner.scan(&mut b"xy".to_vec());
        assert!(!scanner.in_head());
    }
}
