//! What runs: frontends, farms of servers and their state. A reload builds the next site around the state of the
//! last, so that counters, connections and sessions go on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lb_core::clock::MonotonicClock;
use lb_core::health::outlier::{self, Response};
use lb_core::session::{StickConfig, StickTable};
use lb_core::{BackendId, Spec, Weight};
use lb_sched::Balancer;
use tokio::sync::{Notify, Semaphore};

use crate::config::{self, Config, Persistence, Tier};
use crate::counters::{Counter, FrontendCounters, PerWorker, ServerCounters};
use crate::queue::Queue;

/// A configuration that is being served.
#[derive(Debug)]
pub(crate) struct Site {
    /// Goes up with every reload.
    pub(crate) version: u64,
    /// What it was built from.
    pub(crate) config: Config,
    /// In the order of the configuration.
    pub(crate) frontends: Vec<Arc<Frontend>>,
    /// In the order of the configuration.
    pub(crate) farms: Vec<Arc<Farm>>,
}

/// A frontend and what it counts.
#[derive(Debug)]
pub(crate) struct Frontend {
    /// How it is configured now.
    pub(crate) config: config::Frontend,
    /// Where its requests go.
    pub(crate) farm: Arc<Farm>,
    /// What outlives a reload.
    pub(crate) state: Arc<FrontendState>,
}

/// The part of a frontend that outlives a reload.
#[derive(Debug)]
pub(crate) struct FrontendState {
    /// What it counts.
    pub(crate) counters: PerWorker<FrontendCounters>,
    /// A permit for each client connection that may be open.
    pub(crate) places: Arc<Semaphore>,
}

/// The servers of a backend: "backend" is the word of the configuration, but lb-core calls each server so.
#[derive(Debug)]
pub(crate) struct Farm {
    /// How it is configured now.
    pub(crate) config: config::Backend,
    /// Chooses among the servers.
    pub(crate) balancer: Balancer<Arc<Server>>,
    /// What outlives a reload.
    pub(crate) state: Arc<FarmState>,
}

/// The part of a farm that outlives a reload.
#[derive(Debug)]
pub(crate) struct FarmState {
    /// Requests that wait for a server.
    pub(crate) queue: Queue,
    /// Requests that no server could take.
    pub(crate) unavailable: Counter,
    /// Requests that its servers work on.
    pub(crate) in_flight: PerWorker<Counter>,
    /// Which client belongs to which server, by its address.
    pub(crate) sources: Option<Sources>,
}

/// The table of persistence by source.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Client's address to server.
    pub(crate) table: StickTable<BackendId>,
    /// What its entries age by.
    pub(crate) clock: MonotonicClock,
    expire: Duration,
    capacity: usize,
}

impl FarmState {
    fn new(persistence: Option<&Persistence>, workers: usize) -> Self {
        let sources = match persistence {
            Some(&Persistence::Source { expire, capacity }) => {
                let table = StickTable::new(StickConfig::new(capacity, expire));
                Some(Sources { table, clock: MonotonicClock::new(), expire, capacity })
            }
            _ => None,
        };
        Self {
            queue: Queue::default(),
            unavailable: Counter::default(),
            in_flight: PerWorker::new(workers),
            sources,
        }
    }

    /// Whether it fits a configuration's persistence, so that a reload can keep it.
    fn fits(&self, persistence: Option<&Persistence>) -> bool {
        let wanted = match persistence {
            Some(&Persistence::Source { expire, capacity }) => Some((expire, capacity)),
            _ => None,
        };
        self.sources.as_ref().map(|sources| (sources.expire, sources.capacity)) == wanted
    }
}

/// One server: what a lease gives.
#[derive(Debug)]
pub(crate) struct Server {
    /// A small number of its own in this process, by which workers find their idle connections to it.
    pub(crate) slot: usize,
    /// Its name in the configuration.
    pub(crate) name: Arc<str>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it counts; another server of this name (at another address, after a reload) goes on counting here.
    pub(crate) counters: Arc<PerWorker<ServerCounters>>,
    /// What outlier detection looks at.
    pub(crate) answers: outlier::Counters,
    suspect: AtomicBool,
    /// Whether it was taken out of service together with its connections.
    removal: Removal,
}

/// Says to connections that their server is gone.
#[derive(Debug, Default)]
struct Removal {
    removed: AtomicBool,
    told: Notify,
}

impl Server {
    /// Whether its connections are to end.
    pub(crate) fn removed(&self) -> bool {
        self.removal.removed.load(Ordering::Relaxed)
    }

    /// Ends its connections, or lets new ones live again.
    pub(crate) fn set_removed(&self, removed: bool) {
        self.removal.removed.store(removed, Ordering::SeqCst);
        if removed {
            self.removal.told.notify_waiters();
        }
    }

    /// Returns when its connections are to end.
    pub(crate) async fn until_removed(&self) {
        loop {
            let mut told = std::pin::pin!(self.removal.told.notified());
            told.as_mut().enable();
            if self.removal.removed.load(Ordering::SeqCst) {
                return;
            }
            told.await;
        }
    }

    /// What became of a request, for outlier detection.
    pub(crate) fn report(&self, good: bool) {
        self.answers.record(if good { Response::Success } else { Response::GatewayError });
        if !good {
            self.suspect.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request failed on it since the last call: a reason to check it now.
    pub(crate) fn take_suspicion(&self) -> bool {
        self.suspect.load(Ordering::Relaxed) && self.suspect.swap(false, Ordering::Relaxed)
    }
}

impl Site {
    /// Builds the first site, or the one that follows `last`.
    pub(crate) fn build(config: Config, last: Option<&Site>) -> Self {
        let farms: Vec<Arc<Farm>> = config
            .backends
            .iter()
            .map(|backend| {
                let old = last.and_then(|site| site.farms.iter().find(|f| f.config.name == backend.name));
                Arc::new(Farm::build(backend.clone(), old.map(Arc::as_ref), config.workers))
            })
            .collect();
        let frontends = config
            .frontends
            .iter()
            .filter_map(|frontend| {
                let old =
                    last.and_then(|site| site.frontends.iter().find(|f| f.config.name == frontend.name));
                // That the backend exists was checked with the configuration.
                let farm = farms.iter().find(|farm| farm.config.name == frontend.backend)?;
                let state = FrontendState::next(frontend, old.map(Arc::as_ref), config.workers);
                Some(Arc::new(Frontend { config: frontend.clone(), farm: Arc::clone(farm), state }))
            })
            .collect();
        Self { version: last.map_or(0, |site| site.version + 1), frontends, farms, config }
    }
}

impl FrontendState {
    fn next(config: &config::Frontend, old: Option<&Frontend>, workers: usize) -> Arc<Self> {
        let Some(old) = old else {
            return Arc::new(Self {
                counters: PerWorker::new(workers),
                places: Arc::new(Semaphore::new(config.maxconn)),
            });
        };
        let (had, has) = (old.config.maxconn, config.maxconn);
        if has >= had {
            old.state.places.add_permits(has - had);
        } else {
            // Places that are taken now are forgotten as their connections end.
            let places = Arc::clone(&old.state.places);
            let forgotten = places.forget_permits(had - has);
            let missing = u32::try_from(had - has - forgotten).unwrap_or(u32::MAX);
            if missing > 0 {
                tokio::spawn(async move {
                    if let Ok(permits) = places.acquire_many(missing).await {
                        permits.forget();
                    }
                });
            }
        }
        Arc::clone(&old.state)
    }
}

impl Farm {
    fn build(config: config::Backend, old: Option<&Farm>, workers: usize) -> Self {
        let balancer = match old {
            Some(old) if old.config.algorithm == config.algorithm => old.balancer.clone(),
            _ => Balancer::new(config.algorithm),
        };
        let snapshot = old.map(|old| old.balancer.snapshot());
        let mut known: HashMap<&str, &Arc<Server>> = HashMap::new();
        if let Some(snapshot) = &snapshot {
            known.extend(snapshot.backends().iter().map(|backend| (backend.name(), backend.payload())));
        }
        let specs: Vec<Spec<Arc<Server>>> = config
            .servers
            .iter()
            .map(|server| spec(server, known.get(server.name.as_str()).copied(), workers))
            .collect();
        if let Err(error) = balancer.update(specs) {
            // Names were checked to be unique with the configuration, and nothing else can be wrong.
            eprintln!("director: backend {}: {error}", config.name);
        }
        let state = match old {
            Some(old) if old.state.fits(config.persistence.as_ref()) => Arc::clone(&old.state),
            _ => Arc::new(FarmState::new(config.persistence.as_ref(), workers)),
        };
        Self { config, balancer, state }
    }
}

fn spec(server: &config::Server, known: Option<&Arc<Server>>, workers: usize) -> Spec<Arc<Server>> {
    static SLOTS: AtomicUsize = AtomicUsize::new(0);
    let payload = match known {
        Some(known) if known.address == server.address => Arc::clone(known),
        _ => Arc::new(Server {
            slot: SLOTS.fetch_add(1, Ordering::Relaxed),
            name: Arc::from(server.name.as_str()),
            address: server.address,
            counters: known
                .map_or_else(|| Arc::new(PerWorker::new(workers)), |old| Arc::clone(&old.counters)),
            answers: outlier::Counters::new(),
            suspect: AtomicBool::new(false),
            removal: Removal::default(),
        }),
    };
    let weight = Weight::new(u16::try_from(server.weight).unwrap_or(u16::MAX));
    let priority = match server.tier {
        Tier::Main => 0,
        Tier::Backup => 1,
        Tier::Fallback => 2,
    };
    Spec::new(server.name.clone(), payload)
        .address(server.address)
        .weight(weight)
        .priority(priority)
        .limit(if server.maxconn == 0 { u32::MAX } else { server.maxconn })
}
