//! The file that `make bench` writes.

use serde::{Deserialize, Serialize};

/// A run of the benchmark.
#[derive(Debug, Clone, Deserialize)]
pub struct Bench {
    /// Where and when it ran.
    pub machine: Machine,
    figures: Vec<Figure>,
}

/// Where and when a run was measured. The benchmark writes it as this type, too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// The number of CPUs that the run could use.
    pub cpus: usize,
    /// The kernel's name and release.
    pub kernel: String,
    /// The day on which the run ended, in UTC, such as `27 Nov 2026`.
    pub date: String,
    /// The version of companion-chat that was measured.
    pub version: String,
    /// Whether this was a trial run, whose figures mean nothing.
    pub trial: bool,
}

/// A measured figure, or a single one, which has no spread.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Figure {
    group: String,
    figure: String,
    unit: String,
    #[serde(alias = "value")]
    median: f64,
    p10: Option<f64>,
    p90: Option<f64>,
}

/// A value, and the range of the middle 80% of what was measured. Without spread, the range is the value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    fn times(self, factor: f64) -> Self {
        Self {
            low: self.low * factor,
            median: self.median * factor,
            high: self.high * factor,
        }
    }
}

impl Bench {
    /// Reads the file.
    ///
    /// # Errors
    /// If the text is not the JSON of a run.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Returns the figures of a group that are times, in milliseconds, in the order of the file.
    pub(crate) fn times(&self, group: &str) -> impl Iterator<Item = (&str, Spread)> {
        self.of_unit(group, "µs")
            .map(|(name, spread)| (name, spread.times(1e-3)))
    }

    /// Returns the figures of a group that are megabytes, in the order of the file.
    pub(crate) fn megabytes(&self, group: &str) -> impl Iterator<Item = (&str, Spread)> {
        self.of_unit(group, "MB")
    }

    fn of_unit(&self, group: &str, unit: &str) -> impl Iterator<Item = (&str, Spread)> {
        let figures = self.figures.iter();
        figures
            .filter(move |figure| figure.group == group && figure.unit == unit)
            .map(|figure| {
                let spread = Spread {
                    low: figure.p10.unwrap_or(figure.median),
                    median: figure.median,
                    high: figure.p90.unwrap_or(figure.median),
                };
                (figure.figure.as_str(), spread)
            })
    }
}

impl Machine {
    /// Returns the line below a plot that says where its figures are from.
    pub(crate) fn line(&self) -> String {
        let Self {
            cpu,
            cpus,
            kernel,
            date,
            version,
            trial,
        } = self;
        let trial = if *trial {
            "TRIAL RUN, these figures mean nothing. "
        } else {
            ""
        };
        let plural = if *cpus == 1 { "CPU" } else { "CPUs" };
        format!("{trial}companion-chat {version}, {date}, {cpus} {plural} of {cpu}, {kernel}")
    }
}
