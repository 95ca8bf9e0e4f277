//! What a driver can be asked and told by ethtool's netlink: channels, rings, the table that spreads flows over receive queues
//! (Documentation/networking/ethtool-netlink.rst).
//!
//! This asks the kernel itself, in the network namespace of the thread that opened it. Channels can also be asked for through the
//! [`FileSystem`](crate::fs::FileSystem), and are set through it where that is to be journalled and taken back
//! ([`Setting::Channels`](crate::Setting::Channels)).
//!
//! ```no_run
//! use lb_affinity::nic::ethtool::Ethtool;
//!
//! let mut ethtool = Ethtool::open()?;
//! let channels = ethtool.channels("eth0")?;
//! println!("{} of {} queues", channels.combined.count, channels.combined.max);
//! let table = ethtool.rss("eth0")?.table;
//! # Ok::<(), lb_affinity::nic::ethtool::EthtoolError>(())
//! ```

use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_GENERIC;

use super::channels::{ChannelCounts, Channels, Count};

/// The controller, which knows the families' numbers (Documentation/userspace-api/netlink/intro.rst).
mod control {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
}

/// `ETHTOOL_MSG_*`.
mod command {
    pub(super) const RINGS_GET: u8 = 15;
    pub(super) const CHANNELS_GET: u8 = 17;
    pub(super) const CHANNELS_SET: u8 = 18;
    pub(super) const RSS_GET: u8 = 38;
}

/// `ETHTOOL_A_*`: every message has its header as attribute 1, with the interface's name as attribute 2.
mod attribute {
    pub(super) const HEADER: u16 = 1;
    pub(super) const HEADER_DEV_NAME: u16 = 2;
    pub(super) const CHANNELS_RX_MAX: u16 = 2;
    pub(super) const CHANNELS_TX_MAX: u16 = 3;
    pub(super) const CHANNELS_OTHER_MAX: u16 = 4;
    pub(super) const CHANNELS_COMBINED_MAX: u16 = 5;
    pub(super) const CHANNELS_RX_COUNT: u16 = 6;
    pub(super) const CHANNELS_TX_COUNT: u16 = 7;
    pub(super) const CHANNELS_OTHER_COUNT: u16 = 8;
    pub(super) const CHANNELS_COMBINED_COUNT: u16 = 9;
    pub(super) const RINGS_RX_MAX: u16 = 2;
    pub(super) const RINGS_TX_MAX: u16 = 5;
    pub(super) const RINGS_RX: u16 = 6;
    pub(super) const RINGS_TX: u16 = 9;
    pub(super) const RSS_HFUNC: u16 = 3;
    pub(super) const RSS_INDIR: u16 = 4;
    /// Of an error: the kernel's own words (`NLMSGERR_ATTR_MSG`).
    pub(super) const ERROR_MESSAGE: u16 = 1;
}

/// Room for the largest answer: a table of some thousand entries.
const BUFFER: usize = 64 * 1024;
/// Command, version, two bytes reserved.
const GENERIC_HEADER: usize = 4;

pub(crate) const READING_CHANNELS: &str = "reading channels";
pub(crate) const SETTING_CHANNELS: &str = "setting channels";

/// Why ethtool could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EthtoolError {
    /// The kernel knows no ethtool netlink.
    #[error("the kernel has no ethtool netlink: it needs Linux 5.6 or later with CONFIG_ETHTOOL_NETLINK")]
    NoFamily,
    /// A recorded machine has files only.
    #[error(
        "{interface}: {operation}: there is no driver to ask; what it would say is not in a recorded machine's files"
    )]
    NoDriver {
        /// The interface.
        interface: String,
        /// What was asked.
        operation: &'static str,
    },
    /// The interface's driver can't do it, or the kernel is too old.
    #[error("{interface}: its driver or this kernel does not support {operation}{}", detail(.message))]
    Unsupported {
        /// The interface.
        interface: String,
        /// What was asked.
        operation: &'static str,
        /// The kernel's own words, if it said any.
        message: Option<String>,
    },
    /// There is no such interface here.
    #[error("there is no network interface {interface:?} in this network namespace")]
    NoInterface {
        /// The interface.
        interface: String,
    },
    /// The thread may not.
    #[error(
        "{interface}: {operation} needs CAP_NET_ADMIN: run as root, or grant it (setcap cap_net_admin+ep PROGRAM)"
    )]
    Denied {
        /// The interface.
        interface: String,
        /// What was asked.
        operation: &'static str,
    },
    /// The kernel refused the values.
    #[error("{interface}: {operation}: {source}{}", detail(.message))]
    Refused {
        /// The interface.
        interface: String,
        /// What was asked.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// The kernel's own words, if it said any.
        message: Option<String>,
    },
    /// The socket failed.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    /// The answer can't be read.
    #[error("{interface}: the kernel's answer to {operation} can't be read: {problem}")]
    Answer {
        /// The interface.
        interface: String,
        /// What was asked.
        operation: &'static str,
        /// What is wrong.
        problem: String,
    },
}

fn detail(message: &Option<String>) -> String {
    message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default()
}

/// The lengths of an interface's rings, in packets (`ETHTOOL_MSG_RINGS_GET`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Rings {
    /// Of a receive queue.
    pub rx: Count,
    /// Of a transmit queue.
    pub tx: Count,
}

/// How an interface spreads flows over its receive queues (`ETHTOOL_MSG_RSS_GET`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Rss {
    /// The receive queue of each value of the flow's hash, modulo the table's length. Empty if the driver has no table.
    pub table: Vec<u32>,
    /// The hash functions in use, a bit each (`ETH_RSS_HASH_*`): 1 Toeplitz, 2 XOR, 4 CRC32.
    pub hash_functions: u32,
}

/// Asks and tells drivers. One socket for any number of interfaces.
#[derive(Debug)]
pub struct Ethtool {
    socket: Socket,
    family: u16,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Ethtool {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    /// If the kernel has no ethtool netlink, or no socket is to be had.
    pub fn open() -> Result<Self, EthtoolError> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        // Errors in words, and without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // The kernel has answered when a request has been sent; waiting would be for nothing.
        socket.set_non_blocking(true)?;
        let mut ethtool =
            Self { socket, family: control::FAMILY, sequence: 0, buffer: vec![0; BUFFER].into() };
        let name = [DefaultNla::new(control::FAMILY_NAME, b"ethtool\0".to_vec())];
        let answer =
            ethtool.request(control::GET_FAMILY, 0, &name)?.map_err(|refusal| match refusal.code {
                libc::ENOENT => EthtoolError::NoFamily,
                _ => EthtoolError::Socket(refusal.error()),
            })?;
        let id = attributes(&answer)
            .ok()
            .and_then(|all| all.into_iter().find(|(kind, _)| *kind == control::FAMILY_ID))
            .and_then(|(_, value)| Some(u16::from_ne_bytes(*value.first_chunk()?)));
        ethtool.family = id.ok_or(EthtoolError::NoFamily)?;
        Ok(ethtool)
    }

    /// An interface's channels.
    ///
    /// # Errors
    /// [`Unsupported`](EthtoolError::Unsupported) from a driver without channels.
    pub fn channels(&mut self, interface: &str) -> Result<Channels, EthtoolError> {
        self.get(command::CHANNELS_GET, READING_CHANNELS, interface).map(|values| Channels::from(&values))
    }

    /// Sets how many channels an interface has; what `channels` says nothing of stays. Most drivers restart the link; its interrupts
    /// and queues are others afterwards, and a driver whose RSS table nobody has set spreads flows evenly over the new ones.
    ///
    /// # Errors
    /// [`Denied`](EthtoolError::Denied) without `CAP_NET_ADMIN`, [`Refused`](EthtoolError::Refused) if there are more than the
    /// driver has, or fewer than the RSS table uses.
    pub fn set_channels(&mut self, interface: &str, channels: ChannelCounts) -> Result<(), EthtoolError> {
        check(interface)?;
        let counts = [
            (attribute::CHANNELS_RX_COUNT, channels.rx),
            (attribute::CHANNELS_TX_COUNT, channels.tx),
            (attribute::CHANNELS_COMBINED_COUNT, channels.combined),
        ];
        let counts = counts
            .into_iter()
            .filter_map(|(kind, count)| Some(DefaultNla::new(kind, count?.to_ne_bytes().to_vec())));
        let attributes: Vec<_> = [header(interface)].into_iter().chain(counts).collect();
        let operation = SETTING_CHANNELS;
        let answer = self.request(command::CHANNELS_SET, NLM_F_ACK, &attributes)?;
        answer.map(drop).map_err(|refusal| refusal.told(interface, operation))
    }

    /// How long an interface's rings are.
    ///
    /// # Errors
    /// [`Unsupported`](EthtoolError::Unsupported) from a driver without rings.
    pub fn rings(&mut self, interface: &str) -> Result<Rings, EthtoolError> {
        self.get(command::RINGS_GET, "reading rings", interface).map(|values| Rings::from(&values))
    }

    /// How an interface spreads flows over its receive queues. Linux 6.3 or later.
    ///
    /// # Errors
    /// [`Unsupported`](EthtoolError::Unsupported) from a driver without RSS, or by an older kernel.
    pub fn rss(&mut self, interface: &str) -> Result<Rss, EthtoolError> {
        self.get(command::RSS_GET, "reading the RSS table", interface).map(|values| Rss::from(&values))
    }

    fn get(&mut self, command: u8, operation: &'static str, interface: &str) -> Result<Values, EthtoolError> {
        check(interface)?;
        let answer = self.request(command, 0, &[header(interface)])?;
        let answer = answer.map_err(|refusal| refusal.told(interface, operation))?;
        attributes(&answer).map(Values).map_err(|problem| EthtoolError::Answer {
            interface: interface.to_owned(),
            operation,
            problem,
        })
    }

    /// Sends a request and returns the answer's attributes, or the kernel's refusal.
    fn request(
        &mut self,
        command: u8,
        flags: u16,
        attributes: &[DefaultNla],
    ) -> io::Result<Result<Vec<u8>, Refusal>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut body = vec![0; GENERIC_HEADER + attributes.buffer_len()];
        body[..2].copy_from_slice(&[command, 1]);
        attributes.emit(&mut body[GENERIC_HEADER..]);
        let request = Request { family: self.family, body };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let length = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                length => length?,
            };
            if let Some(answer) = answer(&self.buffer[..length], self.sequence) {
                return Ok(answer);
            }
        }
    }
}

/// A request's body, for the framing.
#[derive(Debug)]
struct Request {
    family: u16,
    body: Vec<u8>,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

/// Refuses what can't be put into an attribute; alternative names have up to 127 bytes.
fn check(interface: &str) -> Result<(), EthtoolError> {
    if interface.is_empty() || interface.len() > 127 || interface.contains('\0') {
        return Err(EthtoolError::NoInterface { interface: interface.to_owned() });
    }
    Ok(())
}

/// The attribute that names the interface.
fn header(interface: &str) -> DefaultNla {
    let name = DefaultNla::new(attribute::HEADER_DEV_NAME, [interface.as_bytes(), &[0]].concat());
    let mut nested = vec![0; name.buffer_len()];
    name.emit(&mut nested);
    DefaultNla::new(attribute::HEADER | NLA_F_NESTED, nested)
}

/// The kernel's no.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    /// An `errno`.
    code: i32,
    /// In words.
    message: Option<String>,
}

impl Refusal {
    fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.code)
    }

    fn told(self, interface: &str, operation: &'static str) -> EthtoolError {
        let interface = interface.to_owned();
        match self.code {
            libc::EOPNOTSUPP => EthtoolError::Unsupported { interface, operation, message: self.message },
            libc::ENODEV => EthtoolError::NoInterface { interface },
            libc::EPERM | libc::EACCES => EthtoolError::Denied { interface, operation },
            _ => EthtoolError::Refused { interface, operation, source: self.error(), message: self.message },
        }
    }
}

/// What a datagram holds for the request of this sequence number: attributes, nothing from an acknowledgement, or a refusal. `None` if it is for
/// another.
fn answer(mut datagram: &[u8], sequence: u32) -> Option<Result<Vec<u8>, Refusal>> {
    while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
        let length = message.length() as usize;
        if message.sequence_number() == sequence {
            let body = message.payload();
            if message.message_type() != NLMSG_ERROR {
                return Some(Ok(body.get(GENERIC_HEADER..).unwrap_or_default().to_vec()));
            }
            let code = body.first_chunk().map_or(-libc::EIO, |&code| i32::from_ne_bytes(code));
            if code == 0 {
                return Some(Ok(Vec::new()));
            }
            // The code and the request's header are before the words.
            let words = attributes(body.get(20..).unwrap_or_default()).unwrap_or_default();
            let words = words.iter().find(|(kind, _)| *kind == attribute::ERROR_MESSAGE);
            let message =
                words.map(|(_, words)| String::from_utf8_lossy(words).trim_end_matches('\0').to_owned());
            return Some(Err(Refusal { code: code.saturating_neg(), message }));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn attributes(bytes: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, String> {
    let all = NlasIterator::new(bytes);
    all.map(|one| one.map(|one| (one.kind(), one.value().to_vec())).map_err(|error| error.to_string()))
        .collect()
}

/// An answer's attributes by kind.
struct Values(Vec<(u16, Vec<u8>)>);

impl Values {
    /// A number of 32 bits; 0 if the kernel leaves it out, as it does with what a driver has none of.
    fn number(&self, kind: u16) -> u32 {
        let value = self.0.iter().find(|(other, _)| *other == kind);
        value.and_then(|(_, value)| value.first_chunk()).map_or(0, |&value| u32::from_ne_bytes(value))
    }
}

impl From<&Values> for Channels {
    fn from(values: &Values) -> Self {
        use attribute as a;
        let count = |count, max| Count { count: values.number(count), max: values.number(max) };
        Self {
            rx: count(a::CHANNELS_RX_COUNT, a::CHANNELS_RX_MAX),
            tx: count(a::CHANNELS_TX_COUNT, a::CHANNELS_TX_MAX),
            combined: count(a::CHANNELS_COMBINED_COUNT, a::CHANNELS_COMBINED_MAX),
            other: count(a::CHANNELS_OTHER_COUNT, a::CHANNELS_OTHER_MAX),
        }
    }
}

impl From<&Values> for Rings {
    fn from(values: &Values) -> Self {
        use attribute as a;
        let count = |count, max| Count { count: values.number(count), max: values.number(max) };
        Self { rx: count(a::RINGS_RX, a::RINGS_RX_MAX), tx: count(a::RINGS_TX, a::RINGS_TX_MAX) }
    }
}

impl From<&Values> for Rss {
    fn from(values: &Values) -> Self {
        let table = values.0.iter().find(|(kind, _)| *kind == attribute::RSS_INDIR);
        let (queues, _) = table.map_or(&[][..], |(_, table)| table).as_chunks::<4>();
        Self {
            table: queues.iter().map(|&queue| u32::from_ne_bytes(queue)).collect(),
            hash_functions: values.number(attribute::RSS_HFUNC),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_refusal_becomes_the_error_that_names_the_cure() {
        let told = |code, words: Option<&str>| {
            let refusal = Refusal { code, message: words.map(str::to_owned) };
            refusal.told("eth0", "setting channels").to_string()
        };
        let table = [
            (libc::ENODEV, None, "there is no network interface \"eth0\" in this network namespace"),
            (
                libc::EPERM,
                None,
                "eth0: setting channels needs CAP_NET_ADMIN: run as root, or grant it (setcap cap_net_admin+ep PROGRAM)",
            ),
            (libc::EOPNOTSUPP, None, "eth0: its driver or this kernel does not support setting channels"),
            (
                libc::EINVAL,
                Some("too many"),
                "eth0: setting channels: Invalid argument (os error 22) (too many)",
            ),
        ];
        for (code, words, expected) in table {
            assert_eq!(told(code, words), expected);
        }
    }

    fn error(sequence: u32, code: i32, words: &str) -> Vec<u8> {
        let words = DefaultNla::new(attribute::ERROR_MESSAGE, words.as_bytes().to_vec());
        let mut body = [&code.to_ne_bytes()[..], &[0; 16]].concat();
        let at = body.len();
        body.resize(at + words.buffer_len(), 0);
        words.emit(&mut body[at..]);
        let mut header = NetlinkHeader::default();
        header.sequence_number = sequence;
        let request = Request { family: NLMSG_ERROR, body };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// An answer of the kernel's: its own header, numbers, and what else there is.
    fn values(numbers: &[(u16, u32)], table: &[u32]) -> Values {
        let number = |&(kind, number): &(u16, u32)| DefaultNla::new(kind, number.to_ne_bytes().to_vec());
        let mut all = vec![header("eth0")];
        all.extend(numbers.iter().map(number));
        let bytes = table.iter().flat_map(|queue| queue.to_ne_bytes()).collect();
        all.push(DefaultNla::new(attribute::RSS_INDIR, bytes));
        let mut buffer = vec![0; all.as_slice().buffer_len()];
        all.as_slice().emit(&mut buffer);
        Values(attributes(&buffer).unwrap())
    }

    #[test]
    fn answers_become_values() {
        let rss = Rss::from(&values(&[(3, 1)], &[0, 1, 2, 0]));
        assert_eq!(rss, Rss { table: vec![0, 1, 2, 0], hash_functions: 1 });
        let channels = Channels::from(&values(&[(2, 8), (5, 16), (6, 1), (9, 4)], &[]));
        let count = |count, max| Count { count, max };
        assert_eq!((channels.rx, channels.combined, channels.tx), (count(1, 8), count(4, 16), count(0, 0)));
        let rings = Rings::from(&values(&[(2, 4096), (5, 2048), (6, 512), (9, 256)], &[]));
        assert_eq!((rings.rx, rings.tx), (count(512, 4096), count(256, 2048)));
        // What is damaged is no value.
        assert_eq!(Rss::from(&Values(vec![(4, vec![1, 2, 3]), (3, vec![1])])), Rss::default());
        assert!(matches!(check(&"x".repeat(70_000)), Err(EthtoolError::NoInterface { .. })));
        assert!(check("a\0b").is_err() && check("").is_err() && check("enp1s0").is_ok());
    }

    #[test]
    fn answers_to_others_are_passed_over() {
        let datagram = [error(1, -1, "old"), error(2, -libc::EINVAL, "too many\0")].concat();
        let expected = Refusal { code: libc::EINVAL, message: Some("too many".into()) };
        assert_eq!(answer(&datagram, 2), Some(Err(expected)));
        assert_eq!(answer(&datagram, 3), None);
        assert_eq!(answer(&error(5, 0, ""), 5), Some(Ok(Vec::new())));
        assert_eq!(answer(&error(5, i32::MIN, ""), 5).unwrap().unwrap_err().code, i32::MAX);
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), place in 0_usize..80, byte: u8) {
            let _ = answer(&bytes, 0);
            let _ = attributes(&bytes);
            let mut datagram = error(2, -22, "words");
            if let Some(at) = datagram.get_mut(place) {
                *at = byte;
            }
            let _ = answer(&datagram, 2);
        }
    }
}
