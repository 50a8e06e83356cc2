//! Figures with their spread, as a table and as JSON.

use std::time::Duration;

use plots::Machine;
use serde_json::{Value, json};

/// Measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e6);
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the measured value below which this share of the values lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index: not negative and less than the length"
        )]
        let index = ((sorted.len() as f64 - 1.0) * share).round().max(0.0) as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Value>,
}

impl Report {
    /// Adds a measured figure: the median and the range of the middle 80%.
    pub(crate) fn measured(&mut self, group: &str, figure: &str, unit: &str, series: &Series) {
        let (low, high) = (series.quantile(0.1), series.quantile(0.9));
        assert!(series.median().is_finite(), "{figure}: nothing measured");
        println!(
            "  {figure:<58} {:>10.1} {unit:<4} ({low:.1} to {high:.1})",
            series.median()
        );
        self.rows.push(json!({
            "group": group, "figure": figure, "unit": unit,
            "median": series.median(), "p10": low, "p90": high, "p99": series.quantile(0.99), "samples": series.0.len(),
        }));
    }

    /// Adds a figure without spread, such as a size or a ratio of two medians of this run.
    pub(crate) fn single(&mut self, group: &str, figure: &str, unit: &str, value: f64) {
        assert!(value.is_finite(), "{figure}: nothing measured");
        println!("  {figure:<58} {value:>10.2} {unit}");
        self.rows
            .push(json!({ "group": group, "figure": figure, "unit": unit, "value": value }));
    }

    /// Returns the file that `make plots` reads.
    pub(crate) fn json(&self, machine: &Machine) -> String {
        let file = json!({ "machine": machine, "figures": self.rows });
        format!("{file:#}\n")
    }
}

/// Begins a group of figures.
pub(crate) fn heading(text: &str) {
    println!("\n{text}");
}
