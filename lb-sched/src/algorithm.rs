//! Algorithms by name.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use thiserror::Error;

use crate::hashing::{Maglev, Rendezvous, SourceHash};
use crate::least_loaded::{LeastConnections, PowerOfTwo};
use crate::order::Draw;
use crate::rotation::{RoundRobin, SmoothWeightedRoundRobin, WeightedRoundRobin};
use crate::scheduler::Scheduler;

macro_rules! algorithms {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $long:literal, |$seed:pat_param| $make:expr;)*) => {
        /// An algorithm by its name; both the short name, which it prints, and the long one parse.
        ///
        /// ```
        /// use lb_sched::Algorithm;
        ///
        /// assert_eq!("wlc".parse(), Ok(Algorithm::WeightedLeastConnections));
        /// assert_eq!("weighted_least_connections".parse(), Ok(Algorithm::WeightedLeastConnections));
        /// assert_eq!(Algorithm::WeightedLeastConnections.to_string(), "wlc");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Algorithm {
            $($(#[$doc])* $variant,)*
        }

        impl Algorithm {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The short name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The long name.
            pub const fn long_name(self) -> &'static str {
                match self { $(Self::$variant => $long,)* }
            }

            /// Its scheduler, for [`Balancer::with_scheduler`](crate::Balancer::with_scheduler). What it draws by
            /// chance follows the seed.
            pub fn scheduler(self, seed: u64) -> Box<dyn Scheduler> {
                match self { $(Self::$variant => { let $seed = seed; Box::new($make) })* }
            }
        }
    };
}

algorithms! {
    /// [`RoundRobin`].
    RoundRobin = "rr", "round_robin", |_| RoundRobin::new();
    /// [`WeightedRoundRobin`].
    WeightedRoundRobin = "wrr", "weighted_round_robin", |_| WeightedRoundRobin::new();
    /// [`SmoothWeightedRoundRobin`].
    SmoothWeightedRoundRobin = "swrr", "smooth_weighted_round_robin", |_| SmoothWeightedRoundRobin::new();
    /// [`LeastConnections`].
    LeastConnections = "lc", "least_connections", |_| LeastConnections::new();
    /// [`LeastConnections::weighted`].
    WeightedLeastConnections = "wlc", "weighted_least_connections", |_| LeastConnections::weighted();
    /// [`Draw`].
    Random = "random", "weighted_random", |seed| Draw::new(seed);
    /// [`PowerOfTwo`].
    PowerOfTwo = "p2c", "power_of_two", |seed| PowerOfTwo::new(seed);
    /// [`SourceHash`], which probes on where a client's backend is not available.
    SourceHash = "sh", "source_hash", |_| SourceHash::new().fallback(true);
    /// [`Maglev`].
    Maglev = "maglev", "maglev_hash", |seed| Maglev::new(seed);
    /// [`Rendezvous`].
    Rendezvous = "rendezvous", "rendezvous_hash", |seed| Rendezvous::new(seed);
}

/// A name that no algorithm has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no algorithm is called {name:?}; there are {}", Names)]
pub struct UnknownAlgorithm {
    /// The name.
    pub name: String,
}

struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, algorithm) in Algorithm::ALL.iter().enumerate() {
            write!(f, "{}{algorithm}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        let is = |algorithm: &&Self| algorithm.name() == name || algorithm.long_name() == name;
        Self::ALL.iter().find(is).copied().ok_or_else(|| UnknownAlgorithm { name: name.into() })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Algorithm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Algorithm {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn names_parse_and_print() {
        for &algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
            assert_eq!(algorithm.long_name().parse(), Ok(algorithm));
        }
        let message = "wllc".parse::<Algorithm>().unwrap_err().to_string();
        assert_eq!(
            message,
            "no algorithm is called \"wllc\"; there are rr, wrr, swrr, lc, wlc, random, p2c, sh, maglev, rendezvous"
        );
    }
}
