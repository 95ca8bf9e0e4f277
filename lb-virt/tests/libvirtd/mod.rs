//! A libvirtd of a test's own: its files in a temporary directory that it sees as the system's, its processes in a namespace that
//! ends with it. Nothing of the machine's own libvirt is seen or touched.
#![allow(dead_code, unreachable_pub)] // no one file of tests needs it all

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lb_virt::domain::Disk;
use lb_virt::libvirt::{DomainType, Libvirt};
use lb_virt::{DomainSpec, Hypervisor, Memory, VirtError};

/// Starting, it asks QEMU what it can do, with and without KVM.
const PATIENCE: Duration = Duration::from_secs(60);

/// As root, in namespaces of its own. libvirtd wants a user that Debian's package of its configuration makes; QEMU runs as root, and
/// without what would be shared with the system: control groups, namespaces, a daemon for logs. The shell stays to bury the dead:
/// libvirt takes a QEMU for alive that nobody has waited for.
const SCRIPT: &str = r#"
set -e
root=$1 uuid=$2 host=$3 port=$4
hostname "$host"
mount --make-rprivate /
for pair in etc:/etc/libvirt lib:/var/lib/libvirt run:/run/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
    mkdir -p "$root/${pair%%:*}" "${pair#*:}"
    mount --bind "$root/${pair%%:*}" "${pair#*:}"
done
for file in passwd group; do cp "/etc/$file" "$root/$file"; done
grep -q '^libvirt-qemu:' "$root/passwd" || echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >>"$root/passwd"
grep -q '^libvirt-qemu:' "$root/group" || echo 'libvirt-qemu:x:64055:' >>"$root/group"
# Hosts that send machines to each other go by their names, and refuse 127.0.0.1.
{ echo "127.0.0.1 localhost"; seq 0 99 | sed 's/^/127.0.0.2 lb-virtd-/'; } >"$root/hosts"
for file in passwd group hosts; do mount --bind "$root/$file" "/etc/$file"; done
mkdir -p "$root/pki"
cat >"$root/etc/qemu.conf" <<END
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
migration_address = "127.0.0.2"
migrate_tls_x509_cert_dir = "$root/pki"
migration_port_min = $port
migration_port_max = $((port + 9))
END
cat >"$root/etc/libvirtd.conf" <<END
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "$uuid"
log_outputs = "3:file:$root/libvirtd.log"
END
rm -f "$root/run/libvirt-sock"
libvirtd --config "$root/etc/libvirtd.conf" --pid-file "$root/run/libvirtd.pid" &
wait
"#;

pub struct Daemon {
    pub root: PathBuf,
    number: u32,
    process: Option<Child>,
}

impl Daemon {
    pub fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("lb-virtd-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("images")).unwrap();
        let mut daemon = Self { root, number, process: None };
        daemon.run();
        daemon
    }

    /// Starts it, as it was before it was killed.
    pub fn run(&mut self) {
        self.kill();
        let uuid = uuid(std::process::id(), self.number);
        let host = format!("lb-virtd-{}", self.number);
        // Each takes a port as free that others of its namespace do not have.
        let port = 49_152 + 10 * self.number;
        // It dies with the thread that started it, and all its processes with it.
        let process = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child=KILL",
            ])
            .args(["--mount-proc", "sh", "-c", SCRIPT, "sh"])
            .arg(&self.root)
            .args([uuid, host, port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.root.join("stderr")).unwrap())
            .spawn();
        self.process = Some(process.expect("setpriv and unshare (package util-linux)"));
    }

    /// Ends it, and all that it has started: they are gone when this returns.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let first = children(&process.id().to_string());
        let _ = process.kill();
        let _ = process.wait();
        // The first of a namespace goes last.
        let first = format!("/proc/{}/stat", first.trim());
        let end = Instant::now() + PATIENCE;
        while first != "/proc//stat" && Path::new(&first).exists() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends libvirtd a signal: to it alone, not to its machines.
    pub fn signal(&self, signal: &str) {
        let shell = children(&self.process.as_ref().unwrap().id().to_string());
        let is_it =
            |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() == "libvirtd";
        let all = children(shell.trim());
        let pid = all.split_whitespace().find(is_it).expect("libvirtd runs");
        assert!(Command::new("kill").args(["-s", signal, pid]).status().unwrap().success());
    }

    pub fn uri(&self) -> String {
        format!("qemu:///system?socket={}/run/libvirt-sock", self.root.display())
    }

    /// Connects to it, as soon as it can be. KVM is not waited for: it is not everywhere.
    pub fn open(&mut self) -> Libvirt {
        let end = Instant::now() + PATIENCE;
        loop {
            match Libvirt::open(&self.uri()) {
                Ok(host) => return host.run_as(DomainType::Qemu),
                Err(error) => self.must_live(end, &error),
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn must_live(&mut self, end: Instant, error: &VirtError) {
        let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
        if ended.is_some() || Instant::now() > end {
            let read = |name: &str| fs::read_to_string(self.root.join(name)).unwrap_or_default();
            panic!(
                "libvirtd does not run: root, libvirt-daemon and qemu-system-x86 are needed.\n{error}\n{}{}",
                read("stderr"),
                read("libvirtd.log")
            );
        }
    }

    /// Where it looks for what encrypts migrations.
    pub fn certificates(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// A machine without an operating system, which starts in no time and never listens.
    pub fn spec(&self, name: &str) -> DomainSpec {
        spec(&self.images(), name)
    }
}

/// The processes that a process has started.
fn children(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A host's identity: hosts that move machines to each other are not one.
fn uuid(process: u32, number: u32) -> String {
    format!("{process:08x}-{:04x}-4000-8000-000000000001", number & 0xffff)
}

pub fn spec(images: &Path, name: &str) -> DomainSpec {
    let spec = DomainSpec::new(name, 2, Memory::from_mib(256));
    // Names that are none are tried too.
    if spec.validate().is_err() {
        return spec;
    }
    spec.disk(Disk::file(image(&images.join(format!("{name}.qcow2")))))
}

/// An image of 16 MiB with room for snapshots.
pub fn image(path: &Path) -> &Path {
    if !path.exists() {
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg("16M").status();
        assert!(made.expect("qemu-img (package qemu-utils)").success());
    }
    path
}

/// What a machine's host is told that the library does not tell it. An error is the test's own affair.
pub fn virsh(uri: &str, arguments: &[&str]) {
    let output = Command::new("virsh").args(["-q", "-c", uri]).args(arguments).output().expect("virsh");
    if !output.status.success() {
        println!("virsh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Waits until a machine's firmware has read what it boots.
pub fn boots(uri: &str, name: &str) {
    let mut host = Libvirt::open(uri).unwrap();
    let end = Instant::now() + PATIENCE;
    while host.statistics(name).unwrap().disks["vda"].reads == 0 {
        assert!(Instant::now() < end, "{name} does not boot");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Boots into code that writes to each page of 64 MiB, again and again: what is sent of them is old at once.
pub fn make_busy(image: &Path) {
    #[rustfmt::skip]
    let code = [
        // To 32 bits, at 7c00: cli; lgdt [7c48]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:7c13
        0xfa, 0x0f, 0x01, 0x16, 0x48, 0x7c, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0xea, 0x13, 0x7c, 0x08, 0x00,
        // mov ax, 10; mov ds, ax
        0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8,
        // again: mov edi, 1 MiB
        0xbf, 0x00, 0x00, 0x10, 0x00,
        // next: inc dword [edi]; add edi, 4096; cmp edi, 65 MiB; jb next; jmp again
        0xff, 0x07, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x81, 0xff, 0x00, 0x00, 0x10, 0x04, 0x72, 0xf0, 0xeb, 0xe9,
        // Segments: none, code, data, all of 4 GiB; and at 7c48 where they are.
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00,
        0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00,
        0x17, 0x00, 0x30, 0x7c, 0x00, 0x00,
    ];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let file = image.with_extension("sector");
    fs::write(&file, sector).unwrap();
    let write = format!("write -s {} 0 512", file.display());
    let written = Command::new("qemu-io").args(["-c", &write]).arg(image).stdout(Stdio::null()).status();
    assert!(written.expect("qemu-io (package qemu-utils)").success());
}
