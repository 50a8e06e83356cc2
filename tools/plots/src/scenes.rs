//! Which figures make which plot.

use std::collections::BTreeMap;

use cost::count;

use crate::bars::{Bar, Panel, bars};
use crate::canvas::{Error, Words};
use crate::figures::{Bench, Spread};
use crate::lines::{Axis, Line, Scale, lines};

const OURS: &str = "companion-chat";
const SPREAD: &str = "Medians. The thin lines span the middle 80% of what was measured.";

/// Draws the times of a turn, of each service that was measured.
pub(crate) fn turn(bench: &Bench) -> Result<Option<String>, Error> {
    let times: Vec<_> = bench.times("turn").collect();
    let alone = |name: &str| {
        let found = times.iter().find(|(figure, _)| *figure == name);
        found.map(|(_, value)| Bar {
            name: "the model's stand-in alone".into(),
            value: *value,
            series: None,
        })
    };
    let panels = [
        (
            services(
                bench,
                "at once",
                "first text",
                "first text, 50 messages stored",
            ),
            alone("the upstream alone, first text"),
            "First text",
        ),
        (
            services(
                bench,
                "at once",
                "whole turn",
                "whole turn, 50 messages stored",
            ),
            alone("the upstream alone, whole reply"),
            "Whole turn",
        ),
    ];
    let panels = panels.into_iter().map(|(mut bars, alone, heading)| {
        if !bars.is_empty() {
            bars.extend(alone);
        }
        panel(heading, "ms", bars)
    });
    let title = "A warm turn of 50 deltas, with 50 messages stored";
    measured(bench, title, SPREAD, panels)
}

/// Draws the CPU time and the memory of each service that was measured.
pub(crate) fn resources(bench: &Bench) -> Result<Option<String>, Error> {
    let at_once = "CPU a turn, deltas at once";
    let one_by_one = "CPU a turn, deltas one by one";
    let panels = [
        panel(
            at_once,
            "ms",
            services(bench, "at once", "CPU a turn", at_once),
        ),
        panel(
            one_by_one,
            "ms",
            services(bench, "one by one", "CPU a turn", one_by_one),
        ),
        panel("Peak resident memory", "MB", memory(bench)),
    ];
    let title = "CPU of a turn of 50 deltas with 50 messages stored, and memory of the process";
    measured(bench, title, SPREAD, panels)
}

/// Draws the times of the endpoint that `PEER` named, and ours. They are no part of the other plots: nobody knows what
/// that endpoint has stored, or which model it asks.
pub(crate) fn endpoint(bench: &Bench) -> Result<Option<String>, Error> {
    let panels = [("First text", "first text"), ("Whole turn", "whole turn")]
        .map(|(heading, what)| panel(heading, "ms", in_turns(bench, "any upstream: ", what)));
    let title = "A turn of another endpoint, with whatever upstream it has, and ours";
    measured(bench, title, SPREAD, panels)
}

/// Draws the chat memories of libraries, and ours.
pub(crate) fn memories(bench: &Bench) -> Result<Option<String>, Error> {
    let mut names: Vec<&str> = Vec::new();
    let mut operations: Vec<(&str, Vec<Bar>)> = vec![("load", vec![]), ("commit", vec![])];
    for (figure, value) in bench.times("libraries") {
        let Some((name, operation)) = figure.rsplit_once(": ") else {
            continue;
        };
        let series = position(&mut names, name);
        for (_, bars) in operations
            .iter_mut()
            .filter(|(known, _)| *known == operation)
        {
            bars.push(Bar {
                name: name.to_owned(),
                value,
                series: Some(series),
            });
        }
    }
    let panels = operations.into_iter().map(|(operation, bars)| {
        let heading = match operation {
            "load" => "Load of the messages",
            _ => "Commit of a turn",
        };
        panel(heading, "ms", bars)
    });
    let title = "Chat memories on the same Redis, with 50 messages stored";
    let explanation = "Medians of blocks of calls. The thin lines span the blocks.";
    measured(bench, title, explanation, panels)
}

/// Draws the latency of a process over the number of its concurrent streams. One number of streams makes no line.
pub(crate) fn streams(bench: &Bench) -> Result<Option<String>, Error> {
    let delta = "a delta, from the upstream to the platform";
    let alone = "a delta, from the upstream's write to a bare client";
    let late = "the same, 99th percentile";
    let wanted = [
        ("streams", delta, "a delta: median", Some(0)),
        ("streams", late, "a delta: 99th percentile", Some(1)),
        (
            "alone",
            alone,
            "a delta, without the function: median",
            None,
        ),
    ];
    let drawn = wanted.into_iter().map(|(group, what, name, series)| Line {
        name: name.to_owned(),
        points: over_streams(bench, group, what),
        series,
    });
    let drawn: Vec<Line> = drawn.filter(|line| line.points.len() > 1).collect();
    if drawn.is_empty() {
        return Ok(None);
    }
    let footer = bench.machine.line();
    let words = Words {
        title: "Many streams in one process",
        explanation: "20 deltas a second each. All streams, the model's stand-in and the client share the machine.",
        footer: &footer,
    };
    let axes = [
        Axis {
            name: "concurrent streams",
            format: |value| count(value),
        },
        Axis {
            name: "latency, ms",
            format: decade,
        },
    ];
    lines(&words, axes, Scale::Logarithmic, &drawn).map(Some)
}

/// Draws what a month of turns costs on Lambda, with the defaults of `make capacity`.
pub(crate) fn cost() -> Result<String, Error> {
    const MILLIONS: [f64; 7] = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0];
    let drawn = [128, 256].into_iter().enumerate().map(|(series, memory)| {
        let each = cost::gb_seconds_a_turn(memory, cost::REPLY_SECONDS);
        let dollars = |turns: f64| {
            cost::duration_dollars(turns, each, cost::DOLLARS_PER_GB_SECOND)
                + cost::request_dollars(turns, cost::DOLLARS_PER_MILLION_REQUESTS)
        };
        Line {
            name: format!("{memory} MB: ${:.2} a million turns", dollars(1e6)),
            points: MILLIONS.map(|turns| (turns, dollars(turns * 1e6))).into(),
            series: Some(series),
        }
    });
    let drawn: Vec<Line> = drawn.collect();
    let explanation = format!(
        "A turn is billed for {} s, in which it waits for the model. Calculated with the formulas of make capacity.",
        cost::REPLY_SECONDS
    );
    let footer = format!(
        "Prices of us-east-1, arm64: ${} a GB-second, ${:.2} a million requests. Without model, gateway and Redis.",
        cost::DOLLARS_PER_GB_SECOND,
        cost::DOLLARS_PER_MILLION_REQUESTS
    );
    let words = Words {
        title: "What chat-stream costs on Lambda",
        explanation: &explanation,
        footer: &footer,
    };
    let axes = [
        Axis {
            name: "million turns a month",
            format: |value| count(value),
        },
        Axis {
            name: "dollars a month",
            format: |value| format!("${}", count(value)),
        },
    ];
    lines(&words, axes, Scale::Linear, &drawn)
}

/// Draws what a run has measured, with the machine and the day below it. Returns `None` if there are no panels.
fn measured(
    bench: &Bench,
    title: &'static str,
    explanation: &str,
    panels: impl IntoIterator<Item = Option<Panel>>,
) -> Result<Option<String>, Error> {
    let panels: Vec<Panel> = panels.into_iter().flatten().collect();
    let footer = bench.machine.line();
    let words = Words {
        title,
        explanation,
        footer: &footer,
    };
    bars(&words, &panels)
}

/// Returns a panel, unless only what is drawn for comparison was measured.
fn panel(heading: &str, unit: &'static str, bars: Vec<Bar>) -> Option<Panel> {
    (!bars.is_empty()).then(|| Panel {
        heading: heading.to_owned(),
        unit,
        bars,
    })
}

/// Returns a time of each service. They were measured in turns, which the figures of a run without peers were not.
fn services(bench: &Bench, how: &str, what: &str, without_peers: &str) -> Vec<Bar> {
    let mut bars = in_turns(bench, &format!("deltas {how}: "), what);
    if bars.is_empty() {
        let mut figures = bench.times("turn");
        bars.extend(
            figures.find_map(|(figure, value)| (figure == without_peers).then(|| ours(value))),
        );
    }
    bars
}

/// Returns a time of each service that was measured in turns with ours, which comes first.
fn in_turns(bench: &Bench, prefix: &str, what: &str) -> Vec<Bar> {
    let suffix = format!(": {what}");
    let mut bars = Vec::new();
    let figures = bench.times("peer");
    let found = figures.filter_map(|(figure, value)| {
        let name = figure.strip_prefix(prefix)?.strip_suffix(&suffix)?;
        Some((name, value))
    });
    let mut others = 0;
    for (name, value) in found {
        if name == "ours" {
            bars.insert(0, ours(value));
        } else {
            others += 1;
            bars.push(Bar {
                name: name.to_owned(),
                value,
                series: Some(others),
            });
        }
    }
    bars
}

/// Returns the memory of each service.
fn memory(bench: &Bench) -> Vec<Bar> {
    let mut own = bench.megabytes("peak");
    let own = own.find_map(|(figure, value)| (figure == "chat-stream").then(|| ours(value)));
    let others = bench.megabytes("peer").filter_map(|(figure, value)| {
        let name = figure.strip_prefix("deltas at once: ")?;
        Some((name.strip_suffix(": peak resident memory")?, value))
    });
    let others = others.enumerate().map(|(number, (name, value))| Bar {
        name: name.to_owned(),
        value,
        series: Some(number + 1),
    });
    own.into_iter().chain(others).collect()
}

fn ours(value: Spread) -> Bar {
    Bar {
        name: OURS.to_owned(),
        value,
        series: Some(0),
    }
}

/// Returns where a name is in a list, and adds it if it is not there.
fn position<'a>(names: &mut Vec<&'a str>, name: &'a str) -> usize {
    names
        .iter()
        .position(|known| *known == name)
        .unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        })
}

/// Returns a figure in milliseconds over the number of streams, which its name begins with.
fn over_streams(bench: &Bench, group: &str, what: &str) -> Vec<(f64, f64)> {
    let mut points = BTreeMap::new();
    for (figure, value) in bench.times(group) {
        let Some((streams, figure)) = figure.split_once(": ") else {
            continue;
        };
        let streams = streams.trim_end_matches(" streams").parse::<u32>();
        // A logarithm needs numbers above 0.
        if let (Ok(streams @ 1..), true, true) = (streams, figure == what, value.median > 0.0) {
            points.insert(streams, value.median);
        }
    }
    let points = points.into_iter();
    points
        .map(|(streams, value)| (f64::from(streams), value))
        .collect()
}

/// Formats a power of ten.
fn decade(value: f64) -> String {
    if value < 0.999 {
        let digits = format!("{value:.6}");
        digits.trim_end_matches('0').to_owned()
    } else {
        count(value)
    }
}
