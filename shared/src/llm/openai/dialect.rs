//! How to phrase a request for a model that rejects parts of it: pure functions, and the dialects that the process
//! remembers.

use std::borrow::Cow;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;
use serde::Serialize;

use super::objection::Objection;
use crate::clock::lock;
use crate::llm::Prompt;
use crate::message::{PromptMessage, Role};

/// The maximum number of models whose dialect is remembered. Characters name only a few.
const MAX_MODELS: NonZero<usize> = NonZero::new(256).expect("not zero");

/// What introduces a greeting among the instructions, for models that want the user first.
const GREETED: &str = "You have opened the conversation with these words:";

/// The form of request that a model accepts. The default suits most models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dialect {
    without_stream_options: bool,
    without_temperature: bool,
    without_top_p: bool,
    roles: Roles,
    limit: Limit,
}

/// The roles that a model takes, the plainer the further down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Roles {
    /// Any, in any order.
    #[default]
    Any,
    /// Instructions only at the beginning, and then the user first: see [`user_first`].
    UserFirst,
    /// None but the user's and its own: see [`fold_system`].
    WithoutSystem,
}

impl Roles {
    /// Returns the messages as the model takes them.
    fn applied(self, messages: &[PromptMessage]) -> Cow<'_, [PromptMessage]> {
        match self {
            Self::Any => Cow::Borrowed(messages),
            Self::UserFirst => Cow::Owned(alternating(user_first(messages))),
            Self::WithoutSystem => Cow::Owned(alternating(fold_system(&user_first(messages)))),
        }
    }
}

/// The name of the field that limits the length of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Limit {
    #[default]
    MaxTokens,
    MaxCompletionTokens,
    Unnamed,
}

#[derive(Serialize)]
struct CompletionRequest<'a> {
    model: &'a str,
    messages: &'a [PromptMessage],
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl Dialect {
    /// Returns the JSON body of a request.
    pub(super) fn body(self, model: &str, messages: &[PromptMessage], prompt: &Prompt) -> Vec<u8> {
        let messages = self.roles.applied(messages);
        let limit = |name| prompt.max_tokens.filter(|_| self.limit == name);
        let request = CompletionRequest {
            model,
            messages: &messages,
            stream: true,
            stream_options: (!self.without_stream_options).then_some(StreamOptions {
                include_usage: true,
            }),
            temperature: prompt.temperature.filter(|_| !self.without_temperature),
            top_p: prompt.top_p.filter(|_| !self.without_top_p),
            max_tokens: limit(Limit::MaxTokens),
            max_completion_tokens: limit(Limit::MaxCompletionTokens),
        };
        // Text and finite numbers cannot fail to serialize.
        serde_json::to_vec(&request).unwrap_or_default()
    }

    /// Returns the dialect without what the model objects to, or `None` if the request did not contain it.
    pub(super) fn without(self, objection: Objection, prompt: &Prompt) -> Option<Self> {
        let mut next = self;
        match objection {
            Objection::StreamOptions => next.without_stream_options = true,
            Objection::Temperature => next.without_temperature = prompt.temperature.is_some(),
            Objection::TopP => next.without_top_p = prompt.top_p.is_some(),
            Objection::SystemRole => {
                let is_system = |message: &PromptMessage| message.role == Role::System;
                if prompt.messages.iter().any(is_system) {
                    next.roles = Roles::WithoutSystem;
                }
            }
            Objection::Order => {
                let sent = self.roles.applied(&prompt.messages);
                let plainer = [Roles::UserFirst, Roles::WithoutSystem].into_iter();
                let mut plainer = plainer.filter(|roles| *roles > self.roles);
                if let Some(roles) = plainer.find(|roles| roles.applied(&prompt.messages) != sent) {
                    next.roles = roles;
                }
            }
            Objection::MaxTokensName if prompt.max_tokens.is_some() => {
                next.limit = match self.limit {
                    Limit::MaxTokens => Limit::MaxCompletionTokens,
                    Limit::MaxCompletionTokens | Limit::Unnamed => Limit::Unnamed,
                };
            }
            Objection::MaxTokens if prompt.max_tokens.is_some() => next.limit = Limit::Unnamed,
            Objection::MaxTokensName | Objection::MaxTokens | Objection::TooLong => {}
        }
        (next != self).then_some(next)
    }
}

/// Returns the messages with what the character said before the user's first message at the end of the instructions, and
/// with each later instruction in the user's next message, or in the last one.
fn user_first(messages: &[PromptMessage]) -> Vec<PromptMessage> {
    let first = messages
        .iter()
        .position(|message| message.role == Role::User);
    let (before, after) = messages.split_at(first.unwrap_or(messages.len()));
    let texts = before.iter().map(|message| match message.role {
        Role::System | Role::User => message.content.clone(),
        Role::Assistant => format!("{GREETED}\n{}", message.content),
    });
    let instructions: Vec<String> = texts.collect();
    let instructions = instructions.join("\n\n");
    let instructions = (!before.is_empty()).then(|| PromptMessage::new(Role::System, instructions));
    instructions.into_iter().chain(fold_system(after)).collect()
}

/// Returns the messages with neighbours of one role as one message, as models require whose roles must alternate.
fn alternating(messages: Vec<PromptMessage>) -> Vec<PromptMessage> {
    let mut alternating: Vec<PromptMessage> = Vec::with_capacity(messages.len());
    for message in messages {
        match alternating
            .last_mut()
            .filter(|last| last.role == message.role)
        {
            Some(last) => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.content);
            }
            None => alternating.push(message),
        }
    }
    alternating
}

/// Returns the messages with each instruction moved to the front of the user's next message.
fn fold_system(messages: &[PromptMessage]) -> Vec<PromptMessage> {
    let mut folded: Vec<PromptMessage> = Vec::with_capacity(messages.len());
    let mut instructions = String::new();
    for message in messages {
        match message.role {
            Role::System => {
                if !instructions.is_empty() {
                    instructions.push_str("\n\n");
                }
                instructions.push_str(&message.content);
            }
            Role::User if !instructions.is_empty() => {
                instructions.push_str("\n\n");
                instructions.push_str(&message.content);
                folded.push(PromptMessage {
                    content: std::mem::take(&mut instructions),
                    ..message.clone()
                });
            }
            Role::User | Role::Assistant => folded.push(message.clone()),
        }
    }
    // Instructions after the user's last message are added to that message.
    if !instructions.is_empty() {
        match folded
            .iter_mut()
            .rfind(|message| message.role == Role::User)
        {
            Some(user) => {
                user.content.push_str("\n\n");
                user.content.push_str(&instructions);
            }
            None => folded.push(PromptMessage::new(Role::User, instructions)),
        }
    }
    folded
}

/// Returns the messages without the older half of the history, in whole turns, or `None` if there is no history. Keeps
/// all instructions, wherever they stand, and the new message, which `behind_new` messages follow.
pub(super) fn without_older_half(
    messages: &[PromptMessage],
    behind_new: usize,
) -> Option<Vec<PromptMessage>> {
    let new = messages.len().checked_sub(behind_new + 1)?;
    let turns: Vec<usize> = messages
        .iter()
        .enumerate()
        .take(new)
        .filter(|(_, message)| message.role == Role::User)
        .map(|(at, _)| at)
        .collect();
    if !messages
        .iter()
        .take(new)
        .any(|message| message.role != Role::System)
    {
        return None;
    }
    let kept_turns = turns.len() / 2;
    let kept_from = turns.get(turns.len() - kept_turns).copied().unwrap_or(new);
    let kept = messages
        .iter()
        .enumerate()
        .filter(|(at, message)| *at >= kept_from || message.role == Role::System);
    Some(kept.map(|(_, message)| message.clone()).collect())
}

/// The known dialects of the models behind one base URL. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Dialects(Arc<Mutex<LruCache<String, Dialect>>>);

impl Dialects {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(MAX_MODELS))))
    }

    /// Returns the dialect of a model, or the default if it is not known.
    pub(super) fn of(&self, model: &str) -> Dialect {
        self.known().get(model).copied().unwrap_or_default()
    }

    /// Remembers a dialect that a model has accepted.
    pub(super) fn remember(&self, model: &str, dialect: Dialect) {
        self.known().put(model.to_owned(), dialect);
    }

    fn known(&self) -> MutexGuard<'_, LruCache<String, Dialect>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages(text: &str) -> Vec<PromptMessage> {
        let message = |(at, letter): (usize, char)| {
            let role = match letter {
                's' => Role::System,
                'u' => Role::User,
                _ => Role::Assistant,
            };
            PromptMessage::new(role, format!("{letter}{at}"))
        };
        text.chars().enumerate().map(message).collect()
    }

    fn contents(messages: &[PromptMessage]) -> Vec<&str> {
        let contents = messages.iter().map(|message| message.content.as_str());
        contents.collect()
    }

    #[test]
    fn the_older_half_is_left_out_in_whole_turns() {
        let halved = |text: &str| {
            without_older_half(&messages(text), 0).map(|kept| contents(&kept).join(" "))
        };
        assert_eq!(halved("suauauauau").as_deref(), Some("s0 u5 a6 u7 a8 u9"));
        assert_eq!(halved("suauauau").as_deref(), Some("s0 u5 a6 u7"));
        assert_eq!(halved("suau").as_deref(), Some("s0 u3"));
        assert_eq!(halved("sau").as_deref(), Some("s0 u2"), "a greeting");
        let all = messages("suasuausu");
        let kept = without_older_half(&all, 2).expect("a history");
        assert_eq!(contents(&kept).join(" "), "s0 s3 u4 a5 u6 s7 u8");
        assert_eq!(halved("su"), None);
        assert_eq!(halved("s"), None);
    }

    #[test]
    fn instructions_are_folded_into_what_the_user_says_next() {
        let folded = |text: &str| contents(&fold_system(&messages(text))).join(" | ");
        assert_eq!(folded("suau"), "s0\n\nu1 | a2 | u3");
        assert_eq!(folded("sau"), "a1 | s0\n\nu2");
        assert_eq!(folded("ssuasu"), "s0\n\ns1\n\nu2 | a3 | s4\n\nu5");
        assert_eq!(folded("sus"), "s0\n\nu1\n\ns2");
    }

    #[test]
    fn a_greeting_goes_into_the_instructions_of_a_model_that_wants_the_user_first() {
        let user_first = |text: &str| contents(&user_first(&messages(text))).join(" | ");
        assert_eq!(
            user_first("sauasus"),
            format!("s0\n\n{GREETED}\na1 | u2 | a3 | s4\n\nu5\n\ns6")
        );
        assert_eq!(user_first("suau"), "s0 | u1 | a2 | u3");
        assert_eq!(user_first("au"), format!("{GREETED}\na0 | u1"));
        assert_eq!(user_first("u"), "u0");
    }

    #[test]
    fn lore_with_a_role_joins_its_neighbour_where_roles_must_alternate() {
        let joined = alternating(user_first(&messages("suauus")));
        assert_eq!(
            contents(&joined).join(" | "),
            "s0 | u1 | a2 | u3\n\nu4\n\ns5"
        );
    }

    #[test]
    fn a_model_that_objects_to_the_order_is_asked_in_ever_plainer_ones() {
        let prompt = |text: &str| Prompt {
            messages: messages(text),
            behind_new: 0,
            model: None,
            temperature: None,
            top_p: None,
            max_tokens: None,
        };
        let next = |dialect: Dialect, text: &str| dialect.without(Objection::Order, &prompt(text));
        let greeted = next(Dialect::default(), "sau").expect("another");
        assert_eq!(greeted.roles, Roles::UserFirst);
        let plain = next(greeted, "sau").expect("another");
        assert_eq!(plain.roles, Roles::WithoutSystem);
        assert_eq!(next(plain, "sau"), None);
        let usual = next(Dialect::default(), "su").expect("another");
        assert_eq!(usual.roles, Roles::WithoutSystem);
        assert_eq!(next(Dialect::default(), "uau"), None);
        let greeted = next(Dialect::default(), "au").expect("another");
        assert_eq!(greeted.roles, Roles::UserFirst);
    }

    #[test]
    fn nothing_is_left_out_that_was_not_sent_and_nothing_twice() {
        let prompt = Prompt {
            messages: messages("u"),
            behind_new: 0,
            model: None,
            temperature: None,
            top_p: None,
            max_tokens: Some(5),
        };
        let usual = Dialect::default();
        for objection in [
            Objection::Temperature,
            Objection::TopP,
            Objection::SystemRole,
            Objection::Order,
            Objection::TooLong,
        ] {
            assert_eq!(usual.without(objection, &prompt), None, "{objection:?}");
        }
        let renamed = usual
            .without(Objection::MaxTokensName, &prompt)
            .expect("renamed");
        let unnamed = renamed
            .without(Objection::MaxTokensName, &prompt)
            .expect("left out");
        assert_eq!(unnamed.without(Objection::MaxTokens, &prompt), None);
        let body = |dialect: Dialect| {
            let body = dialect.body("m", &prompt.messages, &prompt);
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON")
        };
        assert_eq!(body(usual)["max_tokens"], 5);
        assert_eq!(body(renamed)["max_completion_tokens"], 5);
        assert_eq!(body(renamed).get("max_tokens"), None);
        assert_eq!(body(unnamed).get("max_completion_tokens"), None);
    }

    proptest! {
        #[test]
        fn halving_keeps_instructions_and_the_new_message_and_ends(history in "s?(ua){0,20}u") {
            let all = messages(&history);
            let mut kept = all.clone();
            let mut halvings = 0;
            while let Some(fewer) = without_older_half(&kept, 0) {
                prop_assert!(fewer.len() < kept.len());
                prop_assert_eq!(fewer.last(), all.last());
                prop_assert_eq!(all.first().map(|first| first.role) == Some(Role::System), fewer[0].role == Role::System);
                kept = fewer;
                halvings += 1;
            }
            prop_assert!(halvings <= 6);
        }
    }
}
