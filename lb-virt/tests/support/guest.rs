//! A guest of one sector: it counts.
//!
//! A hundred times a second it writes the next number on a line of its serial console, and sleeps (`hlt`). It lets go what the host
//! wants unplugged, and powers off when its power button is pressed. It knows QEMU's board `pc` with SeaBIOS.
#![allow(dead_code, unreachable_pub)] // no one file of tests needs it all

use std::fs;
use std::path::Path;
use std::process::Command;

/// The size of its disk: what is there beside the sector is zeros.
const DISK: u64 = 1 << 20;

/// The boot sector, without the mark at its end.
#[rustfmt::skip]
const CODE: &[u8] = &[
    // Segments, and a stack below the code.
    0xfa,                               // cli
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, // ax = ds = ss = 0
    0xbc, 0x00, 0x7c,                   // sp = 0x7c00
    // The timer (8254, channel 0): 1193182 Hz / 11932 = 100 Hz.
    0xb0, 0x34, 0xe6, 0x43,             // mode 2, low byte and high byte
    0xb8, 0x9c, 0x2e, 0xe6, 0x40,       // 11932, its low byte
    0x88, 0xe0, 0xe6, 0x40,             // its high byte
    0x66, 0x8b, 0x1e, 0x6c, 0x04,       // ebx = the BIOS's count of ticks
    0x66, 0x31, 0xc9,                   // ecx = 0, the count
    // The power button (ACPI, PM1a at 0x600) is to be told of.
    0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef,
    0xfb,                               // sti
    // wait (0x7c27):
    0xf4,                               // hlt
    0x66, 0xa1, 0x6c, 0x04,             // eax = the BIOS's count
    0x66, 0x39, 0xc3, 0x74, 0xf6,       // the same: to wait
    0x66, 0x89, 0xc3, 0x66, 0x41,       // ebx = eax, ecx += 1
    // The number's digits, the last first, to the stack.
    0x66, 0x89, 0xc8,                   // eax = ecx
    0x66, 0xbe, 0x0a, 0x00, 0x00, 0x00, // esi = 10
    0x31, 0xff,                         // di = 0, how many
    0x66, 0x31, 0xd2, 0x66, 0xf7, 0xf6, // eax, edx = eax / 10, the rest
    0x52, 0x47,                         // push dx, di += 1
    0x66, 0x85, 0xc0, 0x75, 0xf3,       // again while there is something left
    0x58, 0x04, 0x30, 0xe8, 0x31, 0x00, // pop ax, al += '0', put
    0x4f, 0x75, 0xf7,                   // again while there are digits
    0xb0, 0x0a, 0xe8, 0x29, 0x00,       // put an end of line
    // What the host wants unplugged (ports 0xae00 and on): bus 0, slots to let go, let go.
    0xba, 0x10, 0xae, 0x66, 0x31, 0xc0, 0x66, 0xef,
    0xba, 0x04, 0xae, 0x66, 0xed,       // eax = slots that are wanted
    0x66, 0x85, 0xc0, 0x74, 0x05,
    0xba, 0x08, 0xae, 0x66, 0xef,       // here they are
    // The power button: bit 8 of the status.
    0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xab, // not pressed: to wait
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef,             // sleep as S5: off
    0xeb, 0xa2,                         // to wait
    // put (0x7c85): al to the serial line (16550 at 0x3f8), when that is ready.
    0x88, 0xc4, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb,
    0x88, 0xe0, 0xba, 0xf8, 0x03, 0xee, 0xc3,
];

/// Makes its disk, as it is.
pub fn raw_image(path: &Path) {
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(path, sector).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(DISK).unwrap();
}

/// Makes its disk, as one that keeps snapshots.
pub fn image(path: &Path) {
    let raw = path.with_extension("sector");
    raw_image(&raw);
    let made = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, path])
        .output()
        .expect("qemu-img (package qemu-utils)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::remove_file(raw).unwrap();
}

/// The numbers that it has written to its console, without what the firmware wrote before; the last line may not be whole.
pub fn numbers(console: &str) -> Vec<u64> {
    let whole = console.rfind('\n').map_or("", |end| &console[..end]);
    whole.lines().filter_map(|line| line.trim().parse().ok()).collect()
}
