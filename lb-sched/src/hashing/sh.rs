//! Source hashing.

use alloc::boxed::Box;
use alloc::vec;
use core::net::{IpAddr, SocketAddr, SocketAddrV6};

use lb_core::Set;

use crate::request::Request;
use crate::scheduler::Scheduler;

/// `sh`: by the client's address, in IPVS's table of 256 buckets, of which each backend has as many consecutive ones
/// as its weight says (a quiesced one keeps one; more than 256 in all leave nothing for the last).
///
/// A request without a client's address goes by bucket 0.
///
/// *Cost*: constant. *When*: IPVS's own mapping is wanted. A change of the set moves most clients;
/// [`Maglev`](crate::Maglev) moves few. *Source*: IPVS `sh`; slow start has no part in it.
#[derive(Debug)]
pub struct SourceHash {
    fallback: bool,
    port: bool,
    buckets: Box<[u32]>,
}

const BUCKETS: usize = 256;

/// No backend: the set is empty.
const NONE: u32 = u32::MAX;

impl SourceHash {
    /// IPVS's defaults: no port, no fallback. A client whose backend is not available gets none.
    pub fn new() -> Self {
        Self { fallback: false, port: false, buckets: Box::default() }
    }

    /// Probes on where the client's backend is not available (`sh-fallback`).
    pub fn fallback(mut self, fallback: bool) -> Self {
        self.fallback = fallback;
        self
    }

    /// Hashes the client's port too (`sh-port`).
    pub fn port(mut self, port: bool) -> Self {
        self.port = port;
        self
    }

    /// The bucket of a client: 32-bit multiplicative hashing by 2³²/φ².
    #[inline]
    fn bucket(&self, address: u32, port: u16) -> usize {
        let port = if self.port { u32::from(port) } else { 0 };
        (address.wrapping_add(port).wrapping_mul(0x61C8_8647) >> 24) as usize
    }

    #[inline(never)]
    fn pick_ipv6(&self, set: &Set, request: &Request<'_>, client: &SocketAddrV6) -> Option<usize> {
        let address = match client.ip().to_canonical() {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
            }
        };
        self.pick_with_care(set, request, self.bucket(address, client.port()))
    }

    fn usable(&self, set: &Set, request: &Request<'_>, bucket: usize) -> Option<usize> {
        let position = *self.buckets.get(bucket % BUCKETS)? as usize;
        let open = set.weights().get(position).is_some_and(|weight| *weight > 0);
        (open && request.admits(set, position)).then_some(position)
    }

    #[inline(never)]
    fn pick_with_care(&self, set: &Set, request: &Request<'_>, bucket: usize) -> Option<usize> {
        let choice = self.usable(set, request, bucket);
        if choice.is_some() || !self.fallback {
            return choice;
        }
        (0..BUCKETS).find_map(|step| self.usable(set, request, 2 * bucket + step))
    }
}

impl Default for SourceHash {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler for SourceHash {
    fn rebuild(&self, set: &Set) -> Self {
        let mut buckets = vec![NONE; BUCKETS].into_boxed_slice();
        // Tiers that are not in use have no buckets; IPVS knows none.
        let tier = set.iter().find(|member| member.weight > 0).map(|member| member.priority);
        let in_use =
            (0..).zip(set.iter()).filter(|(_, member)| tier.is_none_or(|tier| tier == member.priority));
        let places = in_use.flat_map(|(position, member)| {
            core::iter::repeat_n(position, usize::from(member.settings.weight.get()).max(1))
        });
        // Round again until all buckets are filled; an empty set leaves them.
        if !set.is_empty() {
            buckets.iter_mut().zip(places.cycle()).for_each(|(bucket, position)| *bucket = position);
        }
        Self { fallback: self.fallback, port: self.port, buckets }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        let bucket = match request.client_ref() {
            Some(SocketAddr::V4(client)) => self.bucket(client.ip().to_bits(), client.port()),
            Some(SocketAddr::V6(client)) => return self.pick_ipv6(set, request, client),
            None => 0,
        };
        match self.buckets.get(bucket).map(|&position| position as usize) {
            Some(first) if request.admits_all(set) && set.weights().get(first).is_some_and(|w| *w > 0) => {
                Some(first)
            }
            _ => self.pick_with_care(set, request, bucket),
        }
    }
}
