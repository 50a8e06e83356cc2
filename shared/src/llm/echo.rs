//! The built-in upstream, which works offline and shows that it remembers.
//!
//! It repeats the new message and the messages before it, so that a person who tries the service can see memory work.

use std::time::Duration;

use super::{FinishReason, Prompt, Step};
use crate::message::Role;

/// The pause before each delta: long enough for a person to see the reply stream, short enough not to annoy.
const PAUSE: Duration = Duration::from_millis(15);
const CHARACTERS_PER_DELTA: usize = 2;

/// A reply of the echo that is being sent.
pub struct Reply {
    deltas: std::vec::IntoIter<String>,
}

impl Reply {
    pub(super) fn new(prompt: &Prompt) -> Self {
        let characters: Vec<char> = compose(prompt).chars().collect();
        let deltas: Vec<String> = characters
            .chunks(CHARACTERS_PER_DELTA)
            .map(|chunk| chunk.iter().collect())
            .collect();
        Self {
            deltas: deltas.into_iter(),
        }
    }

    pub(super) async fn next(&mut self) -> Step {
        // The pause comes first: a caller that stops waiting must not lose a delta.
        tokio::time::sleep(PAUSE).await;
        match self.deltas.next() {
            Some(delta) => {
                #[cfg(feature = "test-hooks")]
                assert!(delta != PANIC_MARK, "a panic was asked for");
                Step::Delta(delta)
            }
            None => Step::End {
                finish_reason: FinishReason::Stop,
                usage: None,
            },
        }
    }
}

/// With `test-hooks`, the message `/panic` makes the upstream panic after the first delta.
#[cfg(feature = "test-hooks")]
const PANIC_MARK: &str = "\u{7}";

fn compose(prompt: &Prompt) -> String {
    let mut said = prompt
        .messages
        .iter()
        .rev()
        .filter(|message| message.role == Role::User)
        .map(|message| message.content.as_str());
    let now = said.next().unwrap_or_default();
    #[cfg(feature = "test-hooks")]
    if now == "/panic" {
        return format!("好的{PANIC_MARK}");
    }
    match said.next() {
        Some(before) => {
            let earlier = said.count() + 1;
            format!(
                "你刚才说“{now}”。我记得你之前说过“{before}”，这是我记得的 {earlier} 句话里最近的一句。"
            )
        }
        None => format!("你刚才说“{now}”。这是我们说的第一句话，我会记住的。"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::PromptMessage;

    fn prompt(said: &[&str]) -> Prompt {
        let messages = said
            .iter()
            .flat_map(|text| {
                [
                    PromptMessage::new(Role::User, *text),
                    PromptMessage::new(Role::Assistant, "嗯"),
                ]
            })
            .collect::<Vec<_>>();
        Prompt {
            messages,
            behind_new: 0,
            model: None,
            temperature: None,
            top_p: None,
            max_tokens: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_streams_what_it_remembers() {
        let mut reply = Reply::new(&prompt(&["我叫小雨", "你记得吗"]));
        let mut text = String::new();
        let mut deltas = 0;
        while let Step::Delta(delta) = reply.next().await {
            text.push_str(&delta);
            deltas += 1;
        }
        assert!(
            text.contains("“你记得吗”") && text.contains("“我叫小雨”"),
            "{text}"
        );
        assert!(deltas > 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_time_it_remembers_nothing() {
        let mut reply = Reply::new(&prompt(&["你好"]));
        let mut text = String::new();
        while let Step::Delta(delta) = reply.next().await {
            text.push_str(&delta);
        }
        assert!(
            text.contains("“你好”") && text.contains("第一句话"),
            "{text}"
        );
    }
}
