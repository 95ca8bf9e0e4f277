//! The system calls that no safe crate wraps: the crate's only `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

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

/// Puts the calling thread under `SCHED_RR` with `priority`.
pub(super) fn set_round_robin(priority: u8) -> io::Result<()> {
    // SAFETY: a sched_param of zeros is a valid one.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = i32::from(priority);
    // SAFETY: `parameters` lives during the call, which only reads it; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &parameters) }).map(drop)
}

/// Takes the calling thread from any realtime class to the usual one.
pub(super) fn set_normal() -> io::Result<()> {
    // SAFETY: a sched_param of zeros is a valid one, and the only one of SCHED_OTHER.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: `parameters` lives during the call, which only reads it; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &parameters) }).map(drop)
}

fn check(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
