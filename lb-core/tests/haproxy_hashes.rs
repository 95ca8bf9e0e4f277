//! Every hash that HAProxy has too, against the converters of the HAProxy that is installed here.

#![cfg(feature = "std")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lb_core::hash::KeyHash;

/// The functions that HAProxy calls by the same name, with and without its avalanche.
const HASHES: [&str; 8] =
    ["crc32", "crc32 avalanche", "sdbm", "sdbm avalanche", "djb2", "djb2 avalanche", "wt6", "wt6 avalanche"];

/// An HAProxy that answers each request with the hashes of its base64 header `x-key`.
struct HaProxy {
    process: Child,
    address: SocketAddr,
    // Removed with its configuration when the test ends.
    _folder: tempfile::TempDir,
}

impl HaProxy {
    fn start() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut answer = String::new();
        for hash in HASHES {
            let (name, modifier) = hash.split_once(' ').unwrap_or((hash, ""));
            let argument = if modifier.is_empty() { "" } else { "(1)" };
            write!(answer, "%[var(txn.key),{name}{argument}]\\n").unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        let settings = format!(
            "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
             frontend hashes\n bind {address}\n http-request set-var(txn.key) req.hdr(x-key),b64dec\n \
             http-request return status 200 content-type text/plain lf-string \"{answer}%[var(txn.key),xxh3]\\n\"\n"
        );
        std::fs::write(&file, settings).unwrap();
        let process = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .expect("this test needs haproxy: install Debian's package of that name");
        let server = Self { process, address, _folder: folder };
        let patience = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < patience, "haproxy did not listen on {address} within 10 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// HAProxy's hashes of `key`, in the order of [`HASHES`], XXH3 behind them.
    fn hashes(&self, key: &[u8]) -> Vec<u64> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let key = base64(key);
        write!(stream, "GET / HTTP/1.1\r\nhost: hashes\r\nx-key: {key}\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body.as_bytes()
            .lines()
            .map(|line| line.unwrap())
            // Converters give signed 64-bit integers; the bits are what counts.
            .map(|line| line.parse::<i64>().unwrap().cast_unsigned())
            .collect()
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        // It may have ended already; there is nothing to do about it here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// RFC 4648, the only transport for arbitrary bytes that every HAProxy decodes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let group = (0..3).fold(0, |group, i| group << 8 | usize::from(*chunk.get(i).unwrap_or(&0)));
            (0..4).map(
                move |i| if i <= chunk.len() { char::from(DIGITS[group >> (18 - 6 * i) & 63]) } else { '=' },
            )
        })
        .collect()
}

#[test]
#[ignore = "needs haproxy"]
fn hashes_agree_with_haproxy() {
    let haproxy = HaProxy::start();
    // Both sides of the lengths at which XXH3 changes its method: 3, 8, 16, 128, 240.
    let lengths = (1..=18).chain([31, 32, 33, 64, 127, 128, 129, 239, 240, 241, 300]);
    // A generator with a fixed start: the same keys in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random_byte = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    for length in lengths {
        let key: Vec<u8> = (0..length).map(|_| random_byte()).collect();
        let theirs = haproxy.hashes(&key);
        let ours = HASHES
            .map(|name| name.parse::<KeyHash>().unwrap().hash(&key))
            .into_iter()
            .chain([lb_core::hash::xxh3(&key)]);
        assert_eq!(theirs.len(), HASHES.len() + 1);
        for ((name, ours), theirs) in HASHES.into_iter().chain(["xxh3"]).zip(ours).zip(theirs) {
            assert_eq!(ours, theirs, "{name} of {key:02x?}");
        }
    }
}
