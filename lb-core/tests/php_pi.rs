//! `pi::midpoint` against PHP itself.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;

use lb_core::pi;

/// The loop of `pi.php`; `pack` shows the result's very bits.
const LOOP: &str = r#"
foreach (array_slice($argv, 1) as $n) {
    $n = (int) $n;
    $area = 0;
    for ($i = 0; $i < $n; $i++) { $x = ($i + 0.5) / $n; $area += 4 / (1 + $x * $x); }
    echo bin2hex(pack("E", $area / $n)), "\n";
}
"#;

#[test]
#[ignore = "needs php"]
fn midpoint_equals_php_to_the_last_bit() {
    let lengths =
        [1, 2, 3, 7, 31, 32, 33, 1000, 4097, 65_536, 100_000, 123_457, 999_999, 1_000_000, 3_000_001_u64];
    let output = Command::new("php")
        .args(["-r", LOOP, "--"])
        .args(lengths.map(|n| n.to_string()))
        .output()
        .expect("this test needs php: install Debian's php-cli");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.lines().count(), lengths.len(), "{output}");
    for (n, theirs) in lengths.into_iter().zip(output.lines()) {
        let ours = pi::midpoint(n).unwrap();
        assert_eq!(format!("{:016x}", ours.to_bits()), theirs, "n = {n}: {ours:?}");
    }
}
