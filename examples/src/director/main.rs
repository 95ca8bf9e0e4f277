//! An HTTP and TCP reverse proxy over any of lb-sched's algorithms.
#![forbid(unsafe_code)]

mod answer;
mod body;
mod choose;
mod client;
mod config;
mod cookie;
mod counters;
mod exchange;
mod guard;
mod headers;
mod histogram;
mod listener;
mod log;
mod notices;
mod persistence;
mod proxy;
mod proxy_protocol;
mod pump;
mod queue;
mod scanner;
mod site;
mod tcp;
mod traffic;
mod tunnel;
mod upstream;
mod watch;
mod worker;

fn main() {
    let path = std::env::args().nth(1).unwrap();
    let config = config::load(std::path::Path::new(&path)).unwrap_or_else(|e| { eprintln!("{e}"); std::process::exit(1) });
    let workers = config.workers;
    let site = std::sync::Arc::new(site::Site::build(config, None));
    let sink = log::Sink::start(log::open_target(&site.config.access_log).unwrap()).unwrap();
    let mut opened: Vec<Vec<worker::Opened>> = (0..workers).map(|_| vec![]).collect();
    for f in &site.frontends { for a in &f.config.listen {
        for (i, l) in listener::bind(*a, workers, 1024, "`listen`").unwrap().into_iter().enumerate() {
            opened[i].push(worker::Opened { key: (f.config.name.clone(), *a), listener: l });
        }
    } }
    let mut threads = vec![];
    let mut senders = vec![];
    for (id, opened) in opened.into_iter().enumerate() {
        let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
        let _ = tx.send(worker::Control::Serve(site.clone(), opened));
        let (site, sink) = (site.clone(), sink.clone());
        senders.push(tx);
        threads.push(std::thread::spawn(move || worker::run(id, site, sink, rx)));
    }
    for t in threads { t.join().unwrap().unwrap(); }
}
