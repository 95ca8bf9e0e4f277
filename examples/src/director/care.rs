//! Who may get work: checks, outlier detection and the operator are heard for every server, and the pools told.
//!
//! All of it runs on the management thread; probes block threads of tokio's blocking pool.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_core::clock::{Clock, MonotonicClock, Timestamp};
use lb_core::health::outlier::{self, Detector, Event};
use lb_core::health::probe::Probe;
use lb_core::health::{Checker, Condition, Curve, Initial, OnDown, Phase, SlowStart};
use lb_core::{Admin, UpdateError, Weight};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::config::{self, Check};
use crate::site::{Farm, Server, Site};

/// Changes of health that are remembered of each server.
const HISTORY: usize = 10;
/// How often outliers are looked for and slow starts take their next step.
const TICK: Duration = Duration::from_millis(100);

/// The care of all servers.
#[derive(Debug, Default)]
pub(crate) struct Care {
    clock: MonotonicClock,
    wards: RefCell<HashMap<Name, Rc<RefCell<Ward>>>>,
    detectors: RefCell<HashMap<String, Judge>>,
}

/// A farm's outlier detection, and what it was made from.
type Judge = (outlier::Config, Detector<Arc<str>>);

/// A farm's and a server's name.
type Name = (String, Arc<str>);

/// A server in care.
#[derive(Debug)]
pub(crate) struct Ward {
    farm: Arc<Farm>,
    server: Arc<Server>,
    check: Option<Check>,
    condition: Condition,
    /// The weight that the operator gave it, in place of the configured one.
    weight: Option<Weight>,
    /// Its checker, if it is checked.
    pub(crate) checker: Option<Checker>,
    /// The check that ended last.
    pub(crate) last: Option<LastCheck>,
    /// Whether outlier detection has taken it out.
    pub(crate) ejected: bool,
    /// The last changes, oldest first.
    pub(crate) history: VecDeque<Change>,
    since: Timestamp,
    changed: bool,
    task: Option<AbortHandle>,
    /// Wakes the check before its time.
    look: Rc<Notify>,
}

/// A finished check.
#[derive(Clone, Debug)]
pub(crate) struct LastCheck {
    /// What was asked.
    pub(crate) kind: String,
    /// How long it took, or why it failed.
    pub(crate) result: Result<Duration, String>,
    /// When it ended.
    pub(crate) at: Timestamp,
    /// How long it took, passed or not.
    pub(crate) took: Duration,
}

/// A change of a server's health.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Milliseconds since the Unix epoch.
    pub(crate) unix_ms: u64,
    /// Whether it may serve after it.
    pub(crate) up: bool,
    /// Whether traffic, rather than a check, took it out.
    pub(crate) ejected: bool,
    /// Why.
    pub(crate) reason: String,
}

impl Drop for Ward {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Care {
    /// Takes every server of a site into care; those that were in care keep their state.
    pub(crate) fn take(self: &Rc<Self>, site: &Site) {
        let mut old = self.wards.take();
        let mut wards = HashMap::new();
        let mut detectors = HashMap::new();
        let mut known = self.detectors.take();
        for farm in &site.farms {
            let mut judged = false;
            if let Some(config) = &farm.config.outlier {
                let (name, fresh) =
                    (&farm.config.name, (config.clone(), Detector::new(config.clone(), self.now())));
                match (known.remove(name), fresh) {
                    (Some((was, detector)), (is, _)) if was == is => {
                        detectors.insert(name.clone(), (was, detector));
                        judged = true;
                    }
                    (_, (is, Ok(detector))) => {
                        detectors.insert(name.clone(), (is, detector));
                    }
                    // The configuration's ranges are the detector's.
                    (_, (_, Err(error))) => eprintln!("director: backend {name}: {error}"),
                }
            }
            for (config, backend) in farm.config.servers.iter().zip(farm.balancer.snapshot().backends()) {
                let name = (farm.config.name.clone(), Arc::clone(&backend.name));
                let last = old.remove(&name);
                let ward = self.ward(farm, config, backend.payload(), last.as_deref(), judged);
                let ward = Rc::new(RefCell::new(ward));
                self.start_checks(&ward);
                self.apply(&ward.borrow());
                wards.insert(name, ward);
            }
        }
        *self.wards.borrow_mut() = wards;
        *self.detectors.borrow_mut() = detectors;
    }

    fn ward(
        &self,
        farm: &Arc<Farm>,
        config: &config::Server,
        server: &Arc<Server>,
        last: Option<&RefCell<Ward>>,
        judged: bool,
    ) -> Ward {
        let now = self.now();
        let check = farm.config.check.clone().filter(|_| config.check);
        let slow_start = (!farm.config.slow_start.is_zero())
            .then(|| SlowStart::new(farm.config.slow_start, Curve::Sixteenths).ok())
            .flatten();
        let mut last = last.map(RefCell::borrow_mut);
        let was_up = last.as_ref().and_then(|last| last.checker.as_ref()).map(Checker::is_up);
        // A check that goes on as it is keeps its count; another one starts from what is known.
        let same =
            last.as_ref().is_some_and(|last| last.check == check && last.server.address == server.address);
        let checker = match (&check, last.as_mut()) {
            (None, _) => None,
            (Some(_), Some(last)) if same => last.checker.take(),
            (Some(check), _) => {
                let mut rules = check.rules.clone();
                if let Some(up) = was_up {
                    rules.initial = if up { Initial::FullyUp } else { Initial::FullyDown };
                }
                Checker::new(rules, now, server.slot as u64).ok()
            }
        };
        let up = checker.as_ref().is_none_or(Checker::is_up);
        let configured = |farm: &Farm| {
            let mut servers = farm.config.servers.iter();
            servers.find(|server| *server.name == config.name).map(|server| server.weight)
        };
        // The operator's word holds until the file says something new.
        let weight = last.as_ref().filter(|last| configured(&last.farm) == configured(farm));
        let weight = weight.and_then(|last| last.weight);
        let same_policy = last.as_ref().is_some_and(|last| {
            last.farm.config.on_down == farm.config.on_down
                && last.farm.config.slow_start == farm.config.slow_start
        });
        let mut condition = match last.as_ref() {
            Some(last) if same_policy => last.condition.clone(),
            Some(last) => {
                let mut condition = Condition::new(farm.config.on_down, slow_start, up);
                condition.set_admin(now, last.condition.admin());
                condition
            }
            None => Condition::new(farm.config.on_down, slow_start, up),
        };
        condition.set_checked(now, up);
        // A detector that begins anew knows nothing of ejections, so nobody would end them.
        let ejected = judged && last.as_ref().is_some_and(|last| last.ejected);
        condition.set_ejected(now, ejected);
        Ward {
            farm: Arc::clone(farm),
            server: Arc::clone(server),
            check,
            condition,
            weight,
            checker,
            last: last.as_ref().and_then(|last| last.last.clone()),
            ejected,
            history: last.as_ref().map(|last| last.history.clone()).unwrap_or_default(),
            since: last.as_ref().map_or(now, |last| last.since),
            changed: last.as_ref().is_some_and(|last| last.changed),
            task: None,
            look: Rc::new(Notify::new()),
        }
    }

    /// The time that everything here goes by.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A server in care.
    pub(crate) fn find(&self, farm: &str, server: &str) -> Option<Rc<RefCell<Ward>>> {
        self.wards.borrow().get(&(farm.to_owned(), Arc::from(server))).cloned()
    }

    fn start_checks(self: &Rc<Self>, ward: &Rc<RefCell<Ward>>) {
        let mut inner = ward.borrow_mut();
        let (Some(check), true) = (inner.check.clone(), inner.checker.is_some()) else { return };
        let config = inner.farm.config.servers.iter().find(|server| *server.name == *inner.server.name);
        let address = config.and_then(|server| server.check_address).unwrap_or(inner.server.address);
        let (care, weak, look) = (Rc::clone(self), Rc::downgrade(ward), Rc::clone(&inner.look));
        let task = tokio::task::spawn_local(async move {
            let kind = describe(&check.probe);
            let probe = Arc::new(check.probe);
            loop {
                let Some(next) =
                    weak.upgrade().and_then(|ward| Some(ward.borrow().checker.as_ref()?.next_probe()))
                else {
                    return;
                };
                tokio::select! {
                    () = tokio::time::sleep(next.saturating_since(care.now())) => {}
                    () = look.notified() => {}
                }
                let probe = Arc::clone(&probe);
                let started = care.now();
                let ran = tokio::task::spawn_blocking(move || {
                    probe.run(address).map_err(|error| error.to_string())
                });
                let Ok(result) = ran.await else { return };
                let Some(ward) = weak.upgrade() else { return };
                let took = care.now().saturating_since(started);
                care.checked(&ward, &kind, result, took);
            }
        });
        inner.task = Some(task.abort_handle());
    }

    fn checked(&self, ward: &RefCell<Ward>, kind: &str, result: Result<Duration, String>, took: Duration) {
        let now = self.now();
        let mut inner = ward.borrow_mut();
        let ward = &mut *inner;
        let Some(checker) = &mut ward.checker else { return };
        let transition = checker.record(now, result.clone());
        let up = checker.is_up();
        ward.last = Some(LastCheck { kind: kind.to_owned(), result, at: now, took });
        if let Some(transition) = transition {
            ward.condition.set_checked(now, up);
            ward.note(now, up, false, transition.to_string());
            self.apply(ward);
        }
    }

    /// What the operator wants of a server.
    ///
    /// # Errors
    /// When there is no such server.
    pub(crate) fn set_admin(&self, farm: &str, server: &str, admin: Admin) -> Option<()> {
        let ward = self.find(farm, server)?;
        let mut ward = ward.borrow_mut();
        ward.condition.set_admin(self.now(), admin);
        self.apply(&ward);
        Some(())
    }

    /// The weight that the operator wants a server to have.
    ///
    /// # Errors
    /// When there is no such server.
    pub(crate) fn set_weight(&self, farm: &str, server: &str, weight: Weight) -> Option<()> {
        let ward = self.find(farm, server)?;
        let mut ward = ward.borrow_mut();
        ward.weight = Some(weight);
        self.apply(&ward);
        Some(())
    }

    /// What the operator wants of servers otherwise than the configuration, in words: a reload keeps it.
    pub(crate) fn kept(&self) -> Vec<String> {
        let wards = self.wards.borrow();
        let mut kept: Vec<String> = wards
            .iter()
            .flat_map(|((farm, server), ward)| {
                let ward = ward.borrow();
                let admin = match ward.admin() {
                    Admin::Ready => None,
                    Admin::Drain => Some(format!("{farm}/{server} drain")),
                    Admin::Maintenance => Some(format!("{farm}/{server} maint")),
                };
                let weight = ward.weight.map(|weight| format!("{farm}/{server} weight {}", weight.get()));
                [admin, weight].into_iter().flatten()
            })
            .collect();
        kept.sort();
        kept
    }

    /// Looks for outliers and takes the next steps of slow starts, for ever.
    pub(crate) async fn watch(self: Rc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked = self.now();
        loop {
            tick.tick().await;
            let now = self.now();
            self.find_outliers(now);
            for ward in self.wards.borrow().values() {
                let ward = ward.borrow();
                let checker = ward.checker.as_ref();
                // A request failed: its next check need not wait. Once it is in question, its fast interval holds.
                if ward.server.take_suspicion() && checker.is_some_and(|c| matches!(c.phase(now), Phase::Up))
                {
                    ward.look.notify_one();
                }
                if ward.condition.next_change(looked).is_some_and(|change| change <= now) {
                    self.apply(&ward);
                }
            }
            looked = now;
        }
    }

    fn find_outliers(&self, now: Timestamp) {
        let wards = self.wards.borrow();
        for (name, (_, detector)) in self.detectors.borrow_mut().iter_mut() {
            let members: Vec<_> = wards
                .values()
                .filter(|ward| ward.borrow().farm.config.name == *name)
                .map(|ward| Arc::clone(&ward.borrow().server))
                .collect();
            let counters = members.iter().map(|server| (Arc::clone(&server.name), &server.answers));
            for event in detector.sweep(now, counters) {
                let (key, ejected, reason) = match event {
                    Event::Ejected { key, cause, .. } => (key, true, format!("ejected: {cause}")),
                    Event::Returned { key } => (key, false, "back: its ejection is over".to_owned()),
                    _ => continue,
                };
                if let Some(ward) = wards.get(&(name.clone(), key)) {
                    let mut ward = ward.borrow_mut();
                    ward.ejected = ejected;
                    ward.condition.set_ejected(now, ejected);
                    ward.note(now, !ejected, ejected, reason);
                    self.apply(&ward);
                }
            }
        }
    }

    /// Tells the pool, the server's connections and those that wait.
    fn apply(&self, ward: &Ward) {
        let standing = ward.condition.standing(self.now());
        let told = ward.farm.balancer.edit(|edit| {
            edit.entry(&ward.server.name).map(|entry| {
                standing.apply(entry);
                entry.weight = ward.weight.unwrap_or(entry.weight);
            })
        });
        if let Err(UpdateError::Unknown { name, .. }) = &told {
            eprintln!("director: server {name} is not in its pool any more");
        }
        let failed = ward.checker.as_ref().is_some_and(|checker| !checker.is_up());
        let cut = failed && ward.farm.config.on_down == OnDown::Remove;
        if cut != ward.server.removed() {
            ward.server.set_removed(cut);
        }
        ward.farm.state.queue.all_changed();
    }
}

impl Ward {
    /// What the operator wants.
    pub(crate) fn admin(&self) -> Admin {
        self.condition.admin()
    }

    /// How long it has been in its state, if it ever was in another.
    pub(crate) fn since(&self, now: Timestamp) -> Option<Duration> {
        self.changed.then(|| now.saturating_since(self.since))
    }

    fn note(&mut self, now: Timestamp, up: bool, ejected: bool, reason: String) {
        eprintln!("director: server {}/{} is {reason}", self.farm.config.name, self.server.name);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        self.history.push_back(Change { unix_ms, up, ejected, reason });
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        (self.since, self.changed) = (now, true);
    }
}

/// A check in words.
fn describe(probe: &Probe) -> String {
    match probe {
        Probe::Tcp(_) => "tcp".to_owned(),
        Probe::Http(http) => format!("http {} {}", http.method, http.path),
        Probe::Command(command) => format!("command {}", command.command.join(" ")),
        _ => "check".to_owned(),
    }
}
