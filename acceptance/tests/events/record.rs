//! Records the answers in a file, from which the tests of `docs/openapi.yaml` read them.

use std::path::Path;

use serde_json::{Value, json};
use testkit::answer::Answer;

use crate::promised::headers;
use crate::samples::function_of;

/// Returns the record of an answer. `name` is the event's, and `sample` is the one that it is, or that it patches.
pub(super) fn record(name: &str, sample: &str, event: &str, answer: &Answer) -> Value {
    let event: Value = serde_json::from_str(event).expect("JSON");
    let (method, path) = match &event["requestContext"]["http"] {
        Value::Null => (&event["httpMethod"], &event["path"]),
        http => (&http["method"], &event["rawPath"]),
    };
    json!({
        "event": name,
        "function": function_of(sample),
        "method": method,
        "path": path,
        "status": answer.status,
        "headers": headers(answer),
        "body": answer.text(),
    })
}

/// Returns the record of the answer of the function without a route.
pub(super) fn record_direct(name: &str, sample: &str, answer: &str) -> Value {
    json!({
        "event": name,
        "function": function_of(sample),
        "body": answer,
    })
}

/// Replaces `events-answers.jsonl` in the target folder: one record a line.
pub(super) fn write(records: &[Value]) {
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("events-answers.jsonl");
    std::fs::write(&path, lines).unwrap_or_else(|error| panic!("{error}: {}", path.display()));
}
