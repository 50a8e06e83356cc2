//! The upstream: a prompt goes in, deltas come out.
//!
//! An enum and not a trait, because the set is closed: any OpenAI-compatible endpoint, or the echo that is built in for
//! development.

mod echo;
mod hint;
mod openai;
mod sse;

pub use self::hint::Hint;

use crate::config::{LlmConfig, Provider};
use crate::message::PromptMessage;
use crate::outbound::TlsSetupError;
use crate::secrets::Secrets;

/// What the upstream is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// System prompt, history, new message.
    pub messages: Vec<PromptMessage>,
    /// Instead of the configured model.
    pub model: Option<String>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// The longest reply, in tokens.
    pub max_tokens: Option<u32>,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The reply is complete.
    Stop,
    /// It reached its limit.
    Length,
    /// A filter ended it.
    ContentFilter,
}

impl FinishReason {
    /// The word of the HTTP contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// Tokens, as the upstream counted them. A count that it did not send, or that makes no sense, is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens of everything that the model generated, hidden reasoning included.
    pub completion_tokens: Option<u64>,
    /// The part of `completion_tokens` that is hidden reasoning.
    pub reasoning_tokens: Option<u64>,
    /// Whether the stream carried reasoning under any name. Without `reasoning_tokens` beside it, `completion_tokens`
    /// then says nothing about the visible text.
    pub thought_seen: bool,
}

/// One step of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More text; never empty.
    Delta(String),
    /// The reply is complete. Nothing follows.
    End {
        /// Why.
        finish_reason: FinishReason,
        /// The upstream's own count, if it sent one.
        usage: Option<Usage>,
    },
}

/// A reply that failed. What the upstream said about it may quote the prompt, so it is not kept, except for a short code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It could not be reached, is overloaded, or sent what is no reply.
    #[error("the upstream is unavailable: {0}")]
    Unavailable(Cause),
    /// It was silent for too long.
    #[error("the upstream timed out: {0}")]
    Timeout(Cause),
    /// It refuses this request, and would again.
    #[error("the upstream rejected the request: {0}")]
    Rejected(Cause),
    /// The upstream stopped mid-reply.
    #[error("the upstream stopped mid-reply: {0}")]
    Interrupted(Cause),
}

/// What exactly went wrong, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The API key could not be had.
    NoKey,
    /// Connecting, or sending the request.
    Connection,
    /// The certificate of the endpoint, or of the proxy, is not trusted.
    Untrusted,
    /// An HTTP status, the code in the error object if it is a plain word, and what kind of refusal it is.
    Status(u16, Option<String>, Option<Hint>),
    /// An error object in the stream, its code if it is a plain word, and what kind of refusal it is.
    ErrorObject(Option<String>, Option<Hint>),
    /// The answer is compressed, although that was not asked for.
    Compressed,
    /// The connection ended before the reply did.
    Cut,
    /// It said itself that it gave the reply up.
    GaveUp,
    /// An answer without a byte in it, although its status is a success.
    Empty,
    /// Something that is not a stream of completion chunks.
    NotAStream,
    /// A line longer than any chunk.
    LineTooLong,
    /// No delta at all.
    NoFirstToken,
    /// No further delta.
    Idle,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let refused =
            |f: &mut std::fmt::Formatter<'_>, code: &Option<String>, hint: &Option<Hint>| {
                if let Some(code) = code {
                    write!(f, " ({code})")?;
                }
                match hint {
                    Some(hint) => write!(f, ": {}: {hint}", hint.kind()),
                    None => Ok(()),
                }
            };
        match self {
            Self::NoKey => f.write_str("no API key"),
            Self::Connection => f.write_str("no connection"),
            Self::Untrusted => f.write_str(
                "the certificate is not trusted: set LLM_TLS_CA_FILE to the certificate of the authority that issued it",
            ),
            Self::Status(status, code, hint) => {
                write!(f, "status {status}")?;
                refused(f, code, hint)
            }
            Self::ErrorObject(code, hint) => {
                f.write_str("an error object in the stream")?;
                refused(f, code, hint)
            }
            Self::Compressed => f.write_str("the answer is compressed"),
            Self::Cut => f.write_str("the connection was cut"),
            Self::GaveUp => f.write_str("it gave the reply up"),
            Self::Empty => f.write_str("the answer was empty"),
            Self::NotAStream => f.write_str("not a stream of completion chunks"),
            Self::LineTooLong => f.write_str("a line over the limit"),
            Self::NoFirstToken => f.write_str("no first token in time"),
            Self::Idle => f.write_str("silence between deltas"),
        }
    }
}

/// An upstream. Cheap to clone; clones share connections.
#[derive(Clone)]
pub enum Llm {
    /// Over HTTP.
    OpenAi(Box<openai::OpenAi>),
    /// Built in.
    Echo,
}

impl Llm {
    /// Checks the settings and touches no network.
    ///
    /// # Errors
    /// TLS cannot be set up, or the file of a private authority cannot be used.
    pub fn new(config: &LlmConfig, secrets: &Secrets) -> Result<Self, TlsSetupError> {
        match &config.provider {
            Provider::OpenAi(provider) => openai::OpenAi::new(config, provider, secrets)
                .map(Box::new)
                .map(Self::OpenAi),
            Provider::Echo => Ok(Self::Echo),
        }
    }

    /// Asks, retrying what may pass, until the reply begins.
    ///
    /// # Errors
    /// The upstream could not be reached, refused, or did not answer in time.
    pub async fn reply(&self, prompt: &Prompt) -> Result<Reply, Error> {
        match self {
            Self::OpenAi(upstream) => upstream
                .reply(prompt)
                .await
                .map(Box::new)
                .map(Reply::OpenAi),
            Self::Echo => Ok(Reply::Echo(echo::Reply::new(prompt))),
        }
    }
}

/// A reply as it comes. Dropping it ends the upstream's work.
pub enum Reply {
    /// Over HTTP.
    OpenAi(Box<openai::Reply>),
    /// Built in.
    Echo(echo::Reply),
}

impl Reply {
    /// Waits for the next step. After [`Step::End`] or an error there is none.
    ///
    /// # Errors
    /// The upstream failed or fell silent.
    pub async fn next(&mut self) -> Result<Step, Error> {
        match self {
            Self::OpenAi(reply) => reply.next().await,
            Self::Echo(reply) => Ok(reply.next().await),
        }
    }
}
