//! Wireshark's judgement of captured adverts.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::wire::Frame;
use super::{make_directory, run};

/// What tshark says of one advert.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// The VRID.
    pub(crate) vrid: u8,
    /// Who sent it: an address as text.
    pub(crate) source: String,
    /// Whether its checksum is good.
    pub(crate) checksum_good: bool,
    /// Whether it is malformed, or draws another complaint.
    pub(crate) complaint: String,
}

/// Has tshark judge the adverts among `frames`. Its preferences are those of its first start: version 3's checksum has a
/// pseudo-header.
pub(crate) fn judge<'a>(name: &str, frames: impl IntoIterator<Item = &'a Frame>) -> Vec<Verdict> {
    let directory = make_directory(&format!("{name}-capture"));
    let path = directory.join("pcap");
    let adverts = frames.into_iter().filter(|frame| frame.advert().is_some());
    write(&path, adverts).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let path = path.to_string_lossy();
    let mut command = format!(
        "tshark -n -r {path} -T fields -E separator=; -E occurrence=f -o vrrp.v3_checksum_as_in_v2:FALSE"
    );
    for field in [
        "vrrp.virt_rtr_id",
        "ip.src",
        "ipv6.src",
        "vrrp.checksum.status",
        "_ws.malformed",
        "_ws.expert.message",
    ] {
        command += &format!(" -e {field}");
    }
    let text = run(&command);
    let _ = std::fs::remove_dir_all(directory); // at the worst, the next test program does it
    let _ = std::fs::remove_dir(super::directory()); // unless something else is in it
    text.lines()
        .map(|line| {
            let mut fields = line.split(';').map(str::trim);
            let mut next = || fields.next().unwrap_or_default().to_owned();
            let vrid = next().parse().unwrap_or(0);
            let source = next() + &next();
            let checksum_good = matches!(next().as_str(), "1" | "Good");
            Verdict { vrid, source, checksum_good, complaint: next() + &next() }
        })
        .collect()
}

/// A capture file with nanoseconds (pcap, link type Ethernet).
fn write<'a>(path: &Path, frames: impl Iterator<Item = &'a Frame>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for field in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.write_all(&field.to_le_bytes())?;
    }
    for frame in frames {
        let len = frame.bytes.len() as u32;
        for field in [frame.at.as_secs() as u32, frame.at.subsec_nanos(), len, len] {
            file.write_all(&field.to_le_bytes())?;
        }
        file.write_all(&frame.bytes)?;
    }
    file.flush()
}
