//! A place in the JSON value, and the markup that keeps showing what is there.

use maud::{Markup, html};
use serde_json::Value;

use crate::status::format::{Format, SPARK, peak, rfc3339, spark};

/// Changes of health shown of each server.
pub(super) const CHANGES: usize = 10;

/// A place in the JSON value.
pub(super) struct At<'a> {
    pub(super) root: &'a Value,
    pub(super) path: String,
}

impl At<'_> {
    pub(super) fn path(&self, below: &str) -> String {
        format!("{}/{below}", self.path)
    }

    pub(super) fn value(&self, below: &str) -> &Value {
        self.root.pointer(&self.path(below)).unwrap_or(&Value::Null)
    }

    pub(super) fn each(&self, list: &str) -> impl Iterator<Item = Self> {
        let count = self.value(list).as_array().map_or(0, Vec::len);
        (0..count).map(move |index| Self { root: self.root, path: self.path(&format!("{list}/{index}")) })
    }

    pub(super) fn show(&self, below: &str, format: Format) -> Markup {
        let text = format.show(self.value(below));
        html! { span data-p=(self.path(below)) data-f=(format.name()) { (text) } }
    }

    pub(super) fn text(&self, below: &str) -> Markup {
        self.show(below, Format::Text)
    }

    pub(super) fn count(&self, below: &str) -> Markup {
        self.show(below, Format::Count)
    }

    pub(super) fn is(&self, below: &str) -> bool {
        match self.value(below) {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Number(_) | Value::Object(_) => true,
        }
    }

    /// Content that is there only while the value is.
    pub(super) fn given(&self, below: &str, content: Markup) -> Markup {
        html! { span data-if=(self.path(below)) hidden[!self.is(below)] { (content) } }
    }

    pub(super) fn missing(&self, below: &str, content: Markup) -> Markup {
        html! { span data-unless=(self.path(below)) hidden[self.is(below)] { (content) } }
    }

    /// Latency over time.
    pub(super) fn sparkline(&self, below: &str) -> Markup {
        let (width, height) = SPARK;
        let history = self.value(below);
        html! {
            svg .spark viewBox=(format!("0 0 {width} {height}")) role="img" data-spark=(self.path(below))
                aria-label=(spark_label(history)) {
                path d=(spark(history)) {}
            }
        }
    }

    /// A bar as long as a share of 1; the number stands beside it, so it is hidden from screen readers.
    pub(super) fn bar(&self, below: &str) -> Markup {
        let share = self.value(below).as_f64().unwrap_or(0.0);
        html! {
            svg .bar aria-hidden="true" {
                rect data-bar=(self.path(below)) width=(format!("{:.0}%", share * 100.0)) height="100%" {}
            }
        }
    }

    /// Changes of health, newest first.
    pub(super) fn changes(&self, below: &str) -> Markup {
        let changes = self.value(below).as_array();
        html! {
            details data-if=(self.path(below)) hidden[!self.is(below)] {
                summary { "Changes: " (self.show(below, Format::Length)) }
                ol data-list=(self.path(below)) {
                    @for change in changes.into_iter().flatten().rev().take(CHANGES) {
                        li data-state=(change["to"].as_str().unwrap_or_default()) {
                            time datetime=(change["time_unix_ms"].as_u64().map(rfc3339).unwrap_or_default()) {
                                (Format::Clock.show(&change["time_unix_ms"]))
                            }
                            " " b { (Format::Text.show(&change["to"])) }
                            " " (Format::Text.show(&change["reason"]))
                        }
                    }
                }
            }
        }
    }
}

fn spark_label(history: &Value) -> String {
    match peak(history) {
        Some(peak) => format!("Latency of the last minute, at most {}", Format::Latency.show(&peak.into())),
        None => "Latency of the last minute: nothing measured".into(),
    }
}
