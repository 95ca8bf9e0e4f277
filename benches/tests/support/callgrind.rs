//! Counts a program's instructions with callgrind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The most instructions of a subject, named by two parts, at each of three sizes.
pub(crate) type Bound = (&'static str, &'static str, [f64; 3]);

/// Holds every subject of the program `name` to its bound, after printing all; a subject is `one|other|size`.
pub(crate) fn hold(name: &str, bounds: &[Bound], sizes: [usize; 3]) {
    let counts = run(name, &build(name));
    assert_eq!(counts.len(), bounds.len() * sizes.len(), "a bound without a subject");
    let mut over = Vec::new();
    for (subject, instructions) in counts {
        let bound = bound(&subject, bounds, sizes);
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

fn bound(subject: &str, bounds: &[Bound], sizes: [usize; 3]) -> f64 {
    let parts: Vec<&str> = subject.split('|').collect();
    let [one, other, size] = parts[..] else { panic!("not a subject: {subject:?}") };
    let at = sizes.iter().position(|known| known.to_string() == size);
    bounds
        .iter()
        .find(|bound| (bound.0, bound.1) == (one, other))
        .and_then(|bound| bound.2.get(at?))
        .copied()
        .unwrap_or_else(|| panic!("{subject} has no bound; add what is measured now and a quarter"))
}

/// Builds the program, optimised, and gives its path.
fn build(name: &str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "-p", "lb-benches", "--bin", name])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo ends with {}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where the program is")
}

/// Instructions of one round of every subject.
///
/// The program prints `rounds N`, then a line for each subject; between, it does that subject's N rounds in a function
/// `measured`. Callgrind counts inside of that function alone, and writes `counts.1`, `counts.2`, … whenever it returns.
fn run(name: &str, program: &Path) -> Vec<(String, f64)> {
    let measured = format!("{name}::measured");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Left by an earlier run, if there was one.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("create a folder for the counts");
    let counts = folder.join("counts");
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(format!("--toggle-collect={measured}"))
        .arg(format!("--dump-after={measured}"))
        .arg(program)
        .output()
        .expect("valgrind is missing: apt-get install valgrind");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = text.lines();
    let rounds: f64 = lines
        .next()
        .and_then(|line| line.strip_prefix("rounds ")?.parse().ok())
        .expect("the program says its rounds");
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
            assert!(total > rounds, "{subject}: callgrind counts {total} instructions for {rounds} rounds");
            (subject.to_owned(), total / rounds)
        })
        .collect()
}
