//! What QEMU is told before it sends a machine, and what it says while it does.
//!
//! Source: QEMU's QMP reference, "Migration".

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::migration::{Control, Phase, Sample, Settings};

/// As fast as it goes, in bytes a second: QEMU's own default is a limit of 128 MiB.
const NO_LIMIT: u64 = 1 << 40;

/// A list of capabilities, as QEMU is told them.
pub(super) fn capabilities(all: &[(&str, bool)]) -> Value {
    let one = |(capability, state): &(&str, bool)| json!({"capability": capability, "state": state});
    json!({"capabilities": all.iter().map(one).collect::<Vec<_>>()})
}

/// The same limit for post-copy, in which QEMU calls none 0.
const fn in_post_copy(bandwidth: u64) -> u64 {
    if bandwidth < NO_LIMIT { bandwidth } else { 0 }
}

fn milliseconds(time: Duration) -> u64 {
    // At the most 2000 s, by QEMU's own bound; none at all would never be reached.
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 2_000_000)
}

/// What a QEMU is set to before it sends. QEMU takes what it is told a byte at a time, 2 µs each: so it is made ready when it starts, and
/// told only what is to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Set {
    /// In milliseconds.
    downtime: u64,
    /// In bytes a second.
    bandwidth: u64,
    auto_converge: bool,
    pub(super) post_copy: bool,
    pub(super) encrypted: bool,
}

impl Set {
    /// As settings ask for.
    pub(super) fn of(settings: &Settings, encrypted: bool) -> Self {
        Self {
            downtime: milliseconds(settings.downtime),
            bandwidth: settings.bandwidth.unwrap_or(NO_LIMIT).max(1),
            auto_converge: settings.auto_converge,
            post_copy: settings.post_copy,
            encrypted,
        }
    }

    /// What a QEMU that was just started is told, to be as the usual settings ask for.
    pub(super) fn ready(incoming: bool) -> (Self, [(&'static str, Value); 2]) {
        let set = Self::of(&Settings::default(), false);
        // A migration is complete when the target has said so. A target's images stay the source's until it runs.
        let these = [("return-path", true), ("events", true), ("late-block-activate", incoming)];
        let parameters = json!({"downtime-limit": set.downtime, "max-bandwidth": set.bandwidth});
        let these = capabilities(these.split_at(2 + usize::from(incoming)).0);
        (set, [("migrate-set-capabilities", these), ("migrate-set-parameters", parameters)])
    }

    /// What a QEMU is told to be set so, if it was so before, or as nobody knows. Encryption's parameters are said as they are given.
    pub(super) fn commands(
        &self,
        before: Option<&Self>,
        encryption: Option<Value>,
    ) -> Vec<(&'static str, Value)> {
        let mut commands = Vec::new();
        let other = |of: fn(&Self) -> bool| before.is_none_or(|before| of(before) != of(self));
        let mut these = Vec::new();
        if before.is_none() {
            these.extend([("return-path", true), ("events", true)]);
        }
        if other(|set| set.auto_converge) {
            these.push(("auto-converge", self.auto_converge));
        }
        if other(|set| set.post_copy) {
            these.push(("postcopy-ram", self.post_copy));
        }
        if !these.is_empty() {
            commands.push(("migrate-set-capabilities", capabilities(&these)));
        }
        let mut parameters = Map::new();
        if let Some(Value::Object(encryption)) = encryption {
            parameters = encryption;
        } else if before.is_none_or(|before| before.encrypted) {
            parameters.extend(["tls-creds", "tls-hostname"].map(|key| (key.to_owned(), json!(""))));
        }
        for (key, now, then) in [
            ("downtime-limit", self.downtime, before.map(|before| before.downtime)),
            ("max-bandwidth", self.bandwidth, before.map(|before| before.bandwidth)),
        ] {
            if then != Some(now) {
                parameters.insert(key.into(), json!(now));
            }
        }
        // What is sent beside what the guest waits for; QEMU's own default is no limit.
        if before.is_none_or(|before| before.bandwidth != self.bandwidth) {
            parameters.insert("max-postcopy-bandwidth".into(), json!(in_post_copy(self.bandwidth)));
        }
        if !parameters.is_empty() {
            commands.push(("migrate-set-parameters", Value::Object(parameters)));
        }
        commands
    }
}

/// What steers a migration on its way: QEMU's command, and its arguments.
pub(super) fn command(control: Control) -> (&'static str, Value) {
    match control {
        Control::Cancel => ("migrate_cancel", json!({})),
        Control::Downtime(time) => ("migrate-set-parameters", json!({"downtime-limit": milliseconds(time)})),
        Control::Bandwidth(rate) => {
            let rate = rate.max(1);
            let both = json!({"max-bandwidth": rate, "max-postcopy-bandwidth": in_post_copy(rate)});
            ("migrate-set-parameters", both)
        }
        Control::PostCopy => ("migrate-start-postcopy", json!({})),
        Control::Stop => ("stop", json!({})),
    }
}

/// How far it is by the answer to `query-migrate`. `stands`: the machine stands still for it. A status that is not known here is one of
/// something that is under way.
pub(super) fn phase(answer: &Value, stands: bool) -> Phase {
    match answer["status"].as_str() {
        None | Some("none" | "setup") => Phase::Setup,
        Some("active") if stands => Phase::Handover,
        Some("pre-switchover" | "device") => Phase::Handover,
        Some("postcopy-active") => Phase::PostCopy,
        Some("postcopy-paused" | "postcopy-recover" | "postcopy-recover-setup") => Phase::Stalled,
        Some("completed") => Phase::Completed,
        Some("failed") => {
            let words = answer["error-desc"].as_str().unwrap_or("QEMU does not say why");
            Phase::Failed(words.into())
        }
        Some("cancelled") => Phase::Cancelled,
        Some(_) => Phase::PreCopy,
    }
}

/// All that the answer to `query-migrate` says. `asked`: it was asked to go over at once.
pub(super) fn sample(answer: &Value, stands: bool, asked: bool) -> Sample {
    let ram = &answer["ram"];
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let time = |key: &str| answer[key].as_u64().map(Duration::from_millis);
    let phase = phase(answer, stands);
    let fetched = number(&ram["postcopy-bytes"]) > 0 || number(&ram["postcopy-requests"]) > 0;
    let post_copied = match phase {
        Phase::PostCopy | Phase::Stalled => true,
        Phase::Completed | Phase::Failed(_) | Phase::Cancelled => asked && fetched,
        _ => false,
    };
    // QEMU's rate is in Mbit/s, and is a number that may be none.
    let bandwidth = ram["mbps"].as_f64().filter(|rate| rate.is_finite()).map_or(0.0, |rate| rate * 125_000.0);
    Sample {
        elapsed: time("total-time").unwrap_or_default(),
        total: number(&ram["total"]),
        remaining: number(&ram["remaining"]),
        transferred: number(&ram["transferred"]),
        dirty_rate: number(&ram["dirty-pages-rate"])
            .saturating_mul(ram["page-size"].as_u64().unwrap_or(4096)),
        bandwidth: bandwidth as u64,
        // QEMU counts the rounds that it has begun.
        rounds: number(&ram["dirty-sync-count"]).saturating_sub(1),
        throttle: u8::try_from(number(&answer["cpu-throttle-percentage"])).unwrap_or(100),
        expected_downtime: time("expected-downtime"),
        downtime: time("downtime"),
        post_copied,
        ..Sample::new(phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_of_a_migration_is_understood() {
        for (status, stands, expected) in [
            (Value::Null, false, Phase::Setup),
            (json!("setup"), false, Phase::Setup),
            (json!("active"), false, Phase::PreCopy),
            (json!("active"), true, Phase::Handover),
            (json!("device"), true, Phase::Handover),
            (json!("cancelling"), false, Phase::PreCopy),
            (json!("postcopy-active"), true, Phase::PostCopy),
            (json!("postcopy-paused"), true, Phase::Stalled),
            (json!("completed"), true, Phase::Completed),
            (json!("cancelled"), false, Phase::Cancelled),
            (json!("not-yet-invented"), false, Phase::PreCopy),
        ] {
            assert_eq!(phase(&json!({"status": status}), stands), expected, "{status}");
        }
        let failed = json!({"status": "failed", "error-desc": "Unable to write"});
        assert_eq!(phase(&failed, false), Phase::Failed("Unable to write".into()));
    }

    #[test]
    fn only_what_is_otherwise_is_said() {
        let usual = Settings::default();
        let (ready, told) = Set::ready(true);
        assert_eq!(ready, Set::of(&usual, false));
        assert_eq!(told[1].1, json!({"downtime-limit": 300, "max-bandwidth": NO_LIMIT}));
        assert!(told[0].1.to_string().contains("late-block-activate"));
        assert!(!Set::ready(false).1[0].1.to_string().contains("late-block-activate"));
        assert_eq!(ready.commands(Some(&ready), None), []);
        let one = |capability: &str, state: bool| {
            ("migrate-set-capabilities", capabilities(&[(capability, state)]))
        };
        let received = Set { post_copy: true, encrypted: true, ..ready.clone() };
        let clear = json!({"tls-creds": "", "tls-hostname": ""});
        assert_eq!(
            ready.commands(Some(&received), None),
            [one("postcopy-ram", false), ("migrate-set-parameters", clear)]
        );
        let slow = Set::of(&Settings { bandwidth: Some(5), auto_converge: true, ..usual }, true);
        let keys = json!({"tls-creds": "tls0", "tls-hostname": "a"});
        assert_eq!(
            slow.commands(Some(&ready), Some(keys)),
            [
                one("auto-converge", true),
                (
                    "migrate-set-parameters",
                    json!({
                        "tls-creds": "tls0", "tls-hostname": "a", "max-bandwidth": 5, "max-postcopy-bandwidth": 5
                    })
                )
            ]
        );
        // Nobody knows how it was left: all is said.
        let [(_, these), (_, parameters)] = &ready.commands(None, None)[..] else { panic!() };
        assert_eq!(these["capabilities"].as_array().map(Vec::len), Some(4));
        assert_eq!(parameters.as_object().map(Map::len), Some(5));
        assert_eq!(parameters["max-postcopy-bandwidth"], 0);
    }

    #[test]
    fn amounts_are_bytes() {
        let answer = json!({
            "status": "completed", "total-time": 321, "downtime": 17, "cpu-throttle-percentage": 20,
            "ram": {
                "total": 1000, "remaining": 10, "transferred": 500, "mbps": 8.0, "dirty-pages-rate": 3,
                "page-size": 4096, "dirty-sync-count": 4, "postcopy-bytes": 0, "postcopy-requests": 0,
            },
        });
        let expected = Sample {
            elapsed: Duration::from_millis(321),
            total: 1000,
            remaining: 10,
            transferred: 500,
            dirty_rate: 12_288,
            bandwidth: 1_000_000,
            rounds: 3,
            throttle: 20,
            downtime: Some(Duration::from_millis(17)),
            ..Sample::new(Phase::Completed)
        };
        assert_eq!(sample(&answer, true, true), expected);
        let mut fetched = answer;
        fetched["ram"]["postcopy-bytes"] = json!(5);
        assert!(sample(&fetched, true, true).post_copied);
        assert_eq!(sample(&Value::Null, false, false), Sample::new(Phase::Setup));
    }
}
