//! One run: threads, each with its share of the connections, until the work or the time is over.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::runtime::Builder;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use crate::client::{Client, Target};
use crate::pace::Pace;
use crate::tally::Tally;

/// A pause after a connection failed, so that a server that is gone is asked again, but not besieged.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// How much load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    pub(crate) requests: Option<u64>,
    pub(crate) duration: Option<Duration>,
    pub(crate) rate: Option<f64>,
    pub(crate) concurrency: u32,
    pub(crate) threads: u32,
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) tally: Tally,
    pub(crate) time: Duration,
    /// By Ctrl-C: what was measured so far counts, and no run follows.
    pub(crate) interrupted: bool,
}

/// What all threads of a run share.
struct Shared {
    target: Target,
    pace: Pace,
    done: AtomicU64,
    failed: AtomicU64,
}

/// Runs `volume` against `target`, and shows how far it is on `bar`.
///
/// # Errors
/// A sentence when a thread does not start.
pub(crate) async fn run(
    target: Target,
    volume: Volume,
    bar: &ProgressBar,
    interrupt: &mut Signal,
) -> Result<Ended, String> {
    let start = Instant::now();
    let pace = Pace::new(start, volume.requests, volume.rate);
    let shared = Arc::new(Shared { target, pace, done: AtomicU64::new(0), failed: AtomicU64::new(0) });
    let (stop, stopped) = watch::channel(false);
    // More connections than requests would have nothing to do.
    let connections = u64::from(volume.concurrency).min(volume.requests.unwrap_or(u64::MAX));
    let threads = u64::from(volume.threads).min(connections);
    let (finish, mut finished) = mpsc::unbounded_channel();
    for thread in 0..threads {
        let share = connections / threads + u64::from(thread < connections % threads);
        let (shared, stopped, finish) = (Arc::clone(&shared), stopped.clone(), finish.clone());
        thread::Builder::new()
            .name(format!("load-{thread}"))
            // The receiver is gone only when the whole run is given up.
            .spawn(move || drop(finish.send(work(&shared, share, stopped))))
            .map_err(|error| format!("{threads} threads do not start ({error}); use fewer --threads"))?;
    }
    drop(finish);

    let mut tally = Tally::default();
    let mut interrupted = false;
    let mut ticks = interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // A time that no clock can tell is no limit.
    let deadline = volume.duration.and_then(|duration| start.checked_add(duration));
    let over = async {
        match deadline {
            Some(deadline) => sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    let mut over = std::pin::pin!(over);
    loop {
        tokio::select! {
            part = finished.recv() => match part {
                Some(part) => tally.merge(&part?),
                None => break,
            },
            () = &mut over, if !*stop.borrow() => { stop.send_replace(true); }
            _ = interrupt.recv(), if !interrupted => {
                interrupted = true;
                stop.send_replace(true);
            }
            _ = ticks.tick() => show(bar, &shared, &volume, start),
        }
    }
    show(bar, &shared, &volume, start);
    Ok(Ended { tally, time: start.elapsed(), interrupted })
}

fn show(bar: &ProgressBar, shared: &Shared, volume: &Volume, start: Instant) {
    let done = shared.done.load(Ordering::Relaxed);
    // By requests where their number is given, else by tenths of seconds.
    bar.set_position(if volume.requests.is_some() { done } else { start.elapsed().as_millis() as u64 / 100 });
    let failed = shared.failed.load(Ordering::Relaxed);
    bar.set_message(format!("{:.0}/s, {failed} failed", done as f64 / start.elapsed().as_secs_f64()));
}

/// One thread's share, on a runtime of its own.
fn work(shared: &Arc<Shared>, connections: u64, mut stopped: watch::Receiver<bool>) -> Result<Tally, String> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("a thread has no event loop ({error}); raise the limit of open files"))?;
    let tally = Rc::new(RefCell::new(Tally::default()));
    let tasks = LocalSet::new();
    let work = async {
        let mut connections: JoinSet<()> = (0..connections)
            .map(|_| connection(Arc::clone(shared), Rc::clone(&tally)))
            .fold(JoinSet::new(), |mut set, connection| {
                set.spawn_local(connection);
                set
            });
        tokio::select! {
            // An error means that the run is given up, which is a reason to stop too.
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = async { while connections.join_next().await.is_some() {} } => {}
        }
        // Requests in flight when the time is over are neither answered nor failed.
        connections.shutdown().await;
    };
    tasks.block_on(&runtime, work);
    Ok(tally.take())
}

/// One connection's turns.
async fn connection(shared: Arc<Shared>, tally: Rc<RefCell<Tally>>) {
    let mut client = Client::new(&shared.target);
    while let Some(turn) = shared.pace.next() {
        let wait = turn.wait(Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let start = turn.counts_from(Instant::now());
        let before = client.connections;
        let outcome = client.exchange().await;
        let unanswered = outcome.is_err();
        let failed = {
            let mut tally = tally.borrow_mut();
            tally.add_connections(client.connections - before);
            tally.record(outcome, start.elapsed())
        };
        shared.done.fetch_add(1, Ordering::Relaxed);
        if failed {
            shared.failed.fetch_add(1, Ordering::Relaxed);
        }
        if unanswered {
            sleep(AFTER_FAILURE).await;
        }
    }
}
