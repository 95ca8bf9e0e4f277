//! The names of the ways to lay out a machine.

use std::fmt;
use std::str::FromStr;

/// How a machine's CPUs are divided between workers and network work.
///
/// From [`Strategy::None`] on they are the `cpu-policy` names of HAProxy (Configuration Manual 3.2, section 3.1): those say where
/// workers may run, and leave the network side as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// `balanced`: every NUMA node in use holds as many network CPUs as workers, on as few nodes as possible, and no worker is
    /// on an interrupt's CPU. Where workers are more than three for each CPU that they leave to the network, all CPUs do its work,
    /// and workers may be anywhere.
    #[default]
    Balanced,
    /// `same-node`: workers in the interrupt's node, whose CPU does all network work; on the nearest nodes when it is full.
    SameNode,
    /// `network-on-one-node`: the interrupt's node does network work, workers are on the others.
    NetworkOnOneNode,
    /// `one-cpu`: one CPU beside the interrupt's does all protocol work; workers are around them.
    OneCpu,
    /// `rss`: the NIC's queues alone spread the work, each on a network CPU of its own; RPS is off.
    Rss,
    /// `rfs`: each packet goes to the CPU of the worker that reads it, which does its protocol work too.
    Rfs,
    /// `none`: all CPUs, at most 64 workers, which go where the scheduler puts them.
    None,
    /// `efficiency`: as `group-by-ccx`, without the cores that are more than 25 % faster than the next slower ones.
    Efficiency,
    /// `first-usable-node`: the CPUs of the first node that has any, at most 64 workers.
    FirstUsableNode,
    /// `group-by-ccx`: one group of workers for each last-level cache.
    GroupByCcx,
    /// `group-by-2-ccx`: one for two of them.
    GroupBy2Ccx,
    /// `group-by-3-ccx`: one for three of them.
    GroupBy3Ccx,
    /// `group-by-4-ccx`: one for four of them.
    GroupBy4Ccx,
    /// `group-by-cluster`: one group for the cores of a last-level cache that are alike.
    GroupByCluster,
    /// `group-by-2-clusters`: one for two of them.
    GroupBy2Clusters,
    /// `group-by-3-clusters`: one for three of them.
    GroupBy3Clusters,
    /// `group-by-4-clusters`: one for four of them.
    GroupBy4Clusters,
    /// `performance`: as `group-by-ccx`, without the cores that are slower than 80 % of the next faster ones.
    Performance,
    /// `resource`: only the slowest and smallest cluster.
    Resource,
}

impl Strategy {
    /// Every strategy, in the order of the documentation.
    pub const ALL: [Self; 19] = [
        Self::Balanced,
        Self::SameNode,
        Self::NetworkOnOneNode,
        Self::OneCpu,
        Self::Rss,
        Self::Rfs,
        Self::None,
        Self::Efficiency,
        Self::FirstUsableNode,
        Self::GroupByCcx,
        Self::GroupBy2Ccx,
        Self::GroupBy3Ccx,
        Self::GroupBy4Ccx,
        Self::GroupByCluster,
        Self::GroupBy2Clusters,
        Self::GroupBy3Clusters,
        Self::GroupBy4Clusters,
        Self::Performance,
        Self::Resource,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::SameNode => "same-node",
            Self::NetworkOnOneNode => "network-on-one-node",
            Self::OneCpu => "one-cpu",
            Self::Rss => "rss",
            Self::Rfs => "rfs",
            Self::None => "none",
            Self::Efficiency => "efficiency",
            Self::FirstUsableNode => "first-usable-node",
            Self::GroupByCcx => "group-by-ccx",
            Self::GroupBy2Ccx => "group-by-2-ccx",
            Self::GroupBy3Ccx => "group-by-3-ccx",
            Self::GroupBy4Ccx => "group-by-4-ccx",
            Self::GroupByCluster => "group-by-cluster",
            Self::GroupBy2Clusters => "group-by-2-clusters",
            Self::GroupBy3Clusters => "group-by-3-clusters",
            Self::GroupBy4Clusters => "group-by-4-clusters",
            Self::Performance => "performance",
            Self::Resource => "resource",
        }
    }

    /// Whether it is one of HAProxy's policies.
    #[must_use]
    pub const fn is_cpu_policy(self) -> bool {
        !matches!(
            self,
            Self::Balanced | Self::SameNode | Self::NetworkOnOneNode | Self::OneCpu | Self::Rss | Self::Rfs
        )
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no strategy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no strategy; use one of {list}", list = Strategy::ALL.map(Strategy::name).join(", "))]
pub struct ParseStrategyError(String);

impl FromStr for Strategy {
    type Err = ParseStrategyError;

    /// Reads a name; `_` counts as `-`.
    fn from_str(text: &str) -> Result<Self, ParseStrategyError> {
        let same =
            |name: &str| name.bytes().eq(text.bytes().map(|byte| if byte == b'_' { b'-' } else { byte }));
        let found = Self::ALL.into_iter().find(|strategy| same(strategy.name()));
        found.ok_or_else(|| ParseStrategyError(text.chars().take(64).collect()))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Strategy {
    /// As its name.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Strategy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
            assert_eq!(strategy.name().replace('-', "_").parse(), Ok(strategy));
        }
        let names: std::collections::HashSet<_> = Strategy::ALL.map(Strategy::name).into();
        assert_eq!(names.len(), Strategy::ALL.len());
        let error = "fastest".parse::<Strategy>().unwrap_err().to_string();
        assert!(error.starts_with("\"fastest\" is no strategy; use one of balanced, same-node, "), "{error}");
    }
}
