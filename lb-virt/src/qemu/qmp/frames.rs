//! QEMU's answers, cut from a stream of bytes: one JSON object a line.
//!
//! Nothing here waits or reads: bytes come in as they come, whole messages go out. What is not known is let through: other fields,
//! other events, other kinds of messages.
//!
//! Source: QEMU's "QMP protocol specification".

use serde::Deserialize;
use serde_json::{Map, Value};

use super::QmpError;

/// The longest line that is taken, in bytes: 64 MiB. QEMU's whole schema has 0.2 MB; what is longer is no answer.
pub const LONGEST: usize = 64 << 20;

/// What QEMU says.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// It is there.
    Greeting {
        /// Its version: major, minor, micro; zeros for what it does not say.
        version: [u64; 3],
        /// What its distributor calls it.
        package: String,
        /// Whether it can be told something before it has done what it was told before.
        out_of_band: bool,
    },
    /// A command is done.
    Return {
        /// The number that the command had.
        id: Option<u64>,
        /// Its result.
        value: Value,
    },
    /// A command is refused.
    Refusal {
        /// The number that the command had; none if it was not understood.
        id: Option<u64>,
        /// The class of the error: `GenericError`.
        class: String,
        /// QEMU's words.
        words: String,
    },
    /// Something has happened.
    Event(QmpEvent),
    /// Something that is not known here.
    Other(Value),
}

/// Something that has happened in QEMU.
#[derive(Clone, Debug, PartialEq)]
pub struct QmpEvent {
    /// Its name: `STOP`, `DEVICE_DELETED`.
    pub name: String,
    /// What belongs to it.
    pub data: Map<String, Value>,
}

impl QmpEvent {
    /// A text that belongs to it; empty if there is none of that name.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.data.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Bytes that become messages.
///
/// ```
/// use lb_virt::qemu::qmp::{Frames, Message};
///
/// let mut frames = Frames::default();
/// frames.push(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "ST"#);
/// assert_eq!(frames.take()?, None);
/// frames.push(b"OP\"}\r\n");
/// assert!(matches!(frames.take()?, Some(Message::Event(event)) if event.name == "STOP"));
/// # Ok::<(), lb_virt::qemu::qmp::QmpError>(())
/// ```
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// How many of them have been taken.
    taken: usize,
    /// How far there is no end of a line.
    searched: usize,
}

impl Frames {
    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.searched -= self.taken;
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message; `None` until it is whole.
    ///
    /// # Errors
    /// [`QmpError::Garbage`] for a line that is no message: it is left out, and the next can be taken. [`QmpError::TooLong`] for one
    /// that has no end: nothing can be taken after it.
    pub fn take(&mut self) -> Result<Option<Message>, QmpError> {
        loop {
            let fresh = &self.bytes[self.searched..];
            let Some(end) = fresh.iter().position(|&byte| byte == b'\n').map(|at| self.searched + at) else {
                self.searched = self.bytes.len();
                return match self.bytes.len() - self.taken {
                    ..=LONGEST => Ok(None),
                    _ => Err(QmpError::TooLong { most: LONGEST }),
                };
            };
            let line = self.bytes[self.taken..end].trim_ascii();
            let message = if line.is_empty() { None } else { Some(parse(line)) };
            self.taken = end + 1;
            self.searched = self.taken;
            if let Some(message) = message {
                return message.map(Some);
            }
        }
    }

    /// Whether part of a message waits for its rest.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.bytes[self.taken..].trim_ascii().is_empty()
    }
}

/// A message as it is written; what is not here is not looked at.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    // `null` is a result too.
    #[serde(rename = "return", default, deserialize_with = "present")]
    result: Option<Value>,
    error: Option<Value>,
    event: Option<Value>,
    data: Option<Value>,
    id: Option<Value>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn parse(line: &[u8]) -> Result<Message, QmpError> {
    let garbage = |reason: String| {
        // Enough to know it by.
        let shown: String = String::from_utf8_lossy(&line[..line.len().min(400)]).chars().take(120).collect();
        QmpError::Garbage { line: shown, reason }
    };
    // serde_json bounds how deep objects nest, so no line exhausts the stack. A list of the fields would pass for an object.
    if line[0] != b'{' {
        return Err(garbage("not an object".into()));
    }
    let raw: Raw = serde_json::from_slice(line).map_err(|error| garbage(error.to_string()))?;
    let id = raw.id.as_ref().and_then(Value::as_u64);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Ok(match raw {
        Raw { event: Some(Value::String(name)), data, .. } => {
            let data = if let Some(Value::Object(data)) = data { data } else { Map::new() };
            Message::Event(QmpEvent { name, data })
        }
        Raw { error: Some(error), .. } => {
            Message::Refusal { id, class: text(&error, "class"), words: text(&error, "desc") }
        }
        Raw { result: Some(value), .. } => Message::Return { id, value },
        Raw { greeting: Some(greeting), .. } => {
            let version = &greeting["version"];
            let number = |key: &str| version["qemu"][key].as_u64().unwrap_or_default();
            Message::Greeting {
                version: [number("major"), number("minor"), number("micro")],
                package: text(version, "package"),
                out_of_band: greeting["capabilities"]
                    .as_array()
                    .is_some_and(|all| all.contains(&"oob".into())),
            }
        }
        _ => Message::Other(serde_json::from_slice(line).map_err(|error| garbage(error.to_string()))?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<Result<Message, String>> {
        let mut frames = Frames::default();
        frames.push(bytes);
        drain(&mut frames)
    }

    fn drain(frames: &mut Frames) -> Vec<Result<Message, String>> {
        std::iter::from_fn(|| frames.take().map_err(|error| error.to_string()).transpose()).collect()
    }

    #[test]
    fn what_qemu_says_is_understood_and_what_is_new_let_through() {
        let event = |name: &str, data: Value| {
            Message::Event(QmpEvent {
                name: name.into(),
                data: data.as_object().cloned().unwrap_or_default(),
            })
        };
        let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"], "new": 1}}"#;
        for (line, message) in [
            (
                greeting,
                Message::Greeting { version: [7, 2, 22], package: "Debian".into(), out_of_band: true },
            ),
            (
                r#"{"QMP": {}}"#,
                Message::Greeting { version: [0; 3], package: String::new(), out_of_band: false },
            ),
            (r#"{"return": {}, "id": 7}"#, Message::Return { id: Some(7), value: json!({}) }),
            (r#"{"return": null, "id": 8}"#, Message::Return { id: Some(8), value: Value::Null }),
            (r#"{"return": [1], "id": "other"}"#, Message::Return { id: None, value: json!([1]) }),
            (
                r#"{"id": 1, "error": {"class": "NewClass", "desc": "no", "more": {}}}"#,
                Message::Refusal { id: Some(1), class: "NewClass".into(), words: "no".into() },
            ),
            (r#"{"error": 3}"#, Message::Refusal { id: None, class: String::new(), words: String::new() }),
            (
                r#"{"event": "NEVER_HEARD_OF", "data": {"a": [1]}}"#,
                event("NEVER_HEARD_OF", json!({"a": [1]})),
            ),
            (r#"{"event": "STOP", "data": 5}"#, event("STOP", json!({}))),
            (r#"{"event": 5}"#, Message::Other(json!({"event": 5}))),
            (r#"{"telegram": true}"#, Message::Other(json!({"telegram": true}))),
        ] {
            assert_eq!(all(format!("{line}\r\n").as_bytes()), [Ok(message)], "{line}");
        }
    }

    #[test]
    fn garbage_is_named_and_the_next_line_taken() {
        let messages = all(b"\r\n\0\xff\xfenonsense\n[]\n{\"return\": 1}\n{\"return\":");
        let [Err(first), Err(second), Ok(Message::Return { .. })] = &messages[..] else {
            panic!("{messages:?}")
        };
        assert!(first.contains("nonsense"), "{first}");
        assert!(second.contains("[]"), "{second}");
        let deep = format!("{{\"return\": {}\n", "[".repeat(100_000));
        assert!(matches!(&all(deep.as_bytes())[..], [Err(_)]));
    }

    #[test]
    fn ten_megabytes_are_an_answer_and_what_has_no_end_is_none() {
        let long = "x".repeat(10_000_000);
        let mut frames = Frames::default();
        let answer = format!("{{\"return\": \"{long}\"}}\r\n");
        for piece in answer.as_bytes().chunks(4096) {
            frames.push(piece);
        }
        assert_eq!(frames.take().unwrap(), Some(Message::Return { id: None, value: json!(long) }));
        frames.push(&vec![b' '; LONGEST + 1]);
        assert!(matches!(frames.take(), Err(QmpError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_come(
            lines in proptest::collection::vec(
                prop_oneof![
                    Just(r#"{"event": "RESET", "data": {"guest": true}}"#.to_owned()),
                    Just(r#"{"return": {}, "id": 3}"#.to_owned()),
                    "[ -~]{0,40}",
                ],
                0..6,
            ),
            cuts in proptest::collection::vec(1..20_usize, 0..40),
        ) {
            let bytes = lines.join("\r\n").into_bytes();
            let mut frames = Frames::default();
            let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
            for cut in cuts {
                let (piece, other) = rest.split_at(cut.min(rest.len()));
                frames.push(piece);
                pieces.extend(drain(&mut frames));
                rest = other;
            }
            frames.push(rest);
            pieces.extend(drain(&mut frames));
            prop_assert_eq!(pieces, all(&bytes));
        }
    }
}
