//! A web server whose pages cost what their reader asks: `pi-server --listen 127.0.0.1:8081`, then `/pi.php?n=100000`.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use lb_examples::pi_service::{PiService, Settings, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A web server whose pages cost what their reader asks.
///
/// /pi.php?n=100000 sums pi over n rectangles, /index.php tells who answered, /health says ok. Add ?format=json or
/// send "Accept: application/json" for JSON. Ctrl-C ends it after the requests in flight.
#[derive(Parser)]
#[command(name = "pi-server", version)]
struct Options {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// The server's name in /index.php and the header x-server.
    #[arg(long, default_value = "pi-server")]
    name: String,
    /// 1 is the machine's own speed, 0.25 a server that takes four times as long.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Threads for connections, and as many for sums [default: one a processor].
    #[arg(long)]
    threads: Option<usize>,
    /// Sums that may wait for a thread before further ones get 503.
    #[arg(long, default_value_t = Settings::default().queue)]
    queue: usize,
    /// The greatest n to sum; more gets 400.
    #[arg(long, default_value_t = Settings::default().max_n)]
    max_n: u64,
    /// Connections open at a time; further ones wait.
    #[arg(long, default_value_t = Settings::default().max_connections)]
    max_connections: usize,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("pi-server: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let Options { listen, name, speed, threads, queue, max_n, max_connections } = options;
    let workers = threads.unwrap_or(Settings::default().workers);
    let service = PiService::new(Settings { name, speed, workers, queue, max_n, max_connections })
        .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(|error| format!("{workers} threads do not start ({error}); use fewer --threads"))?;
    let outcome = runtime.block_on(listen_and_serve(listen, service));
    // Sums that outlast the grace of their connections have nobody to report to.
    runtime.shutdown_background();
    outcome
}

async fn listen_and_serve(listen: SocketAddr, service: PiService) -> Result<(), String> {
    let unlistenable =
        |error| format!("cannot listen on {listen} ({error}); choose another --listen address");
    let listener = TcpListener::bind(listen).await.map_err(unlistenable)?;
    let address = listener.local_addr().map_err(unlistenable)?;
    let unheard = |error| format!("cannot listen for signals ({error})");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    // Whoever started it may have stopped reading; that is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{} listens on http://{address}/", service.settings().name);
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    serve(listener, service, stop).await;
    Ok(())
}
