//! Whether the hardware runs guests.
//!
//! `/dev/kvm` says little: it may be another user's, or be there on a host that is a guest itself and can't run any. So a QEMU is let
//! run five instructions on it, which end it with a code that nothing else gives. The answer is kept for as long as the host has not
//! been started anew and QEMU is the same file.
//!
//! Sources: Intel SDM volume 3, 9.1.4 "First Instruction Executed"; QEMU's isa-debug-exit device.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::store::Store;
use crate::command::Program;
use crate::domain::Arch;

/// How long the five instructions may take, with QEMU's own start.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the firmware writes to the device that ends QEMU.
const WORD: u8 = 0x15;
/// The code that QEMU ends with then.
const CODE: i32 = (WORD as i32) << 1 | 1;
/// The device's port.
const PORT: u8 = 0xf4;

/// What was found out, and of what.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    boot: String,
    program: String,
    /// The file's number, size and time of change.
    file: (u64, u64, i64),
    runs: bool,
}

/// Whether guests of an instruction set run on the hardware with this QEMU.
pub(super) fn accelerated(store: &Store, program: &Path, arch: Arch) -> bool {
    let native = match arch {
        Arch::X86_64 | Arch::I686 => cfg!(target_arch = "x86_64"),
        // What could be asked there is not written yet.
        _ => false,
    };
    if !native || !Path::new("/dev/kvm").exists() {
        return false;
    }
    let file = find(program).and_then(|path| fs::metadata(path).ok());
    let Some(file) = file.map(|file| (file.ino(), file.size(), file.mtime())) else { return false };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let path = store.root.join("kvm.json");
    let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Answer>(&bytes).ok());
    let mut answer =
        Answer { boot: boot.trim().into(), program: program.display().to_string(), file, runs: false };
    if let Some(kept) = kept
        && (&kept.boot, &kept.program, kept.file) == (&answer.boot, &answer.program, answer.file)
    {
        return kept.runs;
    }
    answer.runs = runs_a_guest(&store.root, program).unwrap_or(false);
    // A directory that can't be written to only means that it is asked again.
    let _ = serde_json::to_vec(&answer).map_err(io::Error::from).and_then(|bytes| fs::write(&path, bytes));
    answer.runs
}

/// The program's file, looked for as it would be to be run.
fn find(program: &Path) -> Option<std::path::PathBuf> {
    if program.components().count() > 1 {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Firmware that says the word, at the address where a processor begins.
fn firmware() -> Vec<u8> {
    let mut bytes = vec![0xf4; 65_536];
    // mov al, WORD; out PORT, al; cli; hlt; jmp to the hlt
    let code = [0xb0, WORD, 0xe6, PORT, 0xfa, 0xf4, 0xeb, 0xfd];
    bytes[65_520..65_528].copy_from_slice(&code);
    bytes
}

fn runs_a_guest(directory: &Path, program: &Path) -> io::Result<bool> {
    let path = directory.join(format!(".firmware-{}", std::process::id()));
    File::create(&path)?.write_all(&firmware())?;
    let qemu = Program::new("qemu", program, "qemu-system-x86").timeout(PATIENCE);
    let call = qemu
        .call("try whether the hardware runs guests")
        .args(["-no-user-config", "-nodefaults", "-machine", "pc,usb=off", "-accel", "kvm", "-m", "16M"])
        .args(["-display", "none", "-device", &format!("isa-debug-exit,iobase={PORT:#x},iosize=1")])
        .arg("-bios")
        .arg(&path);
    let result = call.output();
    fs::remove_file(&path)?;
    // One that does not end does not run it.
    Ok(result.is_ok_and(|output| output.code() == Some(CODE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_begins_where_a_processor_does() {
        let bytes = firmware();
        assert_eq!(bytes.len(), 65_536);
        // 16 bytes before the end of the address space, 0xffff_fff0.
        assert_eq!(bytes[bytes.len() - 16], 0xb0);
        assert_eq!(CODE, 43);
    }

    #[test]
    fn what_is_not_there_runs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(!accelerated(&store, Path::new("/no/such/qemu"), Arch::X86_64));
        assert!(!accelerated(&store, Path::new("/no/such/qemu"), Arch::Aarch64));
    }
}
