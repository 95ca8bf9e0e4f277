//! Other programs: who runs them, whether they may be trusted, starting, ending and waiting for them.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lb_examples::vrrpd::config::{Command, Config, Global, Hooks, User};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Group, Pid, Uid, User as Account};

/// How long a program that was asked to end has for it.
const GRACE: Duration = Duration::from_secs(2);
/// Who runs scripts if nothing is said and there is such a user, as with keepalived.
const USUAL_USER: &str = "keepalived_script";
/// Where programs are looked for if the environment says nothing.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a script can't be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("{place}there is no {kind} {name}: create it, or name another")]
    Nobody { place: String, kind: &'static str, name: String },
    #[error("{place}looking up {name}: {source}")]
    Lookup { place: String, name: String, source: nix::Error },
    #[error(
        "{place}{path} can be changed by others than root, who is to run it: take that right away \
         (chmod go-w, chown root), name another user, or leave enable_script_security out"
    )]
    Open { place: String, path: String },
}

/// A program that is ready to be run: its words, and who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    words: Vec<String>,
    identity: Option<(u32, u32)>,
}

impl Program {
    /// Looks up who is to run `command`, and whether others could change what is run.
    pub(crate) fn new(command: &Command, global: &Global) -> Result<Self, ProgramError> {
        let place = format!("{}: ", command.place);
        let identity = match command.user.as_ref().or(global.script_user.as_ref()) {
            Some(user) => Some(identity(user, &place)?),
            None => usual(),
        };
        let uid = identity.map_or_else(|| Uid::effective().as_raw(), |(uid, _)| uid);
        let mut words = command.words.clone();
        if let Some(found) = found_in_path(&words[0]) {
            words[0] = found;
        }
        if global.script_security && uid == 0 {
            guarded(&words[0], &place)?;
        }
        Ok(Self { words, identity })
    }

    /// Why it could not be started now, if there is such a reason.
    fn trouble(&self) -> Option<String> {
        let name = self.name();
        match std::fs::metadata(name) {
            Err(error) => Some(format!("{name} can't be run: {error}; create it, or name another")),
            Ok(about) if !about.is_file() || about.mode() & 0o111 == 0 => {
                Some(format!("{name} can't be run: it is no program; make it one with chmod +x"))
            }
            Ok(_) => None,
        }
    }

    /// The program's file.
    pub(crate) fn name(&self) -> &str {
        &self.words[0]
    }

    /// Starts it with `more` arguments, in a process group of its own.
    pub(crate) fn start(&self, more: &[String]) -> io::Result<Running> {
        let mut command = std::process::Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(more).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        if let (Some((uid, gid)), true) = (self.identity, Uid::effective().is_root()) {
            command.uid(uid).gid(gid);
        }
        Ok(Running { child: command.spawn()?, asked: None })
    }
}

/// Where PATH has a program that is named without a folder.
fn found_in_path(name: &str) -> Option<String> {
    let path = (!name.contains('/')).then(|| std::env::var_os("PATH").unwrap_or(USUAL_PATH.into()))?;
    let candidates = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    candidates.map(|folder| folder.join(name)).find_map(|file| {
        let about = std::fs::metadata(&file).ok()?;
        (about.is_file() && about.mode() & 0o111 != 0).then(|| file.to_str().map(str::to_owned))?
    })
}

fn identity(user: &User, place: &str) -> Result<(u32, u32), ProgramError> {
    let lookup = |source| ProgramError::Lookup { place: place.into(), name: user.name.clone(), source };
    let nobody = |kind, name: &str| ProgramError::Nobody { place: place.into(), kind, name: name.into() };
    let account =
        Account::from_name(&user.name).map_err(lookup)?.ok_or_else(|| nobody("user", &user.name))?;
    let gid: Gid = match &user.group {
        None => account.gid,
        Some(group) => Group::from_name(group).map_err(lookup)?.ok_or_else(|| nobody("group", group))?.gid,
    };
    Ok((account.uid.as_raw(), gid.as_raw()))
}

fn usual() -> Option<(u32, u32)> {
    let account = Account::from_name(USUAL_USER).ok().flatten()?;
    Some((account.uid.as_raw(), account.gid.as_raw()))
}

/// Whether nobody but root can change the program or a folder on its way. One that is not there can't be judged, nor run.
fn guarded(program: &str, place: &str) -> Result<(), ProgramError> {
    let real: PathBuf = std::fs::canonicalize(program).unwrap_or_else(|_| program.into());
    for path in real.ancestors() {
        let Ok(about) = std::fs::metadata(path) else { continue };
        let sticky = about.is_dir() && about.mode() & 0o1000 != 0;
        let by_group = about.gid() != 0 && about.mode() & 0o020 != 0;
        let by_others = about.mode() & 0o002 != 0;
        if about.uid() != 0 || (by_group || by_others) && !sticky {
            let path = Path::display(path).to_string();
            return Err(ProgramError::Open { place: place.into(), path });
        }
    }
    Ok(())
}

/// All programs of a configuration may be run. What stands in their way now, a sentence each: they may come yet.
pub(crate) fn check_all(config: &Config) -> Result<Vec<String>, ProgramError> {
    let mut troubles = Vec::new();
    let hooks = config.instances.iter().map(|instance| &instance.hooks);
    let hooks = hooks.chain(config.groups.iter().map(|group| &group.hooks)).flat_map(commands);
    let commands = hooks.chain(config.scripts.iter().map(|script| &script.command));
    for command in commands {
        let program = Program::new(command, &config.global)?;
        troubles.extend(program.trouble().map(|trouble| format!("{}: {trouble}", command.place)));
    }
    Ok(troubles)
}

fn commands(hooks: &Hooks) -> impl Iterator<Item = &Command> {
    let Hooks { master, backup, fault, stop, any } = hooks;
    [master, backup, fault, stop, any].into_iter().flatten()
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// When it was asked to end.
    asked: Option<Instant>,
}

impl Running {
    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<io::Result<ExitStatus>> {
        self.child.try_wait().transpose()
    }

    /// Asks it and all that it started to end, and after some grace makes it.
    pub(crate) fn end(&mut self, now: Instant) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let signal = match self.asked {
            None => Signal::SIGTERM,
            Some(asked) if now.duration_since(asked) >= GRACE => Signal::SIGKILL,
            Some(_) => return,
        };
        self.asked.get_or_insert(now);
        // It may have ended by itself.
        let _ = killpg(group, signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[&str]) -> Program {
        Program { words: words.iter().map(|word| (*word).to_owned()).collect(), identity: None }
    }

    fn outcome(running: &mut Running) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = running.ended() {
                return status.expect("a child can be waited for");
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn programs_run_without_a_shell_and_end_when_they_must() {
        let mut good = program(&["/bin/test", "a b"]).start(&["=".into(), "a b".into()]).expect("test(1)");
        assert!(outcome(&mut good).success());
        let mut long = program(&["/bin/sleep", "60"]).start(&[]).expect("sleep(1)");
        assert!(long.ended().is_none());
        long.end(Instant::now());
        assert!(!outcome(&mut long).success());
        assert!(program(&["/no/such/program"]).start(&[]).is_err());
    }
}
