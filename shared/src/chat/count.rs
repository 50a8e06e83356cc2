//! The token counts of a turn: the upstream's where they are plausible, otherwise exact ones or estimates.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Usage;
use super::turn::{Ending, Generated, Task};
use crate::llm;
use crate::message::PromptMessage;
use crate::tokens;

/// Longest time that exact counting may take. On the smallest Lambda function most of it is spent on the tokenizer's
/// tables. What follows, the commit and the last frame, is then to be done 1.5 s after the last delta.
const COUNT_WITHIN: Duration = Duration::from_millis(1_300);
/// The part of [`FINISH_MARGIN`](super::turn::FINISH_MARGIN) that must remain after counting, to send the last frame.
const LAST_FRAME_MARGIN: Duration = Duration::from_millis(200);

/// Token counts of the parts of a turn.
pub(super) struct Counts {
    pub(super) user: u64,
    pub(super) assistant: u64,
    pub(super) usage: Usage,
}

impl Task {
    /// Returns the turn's token counts. The usage in the response is the upstream's where it sent one. The stored
    /// counts are of the visible text: the upstream's count where it is plausible, otherwise an exact count, and an
    /// estimate if exact counting would take too long. Exact counting must not delay other turns on this thread.
    pub(super) async fn count(&mut self, generated: &Generated) -> Counts {
        let prompt = std::mem::take(&mut self.prompt.messages);
        let (usage, has_time) = match &generated.ending {
            Ending::Complete { usage, .. } => (usage.unwrap_or_default(), true),
            Ending::Failed(_) => (llm::Usage::default(), true),
            // Who stops a turn waits for its end.
            Ending::Stopped | Ending::OutOfTime => (llm::Usage::default(), false),
        };
        let believed = believed(&usage, &generated.text);
        if let (Some(assistant), Some(prompt_tokens)) = (believed, usage.prompt_tokens) {
            return Counts {
                user: estimated_user(self.ask.text()),
                assistant,
                usage: Usage {
                    prompt_tokens,
                    completion_tokens: usage.completion_tokens.unwrap_or(assistant),
                },
            };
        }
        let mut counts = estimated(&prompt, self.ask.text(), &generated.text);
        if has_time && !generated.text.is_empty() {
            let until = self.count_until();
            if until > Instant::now() {
                let exact = self.count_exactly(prompt, generated.text.clone());
                let exact = self.service.ending.run_until_cancelled(exact);
                if let Ok(Some(Some(exact))) = timeout_at(until, exact).await {
                    counts = exact;
                }
            }
        }
        if let Some(assistant) = believed {
            counts.assistant = assistant;
        }
        let counted = counts.usage;
        counts.usage = Usage {
            prompt_tokens: usage.prompt_tokens.unwrap_or(counted.prompt_tokens),
            completion_tokens: usage.completion_tokens.unwrap_or(counted.completion_tokens),
        };
        counts
    }

    /// Returns exact counts, made on a thread that may block; `None` if that thread fails. One turn is counted at a
    /// time. A count that was given up continues to its end, so that the tables it builds serve later turns, and
    /// further counts must not queue up behind it on more threads. If the sandbox freezes meanwhile, it continues
    /// with the next invocation.
    async fn count_exactly(&self, prompt: Vec<PromptMessage>, reply: String) -> Option<Counts> {
        let counting = Arc::clone(&self.service.counting);
        let permit = counting.acquire_owned().await.ok()?;
        let counter = Arc::clone(&self.service.counter);
        let message = self.ask.text().to_owned();
        let exact = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let assistant = counter.count(&reply);
            Counts {
                user: counter.count(&message),
                assistant,
                usage: Usage {
                    prompt_tokens: counter.count_prompt(&prompt),
                    completion_tokens: assistant,
                },
            }
        });
        exact.await.ok()
    }

    /// Returns when exact counting must end, so that the turn can still be stored and reported.
    fn count_until(&self) -> Instant {
        let end = Instant::now() + COUNT_WITHIN;
        let left = self.service.write_timeout + LAST_FRAME_MARGIN;
        self.ask
            .deadline
            .and_then(|deadline| deadline.checked_sub(left))
            .map_or(end, |latest| latest.min(end))
    }
}

/// Returns the upstream's count of the visible text, if it is plausible. The count of a model that sent its reasoning
/// without reporting its tokens separately is not one of the visible text.
fn believed(usage: &llm::Usage, text: &str) -> Option<u64> {
    let reasoning = usage.reasoning_tokens.unwrap_or(0);
    let is_of_text = !usage.thought_seen || reasoning > 0;
    usage
        .completion_tokens?
        .checked_sub(reasoning)
        .filter(|count| is_of_text && tokens::is_believable(*count, text))
}

fn estimated(prompt: &[PromptMessage], message: &str, reply: &str) -> Counts {
    let contents = prompt
        .iter()
        .map(|message| tokens::PER_MESSAGE + tokens::estimate(&message.content));
    let assistant = tokens::estimate(reply);
    Counts {
        user: estimated_user(message),
        assistant,
        usage: Usage {
            prompt_tokens: contents.sum::<u64>() + tokens::PER_REPLY,
            completion_tokens: assistant,
        },
    }
}

fn estimated_user(message: &str) -> u64 {
    tokens::estimate(message).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstreams_count_is_believed_where_it_can_be_one_of_the_text() {
        for (completion, reasoning, thought_seen, expected) in [
            (Some(3), None, false, Some(3)),
            (Some(503), Some(500), true, Some(3)),
            // Reasoning tokens are reported separately, although no reasoning was sent.
            (Some(503), Some(500), false, Some(3)),
            (Some(9), None, true, None),
            (Some(9), Some(0), true, None),
            (Some(21_000), Some(0), true, None),
            (Some(21_000), None, false, None),
            (Some(1_000_000_000_000_000), None, false, None),
            (Some(0), None, false, None),
            (None, None, false, None),
            (None, Some(500), true, None),
            (Some(500), Some(500), true, None),
            (Some(3), Some(500), true, None),
            (Some(u64::MAX), Some(u64::MAX - 3), true, Some(3)),
        ] {
            let usage = llm::Usage {
                prompt_tokens: Some(u64::MAX),
                completion_tokens: completion,
                reasoning_tokens: reasoning,
                thought_seen,
            };
            assert_eq!(believed(&usage, "好。嗯"), expected, "{usage:?}");
        }
    }
}
