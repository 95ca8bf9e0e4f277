//! Programs of hypervisors that are not here: they keep machines in a directory, and answer in the true ones' form.
//!
//! Each is a function of the directory and the arguments. What a backend runs is a script of three lines that starts the very
//! program of the tests once more, which then is the stand-in.
#![allow(dead_code)] // no one file of tests needs them all

pub mod vbox;
pub mod xl;
pub mod xl_config;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How a program ends.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    pub fn says(stdout: impl Into<String>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    pub fn fails(stderr: impl Into<String>) -> Self {
        Self { code: 1, stderr: stderr.into(), ..Self::default() }
    }
}

/// A directory of one test's own, that goes with it.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory).unwrap();
        }
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    /// An image of that name in it.
    pub fn image(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, "").unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Does what is asked of the host that a file keeps; what fails, for the reason that is said, changes nothing.
fn ask<Host: Default + Serialize + DeserializeOwned>(
    file: &Path,
    obey: impl FnOnce(&mut Host) -> Result<String, String>,
) -> Result<String, String> {
    let mut host =
        fs::read(file).map_or_else(|_| Host::default(), |state| serde_json::from_slice(&state).unwrap());
    let said = obey(&mut host)?;
    fs::write(file, serde_json::to_vec(&host).unwrap()).unwrap();
    Ok(said)
}

type Program = fn(&Path, &[&str]) -> Answer;

const PROGRAMS: [(&str, Program); 2] = [("VBoxManage", vbox::answer), ("xl", xl::answer)];
const NAME: &str = "LB_VIRT_STAND_IN";
const STATE: &str = "LB_VIRT_STAND_IN_STATE";

/// Makes the program `name`, with machines of its own. `test` is the path of [`serve`]'s caller in the program of the tests.
pub fn install(directory: &Path, name: &str, test: &str) -> PathBuf {
    let state = directory.join("state");
    fs::create_dir_all(&state).unwrap();
    let itself = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nexec 3>&1\nif [ $# -gt 0 ]; then printf '%s\\0' \"$@\"; fi |\n\
         {NAME}={name} {STATE}='{}' exec '{}' --exact {test} --nocapture >/dev/null\n",
        state.display(),
        itself.display()
    );
    let path = directory.join(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// In a test: is the stand-in if it was started as one, and does not return then.
pub fn serve() {
    let (Ok(name), Ok(state)) = (std::env::var(NAME), std::env::var(STATE)) else { return };
    let mut arguments = String::new();
    std::io::stdin().read_to_string(&mut arguments).unwrap();
    let arguments: Vec<&str> = arguments.split_terminator('\0').collect();
    let (_, program) = PROGRAMS.into_iter().find(|(known, _)| *known == name).unwrap();
    let answer = program(Path::new(&state), &arguments);
    eprint!("{}", answer.stderr);
    // The standard output is the test harness's own.
    let mut stdout = fs::OpenOptions::new().write(true).open("/dev/fd/3").unwrap();
    stdout.write_all(answer.stdout.as_bytes()).unwrap();
    std::process::exit(answer.code);
}
