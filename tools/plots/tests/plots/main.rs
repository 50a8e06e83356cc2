//! What a reader sees in the plots of a run.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

mod form;
mod run;

use plots::{Bench, Plot};
use roxmltree::{Document, Node};
use serde_json::{Value, json};

use self::run::{figures, machine, measured, single};

fn drawn(figures: &[Value]) -> Vec<Plot> {
    let json = json!({ "machine": machine(), "figures": figures }).to_string();
    plots::plots(&Bench::from_json(&json).expect("a run")).expect("drawn")
}

fn svg(plots: &[Plot], name: &str) -> String {
    let plot = plots.iter().find(|plot| plot.name == name);
    plot.and_then(|plot| plot.svg.clone()).expect("drawn")
}

/// Returns all texts of a plot that a reader sees, in the order in which they are drawn.
fn texts(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).expect("well-formed");
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name("text"));
    texts
        .map(|node| node.text().unwrap_or_default().trim().to_owned())
        .collect()
}

fn assert_shows(svg: &str, expected: &[&str]) {
    let texts = texts(svg);
    for expected in expected {
        assert!(
            texts.iter().any(|text| text == expected),
            "{expected}: {texts:#?}"
        );
    }
}

fn number(node: Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name)
        .and_then(|value| value.parse().ok())
        .expect("a number")
}

#[test]
fn a_turn_is_shown_for_each_service_with_its_times_and_units() {
    let svg = svg(&drawn(&figures()), "turn.svg");
    assert_shows(
        &svg,
        &[
            "A warm turn of 50 deltas, with 50 messages stored",
            "First text, ms",
            "Whole turn, ms",
            "companion-chat",
            "the Python service",
            "the model's stand-in alone",
            "0.50 ms",
            "3.00 ms",
            "0.080 ms",
            "4.25 ms",
            "12.0 ms",
        ],
    );
    // Ours is the one that was measured in turns with the other.
    assert!(!texts(&svg).contains(&"1.00 ms".to_owned()));
}

#[test]
fn cpu_and_memory_are_shown_for_each_service() {
    let svg = svg(&drawn(&figures()), "resources.svg");
    let headings = [
        "CPU a turn, deltas at once, ms",
        "CPU a turn, deltas one by one, ms",
        "Peak resident memory, MB",
    ];
    assert_shows(&svg, &headings);
    assert_shows(
        &svg,
        &[
            "0.91 ms", "6.00 ms", "5.30 ms", "28.0 ms", "10.2 MB", "81.4 MB",
        ],
    );
}

#[test]
fn an_endpoint_is_shown_beside_ours_and_in_no_other_plot() {
    let plots = drawn(&figures());
    let endpoint = svg(&plots, "endpoint.svg");
    assert_shows(&endpoint, &["First text, ms", "Whole turn, ms"]);
    assert_shows(&endpoint, &["companion-chat", "the peer"]);
    assert_shows(&endpoint, &["0.62 ms", "70.0 ms", "4.31 ms", "900 ms"]);
    for name in ["turn.svg", "resources.svg"] {
        let texts = texts(&svg(&plots, name));
        assert!(!texts.contains(&"the peer".to_owned()), "{name}: {texts:?}");
    }
}

#[test]
fn chat_memories_are_shown_by_operation() {
    let svg = svg(&drawn(&figures()), "memories.svg");
    let library = "langchain-redis RedisChatMessageHistory";
    assert_shows(
        &svg,
        &[
            "Load of the messages, ms",
            "Commit of a turn, ms",
            "companion-chat",
            library,
        ],
    );
    assert_shows(&svg, &["0.090 ms", "1.19 ms", "0.060 ms", "0.35 ms"]);
}

#[test]
fn a_bar_is_as_long_as_its_median() {
    let svg = svg(
        &drawn(&[
            measured("peer", "deltas at once: ours: first text", 1_000.0),
            single("peer", "deltas at once: another: first text", "µs", 3_000.0),
        ]),
        "turn.svg",
    );
    let document = Document::parse(&svg).expect("well-formed");
    let bars = document
        .descendants()
        .filter(|node| node.has_tag_name("rect"));
    // The first is the page.
    let widths: Vec<f64> = bars.skip(1).map(|node| number(node, "width")).collect();
    assert_eq!(widths.len(), 2);
    let ratio = widths[1] / widths[0];
    assert!((2.95..3.05).contains(&ratio), "{ratio}: 3 ms over 1 ms");
}

#[test]
fn latency_rises_over_the_number_of_streams() {
    let svg = svg(&drawn(&figures()), "streams.svg");
    assert_shows(
        &svg,
        &[
            "concurrent streams",
            "latency, ms",
            "a delta: median",
            "a delta: 99th percentile",
            "a delta, without the function: median",
            "1",
            "1,000",
            "0.01",
            "10",
        ],
    );
    // Streams that begin in one moment are another measurement.
    assert!(!texts(&svg).contains(&"10,000".to_owned()));
    let document = Document::parse(&svg).expect("well-formed");
    let circles = document
        .descendants()
        .filter(|node| node.has_tag_name("circle"));
    let points: Vec<[f64; 2]> = circles
        .map(|node| ["cx", "cy"].map(|name| number(node, name)))
        .collect();
    assert_eq!(points.len(), 6);
    for line in points.chunks_exact(2) {
        assert!(line[0][0] < line[1][0], "from left to right: {line:?}");
        assert!(
            line[0][1] > line[1][1],
            "upwards, to more milliseconds: {line:?}"
        );
    }
}

#[test]
fn cost_is_what_make_capacity_calculates() {
    let svg = svg(&drawn(&[]), "cost.svg");
    assert_shows(
        &svg,
        &[
            "128 MB: $13.53 a million turns",
            "256 MB: $26.87 a million turns",
            "million turns a month",
            "dollars a month",
            "$1,500",
        ],
    );
}

#[test]
fn every_plot_of_measurements_names_the_machine_and_the_day() {
    let line = "companion-chat 0.1.0, 27 Nov 2026, 2 CPUs of A Processor 9000, Linux 6.1.0";
    let plots = drawn(&figures());
    for plot in plots.iter().filter(|plot| plot.name != "cost.svg") {
        assert_shows(&svg(&plots, plot.name), &[line]);
    }
}

#[test]
fn a_trial_run_is_marked_on_its_plots() {
    let mut machine = machine();
    machine["trial"] = true.into();
    let json = json!({ "machine": machine, "figures": figures() }).to_string();
    let plots = plots::plots(&Bench::from_json(&json).expect("a run")).expect("drawn");
    let texts = texts(&svg(&plots, "turn.svg"));
    assert!(
        texts.iter().any(|text| text.starts_with("TRIAL RUN")),
        "{texts:?}"
    );
}

#[test]
fn what_was_not_measured_is_left_out() {
    let no_peers: Vec<Value> = figures()
        .into_iter()
        .filter(|figure| figure["group"] != "peer")
        .collect();
    let plots = drawn(&no_peers);
    let turn = texts(&svg(&plots, "turn.svg"));
    assert!(
        turn.contains(&"1.00 ms".to_owned()),
        "ours, measured without the other: {turn:?}"
    );
    assert!(!turn.contains(&"the Python service".to_owned()), "{turn:?}");
    assert!(!turn.contains(&"Whole turn, ms".to_owned()), "{turn:?}");

    let missing = |figures: &[Value]| -> Vec<&str> {
        let plots = drawn(figures).into_iter();
        plots
            .filter(|plot| plot.svg.is_none())
            .map(|plot| plot.name)
            .collect()
    };
    assert_eq!(
        missing(&[]),
        [
            "turn.svg",
            "resources.svg",
            "endpoint.svg",
            "memories.svg",
            "streams.svg"
        ]
    );
    let one = measured("streams", "10: the same, 99th percentile", 300.0);
    assert!(
        missing(&[one]).contains(&"streams.svg"),
        "one number of streams makes no line"
    );
    let alone = measured("turn", "the upstream alone, first text", 80.0);
    assert!(
        missing(&[alone]).contains(&"turn.svg"),
        "a comparison with nothing"
    );
    let seconds = single("turn", "first text, 50 messages stored", "s", 2.0);
    let missing = missing(&[seconds]);
    assert!(
        missing.contains(&"turn.svg"),
        "seconds are not microseconds"
    );
}

#[test]
fn names_of_others_are_shown_as_they_are() {
    let name = "<b>R&D</b> \"1\"";
    let figure = format!("deltas at once: {name}: first text");
    let svg = svg(&drawn(&[measured("peer", &figure, 1_000.0)]), "turn.svg");
    assert_shows(&svg, &[name]);
}
