//! Whether the hardware runs guests.
//!
//! `/dev/kvm` says little: it may be another user's, or be there on a host that is a guest itself, where it runs a few instructions of
//! 16 bits and no more. So a QEMU is let run a guest of a hundred bytes on it, which goes to 32 bits and to paging, works on its
//! memory, and ends QEMU with a code that nothing else gives. The answer is kept for as long as the host has not been started anew
//! and QEMU is the same file.
//!
//! Sources: Intel SDM volume 3, 9.1.4 "First Instruction Executed" and 9.9.1 "Switching to Protected Mode"; QEMU's isa-debug-exit
//! device.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::store::Store;
use crate::command::Program;
use crate::domain::Arch;

/// How long it may take: a tenth of a second where it works, most of it QEMU's own start. One that hangs is waited for once.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the firmware writes to the device that ends QEMU.
const WORD: u8 = 0x15;
/// The code that QEMU ends with then.
const CODE: i32 = (WORD as i32) << 1 | 1;
/// The device's port.
const PORT: u8 = 0xf4;

/// Where the guest is in its firmware.
const AT: usize = 0xff00;
/// The guest.
#[rustfmt::skip]
const GUEST: &[u8] = &[
    // cli; the table of segments, into protected mode; on with 32 bits.
    0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x90, 0xff, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
    0x66, 0xea, 0x18, 0xff, 0xff, 0xff, 0x08, 0x00,
    // ds = all memory; pages of 4 MiB: the first, and the last, which this is in.
    0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0xc7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00,
    0xc7, 0x05, 0xfc, 0x1f, 0x00, 0x00, 0x83, 0x00, 0xc0, 0xff, 0x0f,
    // Paging: cr4.PSE, cr3 = 0x1000, cr0.PG.
    0x20, 0xe0, 0x0c, 0x10, 0x0f, 0x22, 0xe0, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, 0x0f,
    0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0,
    // A number in memory is raised a thousand times. If it is 1000 then, the word to the port; hlt.
    0xb9, 0xe8, 0x03, 0x00, 0x00, 0xc7, 0x05, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff,
    0x05, 0x00, 0x20, 0x00, 0x00, 0xe2, 0xf8, 0xa1, 0x00, 0x20, 0x00, 0x00, 0x3d, 0xe8, 0x03, 0x00,
    0x00, 0x75, 0x04, 0xb0, 0x15, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd, 0x90,
    // The table of segments: none, code, data; its size and where it is.
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00, 0x17, 0x00, 0x78, 0xff, 0xff, 0xff,
];

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

/// Whether guests of an instruction set run on the hardware with this QEMU; `None`: that could not be found out, and may be later.
pub(super) fn accelerated(store: &Store, program: &Path, arch: Arch) -> Option<bool> {
    let native = match arch {
        Arch::X86_64 | Arch::I686 => cfg!(target_arch = "x86_64"),
        // What could be asked there is not written yet.
        _ => false,
    };
    if !native || !Path::new("/dev/kvm").exists() {
        return Some(false);
    }
    let file = find(program).and_then(|path| fs::metadata(path).ok());
    let file = file.map(|file| (file.ino(), file.size(), file.mtime()))?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let path = store.root.join("kvm.json");
    let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Answer>(&bytes).ok());
    let mut answer =
        Answer { boot: boot.trim().into(), program: program.display().to_string(), file, runs: false };
    if let Some(kept) = kept
        && (&kept.boot, &kept.program, kept.file) == (&answer.boot, &answer.program, answer.file)
    {
        return Some(kept.runs);
    }
    answer.runs = runs_a_guest(&store.root, program)?;
    // A directory that can't be written to only means that it is asked again.
    let _ = serde_json::to_vec(&answer).map_err(io::Error::from).and_then(|bytes| fs::write(&path, bytes));
    Some(answer.runs)
}

/// The program's file, looked for as it would be to be run.
fn find(program: &Path) -> Option<std::path::PathBuf> {
    if program.components().count() > 1 {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Firmware of 64 KiB, at the end of the first 4 GiB, with a jump to the guest where a processor begins.
fn firmware() -> Vec<u8> {
    let mut bytes = vec![0xf4; 65_536];
    bytes[AT..AT + GUEST.len()].copy_from_slice(GUEST);
    // From 0xfff0, 3 bytes long.
    let [low, high] = (AT as u16).wrapping_sub(0xfff3).to_le_bytes();
    bytes[65_520..65_523].copy_from_slice(&[0xe9, low, high]);
    bytes
}

fn runs_a_guest(directory: &Path, program: &Path) -> Option<bool> {
    let path = directory.join(format!(".firmware-{}", std::process::id()));
    let written = File::create(&path).and_then(|mut file| file.write_all(&firmware()));
    if written.is_err() {
        let _ = fs::remove_file(&path);
        return None;
    }
    let qemu = Program::new("qemu", program, "qemu-system-x86").timeout(PATIENCE);
    let call = qemu
        .call("try whether the hardware runs guests")
        .args(["-no-user-config", "-nodefaults", "-machine", "pc,usb=off", "-accel", "kvm", "-m", "16M"])
        .args(["-display", "none", "-device", &format!("isa-debug-exit,iobase={PORT:#x},iosize=1")])
        .arg("-bios")
        .arg(&path);
    let result = call.output();
    let _ = fs::remove_file(&path);
    // One that has not ended may only have had no time.
    let output = result.ok()?;
    says(output.code(), &output.words())
}

/// What the end of QEMU says: yes, no, or nothing.
fn says(code: Option<i32>, complaint: &str) -> Option<bool> {
    // What the host's administrator cures, or what another program has for a while.
    const PASSING: [&str; 5] =
        ["Permission denied", "busy", "Cannot allocate memory", "No space left", "Too many open files"];
    match code {
        Some(CODE) => Some(true),
        // It was killed.
        None => None,
        Some(_) => (!PASSING.iter().any(|words| complaint.contains(words))).then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_begins_where_a_processor_does_and_says_its_word() {
        let bytes = firmware();
        // 16 bytes before the end of the address space, 0xffff_fff0, it jumps to what it says.
        assert_eq!(bytes.len(), 65_536);
        let [jump, low, high] = bytes[0xfff0..0xfff3] else { unreachable!("three of three") };
        assert_eq!((jump, u16::from_le_bytes([low, high]).wrapping_add(0xfff3)), (0xe9, 0xff00));
        // mov al, WORD; out PORT, al
        assert!(bytes.windows(4).any(|code| code == [0xb0, WORD, 0xe6, PORT]));
        // The table of segments is where the guest looks for it, as an address and in its own description.
        let [.., a, b, c, d] = *GUEST else { unreachable!("it is longer") };
        let segments = u32::from_le_bytes([a, b, c, d]) - 0xffff_0000;
        assert_eq!(bytes[segments as usize..][..10], [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(CODE, 43);
    }

    #[test]
    fn what_may_be_cured_is_no_answer() {
        for (code, complaint, expected) in [
            (Some(CODE), "", Some(true)),
            (Some(1), "qemu: failed to initialize kvm: No such device", Some(false)),
            (Some(0), "", Some(false)),
            (Some(1), "Could not access KVM kernel module: Permission denied", None),
            (Some(1), "ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy", None),
            (Some(1), "could not load PC BIOS: No space left on device", None),
            (None, "", None),
        ] {
            assert_eq!(says(code, complaint), expected, "{code:?} {complaint}");
        }
    }

    #[test]
    fn what_is_not_there_runs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_ne!(accelerated(&store, Path::new("/no/such/qemu"), Arch::X86_64), Some(true));
        assert_eq!(accelerated(&store, Path::new("/no/such/qemu"), Arch::Aarch64), Some(false));
    }
}
