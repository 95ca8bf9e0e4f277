//! Definitions as people write them.

use std::io::Read as _;
use std::path::Path;

use lb_virt::DomainSpec;

use crate::Failure;

/// One to begin with.
pub(crate) const EXAMPLE: &str = r#"# A machine. Everything but the first three lines can be left out.
name = "web1"
vcpus = 2
memory = "1 GiB"

max-vcpus = 4
boot = ["hd", "cdrom"]

[[disks]]
source = { file = "/srv/images/web1.qcow2" }
format = "qcow2"
shared = true # other hosts reach it too, so the machine can be moved while it runs

[[disks]]
source = { file = "/srv/iso/debian.iso" }
device = "cdrom"
bus = "ide"
read-only = true

[[nics]]
network = { bridge = "br0" }
model = "virtio"
"#;

/// Reads a definition; what begins with `<` is libvirt's XML.
pub(crate) fn read(path: &Path) -> Result<DomainSpec, Failure> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error| format!("the standard input: {error}"))?;
        text
    } else {
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?
    };
    let spec = if text.trim_start().starts_with('<') {
        lb_virt::libvirt::from_xml(&text).map_err(|error| format!("{}: {error}", path.display()))?
    } else {
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?
    };
    Ok(spec.with_targets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_right() {
        let spec: DomainSpec = toml::from_str(EXAMPLE).expect("the example is TOML");
        assert_eq!(spec.with_targets().validate(), Ok(()));
    }
}
