//! A frontend in tcp mode: a server for each connection, bytes both ways.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::answer::Failure;
use crate::choose::choose;
use crate::client::Client;
use crate::exchange::Exchange;
use crate::persistence;
use crate::proxy_protocol;
use crate::pump::{Idle, pump};
use crate::upstream;

/// Serves one connection to its end. `early` was read from it already.
pub(crate) async fn serve(client: Rc<Client>, mut stream: TcpStream, early: Bytes) {
    let mut exchange = Exchange::begin_tcp(&client);
    let mut server = match open(&mut exchange).await {
        Ok(server) => server,
        Err(failure) => {
            // There is no way to say it in words on a connection that is not HTTP.
            drop(exchange.fail(failure));
            return;
        }
    };
    let farm = &exchange.frontend.farm.config;
    let idle = Idle { client: exchange.frontend.config.timeouts.client, server: farm.timeouts.server };
    let stop = exchange.until_server_removed();
    let pumped = pump(&mut stream, &mut server, (&early, &Bytes::new()), idle, stop).await;
    client.received(usize::try_from(pumped.up).unwrap_or(usize::MAX));
    client.sent(usize::try_from(pumped.down).unwrap_or(usize::MAX));
    exchange.pumped(pumped);
}

/// Connects to a server, to another one when that fails: nothing of the client's has been sent yet.
async fn open(exchange: &mut Exchange) -> Result<TcpStream, Failure> {
    let frontend = Rc::clone(&exchange.frontend);
    let farm = &frontend.farm;
    let mut avoid = Vec::new();
    let mut pinned = persistence::by_source(farm, &exchange.client);
    loop {
        let lease = choose(exchange, pinned, &mut avoid).await?;
        let (id, server) = (lease.backend().id(), Arc::clone(lease.backend().payload()));
        exchange.hold(lease);
        exchange.attempt_begins();
        let started = Instant::now();
        let preface = farm
            .config
            .send_proxy
            .map(|version| proxy_protocol::header(version, exchange.client.address, exchange.client.local));
        let why = match upstream::connect(&server, farm.config.timeouts.connect, preface.as_deref()).await {
            Ok(stream) => {
                if let Some(record) = &mut exchange.record {
                    record.connect = Some(started.elapsed());
                }
                persistence::keep_source(farm, &exchange.client, id);
                return Ok(stream);
            }
            Err(error) => exchange.connect_failed(&server, &error),
        };
        exchange.attempt_failed(why);
        if exchange.retries >= farm.config.retries {
            return Err(why);
        }
        exchange.retries += 1;
        exchange.count_retry(&server);
        if farm.config.redispatch {
            pinned = None;
            avoid.push(id);
        } else {
            pinned = Some(id);
            tokio::time::sleep(Duration::from_secs(1).min(farm.config.timeouts.connect)).await;
        }
    }
}
