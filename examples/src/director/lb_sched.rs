//! Stand-in until the crate is merged.
#![allow(missing_docs, dead_code)]
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::ops::Deref;
use lb_core::{Backend, BackendId, Outcome, Pool, Snapshot, Spec, UpdateError, Weight, Admin, Health};
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm { RoundRobin }
impl Algorithm { pub(crate) const ALL: &'static [Algorithm] = &[Algorithm::RoundRobin]; }
impl std::fmt::Display for Algorithm { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("rr") } }
impl std::str::FromStr for Algorithm { type Err = (); fn from_str(_: &str) -> Result<Self, ()> { Ok(Self::RoundRobin) } }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PickError { Empty, Unavailable, Full, Refused, Gone }
#[derive(Default)]
pub(crate) struct Request<'a> { avoid: &'a [BackendId] }
impl<'a> Request<'a> {
    pub(crate) fn from_source(_: SocketAddr) -> Self { Self::default() }
    pub(crate) fn avoid(mut self, avoid: &'a [BackendId]) -> Self { self.avoid = avoid; self }
}
#[derive(Debug)]
pub(crate) struct Lease<T> { backend: Arc<Backend<T>>, done: bool }
impl<T> Lease<T> {
    pub(crate) fn backend(&self) -> &Arc<Backend<T>> { &self.backend }
    pub(crate) fn finish(mut self, outcome: Outcome) { self.done = true; self.backend.load().end(Some(outcome)); }
}
impl<T> Deref for Lease<T> { type Target = T; fn deref(&self) -> &T { self.backend.payload() } }
impl<T> Drop for Lease<T> { fn drop(&mut self) { if !self.done { self.backend.load().end(None); } } }
#[derive(Clone, Debug)]
pub(crate) struct Balancer<T> { inner: Arc<(Pool<T>, AtomicUsize)> }
impl<T> Balancer<T> {
    pub(crate) fn new(_: Algorithm) -> Self { Self { inner: Arc::new((Pool::new(), AtomicUsize::new(0))) } }
    pub(crate) fn update<I>(&self, backends: I) -> Result<(), UpdateError> where I: IntoIterator, I::Item: Into<Spec<T>> { self.inner.0.update(backends) }
    pub(crate) fn set_weight(&self, name: &str, w: Weight) -> Result<(), UpdateError> { self.inner.0.edit(|e| e.entry(name).map(|x| x.weight = w)) }
    pub(crate) fn set_admin(&self, name: &str, w: Admin) -> Result<(), UpdateError> { self.inner.0.edit(|e| e.entry(name).map(|x| x.admin = w)) }
    pub(crate) fn set_health(&self, name: &str, w: Health) -> Result<(), UpdateError> { self.inner.0.edit(|e| e.entry(name).map(|x| x.health = w)) }
    pub(crate) fn set_share(&self, name: &str, share: f64) -> Result<(), UpdateError> { self.inner.0.edit(|e| e.entry(name).map(|x| x.share = (share * 256.0) as u16)) }
    pub(crate) fn snapshot(&self) -> Arc<Snapshot<T>> { self.inner.0.snapshot() }
    pub(crate) fn pick(&self, r: &Request<'_>) -> Result<Lease<T>, PickError> {
        self.inner.0.with(|s| {
            let n = s.set().len();
            if n == 0 { return Err(PickError::Empty); }
            let start = self.inner.1.fetch_add(1, Ordering::Relaxed);
            let mut why = PickError::Unavailable;
            for i in 0..n {
                let m = &s.set()[(start + i) % n];
                if m.weight == 0 { continue; }
                if r.avoid.contains(&m.id) { if why == PickError::Unavailable { why = PickError::Refused; } continue; }
                if m.load.start(m.limit) { return Ok(Lease { backend: Arc::clone(&s.backends()[(start + i) % n]), done: false }); }
                why = PickError::Full;
            }
            Err(why)
        })
    }
    pub(crate) fn lease(&self, id: BackendId) -> Result<Lease<T>, PickError> {
        self.inner.0.with(|s| {
            let p = s.set().position(id).ok_or(PickError::Gone)?;
            let m = &s.set()[p];
            if !m.keeps_sessions() { return Err(PickError::Unavailable); }
            if !m.load.start(m.limit) { return Err(PickError::Full); }
            Ok(Lease { backend: Arc::clone(&s.backends()[p]), done: false })
        })
    }
}
