//! `global_defs`, and the settings that an instance takes from it unless it has its own.

use std::time::Duration;

use lb_vrrp::config::Garp;
use lb_vrrp::wire::Version;

use super::Global;
use super::build::unknown;
use super::item::Item;
use super::problem::Findings;
use super::words::{Line, is_interface, user};

/// A day: more would be a mistake.
pub(super) const DAY: u32 = 86_400;

const KEYWORDS: [&str; 20] = [
    "enable_script_security",
    "router_id",
    "script_user",
    "vmac_prefix",
    "vrrp_garp_lower_prio_delay",
    "vrrp_garp_lower_prio_repeat",
    "vrrp_garp_master_delay",
    "vrrp_garp_master_refresh",
    "vrrp_garp_master_refresh_repeat",
    "vrrp_garp_master_repeat",
    "vrrp_lower_prio_no_advert",
    "vrrp_mcast_group4",
    "vrrp_mcast_group6",
    "vrrp_min_garp",
    "vrrp_no_swap",
    "vrrp_rt_priority",
    "vrrp_skip_check_adv_addr",
    "vrrp_startup_delay",
    "vrrp_strict",
    "vrrp_version",
];

/// What `global_defs` says for all instances and each may say for itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) version: Option<Version>,
    pub(super) strict: bool,
    pub(super) lower_prio_no_advert: Option<bool>,
    pub(super) skip_check_adv_addr: bool,
    pub(super) startup_delay: Duration,
    /// What the names of VMAC interfaces begin with; `vrrp` if nothing is said.
    pub(super) vmac_prefix: Option<String>,
    min_garp: bool,
    delay: Option<Duration>,
    repeat: Option<u8>,
    refresh: Option<Duration>,
    refresh_repeat: Option<u8>,
    lower_prio_delay: Option<Duration>,
    lower_prio_repeat: Option<u8>,
}

impl Settings {
    /// Takes a line over if it is one of these; `keyword` is the instance's. Whether it was.
    pub(super) fn read(&mut self, keyword: &str, line: &mut Line<'_>) -> bool {
        match keyword {
            "version" => set(&mut self.version, line.one("2 or 3", |word| word.parse().ok())),
            "strict_mode" => self.strict = line.switch().unwrap_or_default(),
            "lower_prio_no_advert" => set(&mut self.lower_prio_no_advert, line.switch()),
            "skip_check_adv_addr" => self.skip_check_adv_addr = line.switch().unwrap_or_default(),
            "garp_master_delay" => set(&mut self.delay, line.seconds(0..=DAY)),
            "garp_master_repeat" => set(&mut self.repeat, rounds(line)),
            "garp_master_refresh" => set(&mut self.refresh, line.seconds(0..=DAY)),
            "garp_master_refresh_repeat" => set(&mut self.refresh_repeat, rounds(line)),
            "garp_lower_prio_delay" => set(&mut self.lower_prio_delay, line.seconds(0..=DAY)),
            "garp_lower_prio_repeat" => set(&mut self.lower_prio_repeat, rounds(line)),
            _ => return false,
        }
        true
    }

    /// keepalived's defaults: those of lower priority are those of the takeover.
    pub(super) fn garp(&self) -> Garp {
        let defaults = Garp::default();
        let (repeat, delay) =
            if self.min_garp { (1, Duration::ZERO) } else { (defaults.repeat, defaults.delay) };
        let (repeat, delay) = (self.repeat.unwrap_or(repeat), self.delay.unwrap_or(delay));
        let mut garp = defaults;
        garp.repeat = repeat;
        garp.delay = delay;
        garp.refresh = self.refresh.unwrap_or(defaults.refresh);
        garp.refresh_repeat = self.refresh_repeat.unwrap_or(defaults.refresh_repeat);
        garp.lower_priority_repeat = self.lower_prio_repeat.unwrap_or(repeat);
        garp.lower_priority_delay = self.lower_prio_delay.unwrap_or(delay);
        garp
    }
}

fn set<T>(to: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *to = value;
    }
}

fn rounds(line: &mut Line<'_>) -> Option<u8> {
    line.integer(0..=255).map(|number| number as u8)
}

/// Reads `global_defs`.
pub(super) fn read(item: &Item, global: &mut Global, settings: &mut Settings, findings: &mut Findings) {
    const SECTION: &str = "global_defs";
    for item in item.lines() {
        let line = &mut Line { item, section: SECTION, findings };
        match item.keyword() {
            "router_id" => global.router_id = line.name().or(global.router_id.take()),
            "script_user" => match item.arguments() {
                words @ ([_] | [_, _]) => global.script_user = user(words),
                _ => line.refuse("a user, and perhaps a group", &[]),
            },
            "enable_script_security" => global.script_security = line.switch().unwrap_or_default(),
            "vrrp_rt_priority" => global.rt_priority = line.integer(1..=99).map(|number| number as u8),
            "vrrp_no_swap" => global.no_swap = line.switch().unwrap_or_default(),
            "vrrp_min_garp" => settings.min_garp = line.switch().unwrap_or_default(),
            "vrrp_startup_delay" => settings.startup_delay = line.seconds(0..=DAY).unwrap_or_default(),
            "vmac_prefix" => {
                let accepted = "what an interface's name begins with, 1 to 10 characters";
                let read = |word: &str| (is_interface(word) && word.len() <= 10).then(|| word.to_owned());
                set(&mut settings.vmac_prefix, line.one(accepted, read));
            }
            "vrrp_mcast_group4" if item.arguments() == ["224.0.0.18"] => {}
            "vrrp_mcast_group6" if item.arguments() == ["ff02::12"] => {}
            keyword => {
                let own = match keyword {
                    "vrrp_strict" => "strict_mode",
                    _ => keyword.strip_prefix("vrrp_").unwrap_or_default(),
                };
                if !settings.read(own, line) {
                    unknown(SECTION, SECTION, item, &KEYWORDS, findings);
                }
            }
        }
    }
}
