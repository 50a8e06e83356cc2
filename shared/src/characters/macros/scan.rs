//! Splits a text at its macros, in one pass: each macro is resolved where it closes, when the ones in it are known.

use std::ops::Range;

use super::head::{Head, Kind, head};
use super::{Scope, draw, written};

/// Length in bytes beyond which the argument of a roll is not a number.
const MAX_ROLL_BYTES: usize = 24;

/// A piece of a text. A macro with an argument lies between its beginning and its end, as the pieces of the argument.
#[derive(Debug, Clone)]
pub(super) enum Token<'t> {
    /// Text as the card has it.
    Text(&'t str),
    /// A macro that stands for a text.
    Value {
        /// The text.
        value: &'t str,
        /// The macro as the card has it.
        source: &'t str,
    },
    /// A number that was rolled.
    Number(u64),
    /// The beginning of a macro.
    Begin { end: usize, yields: Yield },
    /// The end of a macro.
    End { begin: usize, yields: Yield },
}

/// The part of its argument that a macro yields.
#[derive(Debug, Clone)]
pub(super) struct Yield {
    pub(super) tokens: Range<usize>,
    pub(super) reversed: bool,
}

/// A macro that is not closed yet.
struct Frame {
    kind: Kind,
    /// The token at which it begins.
    begin: usize,
    /// Where the argument begins in the text.
    argument: usize,
    ordinal: u64,
    /// The number of marks before its own.
    marks: usize,
    /// The number of single braces in the argument that are not closed yet.
    braces: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Comma,
    Colons,
    /// A backslash before a comma.
    Escape,
}

/// Reads a text once, from its beginning to its end.
pub(super) struct Scanner<'t> {
    text: &'t str,
    scope: &'t Scope<'t>,
    place: &'t str,
    tokens: Vec<Token<'t>>,
    frames: Vec<Frame>,
    /// What separates the options of open choices, with the token. Those of the innermost choice are the last.
    marks: Vec<(Mark, usize)>,
    /// The position up to which the text is in tokens.
    taken: usize,
    /// The number of choices and rolls so far.
    drawn: u64,
    /// The number of open macros whose text never stands in a prompt.
    unseen: usize,
    hidden: Vec<&'t str>,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str, scope: &'t Scope<'t>, place: &'t str) -> Self {
        Self {
            text,
            scope,
            place,
            tokens: Vec::new(),
            frames: Vec::new(),
            marks: Vec::new(),
            taken: 0,
            drawn: 0,
            unseen: 0,
            hidden: Vec::new(),
        }
    }

    pub(super) fn tokens(mut self) -> Vec<Token<'t>> {
        self.scan();
        self.tokens
    }

    /// Returns the arguments of the hidden keys.
    pub(super) fn hidden(mut self) -> Vec<&'t str> {
        self.scan();
        self.hidden
    }

    fn scan(&mut self) {
        let mut at = 0;
        while let Some(found) = self.rest(at).find(['{', '}', '<', ',', ':', '\\']) {
            at = self.step(at + found);
        }
        self.take_to(self.text.len());
    }

    /// Reads what is at `at`, and returns where to go on.
    fn step(&mut self, at: usize) -> usize {
        let rest = self.rest(at);
        let in_choice = self
            .frames
            .last()
            .is_some_and(|frame| frame.kind == Kind::Choice);
        if rest.starts_with('{') {
            return self.open(at);
        }
        if let (Some(frame), true) = (self.frames.last_mut(), rest.starts_with('}')) {
            // In `{{pick:{a},{b}}}` the first of the three closes the single brace.
            if frame.braces > 0 && (rest.starts_with("}}}") || !rest.starts_with("}}")) {
                frame.braces -= 1;
                return at + 1;
            }
            if rest.starts_with("}}") {
                return self.close(at);
            }
        }
        if rest.starts_with('<') {
            return self.tag(at);
        }
        match rest.as_bytes() {
            [b',', ..] if in_choice => self.mark(Mark::Comma, at, 1),
            [b':', b':', ..] if in_choice => self.mark(Mark::Colons, at, 2),
            [b'\\', b',', ..] if in_choice => {
                self.mark(Mark::Escape, at, 1);
                at + 2
            }
            _ => at + 1,
        }
    }

    /// Reads a run of opening braces. Two each open a macro, and of an odd number the first is text: `{{{char}}}` is a
    /// name in braces.
    fn open(&mut self, at: usize) -> usize {
        let run = self
            .rest(at)
            .bytes()
            .take_while(|byte| *byte == b'{')
            .count();
        let mut begin = at + run % 2;
        if let Some(frame) = self.frames.last_mut() {
            frame.braces += run % 2;
        }
        for _ in 1..run / 2 {
            self.push_frame(Kind::Unknown, begin, begin + 2);
            begin += 2;
        }
        if run < 2 {
            return at + 1;
        }
        let (head, length) = head(self.rest(begin + 2), self.scope);
        let argument = begin + 2 + length;
        match head {
            Head::Value(value) => self.value(value, begin, argument),
            Head::Macro(kind) => self.push_frame(kind, begin, argument),
        }
        argument
    }

    fn tag(&mut self, at: usize) -> usize {
        for (tag, value) in [
            ("<user>", self.scope.user),
            ("<char>", self.scope.char),
            ("<bot>", self.scope.char),
        ] {
            let end = at + tag.len();
            let is_tag = self
                .text
                .get(at..end)
                .is_some_and(|found| found.eq_ignore_ascii_case(tag));
            if is_tag {
                self.value(value, at, end);
                return end;
            }
        }
        at + 1
    }

    fn value(&mut self, value: &'t str, begin: usize, end: usize) {
        self.take_to(begin);
        let source = self.take_to_as_source(end);
        self.tokens.push(Token::Value { value, source });
    }

    fn push_frame(&mut self, kind: Kind, begin: usize, argument: usize) {
        self.take_to(begin);
        if matches!(kind, Kind::Comment | Kind::Hidden) {
            self.unseen += 1;
        }
        let ordinal = self.drawn;
        if matches!(kind, Kind::Choice | Kind::Roll) {
            self.drawn += 1;
        }
        self.frames.push(Frame {
            kind,
            begin: self.tokens.len(),
            argument,
            ordinal,
            marks: self.marks.len(),
            braces: 0,
        });
        // It stands to the letter until it is closed.
        let source = self.take_to_as_source(argument);
        self.tokens.push(Token::Text(source));
    }

    fn mark(&mut self, mark: Mark, at: usize, length: usize) -> usize {
        self.take_to(at);
        self.marks.push((mark, self.tokens.len()));
        let source = self.take_to_as_source(at + length);
        self.tokens.push(Token::Text(source));
        at + length
    }

    /// Closes the innermost macro at the two braces at `at`.
    fn close(&mut self, at: usize) -> usize {
        self.take_to(at);
        let end = self.tokens.len();
        let source = self.take_to_as_source(at + 2);
        self.tokens.push(Token::Text(source));
        let Some(frame) = self.frames.pop() else {
            return at + 2;
        };
        if matches!(frame.kind, Kind::Comment | Kind::Hidden) {
            self.unseen -= 1;
        }
        if frame.kind == Kind::Hidden && self.unseen == 0 {
            self.hidden
                .push(self.text.get(frame.argument..at).unwrap_or_default());
        }
        let argument = frame.begin + 1..end;
        let yields = match frame.kind {
            Kind::Unknown => None,
            Kind::Comment | Kind::Hidden => Some(end..end),
            Kind::Reverse => Some(argument),
            Kind::Choice => Some(self.choose(&frame, argument)),
            Kind::Roll => self.roll(&frame, argument),
        };
        self.marks.truncate(frame.marks);
        if let Some(tokens) = yields {
            let reversed = frame.kind == Kind::Reverse;
            let yields = Yield { tokens, reversed };
            let begin = frame.begin;
            self.replace(
                begin,
                Token::Begin {
                    end,
                    yields: yields.clone(),
                },
            );
            self.replace(end, Token::End { begin, yields });
        }
        at + 2
    }

    /// Returns the tokens of the option that is drawn. Double colons separate the options, or else commas; around a
    /// comma, blanks are not part of an option.
    fn choose(&mut self, frame: &Frame, argument: Range<usize>) -> Range<usize> {
        let marks = self.marks.split_off(frame.marks.min(self.marks.len()));
        for (_, escape) in marks.iter().filter(|(mark, _)| *mark == Mark::Escape) {
            self.replace(*escape, Token::Text(""));
        }
        let has = |wanted| marks.iter().any(|(mark, _)| *mark == wanted);
        let separator = if has(Mark::Colons) {
            Mark::Colons
        } else {
            Mark::Comma
        };
        let separators: Vec<usize> = marks
            .iter()
            .filter(|(mark, _)| *mark == separator)
            .map(|(_, token)| *token)
            .collect();
        let options = u64::try_from(separators.len()).unwrap_or(u64::MAX - 1) + 1;
        let drawn = draw(self.scope, self.place, frame.ordinal, options);
        let drawn = usize::try_from(drawn).unwrap_or(0);
        let before = drawn
            .checked_sub(1)
            .and_then(|before| separators.get(before));
        let begin = before.map_or(argument.start, |before| before + 1);
        let end = separators.get(drawn).copied().unwrap_or(argument.end);
        if separator == Mark::Comma && begin < end {
            self.trim(begin, str::trim_start);
            self.trim(end - 1, str::trim_end);
        }
        begin..end
    }

    /// Puts a number from 1 to the one in the argument, such as `6` or `d6`, in its place. Returns `None` if the
    /// argument is not such a number.
    fn roll(&mut self, frame: &Frame, argument: Range<usize>) -> Option<Range<usize>> {
        let text = written(&self.tokens, argument.clone(), MAX_ROLL_BYTES)?;
        let sides = text.trim();
        let sides = sides.strip_prefix(['d', 'D']).unwrap_or(sides);
        if !sides.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let sides: u64 = sides.parse().ok().filter(|sides| *sides > 0)?;
        let drawn = draw(self.scope, self.place, frame.ordinal, sides);
        // A number has at least one digit, so the argument has a token.
        self.replace(argument.start, Token::Number(drawn.saturating_add(1)));
        Some(argument.start..argument.start + 1)
    }

    fn trim(&mut self, at: usize, trimmed: fn(&str) -> &str) {
        if let Some(Token::Text(text)) = self.tokens.get_mut(at) {
            *text = trimmed(text);
        }
    }

    fn replace(&mut self, at: usize, token: Token<'t>) {
        if let Some(slot) = self.tokens.get_mut(at) {
            *slot = token;
        }
    }

    fn rest(&self, at: usize) -> &'t str {
        self.text.get(at..).unwrap_or_default()
    }

    /// Takes the text before `at` as it is.
    fn take_to(&mut self, at: usize) {
        let text = self.take_to_as_source(at);
        if !text.is_empty() {
            self.tokens.push(Token::Text(text));
        }
    }

    /// Returns the text before `at` that is not taken yet, which is then taken.
    fn take_to_as_source(&mut self, at: usize) -> &'t str {
        let source = self.text.get(self.taken..at).unwrap_or_default();
        self.taken = at;
        source
    }
}
