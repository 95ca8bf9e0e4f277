//! The settings of outlier ejection.

use core::fmt;
use core::time::Duration;

use crate::health::ConfigError;

/// When a server is an outlier, and for how long it leaves. The defaults are Envoy's, except that
/// [`always_eject_one`](Self::always_eject_one) is on: the ten percent alone never eject from a set below ten.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Config {
    /// How often rates are judged, and how long a span they are counted over. Above 0, default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::health::duration"))]
    pub interval: Duration,
    /// Failures of any kind in a row that eject. At least 1; `None` turns the rule off. Default 5.
    pub consecutive_failures: Option<u32>,
    /// Gateway failures in a row that eject (see [`Response::GatewayError`](super::Response::GatewayError)). At least 1; default `None`, off.
    pub consecutive_gateway: Option<u32>,
    /// The comparison of success rates; `None` turns it off.
    pub success_rate: Option<SuccessRate>,
    /// The absolute limit on failures. Default `None`, off.
    pub failure_percentage: Option<FailurePercentage>,
    /// The first ejection's length; the n-th is n times as long. Above 0, default 30 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::health::duration"))]
    pub base_ejection_time: Duration,
    /// The longest ejection. Default 300 s; a shorter one than the base means the base.
    #[cfg_attr(feature = "serde", serde(with = "crate::health::duration"))]
    pub max_ejection_time: Duration,
    /// The share of the set that may be away at a time, in percent from 0 to 100, rounded down. Default 10.
    pub max_ejection_percent: u8,
    /// Whether one server may leave even where that percentage makes less than one. The only server of a set never
    /// does. Default: yes.
    pub always_eject_one: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            consecutive_failures: Some(5),
            consecutive_gateway: None,
            success_rate: Some(SuccessRate::default()),
            failure_percentage: None,
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            always_eject_one: true,
        }
    }
}

/// Ejects those whose success rate is far below the others'.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct SuccessRate {
    /// So many servers have to have the volume for a comparison. At least 2, default 5.
    pub minimum_hosts: u32,
    /// So many requests of a server in one interval make its rate count. At least 1, default 100.
    pub request_volume: u64,
    /// So many standard deviations below the mean is an outlier. Above 0, default 1.9 (Envoy writes 1900).
    ///
    /// Among n servers, the only one that differs stands √(n − 1) deviations off, however little it differs: with
    /// five servers that is 2, so there 1.9 ejects any lone one. [`tolerance`](Self::tolerance) puts an end to that.
    pub factor: f64,
    /// A success rate less than so many percent points below the mean is never an outlier. From 0 to 100, default 0
    /// (Envoy has no such limit).
    pub tolerance: f64,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { minimum_hosts: 5, request_volume: 100, factor: 1.9, tolerance: 0.0 }
    }
}

/// Ejects those with too large a share of failures, whatever the others do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct FailurePercentage {
    /// So many servers have to have the volume. At least 1, default 5.
    pub minimum_hosts: u32,
    /// So many requests of a server in one interval make its share count. At least 1, default 50.
    pub request_volume: u64,
    /// This percentage of failures, or more, ejects. Above 0, up to 100, default 85.
    pub threshold: f64,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { minimum_hosts: 5, request_volume: 50, threshold: 85.0 }
    }
}

impl Config {
    /// Checks the settings, as [`Detector::new`](super::Detector::new) does: for whoever reads a configuration and
    /// wants to know at once.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for the first number outside its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, name, value: &dyn fmt::Display, accepted| {
            if ok { Ok(()) } else { Err(ConfigError::out_of_range(name, value, accepted)) }
        };
        check(!self.interval.is_zero(), "outlier.interval", &"0s", "longer than 0")?;
        check(!self.base_ejection_time.is_zero(), "outlier.base_ejection_time", &"0s", "longer than 0")?;
        let runs = [
            ("outlier.consecutive_failures", self.consecutive_failures),
            ("outlier.consecutive_gateway", self.consecutive_gateway),
        ];
        for (name, run) in runs {
            check(run != Some(0), name, &0, "at least 1 (leave it out to turn the rule off)")?;
        }
        let percent = self.max_ejection_percent;
        check(percent <= 100, "outlier.max_ejection_percent", &percent, "from 0 to 100")?;
        if let Some(SuccessRate { minimum_hosts, request_volume, factor, tolerance }) = self.success_rate {
            check(minimum_hosts >= 2, "outlier.success_rate.minimum_hosts", &minimum_hosts, "at least 2")?;
            check(request_volume >= 1, "outlier.success_rate.request_volume", &request_volume, "at least 1")?;
            let ok = factor.is_finite() && factor > 0.0;
            check(ok, "outlier.success_rate.factor", &factor, "a finite number above 0")?;
            let ok = (0.0..=100.0).contains(&tolerance);
            check(ok, "outlier.success_rate.tolerance", &tolerance, "from 0 to 100")?;
        }
        if let Some(FailurePercentage { minimum_hosts, request_volume, threshold }) = self.failure_percentage
        {
            check(
                minimum_hosts >= 1,
                "outlier.failure_percentage.minimum_hosts",
                &minimum_hosts,
                "at least 1",
            )?;
            let volume = &request_volume;
            check(request_volume >= 1, "outlier.failure_percentage.request_volume", volume, "at least 1")?;
            let ok = threshold > 0.0 && threshold <= 100.0;
            check(ok, "outlier.failure_percentage.threshold", &threshold, "above 0 and up to 100")?;
        }
        Ok(())
    }
}
