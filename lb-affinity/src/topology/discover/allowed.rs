//! What the calling thread may use: its cpuset and its affinity.
//!
//! Sources: `Documentation/admin-guide/cgroup-v1/cpusets.rst`, `Documentation/admin-guide/cgroup-v2.rst` ("Cpuset"), proc(5).

use super::TopologyError;
use super::files::{Files, parse_list, parse_mask};
use crate::cpu_set::{IdSet, Kind};
use crate::fs::FileSystem;
use crate::{CpuSet, NodeSet};

/// `None`: all.
#[derive(Default)]
pub(super) struct Allowed {
    pub(super) cpus: Option<CpuSet>,
    pub(super) nodes: Option<NodeSet>,
}

pub(super) fn read<F: FileSystem>(files: &Files<'_, F>) -> Result<Allowed, TopologyError> {
    let cpuset = cpuset(files)?;
    let affinity = affinity(files)?;
    Ok(Allowed { cpus: both(cpuset.cpus, affinity.cpus), nodes: both(cpuset.nodes, affinity.nodes) })
}

fn both<K: Kind>(one: Option<IdSet<K>>, other: Option<IdSet<K>>) -> Option<IdSet<K>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(&one & &other),
        (one, other) => one.or(other),
    }
}

/// The thread's own affinity. Kernels before 3.17 have no `thread-self`, those before 2.6.26 no lists.
fn affinity<F: FileSystem>(files: &Files<'_, F>) -> Result<Allowed, TopologyError> {
    for path in ["/proc/thread-self/status", "/proc/self/status"] {
        if let Some(text) = files.text(path)? {
            return Ok(Allowed {
                cpus: field(path, &text, "Cpus_allowed")?,
                nodes: field(path, &text, "Mems_allowed")?,
            });
        }
    }
    Ok(Allowed::default())
}

/// `Cpus_allowed_list: 0-3`, or else `Cpus_allowed: f`.
fn field<K: Kind>(path: &str, text: &str, name: &str) -> Result<Option<IdSet<K>>, TopologyError> {
    let value = |suffix| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(suffix));
        lines.next().map(str::trim).filter(|value| !value.is_empty())
    };
    if let Some(list) = value("_list:") {
        return parse_list(path, list).map(Some);
    }
    value(":").map(|mask| parse_mask(path, mask)).transpose()
}

/// A cgroup or cpuset file system.
struct Mount {
    /// The directory that it is at.
    point: String,
    /// The group that is seen there; `/` outside of containers.
    root: String,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// The cpuset controller's own hierarchy. It is not in version 2's then.
    V1,
    V2,
}

/// The cpuset. Where a group has no files of its own, its parent's hold.
fn cpuset<F: FileSystem>(files: &Files<'_, F>) -> Result<Allowed, TopologyError> {
    let mut mounts = mounts(files)?;
    mounts.sort_by_key(|mount| mount.version == Version::V2);
    let mut allowed = Allowed::default();
    if mounts.is_empty() {
        return Ok(allowed);
    }
    let groups = files.text("/proc/self/cgroup")?.unwrap_or_default();
    // The cpuset's path, of whichever version: in recordings it may be the only one.
    let own = files.text("/proc/self/cpuset")?;
    for mount in mounts {
        let listed = groups.lines().find_map(|line| group(line, mount.version));
        let Some(group) = listed.or(own.as_deref()) else { continue };
        let (cpus, nodes) = match mount.version {
            // What it was given, as lstopo reads it. What it really has may be less; a thread's affinity tells that too.
            Version::V1 => (["cpuset.cpus", "cpus"].as_slice(), ["cpuset.mems", "mems"].as_slice()),
            Version::V2 => (["cpuset.cpus.effective"].as_slice(), ["cpuset.mems.effective"].as_slice()),
        };
        if allowed.cpus.is_none() {
            allowed.cpus = nearest(files, &mount, group, cpus)?;
        }
        if allowed.nodes.is_none() {
            allowed.nodes = nearest(files, &mount, group, nodes)?;
        }
        if allowed.cpus.is_some() && allowed.nodes.is_some() {
            break;
        }
    }
    Ok(allowed)
}

/// A group's path in the hierarchy, from a line of `/proc/self/cgroup`: `2:cpuset:/a` (version 1), `0::/a` (version 2).
fn group(line: &str, version: Version) -> Option<&str> {
    let (hierarchy, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let is_it = match version {
        Version::V1 => controllers.split(',').any(|controller| controller == "cpuset"),
        Version::V2 => hierarchy == "0" && controllers.is_empty(),
    };
    is_it.then_some(path)
}

/// The set in the first of `names` that the group, or else the nearest group around it, has.
fn nearest<F: FileSystem, K: Kind>(
    files: &Files<'_, F>,
    mount: &Mount,
    group: &str,
    names: &[&str],
) -> Result<Option<IdSet<K>>, TopologyError> {
    /// The kernel's `PATH_MAX`: it has no longer names.
    const LONGEST: usize = 4096;
    // In a container the mount shows its group at the top. A path that leads out of it (`/../a`) can't be followed.
    let inside = group.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or_default();
    let leads_out = inside.split('/').any(|name| name == "..");
    let inside = if leads_out || inside.len() > LONGEST { "" } else { inside };
    let mut directory = format!("{}/{}", mount.point.trim_end_matches('/'), inside.trim_matches('/'));
    let top = mount.point.trim_end_matches('/').len();
    loop {
        directory.truncate(directory.trim_end_matches('/').len());
        for name in names {
            if let Some(set) = files.list(&format!("{directory}/{name}"))? {
                return Ok(Some(set));
            }
        }
        if directory.len() <= top {
            return Ok(None);
        }
        directory.truncate(directory.rfind('/').unwrap_or(0));
    }
}

/// The file systems that have cpusets, from `/proc/self/mountinfo`, or else `/proc/mounts`.
fn mounts<F: FileSystem>(files: &Files<'_, F>) -> Result<Vec<Mount>, TopologyError> {
    if let Some(text) = files.text("/proc/self/mountinfo")? {
        return Ok(text.lines().filter_map(from_mountinfo).collect());
    }
    let text = match files.text("/proc/self/mounts")? {
        Some(text) => Some(text),
        None => files.text("/proc/mounts")?,
    };
    Ok(text.unwrap_or_default().lines().filter_map(from_mounts).collect())
}

/// `36 35 98:0 /root /point options optional… - type source options`.
fn from_mountinfo(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (kind, _, options) = (right.next()?, right.next()?, right.next().unwrap_or_default());
    let version = version(kind, options)?;
    let mut left = left.split(' ').skip(3);
    Some(Mount { root: unescape(left.next()?), point: unescape(left.next()?), version })
}

/// `source point type options`.
fn from_mounts(line: &str) -> Option<Mount> {
    let mut fields = line.split_whitespace().skip(1);
    let (point, kind, options) = (fields.next()?, fields.next()?, fields.next().unwrap_or_default());
    Some(Mount { root: "/".into(), point: unescape(point), version: version(kind, options)? })
}

fn version(kind: &str, options: &str) -> Option<Version> {
    match kind {
        "cgroup2" => Some(Version::V2),
        // The file system of its own that cpusets had before cgroups; `mount` still takes the name.
        "cpuset" => Some(Version::V1),
        "cgroup" => options.split(',').any(|option| option == "cpuset").then_some(Version::V1),
        _ => None,
    }
}

/// The kernel writes blanks and backslashes in mount points as `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        if let Some(code) = code {
            result.push(code.into());
            result.push_str(&part[3..]);
        } else {
            result.push('\\');
            result.push_str(part);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Memory;

    fn allowed(files: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let mut tree = Memory::new();
        for (path, content) in files {
            tree.insert(path, *content);
        }
        let allowed = read(&Files::new(&tree)).unwrap();
        (allowed.cpus.map(|cpus| cpus.to_string()), allowed.nodes.map(|nodes| nodes.to_string()))
    }

    #[test]
    fn every_form_of_cpuset() {
        let v2 = ("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n");
        let long = &*format!("0::{}\n", "/a".repeat(1 << 12));
        let v1 = ("/proc/mounts", "none /dev/my\\040set cgroup rw,cpuset,noprefix 0 0\n");
        for (what, files, cpus, nodes) in [
            ("nothing", vec![], None, None),
            (
                "version 2, with a parent that holds for its child",
                vec![
                    v2,
                    ("/proc/self/cgroup", "0::/a/b\n"),
                    ("/sys/fs/cgroup/a/b/cpuset.mems.effective", "1\n"),
                    ("/sys/fs/cgroup/a/b/cpuset.cpus.effective", "\n"),
                    ("/sys/fs/cgroup/a/cpuset.cpus.effective", "0-3\n"),
                    ("/sys/fs/cgroup/cpuset.cpus.effective", "0-7\n"),
                ],
                Some("0-3"),
                Some("1"),
            ),
            (
                "version 1, without prefix, before version 2",
                vec![
                    v1,
                    ("/proc/self/cgroup", "4:cpu,cpuset:/x\n0::/y\n"),
                    ("/dev/my set/x/cpus", "4-5\n"),
                    ("/dev/my set/cpus", "0-7\n"),
                    ("/dev/my set/mems", "0\n"),
                ],
                Some("4-5"),
                Some("0"),
            ),
            (
                "a container, whose mount begins at its group",
                vec![
                    (
                        "/proc/self/mountinfo",
                        "1 2 0:3 /docker/c /cg rw master:1 - cgroup cgroup rw,cpuset\n1 2 0:3 / /tmp rw - tmpfs t rw\n",
                    ),
                    ("/proc/self/cgroup", "2:cpuset:/docker/c/in\n"),
                    ("/cg/in/cpuset.effective_cpus", "0\n"),
                    ("/cg/in/cpuset.cpus", "2\n"),
                ],
                Some("2"),
                None,
            ),
            (
                "a path out of the namespace",
                vec![
                    v2,
                    ("/proc/self/cgroup", "0::/../secret\n"),
                    ("/sys/fs/cgroup/cpuset.cpus.effective", "1\n"),
                    ("/sys/fs/secret/cpuset.cpus.effective", "2\n"),
                ],
                Some("1"),
                None,
            ),
            (
                "a path longer than any",
                vec![v2, ("/proc/self/cgroup", long), ("/sys/fs/cgroup/cpuset.cpus.effective", "1\n")],
                Some("1"),
                None,
            ),
            (
                "cpuset and affinity",
                vec![
                    v2,
                    ("/proc/self/cpuset", "/\n"),
                    ("/sys/fs/cgroup/cpuset.cpus.effective", "2-5\n"),
                    ("/proc/self/status", "Cpus_allowed:\tff\nCpus_allowed_list:\t0-3\nMems_allowed:\t3\n"),
                ],
                Some("2-3"),
                Some("0-1"),
            ),
            (
                "the thread's affinity, not the process's",
                vec![
                    ("/proc/self/status", "Cpus_allowed_list:\t0-3\n"),
                    ("/proc/thread-self/status", "Name:\tx\nCpus_allowed_list:\t1\n"),
                ],
                Some("1"),
                None,
            ),
        ] {
            let expected = (cpus.map(str::to_owned), nodes.map(str::to_owned));
            assert_eq!(allowed(&files), expected, "{what}");
        }
    }

    #[test]
    fn escapes() {
        for (text, plain) in
            [("/a\\040b", "/a b"), ("\\", "\\"), ("\\777", "\\777"), ("\\134x", "\\x"), ("é\\é", "é\\é")]
        {
            assert_eq!(unescape(text), plain);
        }
    }
}
