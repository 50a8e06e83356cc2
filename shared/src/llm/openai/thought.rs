//! Removes reasoning that a model writes into its text (`<think>…</think>answer`): a state machine over deltas.
//!
//! A tag counts only at the beginning of a reply, after white space. Only text that may be the beginning of a tag is
//! held back, so ordinary text passes without delay.

/// The opening and closing tags of reasoning: DeepSeek, Qwen, GLM, MiniMax and most others; Claude; Gemini's compatible
/// endpoint; Seed-OSS; Magistral; Kimi-VL.
const TAGS: [(&str, &str); 6] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
];
/// The maximum amount of white space before a tag. After more, the reply is taken as text without tags.
const MAX_LEADING_BLANK_BYTES: usize = 64;

/// Passes the answer on and drops the reasoning.
#[derive(Debug)]
pub(super) struct Filter {
    state: State,
    /// Text that may be the beginning of a tag, with the white space before it.
    held: String,
    /// Whether the text contained reasoning.
    thought_seen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space has arrived.
    Start,
    /// Inside reasoning, which ends with this tag.
    Thought(&'static str),
    /// Reasoning has ended, or arrived beside the text. White space before the answer is dropped.
    BeforeAnswer,
    /// Inside the answer, which is passed on unchanged.
    Answer,
}

impl Filter {
    /// Returns the initial state. `starts_thinking` means that the model's template has opened the reasoning, so the
    /// reply begins inside it.
    pub(super) fn new(starts_thinking: bool) -> Self {
        let [(_, close), ..] = TAGS;
        Self {
            state: if starts_thinking {
                State::Thought(close)
            } else {
                State::Start
            },
            held: String::new(),
            thought_seen: false,
        }
    }

    /// Returns whether text is passed on unchanged.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Answer
    }

    /// Returns whether the text contained reasoning.
    pub(super) fn thought_seen(&self) -> bool {
        self.thought_seen
    }

    /// Records that reasoning arrived beside the text. If it arrives before any text, the upstream separates the two,
    /// so the template has not opened reasoning in the text.
    pub(super) fn thought_beside(&mut self) {
        if !self.thought_seen && self.held.is_empty() && !self.is_open() {
            self.state = State::BeforeAnswer;
        }
    }

    /// Adds `text`, and returns what can now be shown.
    pub(super) fn push(&mut self, text: &str) -> String {
        if self.is_open() {
            return text.to_owned();
        }
        self.held.push_str(text);
        loop {
            let next = match self.state {
                State::Start | State::BeforeAnswer => self.at_beginning(),
                State::Thought(close) => self.in_thought(close),
                State::Answer => return std::mem::take(&mut self.held),
            };
            match next {
                Some(state) => self.state = state,
                None => return String::new(),
            }
        }
    }

    /// Returns the text that was held back, once no more text arrives.
    pub(super) fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Thought(_) => String::new(),
            State::BeforeAnswer => held.trim_start().to_owned(),
            State::Start | State::Answer => held,
        }
    }

    /// Returns the next state once it is certain whether the text begins with a tag; `None` if more text is needed.
    fn at_beginning(&mut self) -> Option<State> {
        let rest = self.held.trim_start();
        let blanks = self.held.len() - rest.len();
        let drops_blanks = self.state == State::BeforeAnswer;
        let expects_tag = drops_blanks || blanks <= MAX_LEADING_BLANK_BYTES;
        let tag = TAGS.iter().find(|(open, _)| rest.starts_with(open));
        if let Some((open, close)) = tag.filter(|_| expects_tag) {
            self.thought_seen = true;
            self.held.drain(..blanks + open.len());
            return Some(State::Thought(close));
        }
        let may_be_tag = TAGS.iter().any(|(open, _)| open.starts_with(rest));
        if drops_blanks {
            self.held.drain(..blanks);
        }
        let waits = may_be_tag && expects_tag;
        (!waits).then_some(State::Answer)
    }

    /// Drops reasoning and returns the next state; `None` while the closing tag has not arrived.
    fn in_thought(&mut self, close: &'static str) -> Option<State> {
        self.thought_seen |= !self.held.is_empty();
        if let Some(at) = self.held.find(close) {
            self.held.drain(..at + close.len());
            return Some(State::BeforeAnswer);
        }
        // Keeps text that may be the beginning of the closing tag.
        let mut keep = self.held.len().saturating_sub(close.len() - 1);
        while !self.held.is_char_boundary(keep) {
            keep += 1;
        }
        self.held.drain(..keep);
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(starts_thinking: bool, deltas: &[&str]) -> String {
        let mut filter = Filter::new(starts_thinking);
        let mut text: String = deltas.iter().map(|delta| filter.push(delta)).collect();
        text.push_str(&filter.finish());
        text
    }

    #[test]
    fn thought_at_the_beginning_is_not_shown() {
        for (text, answer) in [
            ("<think>hm</think>你好", "你好"),
            ("\n<think>\nhm\n</think>\n\n你好\n", "你好\n"),
            ("<think></think>你好", "你好"),
            ("<thinking>a </think> b</thinking>你好", "你好"),
            ("<thought>hm</thought>你好", "你好"),
            ("<seed:think>hm</seed:think>你好", "你好"),
            ("[THINK]hm[/THINK]你好", "你好"),
            ("◁think▷hm◁/think▷你好", "你好"),
            ("<think>a</think>\n<think>b</think>\n你好", "你好"),
            ("<think>hm", ""),
            ("<think>hm</thin", ""),
            ("<think>hm</think>\n\n", ""),
        ] {
            assert_eq!(shown(false, &[text]), answer, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_thought_is_shown() {
        for text in [
            "a < b",
            "<3",
            "<",
            "\n <thin",
            "<thinker>x",
            "你好<think>x</think>",
            "</think>x",
            "\n\n你好",
            "[THE END]",
            "`<think>` is a tag",
        ] {
            assert_eq!(shown(false, &[text]), text);
        }
        let far = " ".repeat(100) + "<think>x";
        assert_eq!(shown(false, &[&far]), far);
    }

    #[test]
    fn a_template_that_opens_the_thought_itself_is_believed() {
        assert_eq!(shown(true, &["hm</think>\n\n你好"]), "你好");
        assert_eq!(shown(true, &["<think>hm</think>你好"]), "你好");
        assert_eq!(shown(true, &["hm"]), "");
    }

    #[test]
    fn thought_that_came_beside_the_text_is_not_looked_for_in_it() {
        let mut filter = Filter::new(true);
        filter.thought_beside();
        assert_eq!(filter.push("\n\n你好"), "你好");
    }

    #[test]
    fn no_more_is_held_back_than_a_tag_could_be() {
        let mut filter = Filter::new(false);
        assert_eq!(filter.push("<think"), "");
        assert_eq!(filter.push("er"), "<thinker");
        assert_eq!(filter.push("<"), "<");
    }

    fn piece() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            Just("<think>"),
            Just("</think>"),
            Just("<thi"),
            Just("nk>"),
            Just("</"),
            Just("think>"),
            Just("\n"),
            Just(" "),
            Just("<"),
            Just("◁think▷"),
            Just("◁/think▷"),
            Just("你"),
            Just("a"),
            Just("[THINK]"),
            Just("　"),
        ]
    }

    proptest! {
        #[test]
        fn any_splitting_shows_the_same(
            pieces in proptest::collection::vec(piece(), 0..20),
            cuts in proptest::collection::vec(any::<bool>(), 200),
            starts_thinking in any::<bool>(),
        ) {
            let text = pieces.concat();
            let mut deltas = vec![String::new()];
            for (character, cut) in text.chars().zip(cuts.iter().cycle()) {
                if *cut {
                    deltas.push(String::new());
                }
                deltas.last_mut().expect("one").push(character);
            }
            let deltas: Vec<&str> = deltas.iter().map(String::as_str).collect();
            prop_assert_eq!(shown(starts_thinking, &deltas), shown(starts_thinking, &[&text]));
        }

        #[test]
        fn held_text_is_bounded(pieces in proptest::collection::vec(piece(), 0..200), starts_thinking in any::<bool>()) {
            let mut filter = Filter::new(starts_thinking);
            for piece in pieces {
                filter.push(piece);
                prop_assert!(filter.held.len() <= MAX_LEADING_BLANK_BYTES + 16, "{:?}", filter);
            }
        }

        #[test]
        fn text_without_a_tag_at_its_beginning_passes_unchanged(text in "[^<\\[◁\\s]\\PC*") {
            prop_assert_eq!(shown(false, &[&text]), text);
        }
    }
}
