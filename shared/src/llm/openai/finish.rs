//! Maps the `finish_reason` values of different upstreams to the end of a reply.

use crate::llm::FinishReason;

/// The meaning of a `finish_reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// The reply has ended, for this reason.
    Ended(FinishReason),
    /// The upstream reports that generating the reply failed.
    Failed,
}

/// Returns the meaning of a `finish_reason`, or `None` if it means that the reply goes on: some servers send one with
/// every delta.
pub(super) fn read(word: &str) -> Option<Finish> {
    use FinishReason::{ContentFilter, Length, Stop};
    let word = word.trim().to_ascii_lowercase();
    Some(match word.as_str() {
        "" | "null" | "none" | "finish_reason_unspecified" => return None,
        "length"
        | "max_tokens"
        | "max_output_tokens"
        | "max_completion_tokens"
        | "model_length"
        | "model_context_window_exceeded" => Finish::Ended(Length),
        "content_filter"
        | "content_filtered"
        | "sensitive"
        | "safety"
        | "recitation"
        | "blocklist"
        | "prohibited_content"
        | "spii"
        | "image_safety"
        | "refusal"
        | "guardrail_intervened" => Finish::Ended(ContentFilter),
        "error"
        | "abort"
        | "aborted"
        | "cancelled"
        | "canceled"
        | "failed"
        | "network_error"
        | "server_error"
        | "internal_error"
        | "timeout"
        | "insufficient_system_resource" => Finish::Failed,
        // Values of other families (`tool_calls`, `eos`, `end_turn`) mean that the reply is complete.
        _ => Finish::Ended(Stop),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case() {
        for (word, expected) in [
            ("stop", Some(Finish::Ended(FinishReason::Stop))),
            ("STOP", Some(Finish::Ended(FinishReason::Stop))),
            ("eos_token", Some(Finish::Ended(FinishReason::Stop))),
            ("MAX_TOKENS", Some(Finish::Ended(FinishReason::Length))),
            ("SAFETY", Some(Finish::Ended(FinishReason::ContentFilter))),
            (
                "Recitation",
                Some(Finish::Ended(FinishReason::ContentFilter)),
            ),
            (
                "blocklist",
                Some(Finish::Ended(FinishReason::ContentFilter)),
            ),
            (
                "sensitive",
                Some(Finish::Ended(FinishReason::ContentFilter)),
            ),
            ("network_error", Some(Finish::Failed)),
            ("null", None),
            (" ", None),
        ] {
            assert_eq!(read(word), expected, "{word}");
        }
    }
}
