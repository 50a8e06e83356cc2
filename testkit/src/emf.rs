//! Reads the metric events in a function's output as CloudWatch does.
//!
//! Follows AWS's "Specification: Embedded metric format". Strict: a line that CloudWatch would drop or read in part
//! panics.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One value of one metric under one set of dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name of the metric.
    pub name: String,
    /// The dimensions, as names and values.
    pub dimensions: BTreeMap<String, String>,
    /// The value, in `unit`.
    pub value: f64,
    /// The unit, in CloudWatch's spelling, such as `Milliseconds`.
    pub unit: String,
    /// The CloudWatch namespace.
    pub namespace: String,
}

/// Limits from the specification.
const MOST_DIMENSIONS: usize = 30;
const MOST_METRICS: usize = 100;
const MOST_VALUES: usize = 100;
const UNITS: [&str; 27] = [
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Count",
    "Bytes/Second",
    "Kilobytes/Second",
    "Megabytes/Second",
    "Gigabytes/Second",
    "Terabytes/Second",
    "Bits/Second",
    "Kilobits/Second",
    "Megabits/Second",
    "Gigabits/Second",
    "Terabits/Second",
    "Count/Second",
    "None",
];

/// Returns the lines of an output that are metric events.
pub fn lines(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter(|line| {
        // A line that lost its beginning is none, and is not passed over either.
        line.contains("\"_aws\"") || line.contains("CloudWatchMetrics")
    })
}

/// Returns all metric values in a function's output.
///
/// # Panics
/// If a metric event violates the specification.
#[must_use]
pub fn samples(output: &str) -> Vec<Sample> {
    lines(output).flat_map(read).collect()
}

/// Returns the values of a metric that have exactly these dimensions.
#[must_use]
pub fn values(samples: &[Sample], name: &str, dimensions: &[(&str, &str)]) -> Vec<f64> {
    let wanted: BTreeMap<String, String> = dimensions
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    samples
        .iter()
        .filter(|sample| sample.name == name && sample.dimensions == wanted)
        .map(|sample| sample.value)
        .collect()
}

fn read(line: &str) -> Vec<Sample> {
    let root: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    let root = root.as_object().expect("the root is an object");
    let metadata = object(&root["_aws"], "_aws", line);
    assert!(
        metadata["Timestamp"]
            .as_i64()
            .is_some_and(|milliseconds| milliseconds > 1_600_000_000_000),
        "no Unix milliseconds in {line}"
    );
    let directives = array(&metadata["CloudWatchMetrics"], "CloudWatchMetrics", line);
    directives
        .iter()
        .flat_map(|directive| of_directive(directive, root, line))
        .collect()
}

fn of_directive(directive: &Value, root: &Map<String, Value>, line: &str) -> Vec<Sample> {
    let directive = object(directive, "a directive", line);
    let namespace = text(&directive["Namespace"], "Namespace", line);
    assert!((1..=1_024).contains(&namespace.len()), "{line}");
    let metrics = array(&directive["Metrics"], "Metrics", line);
    assert!(metrics.len() <= MOST_METRICS, "{line}");
    let sets = array(&directive["Dimensions"], "Dimensions", line);
    assert!(!sets.is_empty(), "no dimension set in {line}");
    let sets: Vec<_> = sets.iter().map(|set| dimensions(set, root, line)).collect();
    let mut samples = Vec::new();
    for metric in metrics {
        let metric = object(metric, "a metric", line);
        let name = text(&metric["Name"], "Name", line);
        let unit = metric
            .get("Unit")
            .map_or("None", |unit| text(unit, "Unit", line));
        assert!(UNITS.contains(&unit), "{unit} in {line}");
        let measured = root
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in {line}"));
        let values = match measured {
            Value::Array(values) => values.iter().collect(),
            value => vec![value],
        };
        assert!((1..=MOST_VALUES).contains(&values.len()), "{line}");
        for value in values {
            let value = value
                .as_f64()
                .unwrap_or_else(|| panic!("{name} is not a number in {line}"));
            samples.extend(sets.iter().map(|dimensions| Sample {
                name: name.to_owned(),
                dimensions: dimensions.clone(),
                value,
                unit: unit.to_owned(),
                namespace: namespace.to_owned(),
            }));
        }
    }
    samples
}

fn dimensions(set: &Value, root: &Map<String, Value>, line: &str) -> BTreeMap<String, String> {
    let set = array(set, "a dimension set", line);
    assert!(set.len() <= MOST_DIMENSIONS, "{line}");
    let dimensions: BTreeMap<_, _> = set
        .iter()
        .map(|name| {
            let name = text(name, "a dimension", line);
            let value = root
                .get(name)
                .unwrap_or_else(|| panic!("{name} is not in {line}"));
            let value = text(value, name, line);
            assert!((1..=1_024).contains(&value.len()), "{line}");
            (name.to_owned(), value.to_owned())
        })
        .collect();
    assert_eq!(
        dimensions.len(),
        set.len(),
        "a dimension is repeated in {line}"
    );
    dimensions
}

fn object<'a>(value: &'a Value, what: &str, line: &str) -> &'a Map<String, Value> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("{what} is not an object in {line}"))
}

fn array<'a>(value: &'a Value, what: &str, line: &str) -> &'a Vec<Value> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{what} is not an array in {line}"))
}

fn text<'a>(value: &'a Value, what: &str, line: &str) -> &'a str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{what} is not text in {line}"))
}
