//! One server behind the balancer: who it is, what its user keeps with it, and what is asked of it.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt::{self, Display};
use core::net::SocketAddr;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::load::Load;

/// A backend's share of the work relative to its peers: a plain number from 0 to 65 535, the range of IPVS.
///
/// Weight 0 takes no new work; what runs on the backend goes on (IPVS calls that *quiesced*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Weight(u16);

impl Weight {
    /// Takes no new work.
    pub const ZERO: Self = Self(0);
    /// The default.
    pub const ONE: Self = Self(1);

    /// A weight; that it fits is the type's promise.
    pub const fn new(weight: u16) -> Self {
        Self(weight)
    }

    /// The plain number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl From<u16> for Weight {
    fn from(weight: u16) -> Self {
        Self(weight)
    }
}

impl Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an operator wants of a backend; the names are HAProxy's (`set server … state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Admin {
    /// Takes work.
    #[default]
    Ready,
    /// Takes no new work; running requests and persistent sessions go on.
    Drain,
    /// Takes nothing at all.
    Maintenance,
}

/// What health checks and traffic say of a backend, as far as choosing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Health {
    /// It answers.
    #[default]
    Up,
    /// It does not: no work of any kind.
    Down,
}

/// Names one backend for the life of the process; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(u64);

impl BackendId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One server: its name, what the user keeps with it (an address, a connection pool), and its counters.
///
/// It derefs to the user's payload.
#[derive(Debug)]
pub struct Backend<T> {
    pub(crate) id: BackendId,
    pub(crate) name: Arc<str>,
    pub(crate) load: Arc<Load>,
    /// Where it was put in the newest list of its pool: a hint.
    pub(crate) place: AtomicU32,
    pub(crate) payload: T,
}

impl<T> Backend<T> {
    pub(crate) fn new(id: BackendId, name: Arc<str>, load: Arc<Load>, payload: T) -> Self {
        Self { id, name, load, place: AtomicU32::new(0), payload }
    }

    /// The same for every backend of this name in its pool, as long as the name stays in the pool.
    #[inline]
    pub fn id(&self) -> BackendId {
        self.id
    }

    /// The name that it has in its pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its counters.
    #[inline]
    pub fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// What the user keeps with it.
    pub fn payload(&self) -> &T {
        &self.payload
    }
}

impl<T> Deref for Backend<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.payload
    }
}

/// What a pool is told of one backend. Whatever is not said keeps the value it has (or the default, for a new one).
///
/// ```
/// use lb_core::{Spec, Weight};
///
/// let spec = Spec::new("web1", "10.0.0.1:80").weight(Weight::new(3)).priority(1).limit(1000);
/// # let _ = spec;
/// ```
#[derive(Debug, Clone)]
pub struct Spec<T> {
    pub(crate) name: String,
    pub(crate) payload: T,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) weight: Option<Weight>,
    pub(crate) admin: Option<Admin>,
    pub(crate) health: Option<Health>,
    pub(crate) priority: Option<u8>,
    pub(crate) zone: Option<u16>,
    pub(crate) limit: Option<u32>,
}

impl<T> Spec<T> {
    /// A backend called `name`, which must be unique in its pool. A name that reads as `address:port` is its address
    /// too.
    pub fn new(name: impl Into<String>, payload: T) -> Self {
        let name = name.into();
        let address = name.parse().ok();
        Self {
            name,
            payload,
            address,
            weight: None,
            admin: None,
            health: None,
            priority: None,
            zone: None,
            limit: None,
        }
    }

    /// Its address, for the algorithms that hash it (IPVS's `mh`, nginx's `hash … consistent`).
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Its share of the work; default 1.
    pub fn weight(mut self, weight: impl Into<Weight>) -> Self {
        self.weight = Some(weight.into());
        self
    }

    /// What the operator wants of it; default ready.
    pub fn admin(mut self, admin: Admin) -> Self {
        self.admin = Some(admin);
        self
    }

    /// Whether it answers; default up.
    pub fn health(mut self, health: Health) -> Self {
        self.health = Some(health);
        self
    }

    /// Its tier; default 0. Only the lowest tier that has a usable backend gets work: 1 and above are backups.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Where it stands, for the algorithms that prefer near ones; default 0.
    pub fn zone(mut self, zone: u16) -> Self {
        self.zone = Some(zone);
        self
    }

    /// The most requests it takes at once (HAProxy's `maxconn`); default [`u32::MAX`], without limit. 0 is no request at
    /// all, not without limit as in HAProxy and nginx.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// The payload's text is the backend's name.
impl<T: Display> From<(T, Weight)> for Spec<T> {
    fn from((payload, weight): (T, Weight)) -> Self {
        Self::new(payload.to_string(), payload).weight(weight)
    }
}
