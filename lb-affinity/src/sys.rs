//! The system calls that no safe crate wraps; the only unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use libc::{c_int, c_long, c_uint, c_ulong, c_void};

/// Bits of one of the kernel's bitmap words.
pub(crate) const WORD: u32 = c_ulong::BITS;

/// A bitmap as the kernel takes them, of at least `bits` bits.
pub(crate) fn bitmap(ids: impl IntoIterator<Item = u32>, bits: u32) -> Vec<c_ulong> {
    let mut words = vec![0; bits.div_ceil(WORD) as usize];
    for id in ids {
        let word = (id / WORD) as usize;
        if word >= words.len() {
            words.resize(word + 1, 0);
        }
        words[word] |= 1 << (id % WORD);
    }
    words
}

/// The ids in a bitmap.
pub(crate) fn ids(words: &[c_ulong]) -> impl Iterator<Item = u32> + '_ {
    let bits = words
        .iter()
        .zip(0..)
        .flat_map(|(&word, at)| (0..WORD).map(move |bit| (word >> bit & 1, at * WORD + bit)));
    bits.filter(|(set, _)| *set == 1).map(|(_, id)| id)
}

fn answer(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// sched_setaffinity(2); thread 0 is the caller.
pub(crate) fn set_affinity(tid: libc::pid_t, words: &[c_ulong]) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of_val(words)` bytes from `words`, which are there.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, size_of_val(words), words.as_ptr()) };
    answer(result).map(drop)
}

/// sched_getaffinity(2); `EINVAL` if the kernel's sets are longer than `words`.
pub(crate) fn affinity(tid: libc::pid_t, words: &mut [c_ulong]) -> io::Result<()> {
    // SAFETY: the kernel writes at most `size_of_val(words)` bytes to `words`, which are ours.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, size_of_val(words), words.as_mut_ptr()) };
    let written = answer(result)? as usize;
    words[written / size_of::<c_ulong>()..].fill(0);
    Ok(())
}

/// The calling thread's id.
pub(crate) fn thread_id() -> libc::pid_t {
    // SAFETY: gettid(2) takes nothing and always succeeds.
    unsafe { libc::syscall(libc::SYS_gettid) as libc::pid_t }
}

/// The user whose rights this process has.
pub(crate) fn effective_user() -> libc::uid_t {
    // SAFETY: geteuid(2) takes nothing and always succeeds.
    unsafe { libc::geteuid() }
}

/// getcpu(2): CPU and node.
pub(crate) fn getcpu() -> io::Result<(u32, u32)> {
    let (mut cpu, mut node): (c_uint, c_uint) = (0, 0);
    // SAFETY: the kernel writes one unsigned integer to each of the first two pointers; the third is unused.
    let result =
        unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, &raw mut node, ptr::null_mut::<c_void>()) };
    answer(result)?;
    Ok((cpu, node))
}

/// set_mempolicy(2). The kernel reads one bit less than it is told.
pub(crate) fn set_mempolicy(mode: c_int, nodes: Option<&[c_ulong]>) -> io::Result<()> {
    let (pointer, bits) = mask(nodes);
    // SAFETY: the kernel reads at most the mask's words, which are there; a null mask has no bits.
    answer(unsafe { libc::syscall(libc::SYS_set_mempolicy, c_long::from(mode), pointer, bits) }).map(drop)
}

/// mbind(2) of the pages from `address` on.
pub(crate) fn mbind(
    address: *const u8,
    length: usize,
    mode: c_int,
    nodes: Option<&[c_ulong]>,
    flags: c_uint,
) -> io::Result<()> {
    let (pointer, bits) = mask(nodes);
    // SAFETY: the kernel checks the addresses, and changes where the pages are, not what they hold. It reads at most the mask's
    // words, which are there; a null mask has no bits.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            address,
            length,
            c_long::from(mode),
            pointer,
            bits,
            c_ulong::from(flags),
        )
    };
    answer(result).map(drop)
}

fn mask(nodes: Option<&[c_ulong]>) -> (*const c_ulong, c_ulong) {
    nodes.map_or((ptr::null(), 0), |words| (words.as_ptr(), words.len() as c_ulong * c_ulong::from(WORD) + 1))
}

/// get_mempolicy(2): the mode with its flags, and the nodes.
pub(crate) fn get_mempolicy(
    nodes: Option<&mut [c_ulong]>,
    address: *const u8,
    flags: c_uint,
) -> io::Result<c_int> {
    let mut mode: c_int = 0;
    let (pointer, bits) = nodes.map_or((ptr::null_mut(), 0), |words| {
        (words.as_mut_ptr(), words.len() as c_ulong * c_ulong::from(WORD) + 1)
    });
    // SAFETY: the kernel writes one integer to `mode` and at most the mask's words to `pointer`, both of which are ours; it checks
    // the address.
    let result = unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, pointer, bits, address, c_ulong::from(flags))
    };
    answer(result).map(|_| mode)
}

/// move_pages(2) of this process; without nodes it only says where the pages are.
pub(crate) fn move_pages(
    pages: &[*const u8],
    nodes: Option<&[c_int]>,
    status: &mut [c_int],
    flags: c_int,
) -> io::Result<()> {
    assert!(pages.len() == status.len() && nodes.is_none_or(|nodes| nodes.len() == pages.len()));
    let nodes = nodes.map_or(ptr::null(), <[c_int]>::as_ptr);
    // SAFETY: the kernel reads as many pointers and nodes and writes as many states as there are pages: all three have that
    // length. It checks the addresses, and moves pages without a change of what they hold.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0 as c_long,
            pages.len() as c_ulong,
            pages.as_ptr(),
            nodes,
            status.as_mut_ptr(),
            c_long::from(flags),
        )
    };
    answer(result).map(drop)
}

/// The size of a page, in bytes.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf(3) takes a number and touches no memory.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Zeroed memory of its own pages, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// mmap(2) of private, anonymous memory.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        if isize::try_from(length).is_err() {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: without an address and a file, the kernel maps pages that nobody else has.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `length` bytes, at most `isize::MAX`, are mapped from `start` on, zeroed by the kernel, and ours until the drop.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; and `self` is borrowed mutably, so there is no other reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody borrows it any more. A failure leaves it mapped, which does no harm.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

// SAFETY: the mapping is owned as a `Vec<u8>` owns its memory; nothing of it belongs to a thread.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for Mapping {}

/// getsockopt(2) of an integer option of `SOL_SOCKET`.
pub(crate) fn socket_option(socket: BorrowedFd<'_>, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, and the length to `length`; both are ours.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    answer(c_long::from(result)).map(|_| value)
}

/// setsockopt(2) of an integer option of `SOL_SOCKET`.
pub(crate) fn set_socket_option(socket: BorrowedFd<'_>, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes from `value`, which are there.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const value).cast(), length)
    };
    answer(c_long::from(result)).map(drop)
}

/// Attaches a classic BPF program that chooses among the sockets of a port (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)).
pub(crate) fn attach_reuseport(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions from `filter` and writes none; they are there during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    answer(c_long::from(result)).map(drop)
}
