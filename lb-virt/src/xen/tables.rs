//! What xl prints in columns.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_affinity::CpuSet;

use crate::domain::Memory;
use crate::hypervisor::Host;
use crate::state::State;

/// A line of `xl list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    /// Its number, until it ends.
    pub(super) id: u32,
    pub(super) memory: Memory,
    pub(super) vcpus: u32,
    pub(super) state: State,
    pub(super) cpu_time: Duration,
}

/// The domains but for the host's own and the remains of ended ones; `None` if a line is none of `xl list`'s.
pub(super) fn domains(text: &str) -> Option<Vec<Row>> {
    let mut lines = text.lines();
    if !lines.next()?.trim_start().starts_with("Name") {
        return None;
    }
    let rows = lines.filter(|line| !line.trim().is_empty()).map(row).collect::<Option<Vec<Row>>>()?;
    Some(rows.into_iter().filter(|row| row.id != 0 && row.name != "(null)").collect())
}

/// `NAME ID MEMORY VCPUS STATE SECONDS`; a name may have blanks.
fn row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace().rev();
    let (seconds, state) = (words.next()?, words.next()?);
    let (vcpus, memory, id) = (words.next()?, words.next()?, words.next()?);
    let mut name: Vec<&str> = words.collect();
    name.reverse();
    Some(Row {
        name: name.join(" "),
        id: id.parse().ok()?,
        memory: Memory::from_mib(memory.parse().ok()?),
        vcpus: vcpus.parse().ok()?,
        state: state_of(state)?,
        cpu_time: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
    })
}

/// Six places: runs, is blocked, is paused, has shut down, has crashed, is dying (xl(1)). All empty: it would run, and has no CPU.
fn state_of(flags: &str) -> Option<State> {
    if flags.len() != 6 || !flags.bytes().zip(*b"rbpscd").all(|(flag, letter)| flag == b'-' || flag == letter)
    {
        return None;
    }
    let has = |flag| flags.contains(flag);
    Some(match () {
        () if has('c') => State::Crashed,
        () if has('d') || has('s') => State::ShuttingDown,
        () if has('p') => State::Paused,
        () if has('b') => State::Blocked,
        () => State::Running,
    })
}

/// What each virtual CPU may run on, in xl's words, from `xl vcpu-list ID`; `None` if it is none.
///
/// `NAME ID VCPU CPU STATE SECONDS HARD / SOFT`; a name may have blanks.
pub(super) fn affinities(text: &str) -> Option<BTreeMap<u32, String>> {
    let mut lines = text.lines();
    if !lines.next()?.trim_start().starts_with("Name") {
        return None;
    }
    let affinity = |line: &str| {
        let mut words = line.rsplit_once(" / ")?.0.split_whitespace().rev();
        let hard = words.next()?.to_owned();
        // Seconds, state, CPU.
        Some((words.nth(3)?.parse().ok()?, hard))
    };
    lines.filter(|line| !line.trim().is_empty()).map(affinity).collect()
}

/// The CPUs of all pools, from `xl cpupool-list -c`; `None` if it is none.
///
/// `NAME CPUS`; an empty pool has none.
pub(super) fn pools(text: &str) -> Option<CpuSet> {
    let mut lines = text.lines();
    if !lines.next()?.trim_start().starts_with("Name") {
        return None;
    }
    let mut all = Vec::new();
    for line in lines {
        match line.trim().rsplit_once(char::is_whitespace) {
            Some((_, cpus)) => all.extend(cpus.parse::<CpuSet>().ok()?.iter()),
            // No blank is between a long name and its CPUs.
            None if line.trim().len() >= 19 => return None,
            None => {}
        }
    }
    Some(all.into_iter().collect()).filter(|all: &CpuSet| !all.is_empty())
}

/// The host, from `xl info`; `None` if it does not say what is needed.
pub(super) fn host(text: &str) -> Option<Host> {
    let value = |key: &str| {
        let values = text.lines().filter_map(|line| line.split_once(':'));
        values.into_iter().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
    };
    let memory = |key| value(key).and_then(|mib| mib.parse().ok()).map(Memory::from_mib);
    Some(Host {
        name: value("host")?.into(),
        version: format!("Xen {}", value("xen_version").unwrap_or_default()).trim_end().into(),
        cpus: value("nr_cpus")?.parse().ok()?,
        memory: memory("total_memory")?,
        free_memory: memory("free_memory"),
        // Without it, guests that know what they are on still run on the hardware; whole machines do not run at all.
        accelerated: value("virt_caps")?.split_whitespace().any(|capability| capability == "hvm"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_from_their_places() {
        for (flags, state) in [
            ("r-----", Some(State::Running)),
            ("------", Some(State::Running)),
            ("-b----", Some(State::Blocked)),
            ("--p---", Some(State::Paused)),
            ("-bp---", Some(State::Paused)),
            ("---s--", Some(State::ShuttingDown)),
            ("---sc-", Some(State::Crashed)),
            ("--ps-d", Some(State::ShuttingDown)),
            ("r----", None),
            ("b-----", None),
            ("running", None),
        ] {
            assert_eq!(state_of(flags), state, "{flags}");
        }
    }

    #[test]
    fn tables_are_read_from_the_right() {
        let text = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n\
                    Domain-0                                     0  2048     4     r-----   11794.3\n\
                    win                                          1  1019     1     -b----       0.3\n\
                    two words                                   12   256     2     --p---     100.0\n\
                    (null)                                      11     0     1     --ps-d       9.9\n";
        let rows = domains(text).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            rows[1],
            Row {
                name: "two words".into(),
                id: 12,
                memory: Memory::from_mib(256),
                vcpus: 2,
                state: State::Paused,
                cpu_time: Duration::from_secs(100),
            }
        );
        for wrong in
            ["", "no table", "Name ID\nweb1 -1 2 3 r----- 1", "Name\na b c d e f", "Name\na 1 2 3 r----- -1"]
        {
            assert_eq!(domains(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn pins_and_pools_are_read() {
        let text = "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)\n\
                    two words                            3     0    5   -b-       4.2  0,2-5 / all\n\
                    two words                            3     1    -   --p       0.0  all / none\n";
        let read: Vec<(u32, String)> = affinities(text).unwrap().into_iter().collect();
        assert_eq!(read, [(0, "0,2-5".into()), (1, "all".into())]);
        for wrong in ["", "no table", "Name\na 3 0 5 -b- 4.2 all", "Name\na 3 x 5 -b- 4.2 all / all"] {
            assert_eq!(affinities(wrong), None, "{wrong}");
        }
        for (text, cpus) in [
            ("Name               CPU list\nPool-0             0,2,4,6\n", Some("0,2,4,6")),
            (
                "Name               CPU list\nPool-0             0,1\nspare one          \nb                  6-7\n",
                None,
            ),
            (
                "Name               CPU list\nPool-0             0,1\nspare              \nb                  6-7\n",
                Some("0-1,6-7"),
            ),
            ("Name               CPU list\nPool-0\n", None),
            ("Name               CPU list\nPool-0             0\nwith-a-name-that-is-long1,2\n", None),
            ("cpupool-list: no", None),
        ] {
            assert_eq!(pools(text).map(|cpus| cpus.to_string()).as_deref(), cpus, "{text}");
        }
    }

    #[test]
    fn a_host_says_what_it_has() {
        let text = "host                   : scarlett\nversion                : #1 SMP 12:00:00\nnr_cpus                : 4\n\
                    virt_caps              : pv hvm hvm_directio\ntotal_memory           : 6141\n\
                    free_memory            : 4274\nxen_version            : 4.17.3\n";
        let read = host(text).unwrap();
        assert_eq!((read.name.as_str(), read.version.as_str(), read.cpus), ("scarlett", "Xen 4.17.3", 4));
        assert_eq!((read.memory, read.free_memory), (Memory::from_mib(6141), Some(Memory::from_mib(4274))));
        assert!(read.accelerated && !host(&text.replace(" hvm ", " ")).unwrap().accelerated);
        assert_eq!(host("host : a\nnr_cpus : many"), None);
    }
}
