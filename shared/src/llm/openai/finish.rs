//! The words by which upstreams end a reply.

use crate::llm::FinishReason;

/// What a `finish_reason` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// The reply ended.
    Ended(FinishReason),
    /// The upstream gave the reply up.
    GaveUp,
}

/// Reads a `finish_reason`; `None` if it is none, as some servers send one with every delta.
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
        | "insufficient_system_resource" => Finish::GaveUp,
        // Words of other families (`tool_calls`, `eos`, `end_turn`) mean that the reply is complete.
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
            ("network_error", Some(Finish::GaveUp)),
            ("null", None),
            (" ", None),
        ] {
            assert_eq!(read(word), expected, "{word}");
        }
    }
}
