use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;

use super::*;

mod channels;

/// What a file does with a write.
#[derive(Clone, Debug)]
enum Answer {
    Errno(i32),
    /// Keeps this instead.
    Becomes(&'static str),
    /// Takes it; another file then holds this.
    Also(&'static str, &'static str),
}

/// Files that answer as the kernel does.
#[derive(Debug, Default)]
struct Kernel {
    files: RefCell<BTreeMap<String, String>>,
    answers: RefCell<BTreeMap<String, Answer>>,
    writes: RefCell<Vec<String>>,
}

impl Kernel {
    fn new(files: &[(&str, &str)]) -> Self {
        let kernel = Self::default();
        files.iter().for_each(|(path, content)| kernel.set(path, content));
        kernel
    }

    fn set(&self, path: &str, content: &str) {
        self.files.borrow_mut().insert(path.into(), content.into());
    }

    fn get(&self, path: &str) -> String {
        self.files.borrow()[path].clone()
    }

    fn answer(&self, path: &str, answer: Answer) {
        self.answers.borrow_mut().insert(path.into(), answer);
    }

    fn state(&self) -> BTreeMap<String, String> {
        self.files.borrow().clone()
    }
}

impl FileSystem for Kernel {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let files = self.files.borrow();
        let content = files.get(path.to_str().unwrap());
        content.map(|content| format!("{content}\n").into()).ok_or(io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let path = path.to_str().unwrap();
        let mut files = self.files.borrow_mut();
        let file = files.get_mut(path).ok_or(io::Error::from_raw_os_error(libc::ENOENT))?;
        let content = String::from_utf8(content.to_vec()).unwrap();
        self.writes.borrow_mut().push(format!("{path} {content}"));
        match self.answers.borrow().get(path) {
            Some(Answer::Errno(errno)) => return Err(io::Error::from_raw_os_error(*errno)),
            Some(Answer::Becomes(other)) => *file = (*other).into(),
            Some(Answer::Also(other, value)) => {
                *file = content;
                files.insert((*other).into(), (*value).into());
            }
            None => *file = content,
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let files = self.files.borrow();
        let names = files.keys().filter_map(|file| Path::new(file).strip_prefix(path).ok());
        let mut names: Vec<OsString> = names.filter_map(|rest| rest.iter().next()).map(Into::into).collect();
        names.dedup();
        Ok(names)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

const RPS: &str = "/sys/class/net/eth0/queues/rx-0/rps_cpus";
const FLOWS: &str = "/sys/class/net/eth0/queues/rx-0/rps_flow_cnt";
const XPS: &str = "/sys/class/net/eth0/queues/tx-1/xps_cpus";
const IRQ: &str = "/proc/irq/30/smp_affinity_list";
const EFFECTIVE: &str = "/proc/irq/30/effective_affinity_list";
const TABLE: &str = "/proc/sys/net/core/rps_sock_flow_entries";

fn machine() -> Kernel {
    let boot = "/proc/sys/kernel/random/boot_id";
    Kernel::new(&[
        (RPS, "0000"),
        (FLOWS, "0"),
        (XPS, "0002"),
        (IRQ, "0-15"),
        (EFFECTIVE, "6"),
        (TABLE, "0"),
        (boot, "f3-a1"),
    ])
}

fn settings(rps: &str) -> [Setting; 5] {
    [
        Setting::Rps { interface: "eth0".into(), queue: 0, cpus: rps.parse().unwrap() },
        Setting::RpsFlowCount { interface: "eth0".into(), queue: 0, count: 1000 },
        Setting::Xps { interface: "eth0".into(), queue: 1, cpus: 1.into() },
        Setting::IrqAffinity { irq: 30, cpus: 6.into() },
        Setting::RpsSockFlowEntries { count: 32768 },
    ]
}

/// A directory of the test's own, taken away in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        // In memory, where there is such a place: to wait for a disk takes most of the time.
        let shared = PathBuf::from("/dev/shm");
        let base = if shared.is_dir() { shared } else { std::env::temp_dir() };
        let path = base.join(format!("lb-affinity-apply-{name}-{}", std::process::id()));
        directory::prepare(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn outcomes(report: &Report) -> Vec<Outcome> {
    report.lines.iter().map(|line| line.outcome.clone()).collect()
}

fn rolled_back(result: Result<Report, ApplyError>) -> Report {
    match result {
        Err(ApplyError::RolledBack(report)) => *report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dry_run_shows_only_what_differs() {
    let kernel = machine();
    let mut settings = settings("2-3,7").to_vec();
    settings.push(Setting::Rps { interface: "eth1".into(), queue: 0, cpus: 1.into() });
    assert_eq!(
        dry_run(&kernel, &settings, 16).unwrap().to_string(),
        "eth0 rx-0 rps_cpus: none → 2-3,7\n\
         eth0 rx-0 rps_flow_cnt: 0 → 1000\n\
         interrupt 30 smp_affinity: 0-15 → 6\n\
         net.core.rps_sock_flow_entries: 0 → 32768\n\
         eth1 rx-0 rps_cpus: vanished: it is not there any more; discover the machine and plan again"
    );
    assert_eq!(dry_run(&kernel, &[], 16).unwrap().to_string(), "nothing to change");
    assert!(kernel.writes.borrow().is_empty());
}

#[test]
fn settings_are_applied_and_taken_back_the_last_first() {
    let (kernel, directory) = (machine(), Directory::new("back"));
    let before = kernel.state();
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    kernel.answer(FLOWS, Answer::Becomes("1024"));
    let report = applier.apply(&settings("2-3,7")).unwrap();
    use Outcome::{Applied, Unchanged};
    assert_eq!(outcomes(&report), [Applied, Applied, Unchanged, Applied, Applied]);
    assert_eq!(report.lines[0].old, Some(Value::Cpus("".parse().unwrap())));
    assert_eq!([kernel.get(RPS), kernel.get(IRQ)], ["008c", "6"]);
    // Once more changes nothing, and the originals stay what they were.
    assert_eq!(outcomes(&applier.apply(&settings("2-3,7")).unwrap()), vec![Unchanged; 5]);
    kernel.answers.borrow_mut().clear();
    kernel.writes.borrow_mut().clear();
    let restored = applier.restore(IfChanged::Leave).unwrap();
    assert!(restored.is_complete());
    assert_eq!(kernel.state(), before);
    let back = [format!("{TABLE} 0"), format!("{IRQ} 0-15"), format!("{FLOWS} 0"), format!("{RPS} 0000")];
    assert_eq!(*kernel.writes.borrow(), back);
    assert_eq!(applier.restore(IfChanged::Leave).unwrap(), Restored::default());
}

#[test]
fn a_second_plan_keeps_the_first_ones_originals() {
    let (kernel, directory) = (machine(), Directory::new("second"));
    let before = kernel.state();
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    applier.apply(&settings("2-3,7")).unwrap();
    applier.apply(&settings("4")).unwrap();
    // One that fails puts the second plan back, not the first.
    kernel.answer(IRQ, Answer::Errno(libc::ENOSPC));
    let mut third = settings("5");
    third[3] = Setting::IrqAffinity { irq: 30, cpus: 7.into() };
    rolled_back(applier.apply(&third));
    assert_eq!(kernel.get(RPS), "0010");
    kernel.answers.borrow_mut().clear();
    drop(applier);
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    assert!(applier.restore(IfChanged::Leave).unwrap().is_complete());
    assert_eq!(kernel.state(), before);
}

#[test]
fn every_answer_of_the_kernel_has_its_outcome() {
    let cpus = |text: &str| Value::Cpus(text.parse().unwrap());
    let mounts = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:1 / /sys ro - sysfs s ro";
    let cases: [(usize, &str, Answer, Result<Outcome, &str>); 15] = [
        (0, RPS, Answer::Becomes("0088"), Ok(Outcome::Trimmed { is: cpus("3,7") })),
        (3, IRQ, Answer::Also(EFFECTIVE, "2"), Ok(Outcome::Pending { effective: 2.into() })),
        (3, IRQ, Answer::Errno(libc::EIO), Ok(Outcome::ManagedByDriver)),
        (3, IRQ, Answer::Errno(libc::EPERM), Ok(Outcome::ManagedByDriver)),
        (3, IRQ, Answer::Errno(libc::ENOSPC), Ok(Outcome::NoVector)),
        (0, RPS, Answer::Errno(libc::EPERM), Ok(Outcome::Denied(Denial::Capability("CAP_NET_ADMIN")))),
        (0, RPS, Answer::Errno(libc::EACCES), Ok(Outcome::Denied(Denial::Owner))),
        (
            0,
            RPS,
            Answer::Errno(libc::EROFS),
            Ok(Outcome::Denied(Denial::ReadOnlyMount { mount: Some("/sys".into()) })),
        ),
        (0, RPS, Answer::Errno(libc::ENODEV), Ok(Outcome::Vanished)),
        (0, RPS, Answer::Errno(libc::EOVERFLOW), Err("above the machine's highest")),
        (3, IRQ, Answer::Errno(libc::ERANGE), Err("above the machine's highest")),
        (3, IRQ, Answer::Errno(libc::EINVAL), Err("of the CPUs 6 none is online")),
        (0, RPS, Answer::Errno(libc::EINVAL), Err("isolated")),
        (1, FLOWS, Answer::Errno(libc::ENOMEM), Err("no memory for 1000 flows")),
        (0, RPS, Answer::Becomes("0001"), Err("reads 0")),
    ];
    for (index, path, answer, expected) in cases {
        for on_failure in [OnFailure::RollBack, OnFailure::Continue] {
            let (kernel, directory) = (machine(), Directory::new("answers"));
            kernel.set("/proc/self/mountinfo", mounts);
            kernel.answer(path, answer.clone());
            let before = kernel.state();
            let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap().on_failure(on_failure);
            let result = applier.apply(&settings("2-3,7"));
            let failure = expected.as_ref().map_or(true, Outcome::is_failure);
            assert_eq!(result.is_err(), failure && on_failure == OnFailure::RollBack, "{path} {expected:?}");
            let report = result.unwrap_or_else(|error| rolled_back(Err(error)));
            let outcome = &report.lines[index].outcome;
            match &expected {
                Ok(expected) => assert_eq!(outcome, expected),
                Err(text) => assert!(outcome.to_string().contains(text), "{outcome}"),
            }
            if report.rolled_back.is_some() && !matches!(answer, Answer::Becomes(_)) {
                assert_eq!(kernel.state(), before);
                assert!(!directory.0.join("journal").exists());
                let rest = &report.lines[index + 1..];
                let rest = rest.iter().filter(|line| line.outcome != Outcome::Unchanged);
                assert!(rest.clone().all(|line| line.outcome == Outcome::NotTried), "{report}");
            }
            if on_failure == OnFailure::Continue {
                assert_eq!(report.lines[4].outcome, Outcome::Applied, "{report}");
            }
        }
    }
}

#[test]
fn a_file_that_is_missing_stops_the_plan_before_its_first_write() {
    let (kernel, directory) = (machine(), Directory::new("missing"));
    kernel.files.borrow_mut().remove(TABLE);
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    let report = rolled_back(applier.apply(&settings("1")));
    assert_eq!(report.lines[4].outcome, Outcome::Vanished);
    assert_eq!(report.lines[0].outcome, Outcome::NotTried);
    assert!(kernel.writes.borrow().is_empty());
}

#[test]
fn a_strangers_value_is_left_unless_forced_and_a_vanished_file_dropped() {
    let (kernel, directory) = (machine(), Directory::new("stranger"));
    let before = kernel.state();
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    applier.apply(&settings("2-3,7")).unwrap();
    kernel.set(RPS, "f000");
    kernel.files.borrow_mut().remove(FLOWS);
    let restored = applier.restore(IfChanged::Leave).unwrap();
    assert!(!restored.is_complete());
    assert_eq!(kernel.get(RPS), "f000");
    assert_eq!(
        restored.to_string(),
        format!(
            "net.core.rps_sock_flow_entries = 0: put back\n\
             interrupt 30 smp_affinity = 0-15: put back\n\
             eth0 rx-0 rps_flow_cnt = 0: it is gone, and the setting with it\n\
             eth0 rx-0 rps_cpus = none: left: someone else has set 12-15 since"
        )
    );
    let restored = applier.restore(IfChanged::Overwrite).unwrap();
    assert_eq!(restored.to_string(), "eth0 rx-0 rps_cpus = none: put back");
    assert_eq!(kernel.get(RPS), before[RPS]);
    assert!(!directory.0.join("journal").exists());

    // So is, the second time too, what was meant but was never there.
    kernel.answer(RPS, Answer::Becomes("0008"));
    applier.apply(&settings("2-3")[..1]).unwrap();
    kernel.answers.borrow_mut().clear();
    kernel.set(RPS, "000c");
    for _ in 0..2 {
        assert!(!applier.restore(IfChanged::Leave).unwrap().is_complete());
        assert_eq!(kernel.get(RPS), "000c");
    }
    applier.restore(IfChanged::Overwrite).unwrap();

    // A value that a stranger set between two plans is what the second goes back to.
    kernel.set(FLOWS, "0");
    applier.apply(&settings("2")).unwrap();
    kernel.set(RPS, "f000");
    applier.apply(&settings("3")).unwrap();
    assert!(applier.restore(IfChanged::Leave).unwrap().is_complete());
    assert_eq!(kernel.get(RPS), "f000");
}

#[test]
fn what_can_not_be_put_back_stays_in_the_journal() {
    let (kernel, directory) = (machine(), Directory::new("stuck"));
    let before = kernel.state();
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    applier.apply(&settings("2")).unwrap();
    kernel.answer(RPS, Answer::Errno(libc::EPERM));
    let restored = applier.restore(IfChanged::Leave).unwrap();
    assert!(restored.to_string().contains("not put back: denied: this needs CAP_NET_ADMIN"), "{restored}");
    kernel.answers.borrow_mut().clear();
    assert!(applier.restore(IfChanged::Leave).unwrap().is_complete());
    assert_eq!(kernel.state(), before);
}

#[test]
fn a_rollback_that_does_not_succeed_is_no_strangers_change() {
    let (kernel, directory) = (machine(), Directory::new("rollback-stuck"));
    let before = kernel.state();
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    let result = applier.apply_then(&settings("2"), |kernel| {
        kernel.answer(RPS, Answer::Becomes("00f0"));
        Err(ApplyError::Interface { name: "none".into() })
    });
    assert!(matches!(result, Err(ApplyError::Interface { .. })), "{result:?}");
    assert_eq!(kernel.get(RPS), "00f0");
    kernel.answers.borrow_mut().clear();
    let restored = applier.restore(IfChanged::Leave).unwrap();
    assert!(restored.is_complete(), "{restored}");
    assert_eq!(kernel.state(), before);
}

#[test]
fn a_second_applier_is_refused_with_the_firsts_process() {
    let (kernel, directory) = (machine(), Directory::new("lock"));
    let first = Applier::open(&kernel, &directory.0, 16).unwrap();
    let error = Applier::open(&kernel, &directory.0, 16).unwrap_err();
    assert!(
        matches!(error, ApplyError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    drop(first);
    Applier::open(&kernel, &directory.0, 16).unwrap();
}

#[test]
fn a_journal_of_an_earlier_boot_writes_nothing() {
    let (kernel, directory) = (machine(), Directory::new("boot"));
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    applier.apply(&settings("2")).unwrap();
    kernel.set("/proc/sys/kernel/random/boot_id", "99-99");
    kernel.writes.borrow_mut().clear();
    let restored = applier.restore(IfChanged::Overwrite).unwrap();
    assert!(restored.of_another_boot && restored.lines.is_empty());
    assert!(kernel.writes.borrow().is_empty());
    assert!(!directory.0.join("journal").exists());
}

#[test]
fn a_journal_of_another_namespace_keeps_what_is_not_here() {
    let (kernel, directory) = (machine(), Directory::new("namespace"));
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    applier.apply(&settings("2")).unwrap();
    let path = directory.0.join("journal");
    let journal = Journal::load(&path).unwrap().unwrap();
    let there = Journal { namespace: Some("net:[7]".into()), ..journal.clone() };
    there.store(&path).unwrap();
    let error = applier.apply(&settings("3")).unwrap_err();
    assert!(matches!(&error, ApplyError::Namespace { then, .. } if then == "net:[7]"), "{error}");
    // Files of the same names are not those.
    kernel.writes.borrow_mut().clear();
    let restored = applier.restore(IfChanged::Overwrite).unwrap();
    assert!(!restored.is_complete());
    assert_eq!(*kernel.writes.borrow(), [format!("{IRQ} 0-15")]);
    assert!(restored.to_string().contains("rps_cpus = none: left: it is in network namespace net:[7]"));
    // Back there, they are put back.
    let left = Journal::load(&path).unwrap().unwrap();
    assert_eq!((left.namespace.as_deref(), left.entries.len()), (Some("net:[7]"), 3));
    Journal { namespace: journal.namespace, ..left }.store(&path).unwrap();
    assert!(applier.restore(IfChanged::Leave).unwrap().is_complete());
    assert_eq!(kernel.get(RPS), "0000");
    assert!(!path.exists());
}

#[test]
fn a_damaged_journal_is_named_and_nothing_done() {
    let (kernel, directory) = (machine(), Directory::new("damaged"));
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    std::fs::write(directory.0.join("journal"), "no journal\n").unwrap();
    let error = applier.apply(&settings("2")).unwrap_err();
    assert!(matches!(error, ApplyError::Damaged { line: 1, .. }), "{error}");
    assert!(matches!(applier.restore(IfChanged::Leave), Err(ApplyError::Damaged { .. })));
    assert!(kernel.writes.borrow().is_empty());
    applier.forget().unwrap();
    applier.apply(&settings("2")).unwrap();
}

#[test]
fn no_journal_no_write() {
    let (kernel, directory) = (machine(), Directory::new("unwritable"));
    // A directory where the journal is to be written to: no user can write that.
    std::fs::create_dir(directory.0.join("journal.new")).unwrap();
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    let error = applier.apply(&settings("2")).unwrap_err();
    assert!(matches!(error, ApplyError::Journal { .. }), "{error}");
    assert!(kernel.writes.borrow().is_empty());
}

#[test]
fn bad_settings_change_nothing() {
    let kernel = machine();
    for name in ["", "..", "a/b", "../../../etc", "sixteen-letters-", "a b"] {
        let setting = Setting::Rps { interface: name.into(), queue: 0, cpus: 1.into() };
        let error = dry_run(&kernel, &[setting], 16).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{name:?} is no name")), "{error}");
    }
    let twice = [settings("1")[0].clone(), settings("2")[0].clone()];
    let error = dry_run(&kernel, &twice, 16).unwrap_err();
    assert_eq!(error.to_string(), "eth0 rx-0 rps_cpus = 2 is set twice; keep one");
}

#[test]
fn a_cpu_above_the_highest_is_for_the_kernel_to_refuse() {
    let settings = [Setting::Rps { interface: "eth0".into(), queue: 0, cpus: "1,40".parse().unwrap() }];
    let jobs = jobs(&settings, 16, &mut BTreeSet::new()).unwrap();
    assert_eq!(jobs[0].content, b"100,00000002");
}

#[test]
fn irqbalance_is_warned_of() {
    let (kernel, directory) = (machine(), Directory::new("irqbalance"));
    kernel.set("/proc/1/comm", "init");
    kernel.set("/proc/77/comm", "irqbalance");
    let mut applier = Applier::open(&kernel, &directory.0, 16).unwrap();
    let report = applier.apply(&settings("1")).unwrap();
    assert_eq!(report.warnings, [Warning::Irqbalance { pid: 77 }]);
    assert!(report.to_string().contains("warning: irqbalance (process 77) runs"), "{report}");
}
