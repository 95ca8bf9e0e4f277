//! What a pick costs in instructions, which no noise of the machine changes: two runs give the same numbers.
//!
//! `cargo test -p lb-benches --test instructions -- --ignored --nocapture` after `apt-get install valgrind` prints
//! the table. Instructions are not time (an atomic read-modify-write is one of them and takes 2 to 10 ns), but a
//! lock, an allocation or a scan that creeps into a path shows at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The most instructions of one pick at 10, 100 and 1000 backends: measured with Rust 1.95 for baseline x86-64, and a
/// quarter more for compilers to come. Constant, logarithmic and linear algorithms read off the line.
///
/// The loop of the measurement and the making of the request are in it: some 25 instructions.
const BOUNDS: &[(&str, &str, [f64; 3])] = &[
    ("rr", "choice", [60.0, 60.0, 60.0]),
    ("wrr", "choice", [60.0, 60.0, 60.0]),
    ("swrr", "choice", [55.0, 55.0, 55.0]),
    ("rr striped", "choice", [70.0, 70.0, 70.0]),
    ("wrr striped", "choice", [70.0, 70.0, 70.0]),
    ("swrr striped", "choice", [65.0, 65.0, 65.0]),
    ("lc", "choice", [175.0, 270.0, 310.0]),
    ("wlc", "choice", [175.0, 270.0, 310.0]),
    ("lc striped", "choice", [180.0, 275.0, 320.0]),
    ("wlc striped", "choice", [180.0, 275.0, 320.0]),
    ("p2c striped", "choice", [140.0, 140.0, 140.0]),
    ("random", "choice", [90.0, 90.0, 90.0]),
    ("p2c", "choice", [140.0, 140.0, 140.0]),
    ("sh", "choice", [100.0, 100.0, 100.0]),
    ("maglev", "choice", [115.0, 115.0, 115.0]),
    ("rendezvous", "choice", [820.0, 2875.0, 23_160.0]),
    ("rr", "whole", [260.0, 260.0, 260.0]),
    ("wrr", "whole", [265.0, 265.0, 265.0]),
    ("swrr", "whole", [260.0, 260.0, 260.0]),
    ("rr striped", "whole", [270.0, 270.0, 270.0]),
    ("wrr striped", "whole", [275.0, 275.0, 275.0]),
    ("swrr striped", "whole", [270.0, 270.0, 270.0]),
    ("lc", "whole", [640.0, 1275.0, 1970.0]),
    ("wlc", "whole", [695.0, 1330.0, 2025.0]),
    ("lc striped", "whole", [665.0, 1300.0, 1995.0]),
    ("wlc striped", "whole", [720.0, 1355.0, 2050.0]),
    ("p2c striped", "whole", [340.0, 340.0, 340.0]),
    ("random", "whole", [290.0, 290.0, 290.0]),
    ("p2c", "whole", [335.0, 335.0, 335.0]),
    ("sh", "whole", [305.0, 305.0, 305.0]),
    ("maglev", "whole", [315.0, 315.0, 315.0]),
    ("rendezvous", "whole", [1020.0, 3080.0, 23_365.0]),
];

#[test]
#[ignore = "needs valgrind"]
fn a_pick_stays_within_its_instructions() {
    let counts = count(&build());
    assert_eq!(counts.len(), BOUNDS.len() * lb_benches::fleet::SIZES.len(), "a bound without an algorithm");
    let mut over = Vec::new();
    for (subject, instructions) in counts {
        let bound = bound(&subject);
        let line = format!("{subject:<28} {instructions:>9.1} of at most {bound}");
        println!("{line}");
        if instructions > bound {
            over.push(line);
        }
    }
    assert!(
        over.is_empty(),
        "more instructions than allowed; make it shorter, or raise the bound and say why:\n{}",
        over.join("\n")
    );
}

/// The bound of `algorithm|length|backends`.
fn bound(subject: &str) -> f64 {
    let parts: Vec<&str> = subject.split('|').collect();
    let [algorithm, length, n] = parts[..] else { panic!("not a subject: {subject:?}") };
    let size = lb_benches::fleet::SIZES.iter().position(|size| size.to_string() == n);
    BOUNDS
        .iter()
        .find(|bound| (bound.0, bound.1) == (algorithm, length))
        .and_then(|bound| bound.2.get(size?))
        .copied()
        .unwrap_or_else(|| panic!("{subject} has no bound; add what is measured now and a quarter"))
}

/// Builds the program that picks, optimised, and gives its path.
fn build() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "-p", "lb-benches", "--bin", "instructions"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo ends with {}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "instructions")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where the program is")
}

/// Instructions of one pick of every subject. Callgrind counts inside of the program's function `measured` alone, and
/// writes `counts.1`, `counts.2`, … whenever it returns.
fn count(program: &Path) -> Vec<(String, f64)> {
    const MEASURED: &str = "instructions::measured";
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    // Left by an earlier run, if there was one.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("create a folder for the counts");
    let counts = folder.join("counts");
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--dump-after={MEASURED}"))
        .arg(program)
        .output()
        .expect("valgrind is missing: apt-get install valgrind");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = text.lines();
    let picks: f64 = lines
        .next()
        .and_then(|line| line.strip_prefix("picks ")?.parse().ok())
        .expect("the program says how often it picks");
    lines
        .zip(1..)
        .map(|(subject, number)| {
            let file = counts.with_extension(number.to_string());
            let dump = std::fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("callgrind wrote no {}: {error}", file.display()));
            let total: f64 = dump
                .lines()
                .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
                .expect("callgrind's totals");
            assert!(total > picks, "{subject}: callgrind counts {total} instructions for {picks} picks");
            (subject.to_owned(), total / picks)
        })
        .collect()
}
