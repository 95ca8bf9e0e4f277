//! An interface's name.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

/// What Linux allows (`IFNAMSIZ`, less the zero at the end).
const LONGEST: usize = 15;

/// The name of an interface, `eth0`: 1 to 15 bytes, neither `.` nor `..`, without blanks, slashes and colons, as Linux has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct InterfaceName {
    /// Zeros follow the name.
    bytes: [u8; LONGEST],
}

impl InterfaceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(LONGEST);
        // It was made of a text, whole.
        core::str::from_utf8(&self.bytes[..end]).unwrap_or_default()
    }
}

impl FromStr for InterfaceName {
    type Err = ParseInterfaceNameError;

    fn from_str(text: &str) -> Result<Self, ParseInterfaceNameError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
        if !(1..=LONGEST).contains(&text.len()) || matches!(text, "." | "..") || text.contains(bad) {
            return Err(ParseInterfaceNameError);
        }
        let mut bytes = [0; LONGEST];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = ParseInterfaceNameError;

    fn try_from(text: String) -> Result<Self, ParseInterfaceNameError> {
        text.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.as_str().into()
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A text that names no interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no name for an interface: write 1 to 15 bytes without blanks, slashes and colons, like eth0")]
pub struct ParseInterfaceNameError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_named_as_linux_allows() {
        for (name, allowed) in [
            ("eth0", true),
            ("eth0.129", true),
            ("é", true),
            ("fifteen-letters", true),
            ("sixteen--letters", false),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("eth0:1", false),
            ("eth 0", false),
            ("eth\0", false),
        ] {
            let parsed = name.parse::<InterfaceName>();
            assert_eq!(parsed.is_ok(), allowed, "{name:?}");
            if let Ok(parsed) = parsed {
                assert_eq!((parsed.as_str(), parsed.to_string()), (name, name.to_owned()));
            }
        }
    }
}
