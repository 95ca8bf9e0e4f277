//! What every subcommand prints: rows of own figure, peer's figure and their ratio.

use serde::Serialize;

/// One comparison. Smaller figures are better, unless `unit` ends in `/s`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured, in the field's words: `rr, choice alone`.
    pub(crate) name: String,
    /// The size it was measured at: backends for `pick`, connections for `director`, threads for `publish`.
    pub(crate) n: usize,
    /// Unit of `ours` and of `peer`: `ns`, `requests/s`, ….
    pub(crate) unit: &'static str,
    /// The family's figure, the median of all rounds.
    pub(crate) ours: f64,
    /// The peer's figure, the median of the same rounds.
    pub(crate) peer: f64,
    /// Who the peer is.
    pub(crate) peer_name: String,
    /// `ours / peer`.
    pub(crate) ratio: f64,
}

impl Row {
    /// A row whose ratio follows from its two figures.
    pub(crate) fn new(
        name: impl Into<String>,
        n: usize,
        unit: &'static str,
        ours: f64,
        peer: f64,
        peer_name: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), n, unit, ours, peer, peer_name: peer_name.into(), ratio: ours / peer }
    }

    /// Whether the family is at least as good as the peer here.
    fn holds(&self) -> bool {
        if self.unit.ends_with("/s") { self.ratio >= 1.0 } else { self.ratio <= 1.0 }
    }
}

/// Prints `rows` as a JSON array, or as a table for people.
///
/// # Errors
/// `serde_json`'s, which would mean a figure that is not finite.
pub(crate) fn print(rows: &[Row], json: bool) -> Result<(), serde_json::Error> {
    if json {
        println!("{}", serde_json::to_string_pretty(rows)?);
    } else {
        print!("{}", table(rows));
    }
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
            if row.holds() { ' ' } else { '!' },
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
        for (unit, ours, holds) in
            [("ns", 5.0, true), ("ns", 20.0, false), ("requests/s", 20.0, true), ("requests/s", 5.0, false)]
        {
            assert_eq!(Row::new("x", 1, unit, ours, 10.0, "p").holds(), holds, "{unit} {ours}");
        }
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let value = serde_json::to_value([Row::new("rr", 10, "ns", 2.0, 4.0, "peer")]).unwrap();
        assert_eq!(
            value,
            serde_json::json!([{"name": "rr", "n": 10, "unit": "ns", "ours": 2.0, "peer": 4.0,
                                "peer_name": "peer", "ratio": 0.5}])
        );
    }
}
