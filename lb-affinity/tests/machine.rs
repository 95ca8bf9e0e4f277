//! A real NUMA machine, emulated: what is read of it is what QEMU was asked for.

mod emulator;

#[test]
#[ignore = "needs root, QEMU, cpio and Debian's kernel package"]
fn an_emulated_machine_is_understood() {
    if !emulator::is_inside() {
        println!("{}", emulator::run("an_emulated_machine_is_understood"));
        return;
    }
    emulator::enter();
}
