//! How the rows of a subcommand are printed: as the JSON of all of the project's comparisons, or as a table.

pub(crate) use lb_benches::Row;

/// Whether the family is at least as good as the peer here.
fn holds(row: &Row) -> bool {
    if row.unit.ends_with("/s") { row.ratio >= 1.0 } else { row.ratio <= 1.0 }
}

/// Prints `rows` as a JSON array, or as a table for people.
///
/// # Errors
/// `serde_json`'s, which would mean a figure that is not finite.
pub(crate) fn print(rows: &[Row], json: bool) -> Result<(), serde_json::Error> {
    if json {
        return lb_benches::print(rows, true);
    }
    print!("{}", table(rows));
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let name = rows.iter().map(|row| row.name.len()).max().unwrap_or(4).max(4);
    let peer = rows.iter().map(|row| row.peer_name.len()).max().unwrap_or(4).max(4);
    let mut text = format!(
        "{:<name$}  {:>5}  {:>12}  {:>12}  {:>7}  {:<peer$}  unit\n",
        "what", "n", "ours", "peer", "ratio", "peer is",
    );
    for row in rows {
        text.push_str(&format!(
            "{:<name$}  {:>5}  {:>12}  {:>12}  {:>7.3}{} {:<peer$}  {}\n",
            row.name,
            row.n,
            figure(row.ours),
            figure(row.peer),
            row.ratio,
            if holds(row) { ' ' } else { '!' },
            row.peer_name,
            row.unit,
        ));
    }
    text.push_str(
        "ratio = ours / peer; smaller is better, but for units that end in /s; ! = the peer is better here\n",
    );
    text
}

/// Three significant digits are what a median of a few rounds is good for.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_depends_on_the_unit() {
        for (unit, ours, better) in
            [("ns", 5.0, true), ("ns", 20.0, false), ("requests/s", 20.0, true), ("requests/s", 5.0, false)]
        {
            assert_eq!(holds(&Row::new("x", 1, unit, ours, 10.0, "p")), better, "{unit} {ours}");
        }
    }

    #[test]
    fn the_table_marks_what_the_peer_does_better() {
        let rows = [Row::new("a", 10, "ns", 2.0, 4.0, "p"), Row::new("b", 10, "ns", 4.0, 2.0, "p")];
        let marks: Vec<bool> = table(&rows).lines().skip(1).take(2).map(|line| line.contains('!')).collect();
        assert_eq!(marks, [false, true]);
    }
}
