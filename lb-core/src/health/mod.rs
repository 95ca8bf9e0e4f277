//! Health of servers.
#[cfg(feature = "serde")]
mod duration;
mod error;
mod flapping;
mod observe;
pub mod outlier;
mod policy;
mod slow_start;
mod spread;
mod state;

pub use error::ConfigError;
pub use flapping::Flapping;
pub use observe::{Observe, OnError};
pub use policy::{Condition, OnDown, Standing, every_real_failed};
pub use slow_start::{Curve, SlowStart};
pub use state::{Cause, Checker, Config, Initial, Phase, Transition, Verdict};
