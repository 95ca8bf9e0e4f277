//! What the hosts put on the bridge: VRRP, ARP and neighbour discovery, with the kernel's time and the port.
//!
//! The capture sits on the bridge's ports, so it sees unicast too, and knows who sent a frame whatever its addresses say.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt,
    sockopt::{RcvBufForce, ReceiveTimestampns},
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Lan, PATIENCE, inside, wait_until};

/// A frame, as it came in at a port of the bridge.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// When, since 1970.
    pub(crate) at: Duration,
    /// The host that sent it.
    pub(crate) host: usize,
    /// From the Ethernet header on.
    pub(crate) bytes: Box<[u8]>,
}

/// An advert's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advert {
    pub(crate) at: Duration,
    pub(crate) host: usize,
    pub(crate) mac: [u8; 6],
    pub(crate) source: IpAddr,
    pub(crate) version: u8,
    pub(crate) vrid: u8,
    pub(crate) priority: u8,
}

impl Frame {
    /// The MAC that it comes from.
    pub(crate) fn source(&self) -> [u8; 6] {
        std::array::from_fn(|at| self.bytes[6 + at])
    }

    /// The frame as an advert, if it is one.
    pub(crate) fn advert(&self) -> Option<Advert> {
        let mac = self.bytes.get(6..12)?.try_into().ok()?;
        let (source, payload) = match self.bytes.get(12..14)? {
            [0x08, 0x00] if self.bytes.get(23) == Some(&112) => {
                let source: [u8; 4] = self.bytes.get(26..30)?.try_into().ok()?;
                let header = usize::from(self.bytes[14] & 0xf) * 4;
                (Ipv4Addr::from(source).into(), self.bytes.get(14 + header..)?)
            }
            [0x86, 0xdd] if self.bytes.get(20) == Some(&112) => {
                let source: [u8; 16] = self.bytes.get(22..38)?.try_into().ok()?;
                (Ipv6Addr::from(source).into(), self.bytes.get(54..)?)
            }
            _ => return None,
        };
        let &[version, vrid, priority, ..] = payload else { return None };
        Some(Advert { at: self.at, host: self.host, mac, source, version: version >> 4, vrid, priority })
    }

    /// The address that the frame announces: a gratuitous ARP's, or an unsolicited neighbour advertisement's.
    pub(crate) fn announced(&self) -> Option<IpAddr> {
        match self.bytes.get(12..14)? {
            [0x08, 0x06] => {
                let sender: [u8; 4] = self.bytes.get(28..32)?.try_into().ok()?;
                let target = self.bytes.get(38..42)?;
                (sender == target).then(|| Ipv4Addr::from(sender).into())
            }
            // Neighbour advertisement, without the flag for solicited ones.
            [0x86, 0xdd] if self.bytes.get(20) == Some(&58) && self.bytes.get(54) == Some(&136) => {
                let target: [u8; 16] = self.bytes.get(62..78)?.try_into().ok()?;
                (self.bytes[58] & 0x40 == 0).then(|| Ipv6Addr::from(target).into())
            }
            _ => None,
        }
    }
}

/// A capture on every port that a [`Lan`]'s bridge has, from its making to its end.
#[derive(Debug)]
pub(crate) struct Wire {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    frames: Mutex<Vec<Frame>>,
    /// When the last look at all ports began that is over.
    looked: Mutex<Duration>,
    more: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn frames(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Now, by the clock that frames are stamped with.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl Wire {
    /// Begins to capture.
    pub(crate) fn new(lan: &Lan) -> Self {
        let ports = lan.ports();
        let sockets: Vec<(usize, Socket)> = inside(lan.switch(), || {
            ports.into_iter().map(|(host, port)| (host, open(&port).expect("a packet socket"))).collect()
        });
        let shared = Arc::<Shared>::default();
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || read(&sockets, &shared))
        };
        Self { shared, reader: Some(reader) }
    }

    /// Everything that was captured from `since` on, looked at by `pick` in order.
    pub(crate) fn collect<T>(&self, since: Duration, pick: impl FnMut(&Frame) -> Option<T>) -> Vec<T> {
        let frames = self.shared.frames();
        frames[position(&frames, since)..].iter().filter(|frame| frame.at >= since).filter_map(pick).collect()
    }

    /// The first of what `pick` takes, from `since` on; waits for it for `timeout` from now on.
    pub(crate) fn wait<T>(
        &self,
        since: Duration,
        timeout: Duration,
        mut pick: impl FnMut(&Frame) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + timeout;
        let mut frames = self.shared.frames();
        let mut next = position(&frames, since);
        loop {
            let found = frames[next..].iter().filter(|frame| frame.at >= since).find_map(&mut pick);
            if found.is_some() {
                return found;
            }
            next = frames.len();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            frames = self.shared.more.wait_timeout(frames, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until all is read that came before now: on a busy machine, the capture may lag.
    ///
    /// # Panics
    /// If it lags by a minute.
    pub(crate) fn catch_up(&self) {
        let now = now();
        let looked = || *self.shared.looked.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wait_until(Duration::from_secs(60), || looked() > now), "the capture is not read");
    }

    /// Everything that was captured.
    pub(crate) fn frames(&self) -> Vec<Frame> {
        self.shared.frames().clone()
    }

    /// The first frame that `fits`, which is `what`.
    ///
    /// # Panics
    /// If it does not come within [`PATIENCE`].
    pub(crate) fn first(&self, what: &str, fits: impl Fn(&Frame) -> bool) -> Frame {
        let found = self.wait(Duration::ZERO, PATIENCE, |frame| fits(frame).then(|| frame.clone()));
        found.unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
    }

    /// The adverts of a host from `since` on.
    pub(crate) fn adverts(&self, since: Duration, host: usize) -> Vec<Advert> {
        self.collect(since, |frame| frame.advert().filter(|advert| advert.host == host))
    }

    /// Forgets all that came before now.
    pub(crate) fn clear(&self) {
        self.catch_up();
        self.shared.frames().clear();
    }

    /// Ends the capture and gives all of it.
    pub(crate) fn finish(mut self) -> Vec<Frame> {
        self.stop();
        std::mem::take(&mut *self.shared.frames())
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join(); // its panic was printed
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where to begin to look for frames from `since` on: ports are read in turn, so that frames lie a little out of order.
fn position(frames: &[Frame], since: Duration) -> usize {
    frames.partition_point(|frame| frame.at + Duration::from_secs(1) < since)
}

/// A packet socket on one interface of this thread's namespace.
fn open(interface: &str) -> io::Result<Socket> {
    let index = if_nametoindex(interface)?;
    // Protocol 0: nothing comes before it is bound.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
    // A mass takeover's announcements come faster than they are read.
    setsockopt(&socket, RcvBufForce, &(64 << 20))?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    // SAFETY: the storage is zeroed and as large as any address; a sockaddr_ll is written to its front, and its length given.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            (*address).sll_ifindex = index as i32;
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    socket.bind(&address)?;
    Ok(socket)
}

fn read(sockets: &[(usize, Socket)], shared: &Shared) {
    // The routers that are measured come first. What fails leaves it as it is.
    // SAFETY: no memory is touched; 0 is the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    let mut buffer = vec![0; 65536];
    while !shared.stop.load(Ordering::Relaxed) {
        // Who reads each frame as it comes takes the processor from the routers that are measured.
        thread::sleep(Duration::from_millis(5));
        let begin = now();
        for &(host, ref socket) in sockets {
            while let Some((at, len)) = receive(socket, &mut buffer) {
                let frame = Frame { at, host, bytes: buffer[..len].into() };
                if frame.advert().is_some() || matches!(frame.bytes[12..14], [0x08, 0x06]) || is_icmp6(&frame)
                {
                    shared.frames().push(frame);
                }
            }
        }
        *shared.looked.lock().unwrap_or_else(PoisonError::into_inner) = begin;
        shared.more.notify_all();
    }
}

fn is_icmp6(frame: &Frame) -> bool {
    frame.bytes[12..14] == [0x86, 0xdd] && frame.bytes.get(20) == Some(&58)
}

/// The next frame that came in: its time and length.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Option<(Duration, usize)> {
    let mut control = nix::cmsg_space!(TimeSpec);
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let message =
            recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)
                .ok()?;
        let outgoing = message.address.is_some_and(|address| address.pkttype() == libc::PACKET_OUTGOING);
        let stamp = message.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        });
        if let (false, Some(at), 14..) = (outgoing, stamp, message.bytes) {
            return Some((Duration::new(at.tv_sec() as u64, at.tv_nsec() as u32), message.bytes));
        }
    }
}
