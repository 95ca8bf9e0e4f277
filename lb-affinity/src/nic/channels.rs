//! How many channels an interface has: an interrupt, and the queues that it serves (ethtool(8), `-l` and `-L`).

use std::fmt;
use std::str::FromStr;

/// How many there are, and how many there may be at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Count {
    /// Now.
    pub count: u32,
    /// At most; 0 if the driver has none of the kind.
    pub max: u32,
}

/// An interface's channels (`ETHTOOL_MSG_CHANNELS_GET`; Documentation/networking/ethtool-netlink.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields, default)
)]
pub struct Channels {
    /// Of a receive queue only.
    pub rx: Count,
    /// Of a transmit queue only.
    pub tx: Count,
    /// Of a receive and a transmit queue.
    pub combined: Count,
    /// Of something else: link state, virtual functions.
    pub other: Count,
}

impl Channels {
    /// How many receive queues there are.
    #[must_use]
    pub const fn receive_queues(&self) -> u32 {
        self.rx.count.saturating_add(self.combined.count)
    }

    /// How many receive queues there may be, of the kind that the driver has more of; 0 if it has none.
    #[must_use]
    pub const fn most_receive_queues(&self) -> u32 {
        if self.rx.max > self.combined.max { self.rx.max } else { self.combined.max }
    }

    /// The counts now, of the kinds that the driver has.
    #[must_use]
    pub fn counts(&self) -> ChannelCounts {
        let count = |count: Count| Some(count.count).filter(|_| count.max > 0);
        ChannelCounts { rx: count(self.rx), tx: count(self.tx), combined: count(self.combined) }
    }

    /// What to set so that there are `queues` receive queues, or as many as there may be; `None` if that is so. Channels of a
    /// receive queue only change where the driver has no others, or uses no others now; combined channels do otherwise.
    #[must_use]
    pub fn with_receive_queues(&self, queues: u32) -> Option<ChannelCounts> {
        let Self { rx, combined, .. } = *self;
        let apart = combined.max == 0 || (combined.count == 0 && rx.count > 0);
        let (now, rest) = if apart { (rx, combined.count) } else { (combined, rx.count) };
        if now.max == 0 {
            return None;
        }
        let wanted = queues.saturating_sub(rest).clamp(1, now.max);
        let counts = if apart {
            ChannelCounts { rx: Some(wanted), ..ChannelCounts::default() }
        } else {
            ChannelCounts { combined: Some(wanted), ..ChannelCounts::default() }
        };
        (wanted != now.count).then_some(counts)
    }
}

/// How many channels of each kind; `None` says nothing of a kind. As text, it is what `ethtool -L` is told: `rx 3 tx 2`.
///
/// ```
/// use lb_affinity::nic::ChannelCounts;
///
/// let counts: ChannelCounts = "combined 4".parse()?;
/// assert_eq!(counts, ChannelCounts { combined: Some(4), ..ChannelCounts::default() });
/// assert_eq!(counts.to_string(), "combined 4");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields, default)
)]
pub struct ChannelCounts {
    /// Of a receive queue only.
    pub rx: Option<u32>,
    /// Of a transmit queue only.
    pub tx: Option<u32>,
    /// Of a receive and a transmit queue.
    pub combined: Option<u32>,
}

impl ChannelCounts {
    /// Whether an interface that has these counts has all that `wanted` says.
    #[must_use]
    pub fn have(&self, wanted: &Self) -> bool {
        let pairs = [(self.rx, wanted.rx), (self.tx, wanted.tx), (self.combined, wanted.combined)];
        pairs.iter().all(|(is, wanted)| wanted.is_none() || is == wanted)
    }
}

impl fmt::Display for ChannelCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("rx", self.rx), ("tx", self.tx), ("combined", self.combined)];
        let said = kinds.into_iter().filter_map(|(name, count)| Some(format!("{name} {}", count?)));
        f.write_str(&said.collect::<Vec<_>>().join(" "))
    }
}

/// Why a text is no [`ChannelCounts`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no number of channels; say rx, tx or combined, each once and followed by its number: `combined 4`"
)]
pub struct ParseCountsError(String);

impl FromStr for ChannelCounts {
    type Err = ParseCountsError;

    fn from_str(text: &str) -> Result<Self, ParseCountsError> {
        let wrong = || ParseCountsError(text.to_owned());
        let mut counts = Self::default();
        let mut words = text.split_ascii_whitespace();
        while let Some(kind) = words.next() {
            let count = match kind {
                "rx" => &mut counts.rx,
                "tx" => &mut counts.tx,
                "combined" => &mut counts.combined,
                _ => return Err(wrong()),
            };
            let number = words.next().and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
            if count.replace(number).is_some() {
                return Err(wrong());
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channels(rx: (u32, u32), combined: (u32, u32)) -> Channels {
        let count = |(count, max)| Count { count, max };
        Channels { rx: count(rx), combined: count(combined), ..Channels::default() }
    }

    #[test]
    fn the_kind_that_the_driver_uses_is_changed() {
        for (rx, combined, queues, set) in [
            // A virtio card, and one with fewer than are wanted.
            ((0, 0), (4, 4), 2, Some("combined 2")),
            ((0, 0), (4, 4), 4, None),
            ((0, 0), (1, 4), 16, Some("combined 4")),
            // A veth.
            ((4, 4), (0, 0), 2, Some("rx 2")),
            ((4, 4), (0, 0), 4, None),
            // Both kinds there may be, of which one is in use.
            ((0, 8), (8, 8), 4, Some("combined 4")),
            ((8, 8), (0, 8), 4, Some("rx 4")),
            // Some that receive only beside the combined ones.
            ((2, 8), (8, 8), 6, Some("combined 4")),
            ((2, 8), (8, 8), 1, Some("combined 1")),
            ((0, 0), (0, 0), 4, None),
        ] {
            let set = set.map(|text| text.parse().unwrap());
            assert_eq!(
                channels(rx, combined).with_receive_queues(queues),
                set,
                "{rx:?} {combined:?} {queues}"
            );
        }
        let both = channels((2, 8), (4, 16));
        assert_eq!((both.receive_queues(), both.most_receive_queues()), (6, 16));
        assert_eq!(both.counts().to_string(), "rx 2 combined 4");
    }

    #[test]
    fn counts_are_as_ethtool_is_told() {
        for (text, well) in [
            ("rx 3 tx 2", true),
            ("combined 0", true),
            ("", true),
            ("rx", false),
            ("rx 1 rx 2", false),
            ("other 1", false),
            ("rx -1", false),
            ("rx 4294967296", false),
        ] {
            assert_eq!(
                text.parse::<ChannelCounts>().map(|counts| counts.to_string()).ok(),
                well.then(|| text.into())
            );
        }
        let counts = |text: &str| text.parse::<ChannelCounts>().unwrap();
        assert!(counts("rx 3 tx 2").have(&counts("tx 2")));
        assert!(!counts("rx 3 tx 2").have(&counts("tx 3")));
        assert!(!counts("rx 3").have(&counts("combined 3")));
        assert!(
            "rx x".parse::<ChannelCounts>().unwrap_err().to_string().starts_with("\"rx x\" is no number")
        );
    }

    proptest! {
        #[test]
        fn what_is_set_is_what_was_wanted_as_far_as_it_goes(rx in (0_u32..9, 0_u32..9), combined in (0_u32..9, 0_u32..9), queues in 1_u32..20) {
            let now = channels((rx.0.min(rx.1), rx.1), (combined.0.min(combined.1), combined.1));
            let Some(set) = now.with_receive_queues(queues) else { return Ok(()) };
            prop_assert!(!now.counts().have(&set));
            prop_assert!(set.rx.is_none_or(|rx| (1..=now.rx.max).contains(&rx)));
            prop_assert!(set.combined.is_none_or(|combined| (1..=now.combined.max).contains(&combined)));
            let after = set.rx.unwrap_or(now.rx.count) + set.combined.unwrap_or(now.combined.count);
            prop_assert!(after.abs_diff(queues) <= now.receive_queues().abs_diff(queues), "{now:?} {queues} {set}");
            prop_assert_eq!(set.to_string().parse(), Ok(set));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            if let Ok(counts) = text.parse::<ChannelCounts>() {
                prop_assert_eq!(counts.to_string().parse(), Ok(counts));
            }
        }
    }
}
