//! The director as a whole: binds, starts the workers, reloads, stops.
//!
//! Everything that is not traffic happens on the main thread: checks, the status page, signals.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_affinity::socket::Steering;
use lb_examples::status::Status;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::affinity::{self, Placement};
use crate::care::Care;
use crate::config::{self, AccessLog, Config, ConfigError};
use crate::limits;
use crate::listener::{self, BindError};
use crate::log::{self, Sink};
use crate::report::{self, Trends};
use crate::site::Site;
use crate::status_server;
use crate::worker::{self, Control, Opened};

/// Why a director does not start, or a reload is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AppError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The command line says two things of one address.
    #[error(
        "the status page and frontend {frontend} cannot both listen on {listen}: choose another address with {cure}"
    )]
    SameAddress {
        /// The status page's address.
        listen: SocketAddr,
        /// Who has it.
        frontend: String,
        /// The option that changes it.
        cure: &'static str,
    },
    /// The log cannot be written.
    #[error("access log {path}: {source}; name a file that can be written with `access-log`")]
    Log {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Workers are placed at the start.
    #[error("[affinity] cannot change by a reload; restart the director for that")]
    Affinity,
    /// The number of workers is decided at the start.
    #[error("`workers` is {had} and cannot become {wanted} by a reload; restart the director for that")]
    Workers {
        /// As many as run.
        had: usize,
        /// As many as the file says.
        wanted: usize,
    },
    /// The system refuses a thread, a runtime, a signal handler.
    #[error("cannot start: {0}; raise the limits of this process (ulimit -u, ulimit -n)")]
    System(#[from] io::Error),
}

/// What the command line decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Where the status page is, whatever the configuration says.
    pub(crate) status: Option<SocketAddr>,
    /// How messages call the options that change an address.
    pub(crate) cures: Cures,
}

impl Options {
    fn apply(&self, config: &mut Config) -> Result<(), AppError> {
        if let Some(listen) = self.status {
            let token = config.status.take().and_then(|status| status.token);
            config.status = Some(config::Status { listen, token });
        }
        let Some(listen) = config.status.as_ref().map(|status| status.listen) else { return Ok(()) };
        let taken =
            |frontend: &&config::Frontend| frontend.listen.iter().any(|&a| config::overlap(a, listen));
        match config.frontends.iter().find(taken) {
            None => Ok(()),
            Some(frontend) => {
                let (frontend, cure) = (frontend.name.clone(), self.cures.status);
                Err(AppError::SameAddress { listen, frontend, cure })
            }
        }
    }
}

/// How messages call the options that change an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cures {
    /// Of a frontend.
    pub(crate) listen: &'static str,
    /// Of the status page.
    pub(crate) status: &'static str,
}

/// The running director, as the main thread sees it.
#[derive(Debug)]
pub(crate) struct App {
    /// Checks and what follows from them.
    pub(crate) care: Rc<Care>,
    site: RefCell<Arc<Site>>,
    workers: Vec<mpsc::UnboundedSender<Control>>,
    sink: Sink,
    trends: Trends,
    started: Instant,
    options: Options,
    /// For the listeners of a reload.
    steering: Option<Steering>,
    status: RefCell<Option<StatusTask>>,
}

#[derive(Debug)]
struct StatusTask {
    listen: SocketAddr,
    task: tokio::task::AbortHandle,
}

/// Runs until a signal ends it. `ready` is called when every socket is open, with the first site.
///
/// # Errors
/// [`AppError`], before anything is served.
pub(crate) async fn run(
    mut config: Config,
    options: Options,
    ready: impl FnOnce(&Site),
) -> Result<(), AppError> {
    options.apply(&mut config)?;
    let cures = options.cures;
    // First of all: a signal that comes early must not kill half a director.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;

    limits::raise(&config);
    let status = config.status.as_ref().map(|status| status.listen);
    let status = status.map(|listen| bind_status(listen, cures)).transpose()?;
    let opened = bind_new(&config, None, cures)?;
    let target = log::open_target(&config.access_log).map_err(|source| log_error(&config, source))?;
    let sink = Sink::start(target)?;
    let site = Arc::new(Site::build(config, None));
    // The first request finds the pools as the checks begin with them.
    let care = Rc::new(Care::default());
    care.take(&site);
    let placement = Placement::new(site.config.affinity.as_ref(), site.config.workers);
    affinity::steer(placement.steering(), &opened);
    let (workers, threads) = start_workers(&site, &sink, &placement, opened)?;
    let app = Rc::new(App {
        care,
        site: RefCell::new(Arc::clone(&site)),
        workers,
        sink,
        trends: Trends::default(),
        started: Instant::now(),
        options,
        steering: placement.steering().cloned(),
        status: RefCell::default(),
    });
    tokio::task::spawn_local(Rc::clone(&app.care).watch());
    tokio::task::spawn_local(Rc::clone(&app).sample());
    app.serve_status(status);
    ready(&site);
    drop(site);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => app.reload(),
        }
    }
    let grace = app.site().config.grace;
    tokio::select! {
        () = app.stop(threads, grace) => {}
        // Who asks twice does not want to wait.
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    app.sink.flush();
    Ok(())
}

fn log_error(config: &Config, source: io::Error) -> AppError {
    let path = match &config.access_log {
        AccessLog::File(path) => path.clone(),
        AccessLog::Off | AccessLog::Stdout => PathBuf::from("stdout"),
    };
    AppError::Log { path, source }
}

fn bind_status(listen: SocketAddr, cures: Cures) -> Result<TcpListener, BindError> {
    let mut sockets = listener::bind(listen, 1, 128, cures.status)?;
    Ok(sockets.swap_remove(0))
}

/// Opens every socket of `config` that `site` does not have, one for each worker.
fn bind_new(config: &Config, site: Option<&Site>, cures: Cures) -> Result<Vec<Vec<Opened>>, BindError> {
    let mut workers: Vec<Vec<Opened>> = (0..config.workers).map(|_| Vec::new()).collect();
    for frontend in &config.frontends {
        for &address in &frontend.listen {
            if listens(site, address) {
                continue;
            }
            let sockets = listener::bind(address, config.workers, frontend.backlog, cures.listen)?;
            for (opened, listener) in workers.iter_mut().zip(sockets) {
                opened.push(Opened { address, listener });
            }
        }
    }
    Ok(workers)
}

fn listens(site: Option<&Site>, address: SocketAddr) -> bool {
    site.is_some_and(|site| site.frontends.iter().any(|frontend| frontend.config.listen.contains(&address)))
}

type Started = (Vec<mpsc::UnboundedSender<Control>>, Vec<JoinHandle<()>>);

fn start_workers(
    site: &Arc<Site>,
    sink: &Sink,
    placement: &Placement,
    opened: Vec<Vec<Opened>>,
) -> io::Result<Started> {
    let mut started: Started = Default::default();
    for (id, opened) in opened.into_iter().enumerate() {
        let (sender, control) = mpsc::unbounded_channel();
        // The receiver is right here.
        let _ = sender.send(Control::Serve(Arc::clone(site), opened));
        let (site, sink, cpus) = (Arc::clone(site), sink.clone(), placement.of(id));
        let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            if let Some(cpus) = cpus {
                affinity::pin(id, &cpus);
            }
            // A director with fewer workers than it should have is not what was asked for.
            if let Err(error) = worker::run(id, site, sink, control) {
                eprintln!("director: worker {id}: {error}; raise the limits of this process (ulimit -n)");
                std::process::exit(1);
            }
        })?;
        started.0.push(sender);
        started.1.push(thread);
    }
    Ok(started)
}

impl App {
    /// The present site.
    pub(crate) fn site(&self) -> Arc<Site> {
        Arc::clone(&self.site.borrow())
    }

    /// The status model, filled in now.
    pub(crate) fn status(&self) -> Status {
        report::status(&self.site.borrow(), &self.care, &self.trends, self.started)
    }

    async fn sample(self: Rc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.trends.sample(&self.site());
        }
    }

    fn serve_status(self: &Rc<Self>, listener: Option<TcpListener>) {
        if let Some(old) = self.status.take() {
            old.task.abort();
        }
        let Some(listener) = listener else { return };
        let Some(listen) = self.site().config.status.as_ref().map(|status| status.listen) else { return };
        let app = Rc::clone(self);
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = status_server::serve(app, listener).await {
                eprintln!("director: status page: {error}");
            }
        });
        *self.status.borrow_mut() = Some(StatusTask { listen, task: task.abort_handle() });
    }

    /// Reads the configuration again and takes it whole, or says why not and goes on as before.
    fn reload(self: &Rc<Self>) {
        let Some(file) = self.site().config.file.clone() else {
            eprintln!("director: nothing to reload: started without --config");
            return;
        };
        match self.try_reload(&file) {
            Ok(()) => match self.care.kept().join(", ") {
                kept if kept.is_empty() => eprintln!("director: {} is reloaded", file.display()),
                kept => {
                    eprintln!(
                        "director: {} is reloaded; kept as the operator wants it: {kept}",
                        file.display()
                    );
                }
            },
            Err(error) => eprintln!("director: not reloaded, going on as before: {error}"),
        }
    }

    fn try_reload(self: &Rc<Self>, file: &Path) -> Result<(), AppError> {
        let old = self.site();
        let mut config = config::load(file)?;
        self.options.apply(&mut config)?;
        if config.workers != old.config.workers {
            return Err(AppError::Workers { had: old.config.workers, wanted: config.workers });
        }
        if config.affinity != old.config.affinity {
            return Err(AppError::Affinity);
        }
        // Everything that can fail comes first.
        let opened = bind_new(&config, Some(&old), self.options.cures)?;
        let had = self.status.borrow().as_ref().map(|status| status.listen);
        let wanted = config.status.as_ref().map(|status| status.listen);
        let status = match wanted {
            Some(listen) if had != wanted => Some(bind_status(listen, self.options.cures)?),
            _ => None,
        };
        let target = log::open_target(&config.access_log).map_err(|source| log_error(&config, source))?;
        // From here on nothing fails.
        let site = Arc::new(Site::build(config, Some(&old)));
        *self.site.borrow_mut() = Arc::clone(&site);
        self.care.take(&site);
        self.sink.change(target);
        affinity::steer(self.steering.as_ref(), &opened);
        for (worker, opened) in self.workers.iter().zip(opened) {
            // A worker that is gone has said why.
            let _ = worker.send(Control::Serve(Arc::clone(&site), opened));
        }
        if had != wanted {
            self.serve_status(status);
        }
        Ok(())
    }

    /// Accepts nothing more, and waits until what is in flight has ended, `grace` at most.
    async fn stop(&self, threads: Vec<JoinHandle<()>>, grace: Duration) {
        for worker in &self.workers {
            let _ = worker.send(Control::Close);
        }
        let until = Instant::now() + grace;
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
