//! On which NUMA nodes memory is: policies, memory of one's own on a node, and where a page is.
//!
//! ```
//! use lb_affinity::memory::{self, Buffer, Policy};
//!
//! let node = lb_affinity::thread::place()?.node;
//! let mut buffer = Buffer::new(1 << 16, &Policy::Bind(node.into()))?;
//! buffer[..5].copy_from_slice(b"hello");
//! assert_eq!(memory::node_of(&buffer[0])?, node);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A page gets its node when it is first touched; a policy is about pages to come, unless they are asked to move.
//! Sources: set_mempolicy(2), get_mempolicy(2), mbind(2), move_pages(2) and
//! Documentation/admin-guide/mm/numa_memory_policy.rst. The system calls are made directly, so no libnuma is needed.

use std::fmt;
use std::fs;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr;

use crate::{NodeSet, sys};

/// On which nodes memory is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum Policy {
    /// What the level above says: the thread's for a range of memory, the system's (the node of the CPU that touches a page
    /// first) for a thread.
    #[default]
    Default,
    /// On this node while it has memory, else on the nearest that has.
    Preferred(u32),
    /// On these nodes and no others. When they are full the process is killed, or memory is swapped out.
    Bind(NodeSet),
    /// On these nodes in turn, page by page.
    Interleave(NodeSet),
    /// On the node of the CPU that touches a page first (Linux 3.8).
    Local,
    /// On these nodes while one has memory, else on others (Linux 5.15).
    PreferredMany(NodeSet),
    /// On these nodes in turn, as many pages at a time as `/sys/kernel/mm/mempolicy/weighted_interleave` says of each (Linux 6.9).
    WeightedInterleave(NodeSet),
}

/// The modes' numbers (uapi/linux/mempolicy.h). The last two are younger than the libc crate's constants.
mod mode {
    pub(super) use libc::{MPOL_BIND, MPOL_DEFAULT, MPOL_INTERLEAVE, MPOL_LOCAL, MPOL_PREFERRED};
    pub(super) const MPOL_PREFERRED_MANY: i32 = 5;
    pub(super) const MPOL_WEIGHTED_INTERLEAVE: i32 = 6;
    /// `MPOL_F_STATIC_NODES`, `MPOL_F_RELATIVE_NODES` and `MPOL_F_NUMA_BALANCING` come with a mode.
    pub(super) const FLAGS: i32 = 1 << 15 | 1 << 14 | 1 << 13;
}

/// As many nodes as any kernel is built for.
const NODES: u32 = 1024;

impl Policy {
    fn mode(&self) -> i32 {
        match self {
            Self::Default => mode::MPOL_DEFAULT,
            Self::Preferred(_) => mode::MPOL_PREFERRED,
            Self::Bind(_) => mode::MPOL_BIND,
            Self::Interleave(_) => mode::MPOL_INTERLEAVE,
            Self::Local => mode::MPOL_LOCAL,
            Self::PreferredMany(_) => mode::MPOL_PREFERRED_MANY,
            Self::WeightedInterleave(_) => mode::MPOL_WEIGHTED_INTERLEAVE,
        }
    }

    /// The Linux version since which the kernel knows it.
    const fn since(&self) -> &'static str {
        match self {
            Self::Local => "3.8",
            Self::PreferredMany(_) => "5.15",
            Self::WeightedInterleave(_) => "6.9",
            _ => "2.6.7",
        }
    }

    fn nodes(&self) -> Option<NodeSet> {
        match self {
            Self::Default | Self::Local => None,
            Self::Preferred(node) => Some((*node).min(crate::cpu_set::MAX_ID).into()),
            Self::Bind(nodes)
            | Self::Interleave(nodes)
            | Self::PreferredMany(nodes)
            | Self::WeightedInterleave(nodes) => Some(nodes.clone()),
        }
    }

    fn bitmap(&self) -> Option<Vec<libc::c_ulong>> {
        self.nodes().map(|nodes| sys::bitmap(&nodes, NODES))
    }
}

impl fmt::Display for Policy {
    /// The manual's name and the nodes: `bind 0-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preferred(node) => write!(f, "preferred {node}"),
            Self::Bind(nodes) => write!(f, "bind {nodes}"),
            Self::Interleave(nodes) => write!(f, "interleave {nodes}"),
            Self::Local => f.write_str("local"),
            Self::PreferredMany(nodes) => write!(f, "preferred-many {nodes}"),
            Self::WeightedInterleave(nodes) => write!(f, "weighted-interleave {nodes}"),
        }
    }
}

/// Why memory has not the policy or the place that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The kernel does not know the mode.
    #[error("memory policy {policy}: this kernel has no such mode; it came with Linux {since}")]
    NoMode {
        /// The policy.
        policy: Box<Policy>,
        /// The first version that has it.
        since: &'static str,
    },
    /// Nodes that do not exist, have no memory, or are outside the process's cpuset.
    #[error(
        "memory policy {policy}: a node of it has no memory, or cpuset.mems of the control group forbids it; choose from {with_memory}"
    )]
    NoNode {
        /// The policy.
        policy: Box<Policy>,
        /// The nodes that have memory.
        with_memory: Box<NodeSet>,
    },
    /// A policy for nodes that names none.
    #[error("memory policy {policy} names no node; name one, or take the default policy")]
    Empty {
        /// The policy.
        policy: Box<Policy>,
    },
    /// The kernel is built without NUMA.
    #[error("{call}: this kernel is built without CONFIG_NUMA; all memory is on node 0")]
    NoNuma {
        /// The system call.
        call: &'static str,
    },
    /// `EPERM`: a container's filter of system calls, most likely.
    #[error(
        "{call} is forbidden to this process; containers forbid it to who has no CAP_SYS_NICE: add it, or set the policy outside"
    )]
    Denied {
        /// The system call.
        call: &'static str,
    },
    /// Memory that does not begin on a page.
    #[error("memory at {address:#x} does not begin on a page of {page} bytes; policies are for whole pages")]
    NotAligned {
        /// Where it begins.
        address: usize,
        /// The page's size, in bytes.
        page: usize,
    },
    /// Some pages are not where they should be, and could not be moved (`EIO`).
    #[error("pages that are there already do not follow the policy {policy}, and could not be moved")]
    Misplaced {
        /// The policy.
        policy: Box<Policy>,
    },
    /// A node to move to that can't take pages.
    #[error(
        "pages can't be moved to node {node}: it has no memory or is not allowed; choose from {with_memory}"
    )]
    NoTarget {
        /// The node.
        node: u32,
        /// The nodes that have memory.
        with_memory: Box<NodeSet>,
    },
    /// Another answer of the kernel's.
    #[error("{call}: {source}")]
    System {
        /// The system call.
        call: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

fn with_memory() -> NodeSet {
    let nodes = fs::read_to_string("/sys/devices/system/node/has_memory");
    nodes.ok().and_then(|nodes| nodes.parse().ok()).unwrap_or_default()
}

fn plain_error(call: &'static str, source: io::Error) -> MemoryError {
    match source.raw_os_error() {
        Some(libc::ENOSYS) => MemoryError::NoNuma { call },
        Some(libc::EPERM) => MemoryError::Denied { call },
        _ => MemoryError::System { call, source },
    }
}

/// Says why a policy was refused. `bind_works` says whether the kernel takes the same nodes with the oldest of modes: then it is
/// the mode that it does not know.
fn policy_error(
    call: &'static str,
    policy: &Policy,
    source: io::Error,
    bind_works: impl FnOnce(&NodeSet) -> bool,
) -> MemoryError {
    let boxed = || Box::new(policy.clone());
    let number = source.raw_os_error();
    if number == Some(libc::EIO) {
        return MemoryError::Misplaced { policy: boxed() };
    }
    if !matches!(number, Some(libc::EINVAL | libc::E2BIG)) {
        return plain_error(call, source);
    }
    match policy.nodes() {
        None if *policy == Policy::Default => plain_error(call, source),
        Some(nodes) if nodes.is_empty() => MemoryError::Empty { policy: boxed() },
        Some(nodes) if !bind_works(&nodes) => {
            MemoryError::NoNode { policy: boxed(), with_memory: Box::new(with_memory()) }
        }
        _ => MemoryError::NoMode { policy: boxed(), since: policy.since() },
    }
}

/// Tries the nodes on a page that nobody uses.
fn bind_works(nodes: &NodeSet) -> bool {
    let bitmap = sys::bitmap(nodes, NODES);
    let page = sys::Mapping::new(sys::page_size());
    page.is_ok_and(|page| sys::mbind(page.as_ptr(), page.len(), mode::MPOL_BIND, Some(&bitmap), 0).is_ok())
}

/// Sets the calling thread's policy, for the pages that it touches first from now on (set_mempolicy(2)). Threads that it starts
/// inherit it.
///
/// # Errors
/// [`MemoryError::Empty`], [`MemoryError::NoNode`], [`MemoryError::NoMode`]; [`MemoryError::NoNuma`]; [`MemoryError::Denied`]. The policy is then as it
/// was.
pub fn set_policy(policy: &Policy) -> Result<(), MemoryError> {
    sys::set_mempolicy(policy.mode(), policy.bitmap().as_deref())
        .map_err(|source| policy_error("set_mempolicy", policy, source, bind_works))
}

/// The calling thread's policy (get_mempolicy(2)).
///
/// # Errors
/// [`MemoryError::NoNuma`], [`MemoryError::Denied`]; [`MemoryError::System`] for a mode that is younger than this crate.
pub fn policy() -> Result<Policy, MemoryError> {
    read_policy(ptr::null(), 0)
}

/// The policy of the memory in which a value begins: its own, or else the thread's.
///
/// # Errors
/// As [`policy`].
pub fn policy_of<T: ?Sized>(value: &T) -> Result<Policy, MemoryError> {
    read_policy(ptr::from_ref(value).cast(), MPOL_F_ADDR)
}

/// `MPOL_F_NODE` and `MPOL_F_ADDR` (uapi/linux/mempolicy.h).
const MPOL_F_NODE: libc::c_uint = 1 << 0;
const MPOL_F_ADDR: libc::c_uint = 1 << 1;

fn read_policy(address: *const u8, flags: libc::c_uint) -> Result<Policy, MemoryError> {
    let mut words = sys::bitmap([], NODES);
    let mode = sys::get_mempolicy(Some(&mut words), address, flags)
        .map_err(|source| plain_error("get_mempolicy", source))?;
    let nodes: NodeSet = sys::ids(&words).collect();
    Ok(match (mode & !mode::FLAGS, nodes.first()) {
        (mode::MPOL_DEFAULT, _) => Policy::Default,
        // Before Linux 5.14 a preference without a node was what is called local now.
        (mode::MPOL_LOCAL, _) | (mode::MPOL_PREFERRED, None) => Policy::Local,
        (mode::MPOL_PREFERRED, Some(node)) => Policy::Preferred(node),
        (mode::MPOL_BIND, _) => Policy::Bind(nodes),
        (mode::MPOL_INTERLEAVE, _) => Policy::Interleave(nodes),
        (mode::MPOL_PREFERRED_MANY, _) => Policy::PreferredMany(nodes),
        (mode::MPOL_WEIGHTED_INTERLEAVE, _) => Policy::WeightedInterleave(nodes),
        (other, _) => {
            let source = io::Error::other(format!("mode {other} is younger than this library"));
            return Err(MemoryError::System { call: "get_mempolicy", source });
        }
    })
}

/// `MPOL_MF_STRICT` and `MPOL_MF_MOVE` (uapi/linux/mempolicy.h).
const MPOL_MF_STRICT: libc::c_int = 1 << 0;
const MPOL_MF_MOVE: libc::c_int = 1 << 1;

/// What happens to pages that are there already when a range gets a policy (mbind(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// They stay where they are.
    #[default]
    Stay,
    /// They are moved, if only this process uses them (`MPOL_MF_MOVE | MPOL_MF_STRICT`).
    Move,
}

/// Gives a range of memory a policy (mbind(2)). The range begins on a page and counts as its whole last page.
///
/// # Errors
/// As [`set_policy`]; [`MemoryError::NotAligned`]; [`MemoryError::Misplaced`] if pages could not be moved.
pub fn bind(memory: &mut [u8], policy: &Policy, existing: Existing) -> Result<(), MemoryError> {
    let (address, page) = (memory.as_ptr(), sys::page_size());
    if !address.addr().is_multiple_of(page) {
        return Err(MemoryError::NotAligned { address: address.addr(), page });
    }
    let flags = match existing {
        Existing::Stay => 0,
        Existing::Move => MPOL_MF_MOVE | MPOL_MF_STRICT,
    };
    let bitmap = policy.bitmap();
    sys::mbind(address, memory.len(), policy.mode(), bitmap.as_deref(), flags.cast_unsigned())
        .map_err(|source| policy_error("mbind", policy, source, bind_works))
}

/// The node of the page in which a value begins (get_mempolicy(2) with `MPOL_F_NODE | MPOL_F_ADDR`). A page that was never touched
/// gets its place by being asked for.
///
/// # Errors
/// [`MemoryError::NoNuma`], [`MemoryError::Denied`].
pub fn node_of<T: ?Sized>(value: &T) -> Result<u32, MemoryError> {
    let node = sys::get_mempolicy(None, ptr::from_ref(value).cast(), MPOL_F_NODE | MPOL_F_ADDR);
    node.map(i32::cast_unsigned).map_err(|source| plain_error("get_mempolicy", source))
}

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Page {
    /// On this node.
    Node(u32),
    /// Nowhere: it was never touched, or is swapped out (`ENOENT`), or is the kernel's page of zeros (`EFAULT`).
    Absent,
    /// It was not moved; other processes use it too (`EACCES`).
    Shared,
    /// It was not moved; the kernel is using it (`EBUSY`). Try again.
    Busy,
    /// It was not moved; the node is full (`ENOMEM`).
    NoMemory,
    /// Another answer: its error number.
    Error(i32),
}

impl Page {
    const fn new(status: i32) -> Self {
        match -status {
            ..=0 => Self::Node(status.cast_unsigned()),
            libc::ENOENT | libc::EFAULT => Self::Absent,
            libc::EACCES => Self::Shared,
            libc::EBUSY => Self::Busy,
            libc::ENOMEM => Self::NoMemory,
            errno => Self::Error(errno),
        }
    }
}

/// Where each page of a range is (move_pages(2) without nodes). Unlike [`node_of`], this touches no page.
///
/// # Errors
/// [`MemoryError::NoNuma`], [`MemoryError::Denied`].
pub fn pages(memory: &[u8]) -> Result<Vec<Page>, MemoryError> {
    let addresses = addresses(memory);
    let mut status = vec![0; addresses.len()];
    sys::move_pages(&addresses, None, &mut status, 0).map_err(|source| plain_error("move_pages", source))?;
    Ok(status.into_iter().map(Page::new).collect())
}

/// Moves a range's pages to a node; the result is where each one is then (move_pages(2), `MPOL_MF_MOVE`).
///
/// # Errors
/// [`MemoryError::NoTarget`]; [`MemoryError::NoNuma`], [`MemoryError::Denied`].
pub fn move_to(memory: &mut [u8], node: u32) -> Result<Vec<Page>, MemoryError> {
    let addresses = addresses(memory);
    let mut status = vec![0; addresses.len()];
    let nodes = vec![i32::try_from(node).unwrap_or(i32::MAX); addresses.len()];
    sys::move_pages(&addresses, Some(&nodes), &mut status, MPOL_MF_MOVE).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::ENODEV | libc::EACCES | libc::EINVAL) => {
                MemoryError::NoTarget { node, with_memory: Box::new(with_memory()) }
            }
            _ => plain_error("move_pages", source),
        }
    })?;
    pages(memory)
}

/// The addresses of the pages that a range touches.
fn addresses(memory: &[u8]) -> Vec<*const u8> {
    let page = sys::page_size();
    let range = memory.as_ptr_range();
    let offset = range.start.addr() % page;
    if memory.is_empty() {
        return Vec::new();
    }
    let start = range.start.wrapping_sub(offset);
    (0..(memory.len() + offset).div_ceil(page)).map(|index| start.wrapping_add(index * page)).collect()
}

/// Memory of its own pages, with a policy of its own: zeroed, and given back when dropped. It derefs to its bytes.
#[derive(Debug)]
pub struct Buffer {
    memory: sys::Mapping,
}

impl Buffer {
    /// `length` bytes by this policy (mmap(2), mbind(2)). The pages are taken when they are first touched.
    ///
    /// # Errors
    /// As [`bind`]; [`MemoryError::System`] with `ENOMEM` if there is no address space left, and with `EINVAL` for no bytes.
    pub fn new(length: usize, policy: &Policy) -> Result<Self, MemoryError> {
        let mut memory =
            sys::Mapping::new(length).map_err(|source| MemoryError::System { call: "mmap", source })?;
        bind(&mut memory, policy, Existing::Stay)?;
        Ok(Self { memory })
    }

    /// `length` bytes on a node and no other.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn on_node(length: usize, node: u32) -> Result<Self, MemoryError> {
        Self::new(length, &Policy::Bind(node.min(crate::cpu_set::MAX_ID).into()))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    fn every_policy() -> Vec<Policy> {
        let nodes = with_memory();
        assert!(!nodes.is_empty());
        vec![
            Policy::Default,
            Policy::Preferred(nodes.first().unwrap()),
            Policy::Bind(nodes.clone()),
            Policy::Interleave(nodes.clone()),
            Policy::Local,
            Policy::PreferredMany(nodes.clone()),
            Policy::WeightedInterleave(nodes),
        ]
    }

    /// The kernel's version, as far as modes need it.
    fn kernel_has(policy: &Policy) -> bool {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let version = |text: &str| -> Vec<u32> {
            text.split(['.', '-']).map_while(|part| part.trim().parse().ok()).collect()
        };
        version(&release) >= version(policy.since())
    }

    #[test]
    fn a_threads_policy_reads_back() {
        in_thread(|| {
            for policy in every_policy() {
                let result = set_policy(&policy);
                if !kernel_has(&policy) {
                    assert!(matches!(result, Err(MemoryError::NoMode { .. })), "{result:?}");
                    continue;
                }
                result.unwrap();
                assert_eq!(super::policy().unwrap(), policy);
            }
        });
    }

    #[test]
    fn a_buffer_has_its_policy_and_its_place() {
        for policy in every_policy().into_iter().filter(kernel_has) {
            let mut buffer = Buffer::new(10_000, &policy).unwrap();
            assert_eq!(policy_of(&buffer[0]).unwrap(), policy);
            assert_eq!(buffer.len(), 10_000);
            let touched = 10_000_usize.div_ceil(sys::page_size());
            assert_eq!(pages(&buffer).unwrap(), vec![Page::Absent; touched]);
            buffer.fill(7);
            let places = pages(&buffer).unwrap();
            assert_eq!(places.len(), touched);
            for place in places {
                assert!(matches!(place, Page::Node(node) if with_memory().contains(node)), "{place:?}");
            }
            assert_eq!(Page::Node(node_of(&buffer[0]).unwrap()), pages(&buffer[..1]).unwrap()[0]);
        }
    }

    #[test]
    fn pages_are_moved_and_keep_what_they_hold() {
        for node in &with_memory() {
            let mut buffer = Buffer::new(50_000, &Policy::Default).unwrap();
            buffer.iter_mut().zip(0..).for_each(|(byte, at): (_, u32)| *byte = (at % 251) as u8);
            let moved = move_to(&mut buffer, node).unwrap();
            assert!(moved.iter().all(|page| *page == Page::Node(node)), "{moved:?}");
            bind(&mut buffer, &Policy::Bind(node.into()), Existing::Move).unwrap();
            assert!(buffer.iter().zip(0..).all(|(byte, at): (_, u32)| *byte == (at % 251) as u8));
            // A range within pages counts as these.
            let size = sys::page_size();
            assert_eq!(pages(&buffer[size - 1..=size]).unwrap(), [Page::Node(node); 2]);
            assert_eq!(pages(&[]).unwrap(), []);
        }
    }

    #[test]
    fn errors_name_the_policy_and_the_cure() {
        in_thread(|| {
            let message = |policy: Policy| set_policy(&policy).unwrap_err().to_string();
            let choose = format!("choose from {}", with_memory());
            for policy in [
                Policy::Bind(1000.into()),
                Policy::Preferred(1000),
                Policy::PreferredMany(60_000.into()),
                Policy::Interleave(1000.into()),
            ] {
                assert!(message(policy.clone()).contains(&format!("memory policy {policy}")));
                assert!(message(policy.clone()).ends_with(&choose), "{}", message(policy));
            }
            assert!(message(Policy::Bind(NodeSet::new())).contains("names no node"));
            assert_eq!(super::policy().unwrap(), Policy::Default);
        });
        let mut buffer = Buffer::new(10_000, &Policy::Default).unwrap();
        let error = bind(&mut buffer[1..], &Policy::Local, Existing::Stay).unwrap_err();
        assert!(matches!(error, MemoryError::NotAligned { .. }), "{error}");
        let error = move_to(&mut buffer, 1000).unwrap_err().to_string();
        assert!(error.starts_with("pages can't be moved to node 1000: "), "{error}");
        assert!(matches!(Buffer::on_node(1, 1000), Err(MemoryError::NoNode { .. })));
        assert!(matches!(Buffer::on_node(usize::MAX, 0), Err(MemoryError::System { call: "mmap", .. })));
        assert!(matches!(Buffer::on_node(0, 0), Err(MemoryError::System { call: "mmap", .. })));
    }

    #[test]
    fn a_mode_that_the_kernel_lacks_is_told_from_nodes_that_it_lacks() {
        let refused = || io::Error::from_raw_os_error(libc::EINVAL);
        let policy = Policy::WeightedInterleave(0.into());
        let error = policy_error("set_mempolicy", &policy, refused(), |_| true).to_string();
        assert_eq!(
            error,
            "memory policy weighted-interleave 0: this kernel has no such mode; it came with Linux 6.9"
        );
        let error = policy_error("set_mempolicy", &policy, refused(), |_| false);
        assert!(matches!(error, MemoryError::NoNode { .. }), "{error}");
        // The kernel's own answer to a mode that none has, on nodes that are right.
        let nodes = sys::bitmap(&with_memory(), NODES);
        let error = sys::set_mempolicy(99, Some(&nodes)).unwrap_err();
        let error = policy_error("set_mempolicy", &policy, error, |_| bind_works(&with_memory()));
        assert!(matches!(error, MemoryError::NoMode { .. }), "{error}");
        let error = policy_error("mbind", &policy, io::Error::from_raw_os_error(libc::ENOSYS), |_| true);
        assert!(matches!(error, MemoryError::NoNuma { .. }), "{error}");
        let error = policy_error("mbind", &policy, io::Error::from_raw_os_error(libc::EPERM), |_| true);
        assert!(error.to_string().contains("CAP_SYS_NICE"), "{error}");
    }
}
