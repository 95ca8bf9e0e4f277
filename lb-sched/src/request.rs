//! What an algorithm may know of a request.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_core::clock::Timestamp;
use lb_core::hash::xxh3;
use lb_core::{BackendId, Member, Set};

use crate::mix::mix;

/// A caller's own condition on a backend.
pub type Accept<'a> = dyn Fn(&Member) -> bool + Sync + 'a;

/// A request, as far as the choice of a backend goes. All of it is optional; an algorithm that misses what it needs
/// chooses by chance or in turn, and its documentation says which.
///
/// ```
/// use lb_sched::Request;
///
/// let client = "192.0.2.7:40000".parse()?;
/// let by_client = Request::from_source(client);
/// let by_user = Request::new().key(b"user=42");
/// # let _ = (by_client, by_user);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    key: Option<&'a [u8]>,
    hash: Option<u64>,
    now: Option<Timestamp>,
    avoid: &'a [BackendId],
    accept: Option<&'a Accept<'a>>,
}

impl<'a> Request<'a> {
    /// A request that nothing is known of.
    pub const fn new() -> Self {
        Self { source: None, destination: None, key: None, hash: None, now: None, avoid: &[], accept: None }
    }

    /// A request from this client.
    pub const fn from_source(source: SocketAddr) -> Self {
        Self { source: Some(source), ..Self::new() }
    }

    /// The client, for algorithms that hash it (`sh`, and `maglev` or `rendezvous` where no key is given).
    pub const fn source(mut self, source: SocketAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// What the client connected to, for algorithms that go by it (`dh`, `lblc`).
    pub const fn destination(mut self, destination: SocketAddr) -> Self {
        self.destination = Some(destination);
        self
    }

    /// What consistent hashing goes by: a path, a header, a user's name. Before the client's address.
    pub const fn key(mut self, key: &'a [u8]) -> Self {
        self.key = Some(key);
        self
    }

    /// The same as a number, for callers that have hashed already. Before [`key`](Self::key).
    pub const fn hash(mut self, hash: u64) -> Self {
        self.hash = Some(hash);
        self
    }

    /// When the request came, for algorithms that forget with time. The clock is the caller's.
    pub const fn at(mut self, now: Timestamp) -> Self {
        self.now = Some(now);
        self
    }

    /// Backends that must not be chosen: those that a retry has tried already.
    pub const fn avoid(mut self, backends: &'a [BackendId]) -> Self {
        self.avoid = backends;
        self
    }

    /// A condition of the caller's: only backends that it accepts are chosen.
    pub const fn accept(mut self, accept: &'a Accept<'a>) -> Self {
        self.accept = Some(accept);
        self
    }

    /// The client, if known.
    #[inline]
    pub const fn client(&self) -> Option<SocketAddr> {
        self.source
    }

    /// The same where it lies: a copy would be built on the way to the algorithm.
    #[inline]
    pub(crate) const fn client_ref(&self) -> Option<&SocketAddr> {
        self.source.as_ref()
    }

    /// What the client connected to, if known.
    #[inline]
    pub const fn target(&self) -> Option<SocketAddr> {
        self.destination
    }

    /// When the request came, if known.
    #[inline]
    pub const fn now(&self) -> Option<Timestamp> {
        self.now
    }

    /// Whether the member at `position` may be chosen for this request: it is not to be avoided, not full, and the
    /// caller accepts it. Its weight is the algorithm's to mind.
    #[inline]
    pub fn admits(&self, set: &Set, position: usize) -> bool {
        self.admits_all(set) || set.get(position).is_some_and(|member| self.admits_member(member))
    }

    /// Whether that is so for all members, as for the usual request, which has no conditions, to the usual set, which
    /// has no limits.
    #[inline]
    pub(crate) fn admits_all(&self, set: &Set) -> bool {
        self.avoid.is_empty() && self.accept.is_none() && !set.limited()
    }

    #[cold]
    fn admits_member(&self, member: &Member) -> bool {
        member.load.active() < member.limit && self.wants(member)
    }

    /// Whether neither [`avoid`](Self::avoid) nor [`accept`](Self::accept) speaks against the member.
    pub(crate) fn wants(&self, member: &Member) -> bool {
        !self.avoid.contains(&member.id) && self.accept.is_none_or(|accept| accept(member))
    }

    /// A hash of what the request goes by: the caller's own, or of the key, or of the client's address (without the
    /// port). Evenly spread over 64 bits, and the same on every machine. `None` when nothing of that is known.
    #[inline]
    pub fn key_hash(&self) -> Option<u64> {
        match (self.hash, self.key, &self.source) {
            (Some(hash), _, _) => Some(mix(hash)),
            (None, Some(key), _) => Some(xxh3(key)),
            (None, None, Some(SocketAddr::V4(source))) => Some(mix(source.ip().to_bits().into())),
            (None, None, Some(SocketAddr::V6(source))) => Some(address_hash(source.ip())),
            (None, None, None) => None,
        }
    }
}

#[inline(never)]
fn address_hash(address: &Ipv6Addr) -> u64 {
    // An IPv4 client of a socket for both families is the same client.
    match address.to_canonical() {
        IpAddr::V4(v4) => mix(v4.to_bits().into()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            mix(mix((bits >> 64) as u64) ^ bits as u64)
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("source", &self.source)
            .field("destination", &self.destination)
            .field("key", &self.key)
            .field("hash", &self.hash)
            .field("now", &self.now)
            .field("avoid", &self.avoid)
            .field("accept", &self.accept.map(|_| "…"))
            .finish()
    }
}
