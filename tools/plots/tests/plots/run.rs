//! The figures of a run, as `make bench` writes them.

use serde_json::{Value, json};

pub(crate) fn machine() -> Value {
    json!({
        "cpu": "A Processor 9000", "cpus": 2, "kernel": "Linux 6.1.0", "date": "27 Nov 2026", "version": "0.1.0",
        "trial": false,
    })
}

pub(crate) fn measured(group: &str, figure: &str, median: f64) -> Value {
    json!({
        "group": group, "figure": figure, "unit": "µs",
        "median": median, "p10": median * 0.9, "p90": median * 1.2, "p99": median * 2.0, "samples": 270,
    })
}

pub(crate) fn single(group: &str, figure: &str, unit: &str, value: f64) -> Value {
    json!({ "group": group, "figure": figure, "unit": unit, "value": value })
}

/// The figures of a run with one service beside ours.
pub(crate) fn figures() -> Vec<Value> {
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
