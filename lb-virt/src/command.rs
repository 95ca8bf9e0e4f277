//! Runs programs of the host's that do what their arguments say: `xl`, `VBoxManage`, `qemu-img`.
//!
//! No shell stands between: an argument reaches the program as it is, whatever is in it. A program that does not end in time is
//! killed, with all that it has started.
//!
//! ```
//! use lb_virt::command::Program;
//!
//! let expr = Program::new("the arithmetic", "expr", "coreutils");
//! let said = expr.call("add").args(["2", "+", "3"]).run()?;
//! assert_eq!(said.text(), "5\n");
//! assert!(expr.call("divide").args(["2", "/", "0"]).run().is_err());
//! # Ok::<(), lb_virt::VirtError>(())
//! ```

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::VirtError;

/// How long a program may take, if nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How much a program may say: a host of thousands of machines is described in less.
pub const MOST_OUTPUT: usize = 32 << 20;
/// How much of its complaints is kept: the first words say what is wrong.
const MOST_WORDS: usize = 64 << 10;
/// How much of them stands in an error.
const SHOWN_WORDS: usize = 4096;
/// How often it is looked whether a program has ended whose streams say nothing.
const GLANCE: Duration = Duration::from_millis(20);

/// A program of the host's.
#[derive(Clone, Debug)]
pub struct Program {
    hypervisor: &'static str,
    path: PathBuf,
    package: &'static str,
    timeout: Duration,
}

impl Program {
    /// The program at `path`, or of that name in the directories of `PATH`. Errors name the hypervisor that it is a part of,
    /// and the package that it comes with.
    #[must_use]
    pub fn new(hypervisor: &'static str, path: impl Into<PathBuf>, package: &'static str) -> Self {
        Self { hypervisor, path: path.into(), package, timeout: TIMEOUT }
    }

    /// How long it may take. Default: [`TIMEOUT`].
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A call of it. `operation` is what it does, as errors say it: `start web1`.
    pub fn call(&self, operation: impl Into<String>) -> Call<'_> {
        Call {
            program: self,
            operation: operation.into(),
            arguments: Vec::new(),
            stdin: None,
            timeout: self.timeout,
        }
    }
}

/// A call of a program, being made up.
#[derive(Clone, Debug)]
#[must_use = "it is made by `run` or `output`"]
pub struct Call<'a> {
    program: &'a Program,
    operation: String,
    arguments: Vec<OsString>,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

impl Call<'_> {
    /// With another argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().into());
        self
    }

    /// With more arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().into()));
        self
    }

    /// With something to read. Default: nothing.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long it may take, if not as long as the program's other calls.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it, and takes a failure for one.
    ///
    /// # Errors
    /// As [`output`](Self::output); [`VirtError::Said`] with its words if it fails.
    pub fn run(self) -> Result<Output, VirtError> {
        let (hypervisor, operation) = (self.program.hypervisor, self.operation.clone());
        let output = self.output()?;
        if output.succeeded() {
            return Ok(output);
        }
        Err(VirtError::Said { hypervisor, operation, words: output.words() })
    }

    /// Runs it, and leaves it to the caller what its exit code means.
    ///
    /// # Errors
    /// [`VirtError::NoProgram`]; [`VirtError::Timeout`] after which it is killed; [`VirtError::Said`] if it can't be run, or says
    /// more than [`MOST_OUTPUT`].
    pub fn output(self) -> Result<Output, VirtError> {
        let program = self.program;
        let mut command = Command::new(&program.path);
        command
            .args(&self.arguments)
            // Answers in English, and names in UTF-8: VBoxManage refuses what its locale can't express.
            .env("LC_ALL", "C.UTF-8")
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, to be killed with all that it has started.
            .process_group(0);
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                VirtError::NoProgram { program: program.path.clone(), package: program.package }
            }
            _ => self.failed(&format!("{} can't be run: {error}", program.path.display())),
        })?;
        let mut running = Running { child };
        match running.finish(self.stdin.as_deref().unwrap_or_default(), self.timeout) {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(VirtError::Timeout {
                hypervisor: program.hypervisor,
                operation: self.operation.clone(),
                after: self.timeout,
            }),
            Err(error) => Err(self.failed(&format!("{}: {error}", program.path.display()))),
        }
    }

    fn failed(&self, words: &str) -> VirtError {
        VirtError::Said {
            hypervisor: self.program.hypervisor,
            operation: self.operation.clone(),
            words: words.into(),
        }
    }
}

/// What a program has said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it complained of; the first 64 KiB.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it did what it was asked.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; `None` if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it wrote; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it has to say of a failure: its complaints, or what it wrote, or how it ended.
    #[must_use]
    pub fn words(&self) -> String {
        for said in [&self.stderr, &self.stdout] {
            let said = String::from_utf8_lossy(said);
            let said = said.trim();
            if !said.is_empty() {
                return said.chars().take(SHOWN_WORDS).collect();
            }
        }
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("it ended with code {code}, without a word"),
            (None, signal) => format!("signal {} ended it", signal.unwrap_or_default()),
        }
    }
}

/// A program that runs; when it is dropped, nothing of it does any more.
struct Running {
    child: Child,
}

impl Running {
    /// Feeds it, hears it and waits for it; `None` if it has not ended in time.
    fn finish(&mut self, stdin: &[u8], timeout: Duration) -> io::Result<Option<Output>> {
        let begun = Instant::now();
        let mut streams = Streams {
            stdin: self.child.stdin.take(),
            left: stdin,
            stdout: Stream { from: self.child.stdout.take(), ..Stream::default() },
            stderr: Stream { from: self.child.stderr.take(), ..Stream::default() },
        };
        streams.unblock()?;
        loop {
            let status = self.child.try_wait()?;
            // All that it said before it ended is there to be read; what it left behind may hold the streams for ever.
            streams.transfer()?;
            if let Some(status) = status {
                let Streams { stdout, stderr, .. } = streams;
                return Ok(Some(Output { status, stdout: stdout.said, stderr: stderr.said }));
            }
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            streams.wait(left.min(GLANCE))?;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It is not waited for yet, so the number is still its group's.
        let group = i32::try_from(self.child.id()).map(Pid::from_raw);
        if group.is_ok_and(|group| killpg(group, Signal::SIGKILL).is_ok()) {
            let _ = self.child.wait();
        }
    }
}

/// The ends of a program's streams, none of which blocks.
struct Streams<'a> {
    stdin: Option<ChildStdin>,
    left: &'a [u8],
    stdout: Stream<ChildStdout>,
    stderr: Stream<ChildStderr>,
}

struct Stream<F> {
    from: Option<F>,
    said: Vec<u8>,
}

impl<F> Default for Stream<F> {
    fn default() -> Self {
        Self { from: None, said: Vec::new() }
    }
}

impl Streams<'_> {
    fn unblock(&self) -> io::Result<()> {
        fn unblock(stream: Option<&impl AsFd>) -> io::Result<()> {
            stream.map_or(Ok(()), |stream| {
                fcntl(stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                Ok(())
            })
        }
        unblock(self.stdin.as_ref())?;
        unblock(self.stdout.from.as_ref())?;
        unblock(self.stderr.from.as_ref())
    }

    /// Moves what can be moved now.
    fn transfer(&mut self) -> io::Result<()> {
        if let Some(stdin) = &mut self.stdin {
            loop {
                match stdin.write(self.left) {
                    // All is written: the program reads the end.
                    _ if self.left.is_empty() => break self.stdin = None,
                    Ok(count) => self.left = &self.left[count..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // It does not want to read more: how it ends says whether that is well.
                    Err(_) => break self.stdin = None,
                }
            }
        }
        self.stdout.hear(MOST_OUTPUT, true)?;
        self.stderr.hear(MOST_WORDS, false)
    }

    /// Waits until there is something to move, or a while.
    fn wait(&self, time: Duration) -> io::Result<()> {
        let fds = [
            self.stdin.as_ref().map(|stdin| PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)),
            self.stdout.from.as_ref().map(|from| PollFd::new(from.as_fd(), PollFlags::POLLIN)),
            self.stderr.from.as_ref().map(|from| PollFd::new(from.as_fd(), PollFlags::POLLIN)),
        ];
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().flatten().collect();
        if fds.is_empty() {
            // It closes its streams when it ends, so it has not far to go.
            sleep(time.min(Duration::from_millis(1)));
            return Ok(());
        }
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, time) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl<F: Read> Stream<F> {
    /// Reads what is there, and keeps up to `most` of it; more is an error or passed over.
    fn hear(&mut self, most: usize, strict: bool) -> io::Result<()> {
        let mut block = [0; 16 << 10];
        // One that never stops is heard so much of at a time, so that its end is not missed.
        for _ in 0..64 {
            let Some(from) = &mut self.from else { break };
            match from.read(&mut block) {
                Ok(0) => self.from = None,
                Ok(count) => {
                    let room = most - self.said.len();
                    if strict && count > room {
                        return Err(io::Error::other(format!("it says more than {most} bytes")));
                    }
                    self.said.extend_from_slice(&block[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Output, VirtError> {
        run(script, b"", Duration::from_secs(20))
    }

    fn run(script: &str, stdin: &[u8], timeout: Duration) -> Result<Output, VirtError> {
        let shell = Program::new("test", "/bin/sh", "dash").timeout(timeout);
        shell.call("try it").args(["-c", script]).stdin(stdin).run()
    }

    #[test]
    fn how_programs_end() {
        for (script, said) in [
            ("echo yes; echo no >&2", Ok("yes\n")),
            ("echo half >&2; exit 3", Err("test could not try it: half")),
            ("echo on the wrong stream; exit 1", Err("test could not try it: on the wrong stream")),
            ("exit 7", Err("it ended with code 7, without a word")),
            ("kill -9 $$", Err("signal 9 ended it")),
        ] {
            match (sh(script), said) {
                (Ok(output), Ok(text)) => assert_eq!(output.text(), text),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}: {text}"),
                (other, _) => panic!("{script}: {other:?}"),
            }
        }
        let shell = Program::new("test", "/bin/sh", "dash");
        let output = shell.call("try it").args(["-c", "echo a; echo b >&2; exit 9"]).output().unwrap();
        assert_eq!((output.code(), output.stdout, output.stderr), (Some(9), b"a\n".into(), b"b\n".into()));
    }

    #[test]
    fn what_is_not_there_is_named_with_its_package() {
        for path in ["/nowhere/xl", "no-such-program-anywhere"] {
            let missing = Program::new("xen", path, "xen-utils").call("list").run().unwrap_err();
            assert_eq!(missing.to_string(), format!("{path} is not there: install the package xen-utils"));
        }
        let denied = Program::new("xen", "/etc/passwd", "xen-utils").call("list").run().unwrap_err();
        assert!(
            denied.to_string().starts_with("xen could not list: /etc/passwd can't be run: Permission"),
            "{denied}"
        );
    }

    #[test]
    fn no_shell_reads_the_arguments() {
        let echo = Program::new("test", "/usr/bin/printf", "coreutils");
        for hostile in ["; reboot", "$(reboot)", "`reboot`", "a b", "'\"", "*", "-", "\u{fc}", "a\nb"] {
            assert_eq!(echo.call("print").args(["%s", hostile]).run().unwrap().text(), hostile);
        }
        let cut = echo.call("print").args(["%s", "a\0b"]).run();
        assert!(matches!(cut, Err(VirtError::Said { .. })), "{cut:?}");
    }

    #[test]
    fn what_never_ends_is_killed_with_what_it_started() {
        let before = Instant::now();
        let late = run("sleep 60 & echo $! >&2; wait", b"", Duration::from_millis(300));
        assert!(matches!(late, Err(VirtError::Timeout { .. })), "{late:?}");
        assert!(before.elapsed() < Duration::from_secs(20));
        let marked = format!("sleep 6{}", std::process::id());
        let late = run(&format!("{marked} & wait"), b"", Duration::from_millis(300));
        assert!(matches!(late, Err(VirtError::Timeout { .. })), "{late:?}");
        let runs = || {
            std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|process| {
                std::fs::read(process.path().join("cmdline"))
                    .is_ok_and(|line| line == format!("{}\0", marked.replace(' ', "\0")).as_bytes())
            })
        };
        let end = Instant::now() + Duration::from_secs(10);
        while runs() {
            assert!(Instant::now() < end, "{marked} is left");
            sleep(Duration::from_millis(10));
        }
    }

    /// `xl create` leaves a process that watches over the machine.
    #[test]
    fn what_it_leaves_behind_is_not_waited_for() {
        let before = Instant::now();
        let output = sh("sleep 20 & echo $!").unwrap();
        assert!(before.elapsed() < Duration::from_secs(15));
        let left: i32 = output.text().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn streams_of_any_size_do_not_block_each_other() {
        let much = vec![b'x'; 3 << 20];
        let output = run("cat; head -c 3000000 /dev/zero >&2", &much, Duration::from_secs(60)).unwrap();
        assert_eq!(output.stdout, much);
        assert_eq!(output.stderr.len(), MOST_WORDS);
        assert_eq!(run("exit 0", &much, Duration::from_secs(20)).unwrap().stdout, b"", "it need not read");
        let endless = sh("cat /dev/zero").unwrap_err();
        assert!(endless.to_string().contains("more than 33554432 bytes"), "{endless}");
        assert_eq!(
            Program::new("test", "/bin/cat", "coreutils").call("read").run().unwrap().stdout,
            b"",
            "there is nothing to read, and no terminal"
        );
    }
}
