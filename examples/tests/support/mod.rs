//! Programs under test: started on free loopback ports, and ended with the test.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that runs beside the test.
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts `program` with its output to be read.
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        Self { child }
    }

    /// Presses Ctrl-C.
    pub(crate) fn interrupt(&self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    }

    /// Waits for its end; gives how it ended, and what is left of its output and errors.
    pub(crate) fn end(mut self) -> (ExitStatus, String, String) {
        let patience = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < patience, "the program does not end");
            thread::sleep(Duration::from_millis(10));
        };
        let (mut output, mut errors) = (String::new(), String::new());
        if let Some(pipe) = &mut self.child.stdout {
            pipe.read_to_string(&mut output).unwrap();
        }
        if let Some(pipe) = &mut self.child.stderr {
            pipe.read_to_string(&mut errors).unwrap();
        }
        (status, output, errors)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // After `end` there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pi-server on a free port.
pub(crate) struct PiServer {
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
}

impl PiServer {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0", "--name", "web1"], arguments].concat();
        let mut program = Program::start(env!("CARGO_BIN_EXE_pi-server"), &arguments);
        // It says where it listens once it does.
        let mut line = String::new();
        BufReader::new(program.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("web1 listens on http://").trim_end_matches('/');
        let address = address.parse().unwrap_or_else(|_| panic!("no address in {line:?}"));
        Self { program, address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends `request` over a connection of its own; gives all that comes back until the server closes it.
    pub(crate) fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Status line with headers, and body, of `GET path`.
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        let answer = self.send(&format!("GET {path} HTTP/1.1\r\nhost: web1\r\nconnection: close\r\n\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
        (head.to_lowercase(), body.into())
    }
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let (status, stdout, stderr) = Program::start(program, arguments).end();
    Output { status, stdout: stdout.into(), stderr: stderr.into() }
}

/// A server that does with each connection, one after the other, what `answer` does.
pub(crate) fn stub(mut answer: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap())));
    address
}

/// Reads the head of one request; false when the client closed the connection instead.
pub(crate) fn read_request(stream: &mut BufReader<TcpStream>) -> bool {
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
        if line == "\r\n" {
            return true;
        }
        line.clear();
    }
    false
}
