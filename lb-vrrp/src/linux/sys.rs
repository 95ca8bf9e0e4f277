//! The system calls that no safe crate wraps: the crate's only `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

/// Binds a packet socket to the interface `index`, for sending alone: it receives nothing.
pub(super) fn bind_packet(socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a whole sockaddr_ll that lives during the call, and its size is given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// Sends `frames` through a bound socket with one call. How many the kernel took.
pub(super) fn send_many(socket: impl AsFd, frames: &[&[u8]]) -> io::Result<usize> {
    let mut parts: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: an msghdr of zeros is a valid one: no name, no control data, no buffers.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_iov = part;
            header.msg_iovlen = 1;
            libc::mmsghdr { msg_hdr: header, msg_len: 0 }
        })
        .collect();
    // SAFETY: `headers` has as many entries as is said; each points to an entry of `parts`, which points to a frame. All of
    // them live during the call, and the kernel only reads the frames.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT as _,
        )
    };
    check(sent)
}

/// Puts the calling thread under `SCHED_RR` with `priority`. What it starts later, threads and scripts, does not inherit that.
pub(super) fn set_round_robin(priority: u8) -> io::Result<()> {
    // SAFETY: a sched_param of zeros is a valid one.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = i32::from(priority);
    // SAFETY: `parameters` lives during the call, which only reads it; 0 is the calling thread.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &parameters) };
    check(result).map(drop)
}

/// Takes the calling thread from any realtime class to the usual one.
pub(super) fn set_normal() -> io::Result<()> {
    // SAFETY: a sched_param of zeros is a valid one, and the only one of SCHED_OTHER.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: `parameters` lives during the call, which only reads it; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &parameters) }).map(drop)
}

/// Has the calling thread, which is of the usual class, run for `slice` at a time, and give way to any that wakes with a shorter
/// one (Linux 6.12; an older one takes no note of it).
pub(super) fn set_slice(slice: Duration) -> io::Result<()> {
    // SAFETY: a sched_attr of zeros is a valid one: SCHED_OTHER, nice 0.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: no memory is touched; 0 is the calling thread. It can't fail for a thread's own.
    attributes.sched_nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: `attributes` lives during the call, which only reads it, and says its size; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn check(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
