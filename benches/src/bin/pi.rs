//! π against PHP's loop and against the processor: `cargo run --release -p lb-benches --bin pi [-- --json]`.
//!
//! All contenders run in turn, many rounds, and each one's quickest round counts: what other work on the machine
//! took from one round, it did not take from all.

use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

use lb_benches::{Row, divisions};
use lb_core::pi;

const N: u64 = 1_000_000;
const ROUNDS: u32 = 20;

/// PHP's loop, timed inside PHP: its version, milliseconds, and the bits of the result.
const LOOP: &str = r#"
$n = (int) $argv[1]; $area = 0;
$start = hrtime(true);
for ($i = 0; $i < $n; $i++) { $x = ($i + 0.5) / $n; $area += 4 / (1 + $x * $x); }
$result = $area / $n;
$time = (hrtime(true) - $start) / 1e6;
echo PHP_VERSION, " ", $time, " ", bin2hex(pack("E", $result));
"#;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let json = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--json") => true,
        Some(other) => {
            eprintln!("{other:?} is no option of this program; it takes --json or nothing");
            return ExitCode::FAILURE;
        }
    };
    match compare().and_then(|rows| Ok(lb_benches::print(&rows, json)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<Vec<Row>, Failure> {
    let (mut php, mut midpoint, mut fast, mut divider) = (f64::MAX, f64::MAX, f64::MAX, f64::MAX);
    let mut version = String::new();
    let wanted = pi::midpoint(N)?;
    for _ in 0..ROUNDS {
        let (theirs, time, result) = php_loop()?;
        if result != wanted {
            return Err(
                format!("PHP {theirs} gives {result:?} for n = {N}, but pi::midpoint {wanted:?}").into()
            );
        }
        version = theirs;
        php = php.min(time);
        midpoint = midpoint.min(milliseconds(|| pi::midpoint(black_box(N)).is_ok()));
        fast = fast.min(milliseconds(|| pi::midpoint_fast(black_box(N)).is_ok()));
        divider = divider.min(milliseconds(|| divisions(black_box(N))));
    }
    let php_name = format!("PHP {version}");
    Ok(vec![
        Row::new("pi::midpoint", N, "ms", midpoint, php, &php_name),
        Row::new("pi::midpoint_fast", N, "ms", fast, php, &php_name),
        Row::new("pi::midpoint_fast", N, "ms", fast, midpoint, "pi::midpoint"),
        Row::new("pi::midpoint_fast", N, "ms", fast, divider, "n divisions, this processor's throughput"),
    ])
}

fn milliseconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64() * 1e3
}

/// One run of PHP: its version, its time in milliseconds, its result.
fn php_loop() -> Result<(String, f64, f64), Failure> {
    let output = Command::new("php")
        .args(["-r", LOOP, "--", &N.to_string()])
        .output()
        .map_err(|error| format!("php does not start ({error}); install Debian's php-cli"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split(' ').collect::<Vec<_>>()[..] {
        [version, time, bits] if output.status.success() => {
            Ok((version.into(), time.parse()?, f64::from_bits(u64::from_str_radix(bits, 16)?)))
        }
        _ => Err(format!("php failed: {text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
