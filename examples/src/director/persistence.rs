//! How a client comes back to its server: by a cookie, or by its address.

use hyper::header::HeaderMap;
use lb_core::BackendId;
use lb_core::clock::Clock;
use lb_core::session::Key;

use crate::client::Client;
use crate::config::{Cookie, Persistence};
use crate::cookie;
use crate::exchange::Exchange;
use crate::log::CookieState;
use crate::site::Farm;

/// What is known of a request's session before a server is chosen.
#[derive(Debug)]
pub(crate) struct Session {
    server: Option<BackendId>,
    cookie: CookieState,
}

impl Session {
    /// The session that a request belongs to; hides its cookie from the server.
    pub(crate) fn find(farm: &Farm, client: &Client, headers: &mut HeaderMap) -> Self {
        let none = Self { server: None, cookie: CookieState::Unused };
        match &farm.config.persistence {
            None => none,
            Some(Persistence::Source { .. }) => Self { server: by_source(farm, client), ..none },
            Some(Persistence::Cookie(config)) => by_cookie(farm, config, headers),
        }
    }

    /// The server that it belongs to.
    pub(crate) fn server(&self) -> Option<BackendId> {
        self.server
    }

    /// That server failed: another will do.
    pub(crate) fn forget(&mut self) {
        self.server = None;
    }

    /// A server has answered: from now on the session belongs to it.
    pub(crate) fn settle(self, farm: &Farm, exchange: &mut Exchange, headers: &mut HeaderMap) {
        let Some(lease) = &exchange.lease else { return };
        let kept = self.server == Some(lease.backend().id());
        match &farm.config.persistence {
            Some(Persistence::Cookie(config)) => {
                let state = match (self.cookie, kept) {
                    (CookieState::Valid, true) => CookieState::Valid,
                    (CookieState::Valid, false) => CookieState::Down,
                    (state, _) => state,
                };
                if state != CookieState::Valid {
                    cookie::insert(headers, config, &lease.name);
                }
                exchange.note_cookie(state);
            }
            Some(Persistence::Source { .. }) if !kept => {
                keep_source(farm, &exchange.client, lease.backend().id())
            }
            Some(Persistence::Source { .. }) | None => {}
        }
    }
}

fn by_cookie(farm: &Farm, config: &Cookie, headers: &mut HeaderMap) -> Session {
    let Some(name) = cookie::find(headers, config) else {
        return Session { server: None, cookie: CookieState::Inserted };
    };
    let server = farm.balancer.snapshot().find(name).map(|backend| backend.id());
    let cookie = if server.is_some() { CookieState::Valid } else { CookieState::Invalid };
    if config.indirect {
        cookie::hide(headers, config);
    }
    Session { server, cookie }
}

/// The server that a client's address belongs to; the entry lives on.
pub(crate) fn by_source(farm: &Farm, client: &Client) -> Option<BackendId> {
    let sources = farm.state.sources.as_ref()?;
    sources.table.lookup(Key::source(client.address.ip()), sources.clock.now())
}

/// The client's address belongs to that server from now on.
pub(crate) fn keep_source(farm: &Farm, client: &Client, server: BackendId) {
    if let Some(sources) = &farm.state.sources {
        // The table evicts when it is full, and an address always fits.
        let _ = sources.table.insert(Key::source(client.address.ip()), server, sources.clock.now());
    }
}
