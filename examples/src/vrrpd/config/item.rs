//! What both forms of the configuration are first turned into: words on a line, and what stands in braces behind them.

use crate::director::config::Place;

/// `words`, and the block behind them if there is one: `vrrp_instance HA1 { … }`, `priority 100`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// The keyword and what follows it, without quotes. Never empty.
    pub(super) words: Vec<String>,
    /// What stands in braces.
    pub(super) block: Option<Vec<Item>>,
    /// Where the keyword stands.
    pub(super) place: Place,
}

impl Item {
    /// The first word.
    pub(super) fn keyword(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The words behind the keyword.
    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The lines of the block.
    pub(super) fn lines(&self) -> &[Item] {
        self.block.as_deref().unwrap_or_default()
    }
}
