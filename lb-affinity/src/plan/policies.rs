//! HAProxy's `cpu-policy` names: groups of CPUs that workers run in (Configuration Manual 3.2, section 3.1, "cpu-policy").

use std::collections::BTreeMap;

use super::Strategy;
use super::sites::{Site, Sites};
use crate::CpuSet;

/// The most threads of a group on a 64-bit system.
const LARGEST_GROUP: usize = 64;

/// The groups of workers, each with the CPUs that they share, for as many workers as there are CPUs in them.
pub(super) fn groups(sites: &Sites<'_>, policy: Strategy, enabled: &CpuSet) -> Vec<CpuSet> {
    let all: Vec<Site> = sites.of(enabled).copied().collect();
    match policy {
        Strategy::FirstUsableNode => {
            let first = all.iter().map(|site| site.node).min();
            vec![all.iter().filter(|site| Some(site.node) == first).map(|site| site.cpu).collect()]
        }
        Strategy::GroupByCcx => merged(ccx(&all), 1),
        Strategy::GroupBy2Ccx => merged(ccx(&all), 2),
        Strategy::GroupBy3Ccx => merged(ccx(&all), 3),
        Strategy::GroupBy4Ccx => merged(ccx(&all), 4),
        Strategy::GroupByCluster => merged(clusters(&all), 1),
        Strategy::GroupBy2Clusters => merged(clusters(&all), 2),
        Strategy::GroupBy3Clusters => merged(clusters(&all), 3),
        Strategy::GroupBy4Clusters => merged(clusters(&all), 4),
        // Both compare a kind of cores with the next one, and leave out what lies beyond the first gap.
        Strategy::Performance => {
            let kept = up_to_gap(clusters(&all), |fast, next| 100 * next < 80 * fast, true);
            merged(ccx(&kept), 1)
        }
        Strategy::Efficiency => {
            let kept = up_to_gap(clusters(&all), |slow, next| 100 * next > 125 * slow, false);
            merged(ccx(&kept), 1)
        }
        Strategy::Resource => {
            let smallest = clusters(&all).into_iter().min_by_key(|cluster| (speed(cluster), cluster.len()));
            merged(smallest.into_iter().collect(), 1)
        }
        // `none`: all CPUs in one group.
        _ => vec![enabled.clone()],
    }
}

/// How many workers a group has, if their number is not given.
pub(super) fn default_workers(policy: Strategy, groups: &[CpuSet]) -> usize {
    let cpus = groups.iter().map(CpuSet::len).sum();
    match policy {
        Strategy::None | Strategy::FirstUsableNode => LARGEST_GROUP.min(cpus),
        _ => cpus,
    }
}

/// The CPUs that share a last-level cache, in the order of their nodes.
fn ccx(sites: &[Site]) -> Vec<Vec<Site>> {
    let mut caches: BTreeMap<(usize, usize), Vec<Site>> = BTreeMap::new();
    for site in sites {
        caches.entry((site.node, site.cache)).or_default().push(*site);
    }
    in_order(caches.into_values().collect())
}

/// The CPUs that share a last-level cache and are alike: within 5 % of each other's capacity.
fn clusters(sites: &[Site]) -> Vec<Vec<Site>> {
    let mut clusters = Vec::new();
    for mut cache in ccx(sites) {
        cache.sort_by_key(|site| (std::cmp::Reverse(site.capacity), site.cpu));
        let mut rest = cache.as_slice();
        while let Some(fastest) = rest.first() {
            let alike = |site: &Site| 100 * u64::from(site.capacity) >= 95 * u64::from(fastest.capacity);
            let count = rest.iter().take_while(|site| alike(site)).count();
            clusters.push(rest[..count].to_vec());
            rest = &rest[count..];
        }
    }
    in_order(clusters)
}

fn in_order(mut groups: Vec<Vec<Site>>) -> Vec<Vec<Site>> {
    groups.sort_by_key(|group| group.iter().map(|site| (site.node, site.cpu)).min());
    groups
}

/// A cluster's performance: its fastest core's.
fn speed(cluster: &[Site]) -> u64 {
    cluster.iter().map(|site| u64::from(site.capacity)).max().unwrap_or(0)
}

/// The CPUs of the clusters before the first gap between one and the next.
fn up_to_gap(mut clusters: Vec<Vec<Site>>, gap: impl Fn(u64, u64) -> bool, fastest_first: bool) -> Vec<Site> {
    clusters.sort_by_key(|cluster| speed(cluster));
    if fastest_first {
        clusters.reverse();
    }
    let kept = 1 + clusters.windows(2).take_while(|pair| !gap(speed(&pair[0]), speed(&pair[1]))).count();
    clusters.truncate(kept);
    clusters.concat()
}

/// A group for each `count` parts. One that is larger than a group can be is divided evenly.
fn merged(parts: Vec<Vec<Site>>, count: usize) -> Vec<CpuSet> {
    let mut groups = Vec::new();
    for parts in parts.chunks(count) {
        let cpus: Vec<u32> = parts.iter().flatten().map(|site| site.cpu).collect();
        let divisions = cpus.len().div_ceil(LARGEST_GROUP).max(1);
        let (size, larger) = (cpus.len() / divisions, cpus.len() % divisions);
        let mut rest = cpus.as_slice();
        for division in 0..divisions {
            let (group, after) = rest.split_at(size + usize::from(division < larger));
            groups.push(group.iter().copied().collect());
            rest = after;
        }
    }
    groups
}
