//! Reads the upstream's token counts, in the shapes that servers send.

use serde_json::Value;

use crate::llm::Usage;

/// The largest integer that is exact in JavaScript, and so in most gateways.
const MAX_COUNT: f64 = 9_007_199_254_740_991.0;

/// Returns the counts of a `usage` object, or `None` if it contains no plausible count.
pub(super) fn read(json: &str) -> Option<Usage> {
    let usage: Value = serde_json::from_str(json).ok()?;
    let field = |name: &str| usage.get(name).and_then(count);
    let detail = |object: &str| usage.get(object)?.get("reasoning_tokens").and_then(count);
    let read = Usage {
        prompt_tokens: field("prompt_tokens").or_else(|| field("input_tokens")),
        completion_tokens: field("completion_tokens").or_else(|| field("output_tokens")),
        reasoning_tokens: detail("completion_tokens_details")
            .or_else(|| detail("output_tokens_details"))
            .or_else(|| field("reasoning_tokens")),
        thought_seen: false,
    };
    (read != Usage::default()).then_some(read)
}

/// Returns a whole number, which may be written as a decimal or as text.
fn count(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => match number.as_u64() {
            Some(count) => return Some(count),
            None => number.as_f64()?,
        },
        Value::String(text) => match text.trim().parse() {
            Ok(count) => return Some(count),
            Err(_) => text.trim().parse().ok()?,
        },
        _ => return None,
    };
    let is_count = number.fract() == 0.0 && (0.0..=MAX_COUNT).contains(&number);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and within the range"
    )]
    is_count.then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_whole_number_however_it_is_written() {
        let completion = |value: &str| {
            read(&format!(
                r#"{{"prompt_tokens":7,"completion_tokens":{value}}}"#
            ))
            .expect("it has a prompt")
            .completion_tokens
        };
        for value in ["3", "3.0", "\"3\"", "\" 3 \"", "\"3.0\"", "3e0"] {
            assert_eq!(completion(value), Some(3), "{value}");
        }
        for value in [
            "-1",
            "null",
            "3.5",
            "\"three\"",
            "\"NaN\"",
            "1e300",
            "[]",
            "true",
        ] {
            assert_eq!(completion(value), None, "{value}");
        }
    }

    #[test]
    fn the_names_of_other_families_are_read() {
        let usage = read(
            r#"{"input_tokens":7,"output_tokens":3,"output_tokens_details":{"reasoning_tokens":1}}"#,
        );
        assert_eq!(
            usage,
            Some(Usage {
                prompt_tokens: Some(7),
                completion_tokens: Some(3),
                reasoning_tokens: Some(1),
                thought_seen: false,
            })
        );
    }

    #[test]
    fn a_usage_without_a_count_is_none() {
        for json in [
            "{}",
            "[]",
            "7",
            r#"{"prompt_tokens":null}"#,
            r#"{"total_tokens":3}"#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
