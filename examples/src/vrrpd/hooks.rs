//! Who is told of transitions: the notify scripts, in order, without ever waiting for one in the loop.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lb_examples::vrrpd::config::{Command, Global, Hooks};

use crate::log;
use crate::program::{Program, Running};

/// How long a script may take; those that follow wait for it.
const LONGEST: Duration = Duration::from_secs(60);
/// Calls that wait for one instance. More means that its scripts hang while it changes its mind: the oldest go.
const WAITING: usize = 64;

/// What keepalived's scripts are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Master,
    Backup,
    Fault,
    Stop,
}

impl Told {
    /// keepalived's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Stop => "STOP",
        }
    }
}

/// The calls of one instance or group, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Caller {
    waiting: VecDeque<(Program, Vec<String>)>,
    running: Option<(Running, Instant, String)>,
}

impl Caller {
    /// Tells `told` of `name`; `kind` is `INSTANCE` or `GROUP`.
    pub(crate) fn tell(
        &mut self,
        hooks: &Hooks,
        global: &Global,
        kind: &str,
        name: &str,
        told: Told,
        priority: u8,
    ) {
        let own = match told {
            Told::Master => &hooks.master,
            Told::Backup => &hooks.backup,
            Told::Fault => &hooks.fault,
            Told::Stop => &hooks.stop,
        };
        let arguments = [kind, name, told.name()].map(str::to_owned).into_iter();
        let arguments = arguments.chain([priority.to_string()]).collect();
        for (command, more) in [(own, Vec::new()), (&hooks.any, arguments)] {
            if let Some(command) = command {
                self.push(command, global, name, more);
            }
        }
        self.step(name, Instant::now());
    }

    fn push(&mut self, command: &Command, global: &Global, name: &str, more: Vec<String>) {
        match Program::new(command, global) {
            Ok(program) => self.waiting.push_back((program, more)),
            Err(error) => log::of(name, error),
        }
        if self.waiting.len() > WAITING
            && let Some((program, _)) = self.waiting.pop_front()
        {
            log::of(name, format_args!("{} is not called: {WAITING} calls wait already", program.name()));
        }
    }

    /// Looks after the call that runs, and begins the next. When to look again.
    pub(crate) fn step(&mut self, name: &str, now: Instant) -> Option<Instant> {
        loop {
            if let Some((running, began, program)) = &mut self.running {
                match running.ended() {
                    None => {
                        let deadline = *began + LONGEST;
                        if now < deadline {
                            return Some(deadline);
                        }
                        running.end(now);
                        return Some(now + Duration::from_secs(1));
                    }
                    Some(Ok(status)) if status.success() => {}
                    Some(Ok(status)) => log::of(name, format_args!("{program}: {status}")),
                    Some(Err(error)) => log::of(name, format_args!("{program}: {error}")),
                }
                self.running = None;
            }
            let (program, more) = self.waiting.pop_front()?;
            match program.start(&more) {
                Ok(running) => self.running = Some((running, now, program.name().to_owned())),
                Err(error) => log::of(name, format_args!("{} can't be started: {error}", program.name())),
            }
        }
    }

    /// Whether nothing runs or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }
}
