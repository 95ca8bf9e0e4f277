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
    ("rr", "choice", [85.0, 85.0, 85.0]),
    ("wrr", "choice", [85.0, 85.0, 85.0]),
    ("swrr", "choice", [85.0, 85.0, 85.0]),
    ("rr striped", "choice", [105.0, 105.0, 105.0]),
    ("wrr striped", "choice", [105.0, 105.0, 105.0]),
    ("swrr striped", "choice", [105.0, 105.0, 105.0]),
    ("lc", "choice", [205.0, 320.0, 370.0]),
    ("wlc", "choice", [205.0, 320.0, 370.0]),
    ("lc striped", "choice", [9.0, 9.0, 9.0]),
    ("wlc striped", "choice", [9.0, 9.0, 9.0]),
    ("p2c striped", "choice", [9.0, 9.0, 9.0]),
    ("random", "choice", [115.0, 115.0, 115.0]),
    ("p2c", "choice", [220.0, 220.0, 220.0]),
    ("sh", "choice", [105.0, 105.0, 105.0]),
    ("maglev", "choice", [105.0, 105.0, 105.0]),
    ("rendezvous", "choice", [830.0, 3000.0, 24_500.0]),
    ("rr", "whole", [365.0, 365.0, 365.0]),
    ("wrr", "whole", [365.0, 365.0, 365.0]),
    ("swrr", "whole", [365.0, 365.0, 365.0]),
    ("rr striped", "whole", [385.0, 385.0, 385.0]),
    ("wrr striped", "whole", [385.0, 385.0, 385.0]),
    ("swrr striped", "whole", [385.0, 385.0, 385.0]),
    ("lc", "whole", [1140.0, 1975.0, 3010.0]),
    ("wlc", "whole", [1190.0, 2020.0, 3050.0]),
    ("lc striped", "whole", [9.0, 9.0, 9.0]),
    ("wlc striped", "whole", [9.0, 9.0, 9.0]),
    ("p2c striped", "whole", [9.0, 9.0, 9.0]),
    ("random", "whole", [395.0, 395.0, 395.0]),
    ("p2c", "whole", [555.0, 555.0, 555.0]),
    ("sh", "whole", [385.0, 385.0, 385.0]),
    ("maglev", "whole", [385.0, 385.0, 385.0]),
    ("rendezvous", "whole", [1105.0, 3280.0, 24_700.0]),
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
