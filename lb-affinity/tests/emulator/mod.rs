//! A NUMA machine that QEMU emulates: 16 CPUs in 4 nodes, and a network card with 4 queues on node 1.
//!
//! It runs Debian's kernel and, as its first process, the test program itself with one test named. So a test runs twice: on the
//! host it starts the machine ([`run`]), and in the machine ([`is_inside`]) it does what it is for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// What is printed on the machine's console when the test inside has passed.
const PASSED: &str = "test result: ok. 1 passed";
/// The machine takes about 15 s to start and end on an idle host.
const PATIENCE: Duration = Duration::from_secs(300);
/// How far each node is from each: a ring, in which the neighbours are nearer than the one across.
pub(crate) const DISTANCES: [[u32; 4]; 4] =
    [[10, 16, 22, 16], [16, 10, 16, 22], [22, 16, 10, 16], [16, 22, 16, 10]];
/// The modules of the network card, of virtual ones and of what a machine may have beside, in the order in which they need each
/// other.
const MODULES: [&str; 11] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/net/veth",
    "drivers/block/virtio_blk",
    "drivers/char/virtio_console",
];

/// One machine at a time: their files have the same names, and each wants all of the host's CPUs.
static ONE: Mutex<()> = Mutex::new(());

/// Starts the machine with the test `name` of this program in it, and gives what its console said. `devices` are more options for
/// QEMU, `parameters` more for the kernel.
///
/// # Panics
/// If something that it needs is missing, or if the test inside does not pass.
pub(crate) fn run(name: &str, devices: &[&str], parameters: &str) -> String {
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("machine");
    fs::create_dir_all(&directory).expect("the target directory can be written to");
    let kernel = kernel(&directory);
    let image = image(&directory, &kernel);
    let binary = fs::read_dir(kernel.join("boot")).expect("a kernel package has /boot");
    let binary = binary.map(|entry| entry.expect("it can be listed").path());
    let binary = binary.filter(|path| path.to_string_lossy().contains("vmlinuz"));
    let binary = binary.max().expect("a kernel package has a kernel");

    let namespace = Namespace::new();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace.0, "qemu-system-x86_64"]);
    command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "2048"]);
    command.args(["-smp", "16,sockets=4,cores=4,threads=1"]);
    for node in 0..4 {
        command.args(["-object", &format!("memory-backend-ram,id=m{node},size=512M")]);
        let cpus = format!("cpus={}-{}", 4 * node, 4 * node + 3);
        command.args(["-numa", &format!("node,nodeid={node},{cpus},memdev=m{node}")]);
    }
    for (from, row) in DISTANCES.iter().enumerate() {
        for (to, distance) in row.iter().enumerate() {
            command.args(["-numa", &format!("dist,src={from},dst={to},val={distance}")]);
        }
    }
    command.args(["-device", "pxb-pcie,id=bridge,bus_nr=32,numa_node=1"]);
    command.args(["-device", "pcie-root-port,id=root0,bus=bridge,chassis=1"]);
    command.args(["-netdev", "tap,id=net,ifname=tap0,queues=4,script=no,downscript=no"]);
    command.args(["-device", "virtio-net-pci,bus=root0,netdev=net,mq=on,vectors=10,romfile="]);
    command.args(devices);
    command.arg("-kernel").arg(binary).arg("-initrd").arg(image);
    // `panic=-1` and no reboot: the end of the first process is the end of the machine.
    let arguments = format!(
        "console=ttyS0 quiet panic=-1 RUST_BACKTRACE=0 {parameters} -- {name} --exact --ignored --nocapture"
    );
    command.args(["-append", &arguments]);
    command.args(["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"]);

    let console = directory.join("console");
    let log = fs::File::create(&console).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    let mut machine = command.spawn().expect("`ip` is there");
    let end = Instant::now() + PATIENCE;
    while machine.try_wait().expect("a child can be waited for").is_none() {
        if Instant::now() > end {
            let _ = machine.kill(); // it may end by itself just now
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = machine.wait(); // it has ended or was killed
    let said = String::from_utf8_lossy(&fs::read(console).expect("the log is there")).into_owned();
    assert!(said.contains(PASSED), "the test in the machine did not pass in {PATIENCE:?}:\n{said}");
    // Its first process has ended: the kernel does not go on without one.
    said.split_once("Kernel panic").map_or(said.clone(), |(before, _)| before.to_owned())
}

/// Whether this is the machine's first process.
pub(crate) fn is_inside() -> bool {
    std::process::id() == 1
}

/// Makes the first process's surroundings.
///
/// # Panics
/// If the kernel refuses.
pub(crate) fn enter() {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")] {
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
            .unwrap_or_else(|error| panic!("mounting {target}: {error}"));
    }
    for module in MODULES {
        let file = fs::File::open(module_path(module)).expect("the image has it");
        finit_module(&file, c"", ModuleInitFlags::empty())
            .unwrap_or_else(|error| panic!("{module}: {error}"));
    }
}

fn module_path(module: &str) -> PathBuf {
    let name = module.rsplit('/').next().unwrap_or(module);
    Path::new("/modules").join(name).with_extension("ko")
}

/// Debian's kernel for virtual machines, unpacked; fetched once.
fn kernel(directory: &Path) -> PathBuf {
    let kernel = directory.join("kernel");
    if kernel.is_dir() {
        return kernel;
    }
    let (download, unpacked) = (directory.join("download"), directory.join("unpacked"));
    for path in [&download, &unpacked] {
        let _ = fs::remove_dir_all(path); // what an earlier run began
        fs::create_dir(path).expect("it can be made");
    }
    let package = output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]));
    let package = package.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.expect("the kernel's package has a version; run `apt-get update`").to_owned();
    output(Command::new("apt-get").args(["download", &package]).current_dir(&download));
    let file = fs::read_dir(&download).expect("it is there").next().expect("a package").expect("its name");
    output(Command::new("dpkg-deb").arg("-x").arg(file.path()).arg(&unpacked));
    // Whole or not at all.
    fs::rename(unpacked, &kernel).expect("both are in one directory");
    kernel
}

/// The machine's only file system: this program with its libraries, and the modules.
fn image(directory: &Path, kernel: &Path) -> PathBuf {
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root); // an earlier run's
    for name in ["dev", "proc", "sys", "run", "tmp", "modules"] {
        fs::create_dir_all(root.join(name)).expect("it can be made");
    }
    let program = std::env::current_exe().expect("a program knows where it is");
    fs::copy(&program, root.join("init")).expect("it can be copied");
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for line in output(Command::new("ldd").arg(&program)).lines() {
        let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        let copy = root.join(&library[1..]);
        fs::create_dir_all(copy.parent().expect("it is not the root")).expect("it can be made");
        fs::copy(library, copy).expect("a library can be copied");
    }
    let modules = fs::read_dir(kernel.join("lib/modules")).expect("a kernel has modules").next();
    let modules = modules.expect("of one version").expect("it can be listed").path().join("kernel");
    for module in MODULES {
        let copy = root.join(module_path(module).strip_prefix("/").expect("it is absolute"));
        fs::copy(modules.join(module).with_extension("ko"), copy)
            .unwrap_or_else(|error| panic!("{module}: {error}"));
    }
    // The kernel opens it for the first process before anything is mounted.
    mknod(&root.join("dev/console"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(5, 1))
        .expect("root may make a device");
    let image = directory.join("image");
    let archive = format!("find . | cpio --quiet -o -H newc > {}", image.display());
    output(Command::new("sh").args(["-c", &archive]).current_dir(&root));
    image
}

/// Runs a command to its end and gives what it printed.
fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; install it"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {complaint}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace for the card's other end. It goes when this is dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let name = format!("lb-affinity-{}", std::process::id());
        output(Command::new("ip").args(["netns", "add", &name]));
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status(); // there is nobody to tell
    }
}
