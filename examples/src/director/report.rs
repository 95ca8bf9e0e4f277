//! Fills in the status model: what counters, pools and care know of every frontend and server.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_core::clock::Clock;
use lb_core::health::Phase;
use lb_core::{Admin, Member};
use lb_examples::status::model;

use crate::care::{Care, Ward};
use crate::config::Mode;
use crate::counters::{Counter, FrontendCounters, PerWorker, Responses, ServerCounters, Timeout};
use crate::histogram::Counts;
use crate::site::{Farm, Frontend, Server, Site};

/// Rates are averaged over so many seconds.
const RATE: usize = 3;
/// Percentiles are of so many last seconds.
const RECENT: usize = 10;

/// What was counted a second, two seconds, ... ago.
#[derive(Debug, Default)]
pub(crate) struct Trends {
    frontends: RefCell<HashMap<String, Trend>>,
    servers: RefCell<HashMap<usize, Trend>>,
}

#[derive(Debug, Default)]
struct Trend {
    /// Requests at each of the last seconds, newest last.
    requests: VecDeque<u64>,
    /// Latencies at each of the last seconds, newest last.
    latencies: VecDeque<Counts>,
    /// Mean latency of each of the last seconds.
    means: VecDeque<Option<f64>>,
}

impl Trend {
    fn sample(&mut self, requests: u64, latencies: Option<Counts>) {
        push(&mut self.requests, requests, RATE + 1);
        let Some(latencies) = latencies else { return };
        if let Some(last) = self.latencies.back() {
            push(&mut self.means, latencies.since(last).mean(), model::HISTORY);
        }
        push(&mut self.latencies, latencies, RECENT + 1);
    }

    fn rate(&self) -> f64 {
        match (self.requests.front(), self.requests.back()) {
            (Some(first), Some(last)) if self.requests.len() > 1 => {
                last.saturating_sub(*first) as f64 / (self.requests.len() - 1) as f64
            }
            _ => 0.0,
        }
    }

    fn recent(&self) -> Option<Counts> {
        Some(self.latencies.back()?.since(self.latencies.front()?))
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, longest: usize) {
    queue.push_back(value);
    if queue.len() > longest {
        queue.pop_front();
    }
}

impl Trends {
    /// Takes the sample of a second; forgets what is not configured any more.
    pub(crate) fn sample(&self, site: &Site) {
        let mut frontends = self.frontends.borrow_mut();
        frontends.retain(|name, _| site.frontends.iter().any(|frontend| frontend.config.name == *name));
        for frontend in &site.frontends {
            let requests = frontend.state.counters.sum(|counters| counters.requests.get());
            frontends.entry(frontend.config.name.clone()).or_default().sample(requests, None);
        }
        let mut servers = self.servers.borrow_mut();
        let mut next = HashMap::new();
        for farm in &site.farms {
            for backend in farm.balancer.snapshot().backends() {
                let mut trend = servers.remove(&backend.slot).unwrap_or_default();
                let requests = backend.counters.sum(|counters| counters.requests.get());
                let mut latencies = Counts::default();
                for cell in backend.counters.cells() {
                    cell.latency.add_to(&mut latencies);
                }
                trend.sample(requests, Some(latencies));
                next.insert(backend.slot, trend);
            }
        }
        *servers = next;
    }
}

/// The whole status now.
pub(crate) fn status(site: &Site, care: &Care, trends: &Trends, started: Instant) -> model::Status {
    model::Status {
        name: "director".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: site.config.node.clone(),
        pid: std::process::id(),
        workers: u32::try_from(site.config.workers).unwrap_or(u32::MAX),
        uptime_seconds: started.elapsed().as_secs_f64(),
        time_unix_ms: unix_ms(),
        frontends: site.frontends.iter().map(|frontend| of_frontend(frontend, trends)).collect(),
        backends: site.farms.iter().map(|farm| of_farm(farm, care, trends)).collect(),
    }
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

fn mode(mode: Mode) -> model::Mode {
    match mode {
        Mode::Http => model::Mode::Http,
        Mode::Tcp => model::Mode::Tcp,
    }
}

fn of_frontend(frontend: &Frontend, trends: &Trends) -> model::Frontend {
    let counters = &frontend.state.counters;
    let sum = |part: fn(&FrontendCounters) -> &Counter| counters.sum(|cell| part(cell).get());
    let timeout = |kind| counters.sum(|cell| cell.timeout(kind).get());
    let trends = trends.frontends.borrow();
    model::Frontend {
        name: frontend.config.name.clone(),
        mode: mode(frontend.config.mode),
        bind: frontend.config.listen.iter().map(ToString::to_string).collect(),
        backend: frontend.config.backend.clone(),
        connections: sum(|cell| &cell.open),
        connections_limit: Some(frontend.config.maxconn as u64),
        connections_total: sum(|cell| &cell.connections),
        requests: sum(|cell| &cell.requests),
        requests_per_second: trends.get(&frontend.config.name).map_or(0.0, Trend::rate),
        queued: sum(|cell| &cell.queued),
        denied: sum(|cell| &cell.denied),
        timeouts: model::Timeouts {
            connect: timeout(Timeout::Connect),
            client: timeout(Timeout::Client),
            server: timeout(Timeout::Server),
            queue: timeout(Timeout::Queue),
            request_header: timeout(Timeout::RequestHeader),
        },
        responses: responses(counters, |cell| &cell.responses),
        bytes_in: sum(|cell| &cell.bytes_in),
        bytes_out: sum(|cell| &cell.bytes_out),
    }
}

fn responses<T: Default>(cells: &PerWorker<T>, part: impl Fn(&T) -> &Responses) -> model::Responses {
    let class = |class| cells.sum(|cell| part(cell).class(class));
    model::Responses {
        informational: class(1),
        successful: class(2),
        redirection: class(3),
        client_error: class(4),
        server_error: class(5),
        other: class(0),
    }
}

fn of_farm(farm: &Farm, care: &Care, trends: &Trends) -> model::Backend {
    let snapshot = farm.balancer.snapshot();
    let mut pinned: HashMap<lb_core::BackendId, u64> = HashMap::new();
    if let Some(sources) = &farm.state.sources {
        for entry in sources.table.entries(sources.clock.now()) {
            *pinned.entry(entry.value).or_default() += 1;
        }
    }
    let servers = snapshot.backends().iter().zip(snapshot.set().iter()).map(|(backend, member)| {
        let ward = care.find(&farm.config.name, backend.name());
        let ward = ward.as_ref().map(|ward| ward.borrow());
        let pinned = pinned.get(&backend.id()).copied().unwrap_or(0);
        of_server(backend.payload(), member, ward.as_deref(), care, trends, pinned)
    });
    model::Backend {
        name: farm.config.name.clone(),
        mode: mode(farm.config.mode),
        algorithm: farm.config.algorithm.to_string(),
        queued: farm.state.queue.len() as u64,
        queue_limit: Some(farm.config.queue_length as u64),
        unavailable: farm.state.unavailable.get(),
        servers: servers.collect(),
    }
}

fn of_server(
    server: &Server,
    member: &Member,
    ward: Option<&Ward>,
    care: &Care,
    trends: &Trends,
    pinned_sessions: u64,
) -> model::Server {
    let sum = |part: fn(&ServerCounters) -> &Counter| server.counters.sum(|cell| part(cell).get());
    let trends = trends.servers.borrow();
    let trend = trends.get(&server.slot);
    let full = lb_core::set::FULL_SHARE;
    let usable = member.settings.takes_new_work();
    let weight = u32::from(member.settings.weight.get());
    let share = f64::from(member.share) / f64::from(full);
    model::Server {
        name: server.name.to_string(),
        address: server.address.to_string(),
        weight,
        // At least 1 while it serves, as the pool counts it.
        effective_weight: if usable { ((f64::from(weight) * share).round() as u32).max(1) } else { 0 },
        slow_start: (usable && member.share < full).then_some(share),
        backup: member.priority > 0,
        admin: ward.map_or(model::Admin::Ready, |ward| admin(ward.admin())),
        health: ward.map(|ward| health(ward, care)).unwrap_or_default(),
        in_flight: u64::from(member.load.active()),
        limit: (member.limit != u32::MAX).then_some(u64::from(member.limit)),
        queued: 0,
        pinned_sessions,
        requests: sum(|cell| &cell.requests),
        requests_per_second: trend.map_or(0.0, Trend::rate),
        successes: sum(|cell| &cell.successes),
        failures: sum(|cell| &cell.failures),
        cancelled: sum(|cell| &cell.cancelled),
        retries: sum(|cell| &cell.retries),
        redispatches: sum(|cell| &cell.redispatches),
        connect_errors: sum(|cell| &cell.connect_errors),
        responses: responses(&server.counters, |cell| &cell.responses),
        bytes_in: sum(|cell| &cell.bytes_in),
        bytes_out: sum(|cell| &cell.bytes_out),
        latency: latency(member, trend),
    }
}

fn admin(admin: Admin) -> model::Admin {
    match admin {
        Admin::Ready => model::Admin::Ready,
        Admin::Drain => model::Admin::Drain,
        Admin::Maintenance => model::Admin::Maintenance,
    }
}

fn health(ward: &Ward, care: &Care) -> model::Health {
    let now = care.now();
    let checker = ward.checker.as_ref();
    let state = match checker {
        Some(checker) if !checker.is_up() => model::HealthState::Down,
        _ if ward.ejected => model::HealthState::Ejected,
        Some(_) => model::HealthState::Up,
        None => model::HealthState::Unchecked,
    };
    let (rise, fall) = checker.map_or((0, 0), |checker| (checker.config().rise, checker.config().fall));
    let (passed, failed) = match checker.map(|checker| checker.phase(now)) {
        Some(Phase::Up) => (rise, 0),
        Some(Phase::Falling { failures, .. }) => (0, failures),
        Some(Phase::Rising { passes, .. }) => (passes, 0),
        Some(Phase::Down) => (0, fall),
        Some(Phase::Held { .. }) => (rise, 0),
        // Not checked, or in a way that is yet to come.
        _ => (0, 0),
    };
    model::Health {
        state,
        since_seconds: ward.since(now).map(|since| since.as_secs_f64()),
        passed,
        rise,
        failed,
        fall,
        last_check: ward.last.as_ref().map(|last| model::Check {
            kind: last.kind.clone(),
            ok: last.result.is_ok(),
            result: last.result.as_ref().map_or_else(Clone::clone, |_| "as expected".to_owned()),
            duration_seconds: last.took.as_secs_f64(),
            age_seconds: now.saturating_since(last.at).as_secs_f64(),
        }),
        history: ward.history.iter().map(transition).collect(),
    }
}

fn transition(change: &crate::care::Change) -> model::Transition {
    let to = match (change.up, change.ejected) {
        (true, _) => model::HealthState::Up,
        (false, true) => model::HealthState::Ejected,
        (false, false) => model::HealthState::Down,
    };
    model::Transition { time_unix_ms: change.unix_ms, to, reason: change.reason.clone() }
}

fn latency(member: &Member, trend: Option<&Trend>) -> model::Latency {
    let ewma = member.load.latency();
    let recent = trend.and_then(Trend::recent);
    model::Latency {
        ewma_seconds: (ewma > Duration::ZERO).then_some(ewma.as_secs_f64()),
        p50_seconds: recent.as_ref().and_then(|recent| recent.percentile(0.5)),
        p99_seconds: recent.as_ref().and_then(|recent| recent.percentile(0.99)),
        history: trend.map(|trend| trend.means.iter().copied().collect()).unwrap_or_default(),
    }
}
