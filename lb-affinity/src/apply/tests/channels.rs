//! Another number of channels, and all that a driver changes along with it.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::fs::{Memory, Recording};
use crate::nic::ethtool::EthtoolError;
use crate::nic::{ChannelCounts, Channels, Count};

/// The most queues that the card can have.
const MOST: u32 = 6;

/// A machine with a card whose driver does what many do: queues come and go with the channels, and the CPUs of interrupts and of
/// transmit queues are spread anew over those that there are.
#[derive(Clone, Debug)]
struct Card {
    state: RefCell<State>,
    /// Writes until one is refused, of files and of channels.
    refuses: Cell<Option<u32>>,
    refusal: fn() -> EthtoolError,
    /// Whether queues that go keep their interrupts, as virtio's do.
    keeps_interrupts: bool,
    /// Whether the driver takes another number of channels, and does nothing.
    is_deaf: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    files: BTreeMap<PathBuf, String>,
    combined: u32,
}

fn refused() -> EthtoolError {
    EthtoolError::Refused {
        interface: "eth0".into(),
        operation: "setting channels",
        source: io::Error::from_raw_os_error(libc::EBUSY),
        message: Some("the device is being reset".into()),
    }
}

impl Card {
    fn new(combined: u32) -> Self {
        let files = BTreeMap::from([
            ("/proc/interrupts".into(), "CPU0\n".to_owned()),
            ("/proc/sys/kernel/random/boot_id".into(), "f3-a1".to_owned()),
        ]);
        let state = RefCell::new(State { files, combined: 0 });
        let card = Self {
            state,
            refuses: Cell::new(None),
            refusal: refused,
            keeps_interrupts: false,
            is_deaf: false,
        };
        for irq in 30..30 + MOST {
            card.put(&format!("/sys/devices/card/msi_irqs/{irq}"), "msix");
        }
        card.resize(combined);
        card
    }

    fn keeping_interrupts(mut self) -> Self {
        self.keeps_interrupts = true;
        for irq in 30 + self.state().combined..30 + MOST {
            self.put(&format!("/proc/irq/{irq}/smp_affinity_list"), "0-15");
        }
        self
    }

    fn put(&self, path: &str, content: &str) {
        self.state.borrow_mut().files.insert(path.into(), content.into());
    }

    fn get(&self, path: &str) -> Option<String> {
        self.state.borrow().files.get(Path::new(path)).cloned()
    }

    fn state(&self) -> State {
        self.state.borrow().clone()
    }

    fn resize(&self, combined: u32) {
        let queues = "/sys/class/net/eth0/queues";
        for queue in 0..MOST {
            let (rx, tx) = (format!("{queues}/rx-{queue}"), format!("{queues}/tx-{queue}"));
            let irq = format!("/proc/irq/{}/smp_affinity_list", 30 + queue);
            if queue >= combined {
                let irq = Some(Path::new(&irq)).filter(|_| !self.keeps_interrupts);
                let gone = |path: &PathBuf| {
                    path.starts_with(&rx) || path.starts_with(&tx) || Some(path.as_path()) == irq
                };
                self.state.borrow_mut().files.retain(|path, _| !gone(path));
                continue;
            }
            for name in ["rps_cpus", "rps_flow_cnt"] {
                let path = format!("{rx}/{name}");
                if self.get(&path).is_none() {
                    self.put(&path, "0");
                }
            }
            self.put(&format!("{tx}/xps_cpus"), &format!("{:x}", (1 << queue) | (1 << (queue + combined))));
            self.put(&irq, &format!("{},{}", queue, queue + combined));
        }
        self.state.borrow_mut().combined = combined;
    }

    fn refuses_now(&self) -> bool {
        let left = self.refuses.get();
        self.refuses.set(left.and_then(|left| left.checked_sub(1)));
        left == Some(0)
    }
}

impl FileSystem for Card {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let content = self.state.borrow().files.get(path).cloned();
        content.map(|content| format!("{content}\n").into()).ok_or(io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        if self.refuses_now() {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let mut state = self.state.borrow_mut();
        let file = state.files.get_mut(path).ok_or(io::Error::from_raw_os_error(libc::ENOENT))?;
        *file = String::from_utf8(content.to_vec()).unwrap();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state.borrow();
        let below = state.files.keys().filter_map(|file| file.strip_prefix(path).ok());
        let mut names: Vec<OsString> = below.filter_map(|rest| rest.iter().next()).map(Into::into).collect();
        names.dedup();
        Ok(names)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(if path.ends_with("eth0/device") { "/sys/devices/card".into() } else { path.to_owned() })
    }

    fn channels(&self, interface: &str) -> Result<Channels, EthtoolError> {
        if interface != "eth0" {
            return Err(EthtoolError::NoInterface { interface: interface.into() });
        }
        let combined = Count { count: self.state.borrow().combined, max: MOST };
        Ok(Channels { combined, ..Channels::default() })
    }

    fn set_channels(&self, interface: &str, counts: ChannelCounts) -> Result<(), EthtoolError> {
        self.channels(interface)?;
        if self.refuses_now() {
            return Err((self.refusal)());
        }
        if !self.is_deaf {
            self.resize(counts.combined.unwrap());
        }
        Ok(())
    }
}

fn channels(combined: u32) -> Setting {
    let counts = ChannelCounts { combined: Some(combined), ..ChannelCounts::default() };
    Setting::Channels { interface: "eth0".into(), counts }
}

/// What a plan for so many queues would set.
fn planned(queues: u32) -> Vec<Setting> {
    let interface = || "eth0".to_owned();
    let each = |queue: u32| {
        [
            Setting::IrqAffinity { irq: 30 + queue, cpus: (queue + 8).into() },
            Setting::Rps { interface: interface(), queue, cpus: "14-15".parse().unwrap() },
            Setting::RpsFlowCount { interface: interface(), queue, count: 4096 },
            Setting::Xps { interface: interface(), queue, cpus: 12.into() },
        ]
    };
    (0..queues).flat_map(each).collect()
}

/// Applies a number of channels and what is planned for it.
fn apply(applier: &mut Applier<&Card>, combined: u32) -> Result<Report, ApplyError> {
    applier.apply_then(&[channels(combined)], |card| Ok(planned(card.state().combined)))
}

fn open<'a>(card: &'a Card, directory: &Directory) -> Applier<&'a Card> {
    Applier::open(card, &directory.0, 16).unwrap()
}

/// Values that somebody has set before.
fn customized(combined: u32) -> Card {
    let card = Card::new(combined);
    for queue in 0..combined {
        card.put(&format!("/sys/class/net/eth0/queues/rx-{queue}/rps_cpus"), "f0");
        card.put(&format!("/sys/class/net/eth0/queues/rx-{queue}/rps_flow_cnt"), "64");
        card.put(&format!("/sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), "3");
        card.put(&format!("/proc/irq/{}/smp_affinity_list", 30 + queue), "4-7");
    }
    card
}

#[test]
fn what_the_driver_changes_or_takes_away_comes_back() {
    for (before, after) in [(4, 2), (2, 4), (4, 4), (1, 6)] {
        let (card, directory) = (customized(before).keeping_interrupts(), Directory::new("channels"));
        let original = card.state();
        let report = apply(&mut open(&card, &directory), after).unwrap();
        assert_eq!(report.lines.len() as u32, 1 + 4 * after);
        let unchanged = if before == after { Outcome::Unchanged } else { Outcome::Applied };
        assert_eq!(report.lines[0].outcome, unchanged);
        assert!(report.lines[1..].iter().all(|line| line.outcome == Outcome::Applied), "{report}");
        assert_eq!(card.state().combined, after);
        let restored = open(&card, &directory).restore(IfChanged::Leave).unwrap();
        assert!(restored.is_complete(), "{restored}");
        assert_eq!(card.state(), original, "{before} {after}: {restored}");
        assert!(!directory.0.join("journal").exists());
    }
}

#[test]
fn a_dry_run_shows_the_channels_of_a_machine_that_has_a_driver() {
    let card = Card::new(4);
    let dry = |files: &dyn Fn() -> DryRun| files().to_string();
    assert_eq!(
        dry(&|| dry_run(&card, &[channels(2)], 16).unwrap()),
        "eth0 channels: combined 4 → combined 2"
    );
    assert_eq!(dry(&|| dry_run(&card, &[channels(4)], 16).unwrap()), "nothing to change");
    let none = Memory::new();
    assert_eq!(
        dry(&|| dry_run(&none, &[channels(2)], 16).unwrap()),
        "eth0 channels: failed: eth0: reading channels: there is no driver to ask; \
         what it would say is not in a recorded machine's files"
    );
    // A rehearsal.
    let (rehearsal, directory) = (Recording::new(&card), Directory::new("rehearsal"));
    Applier::open(&rehearsal, &directory.0, 16).unwrap().apply(&[channels(2)]).unwrap();
    assert_eq!(rehearsal.into_writes().len(), 1);
    assert_eq!(card.state(), Card::new(4).state());
    for interface in ["", "a/b", "sixteen-letters-"] {
        let setting = Setting::Channels { interface: interface.into(), counts: ChannelCounts::default() };
        assert!(matches!(dry_run(&card, &[setting], 16), Err(ApplyError::Interface { .. })), "{interface}");
    }
}

#[test]
fn every_answer_of_a_driver_has_its_outcome() {
    /// An outcome, or the number and some words of a failure.
    type Expected = Result<Outcome, (Option<i32>, &'static str)>;
    let cases: [(fn() -> EthtoolError, Expected); 5] = [
        (
            || EthtoolError::Denied { interface: "eth0".into(), operation: "setting channels" },
            Ok(Outcome::Denied(Denial::Capability("CAP_NET_ADMIN"))),
        ),
        (|| EthtoolError::NoInterface { interface: "eth0".into() }, Ok(Outcome::Vanished)),
        (refused, Err((Some(libc::EBUSY), "(the device is being reset)"))),
        (
            || EthtoolError::Unsupported {
                interface: "eth0".into(),
                operation: "setting channels",
                message: None,
            },
            Err((Some(libc::EOPNOTSUPP), "does not support setting channels")),
        ),
        (|| EthtoolError::NoFamily, Err((None, "Linux 5.6"))),
    ];
    for (refusal, expected) in cases {
        let (card, directory) = (customized(4), Directory::new("driver"));
        let original = card.state();
        let card = Card { refusal, ..card };
        card.refuses.set(Some(0));
        let report = rolled_back(apply(&mut open(&card, &directory), 2));
        let outcome = &report.lines[0].outcome;
        assert!(outcome.is_failure());
        match &expected {
            Ok(expected) => assert_eq!(outcome, expected),
            Err((number, words)) => {
                assert!(matches!(outcome, Outcome::Failed { errno, .. } if errno == number), "{outcome:?}");
                assert!(outcome.to_string().contains(words), "{outcome}");
            }
        }
        assert_eq!((card.state(), report.lines.len()), (original, 1));
        assert!(!directory.0.join("journal").exists());
    }
    // One that takes it and does nothing.
    let (card, directory) = (Card { is_deaf: true, ..Card::new(4) }, Directory::new("deaf"));
    let report = rolled_back(open(&card, &directory).apply(&[channels(2)]));
    assert!(report.to_string().contains("it was written, but reads combined 4"), "{report}");
}

#[test]
fn both_steps_are_one_work() {
    let (card, directory) = (customized(4), Directory::new("steps"));
    let original = card.state();
    let mut applier = open(&card, &directory);
    // What `then` says is told after the channels are back.
    #[derive(Debug)]
    enum Mine {
        Apply(ApplyError),
        NoPlan,
    }
    impl From<ApplyError> for Mine {
        fn from(error: ApplyError) -> Self {
            Self::Apply(error)
        }
    }
    let result = applier.apply_then(&[channels(2)], |card| {
        assert_eq!(card.state().combined, 2);
        let journal = std::fs::read_to_string(directory.0.join("journal")).unwrap();
        assert!(!journal.contains("complete"), "{journal}");
        Err(Mine::NoPlan)
    });
    assert!(matches!(result, Err(Mine::NoPlan)), "{result:?}");
    assert_eq!(card.state(), original);
    let result = applier.apply_then::<Mine>(&[channels(2)], |_| Ok(vec![channels(3)]));
    assert!(matches!(result, Err(Mine::Apply(ApplyError::Twice { .. }))), "{result:?}");
    // A queue that is not there after the first step.
    let report = rolled_back(applier.apply_then(&[channels(2)], |_| Ok(planned(3))));
    assert_eq!(report.lines[0].outcome, Outcome::RolledBack);
    assert_eq!(report.lines[10].outcome, Outcome::Vanished, "{report}");
    assert_eq!(card.state(), original);
    assert!(!directory.0.join("journal").exists() && applier.changed().unwrap().is_empty());

    apply(&mut applier, 2).unwrap();
    let changed = applier.changed().unwrap();
    let at = changed.iter().position(|target| *target == Target::Channels("eth0".into()));
    assert_eq!(at, Some(16), "behind 4 queues and interrupts: {changed:?}");
}

#[test]
fn a_second_number_of_channels_keeps_the_first_ones_originals() {
    let (card, directory) = (customized(3), Directory::new("second-number"));
    let original = card.state();
    let mut applier = open(&card, &directory);
    applier.apply(&planned(3)).unwrap();
    for combined in [1, 5, 2] {
        apply(&mut applier, combined).unwrap();
    }
    let before = card.state();
    card.refuses.set(Some(9));
    rolled_back(apply(&mut applier, 6));
    assert_eq!(card.state(), before);
    assert!(applier.restore(IfChanged::Leave).unwrap().is_complete());
    assert_eq!(card.state(), original);
}

const FIRST: &str = "/sys/class/net/eth0/queues/rx-0/rps_cpus";

#[test]
fn a_strangers_values_are_left_unless_forced() {
    let (card, directory) = (customized(4), Directory::new("channels-stranger"));
    let original = card.state();
    let mut applier = open(&card, &directory);
    apply(&mut applier, 2).unwrap();
    card.put(FIRST, "1");
    let restored = applier.restore(IfChanged::Leave).unwrap();
    let strange = |line: &&RestoredLine| matches!(line.outcome, Return::Changed { .. });
    let left: Vec<_> = restored.lines.iter().filter(strange).map(ToString::to_string).collect();
    assert_eq!(left, ["eth0 rx-0 rps_cpus = 4-7: left: someone else has set 0 since"]);
    assert_eq!((card.get(FIRST).as_deref(), card.state().combined), (Some("1"), 4));
    assert_eq!(applier.changed().unwrap(), [Target::File(FIRST.into())]);
    assert!(applier.restore(IfChanged::Overwrite).unwrap().is_complete());
    assert_eq!(card.state(), original);

    // The channels themselves: what follows them is not forgotten.
    apply(&mut applier, 2).unwrap();
    card.resize(3);
    let restored = applier.restore(IfChanged::Leave).unwrap();
    assert!(
        restored.to_string().contains("eth0 channels = combined 4: left: someone else has set combined 3")
    );
    assert_eq!(card.state().combined, 3);
    assert!(!applier.restore(IfChanged::Leave).unwrap().is_complete());
    assert!(applier.restore(IfChanged::Overwrite).unwrap().is_complete());
    assert_eq!(card.state(), original);

    // Someone else has put the channels back, and set a queue after that.
    apply(&mut applier, 2).unwrap();
    card.resize(4);
    card.put(FIRST, "1");
    applier.restore(IfChanged::Leave).unwrap();
    assert_eq!(card.get(FIRST).as_deref(), Some("1"));
}

#[test]
fn channels_of_another_namespace_are_left_with_all_that_follows_them() {
    const OTHER: &str = "/proc/irq/77/smp_affinity_list";
    for finished in [true, false] {
        let (card, directory) = (customized(4), Directory::new(&format!("channels-elsewhere-{finished}")));
        card.put(OTHER, "0-15");
        let original = card.state();
        let mut applier = open(&card, &directory);
        applier.apply(&[Setting::IrqAffinity { irq: 77, cpus: 3.into() }, channels(2)]).unwrap();
        let path = directory.0.join("journal");
        let mut journal = Journal::load(&path).unwrap().unwrap();
        let here = journal.namespace.replace("net:[7]".into());
        if !finished {
            // It died before it could tell what the driver made of the card.
            journal.complete = false;
            journal.entries.iter_mut().for_each(|entry| entry.left = None);
        }
        journal.store(&path).unwrap();
        let set = card.state();
        for settings in [planned(2), vec![channels(4)]] {
            let error = applier.apply(&settings).unwrap_err();
            assert!(matches!(&error, ApplyError::Namespace { then, .. } if then == "net:[7]"), "{error}");
        }
        assert_eq!(applier.changed().unwrap(), [Target::File(OTHER.into())]);

        // Another eth0, and interrupts that wait for the first one's channels.
        let restored = applier.restore(IfChanged::Overwrite).unwrap();
        let is_left = |line: &&RestoredLine| matches!(line.outcome, Return::Elsewhere { .. });
        assert_eq!(restored.lines.iter().filter(is_left).count(), journal.entries.len() - 1, "{restored}");
        assert_eq!(card.get(OTHER).as_deref(), Some("0-15"));
        card.put(OTHER, "3");
        assert_eq!(card.state(), set);
        card.put(OTHER, "0-15");
        assert!(applier.changed().unwrap().is_empty());
        // It is kept as it was.
        let left = Journal::load(&path).unwrap().unwrap();
        journal.entries.retain(|entry| entry.place.target != Target::File(OTHER.into()));
        assert_eq!(left, journal);

        Journal { namespace: here, ..left }.store(&path).unwrap();
        let restored = applier.restore(IfChanged::Leave).unwrap();
        assert!(restored.is_complete(), "{restored}");
        assert_eq!(card.state(), original, "{finished}");
        assert!(!path.exists());
    }
}

#[test]
fn channels_that_can_not_be_put_back_take_nothing_with_them() {
    let (card, directory) = (customized(4), Directory::new("channels-stuck"));
    let original = card.state();
    let mut applier = open(&card, &directory);
    apply(&mut applier, 2).unwrap();
    // All else is of queues that were there before, and comes after.
    card.refuses.set(Some(0));
    let restored = applier.restore(IfChanged::Leave).unwrap();
    assert!(restored.to_string().contains("eth0 channels = combined 4: not put back: failed"), "{restored}");
    assert_eq!(card.state().combined, 2);
    let restored = applier.restore(IfChanged::Leave).unwrap();
    assert!(restored.is_complete(), "{restored}");
    assert_eq!(card.state(), original);
}

#[test]
fn restoring_twice_what_can_not_be_restored_does_what_once_does() {
    // What somebody has set since, the channels themselves among it; and whether the driver refuses the channels.
    for (name, content) in [(None, ""), (Some(FIRST), "1"), (Some("/proc/irq/30/smp_affinity_list"), "5")] {
        for (strange, refuses, finished) in
            [(false, true, true), (false, true, false), (true, false, true), (true, true, false)]
        {
            let case = format!("{name:?} strange {strange}, refuses {refuses}, finished {finished}");
            let (card, directory) = (customized(4), Directory::new("twice"));
            let mut applier = open(&card, &directory);
            apply(&mut applier, 2).unwrap();
            let path = directory.0.join("journal");
            if !finished {
                let mut journal = Journal::load(&path).unwrap().unwrap();
                journal.complete = false;
                journal.store(&path).unwrap();
            }
            if strange {
                card.resize(3);
            }
            if let Some(name) = name {
                card.put(name, content);
            }
            let mut restore = || {
                card.refuses.set(refuses.then_some(0));
                let restored = applier.restore(IfChanged::Leave).unwrap();
                assert!(!restored.is_complete(), "{case}: {restored}");
                card.state()
            };
            let once = restore();
            assert_eq!(restore(), once, "{case}");
        }
    }
}

#[test]
fn what_could_not_be_put_back_is_no_strangers() {
    // After a crash, before it could tell what the driver made of the card; and of each of the writes that come after, one is refused.
    let (mut refusals, mut writes) = (0, 0..);
    for left in &mut writes {
        let (card, directory) = (customized(4), Directory::new("stuck"));
        let original = card.state();
        let mut applier = open(&card, &directory);
        applier.apply(&[channels(2)]).unwrap();
        let path = directory.0.join("journal");
        let mut journal = Journal::load(&path).unwrap().unwrap();
        journal.complete = false;
        journal.entries.iter_mut().for_each(|entry| entry.left = None);
        journal.store(&path).unwrap();

        card.refuses.set(Some(left));
        let first = applier.restore(IfChanged::Leave).unwrap();
        assert!(!first.to_string().contains("someone else"), "{left}: {first}");
        let is_through = card.refuses.take().is_some();
        refusals += u32::from(!first.is_complete());
        let second = applier.restore(IfChanged::Leave).unwrap();
        assert!(second.is_complete(), "{left}: {first}\n\n{second}");
        assert_eq!(card.state(), original, "{left}: {first}\n\n{second}");
        if is_through {
            break;
        }
    }
    assert!(refusals > 4, "{refusals}");
}

proptest! {
    /// Whatever was set before, and wherever it fails: all of it comes back.
    #[test]
    fn all_comes_back(
        before in 1..=MOST,
        masks in proptest::collection::vec(0_u32..256, 4 * MOST as usize),
        applied in proptest::collection::vec((1..=MOST, proptest::option::of(0_u32..30)), 1..4),
        keeps_interrupts: bool,
        case: u64,
    ) {
        let (card, directory) = (Card::new(before), Directory::new(&format!("all-{case:x}")));
        let card = if keeps_interrupts { card.keeping_interrupts() } else { card };
        for (queue, masks) in (0..before).zip(masks.chunks(4)) {
            let cpus = |mask: u32| format!("{:x}", mask);
            card.put(&format!("/sys/class/net/eth0/queues/rx-{queue}/rps_cpus"), &cpus(masks[0]));
            card.put(&format!("/sys/class/net/eth0/queues/rx-{queue}/rps_flow_cnt"), &masks[1].to_string());
            card.put(&format!("/sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), &cpus(masks[2]));
            card.put(&format!("/proc/irq/{}/smp_affinity_list", 30 + queue), &masks[3].to_string());
        }
        let original = card.state();
        let mut applier = open(&card, &directory);
        for (combined, refuses) in applied {
            let now = card.state();
            card.refuses.set(refuses);
            let result = apply(&mut applier, combined);
            card.refuses.set(None);
            if result.is_err() {
                prop_assert_eq!(card.state(), now);
            }
        }
        let restored = applier.restore(IfChanged::Leave).unwrap();
        prop_assert!(restored.is_complete(), "{}", restored);
        prop_assert_eq!(card.state(), original);
    }
}
