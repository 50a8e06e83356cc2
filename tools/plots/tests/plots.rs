//! What a reader sees in the plots of a run.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use plots::{Bench, Plot};
use roxmltree::{Document, Node};
use serde_json::{Value, json};

fn machine() -> Value {
    json!({
        "cpu": "A Processor 9000", "cpus": 2, "kernel": "Linux 6.1.0", "date": "27 Nov 2026", "version": "0.1.0",
        "trial": false,
    })
}

fn measured(group: &str, figure: &str, median: f64) -> Value {
    json!({
        "group": group, "figure": figure, "unit": "µs",
        "median": median, "p10": median * 0.9, "p90": median * 1.2, "p99": median * 2.0, "samples": 270,
    })
}

fn single(group: &str, figure: &str, unit: &str, value: f64) -> Value {
    json!({ "group": group, "figure": figure, "unit": unit, "value": value })
}

/// The figures of a run with one service beside ours.
fn figures() -> Vec<Value> {
    vec![
        measured("turn", "first text, 50 messages stored", 999.0),
        measured("turn", "the upstream alone, first text", 80.0),
        measured("turn", "the upstream alone, whole reply", 3_100.0),
        single("turn", "first text over the upstream's own", "µs", 1.0),
        measured(
            "peer",
            "deltas at once: the Python service: first text",
            3_000.0,
        ),
        measured("peer", "deltas at once: ours: first text", 500.0),
        single(
            "peer",
            "deltas at once: first text: the Python service's over ours",
            "x",
            6.0,
        ),
        measured(
            "peer",
            "deltas at once: the Python service: whole turn",
            12_000.0,
        ),
        measured("peer", "deltas at once: ours: whole turn", 4_250.0),
        measured(
            "peer",
            "deltas at once: the Python service: CPU a turn",
            6_000.0,
        ),
        measured("peer", "deltas at once: ours: CPU a turn", 912.0),
        measured(
            "peer",
            "deltas one by one: the Python service: CPU a turn",
            28_000.0,
        ),
        measured("peer", "deltas one by one: ours: CPU a turn", 5_300.0),
        single(
            "peer",
            "deltas at once: the Python service: peak resident memory",
            "MB",
            81.4,
        ),
        measured("peer", "any upstream: the peer: first text", 70_000.0),
        measured("peer", "any upstream: ours: first text", 620.0),
        measured("peer", "any upstream: the peer: whole turn", 900_000.0),
        measured("peer", "any upstream: ours: whole turn", 4_310.0),
        single(
            "peer",
            "any upstream: first text: the peer's over ours",
            "x",
            113.0,
        ),
        single("peak", "chat-stream", "MB", 10.25),
        single("peak", "chat-stream, the tokenizer included", "MB", 34.5),
        measured("libraries", "companion-chat: load", 90.0),
        measured("libraries", "companion-chat: commit", 60.0),
        measured(
            "libraries",
            "langchain-redis RedisChatMessageHistory: load",
            1_190.0,
        ),
        measured(
            "libraries",
            "langchain-redis RedisChatMessageHistory: commit",
            350.0,
        ),
        single(
            "libraries",
            "langchain-redis RedisChatMessageHistory: load, over ours",
            "x",
            13.0,
        ),
        // The file need not be in the order of the axis.
        measured(
            "streams",
            "1000: a delta, from the upstream to the platform",
            600.0,
        ),
        measured(
            "streams",
            "1: a delta, from the upstream to the platform",
            80.0,
        ),
        measured("streams", "1000: the same, 99th percentile", 4_500.0),
        measured("streams", "1: the same, 99th percentile", 300.0),
        measured(
            "streams",
            "1000, begun in one moment: the same, 99th percentile",
            12_000_000.0,
        ),
        single("streams", "1: memory a stream", "kB", 66.0),
        measured(
            "alone",
            "1 streams: a delta, from the upstream's write to a bare client",
            30.0,
        ),
        measured(
            "alone",
            "1000 streams: a delta, from the upstream's write to a bare client",
            200.0,
        ),
    ]
}

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
fn the_same_run_gives_the_same_bytes() {
    assert_eq!(drawn(&figures()), drawn(&figures()));
}

#[test]
fn every_color_changes_in_the_dark_theme() {
    for plot in drawn(&figures()) {
        let svg = plot.svg.expect("drawn");
        let document = Document::parse(&svg).expect("well-formed");
        let style = document
            .descendants()
            .find(|node| node.has_tag_name("style"));
        let style = style.and_then(|node| node.text()).expect("a style");
        assert!(style.contains("prefers-color-scheme: dark"));
        for name in ["fill", "stroke"] {
            let colors = document
                .descendants()
                .filter_map(|node| node.attribute(name));
            for color in colors.filter(|color| *color != "none") {
                assert!(
                    style.contains(&format!("[{name}=\"{color}\"]{{{name}:#")),
                    "{}: {color}",
                    plot.name
                );
            }
        }
    }
}

#[test]
fn plots_are_small_and_load_nothing() {
    for plot in drawn(&figures()) {
        let svg = plot.svg.expect("drawn");
        assert!(svg.len() < 16_000, "{}: {} bytes", plot.name, svg.len());
        for word in ["href", "url(", "@font-face", "@import", "<script"] {
            assert!(!svg.contains(word), "{}: {word}", plot.name);
        }
        let document = Document::parse(&svg).expect("well-formed");
        let title = document
            .root_element()
            .first_element_child()
            .expect("a child");
        assert_eq!(
            title.tag_name().name(),
            "title",
            "for readers who do not see it"
        );
    }
}

#[test]
fn names_of_others_are_shown_as_they_are() {
    let name = "<b>R&D</b> \"1\"";
    let figure = format!("deltas at once: {name}: first text");
    let svg = svg(&drawn(&[measured("peer", &figure, 1_000.0)]), "turn.svg");
    assert_shows(&svg, &[name]);
}

#[test]
fn figures_of_nothing_and_extreme_ones_are_drawn() {
    for value in [0.0, -5.0, 1e-300, 1e300] {
        let mut figures = Vec::new();
        for streams in [1, 1000] {
            figures.push(measured(
                "streams",
                &format!("{streams}: a delta, from the upstream to the platform"),
                value,
            ));
        }
        figures.push(measured("turn", "first text, 50 messages stored", value));
        drawn(&figures);
    }
}

#[test]
fn another_file_is_refused() {
    for json in ["", "[]", "{}", r#"{"machine":{},"figures":[]}"#] {
        assert!(Bench::from_json(json).is_err(), "{json}");
    }
}
