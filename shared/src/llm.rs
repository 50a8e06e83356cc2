//! The upstream: sends it a prompt and returns the deltas of its reply.
//!
//! An enum and not a trait, because the set is closed: any OpenAI-compatible endpoint, or the built-in echo for
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

/// A request to the upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// System prompt, history and new message, in this order.
    pub messages: Vec<PromptMessage>,
    /// Number of messages behind the new message of the user.
    pub behind_new: usize,
    /// Model to use; `None` for the configured one.
    pub model: Option<String>,
    /// Sampling temperature; `None` for the model's default.
    pub temperature: Option<f64>,
    /// Probability mass for nucleus sampling; `None` for the model's default.
    pub top_p: Option<f64>,
    /// Maximum length of the reply, in tokens; `None` for the model's own limit.
    pub max_tokens: Option<u32>,
}

/// The reason why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The reply is complete.
    Stop,
    /// The reply reached its token limit.
    Length,
    /// A content filter of the upstream ended the reply.
    ContentFilter,
    /// The user stopped the reply. No upstream says so.
    Stopped,
}

impl FinishReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::ContentFilter, Self::Stopped];

    /// Returns the reason whose word in the HTTP API is `word`, or `None` for any other word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// Returns the value of `finish_reason` in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
            Self::Stopped => "stopped",
        }
    }
}

/// Token counts of one reply, as the upstream reported them. A count that it did not send, or that is not plausible, is
/// `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens of everything that the model generated, hidden reasoning included.
    pub completion_tokens: Option<u64>,
    /// The part of `completion_tokens` that is hidden reasoning.
    pub reasoning_tokens: Option<u64>,
    /// Whether the stream contained reasoning, under any name. If it did and `reasoning_tokens` is `None`,
    /// `completion_tokens` is not the count of the visible text.
    pub thought_seen: bool,
}

/// One step of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More text; never empty.
    Delta(String),
    /// The reply is complete. Nothing follows.
    End {
        /// Reason why the reply ended.
        finish_reason: FinishReason,
        /// Token counts of the upstream, if it sent any.
        usage: Option<Usage>,
    },
}

/// A failed reply. The upstream's own error text may quote the prompt, so only a short code of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The upstream could not be reached, is overloaded, or did not send a valid reply.
    #[error("the upstream is unavailable: {0}")]
    Unavailable(Cause),
    /// The upstream sent nothing for too long.
    #[error("the upstream timed out: {0}")]
    Timeout(Cause),
    /// The upstream rejected the request, and would reject it again.
    #[error("the upstream rejected the request: {0}")]
    Rejected(Cause),
    /// The upstream stopped mid-reply.
    #[error("the upstream stopped mid-reply: {0}")]
    Interrupted(Cause),
}

/// The cause of a failed reply, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The API key could not be read or cannot be sent in a header.
    NoKey,
    /// Connecting or sending the request failed.
    Connection,
    /// The certificate of the endpoint, or of the proxy, is not trusted.
    Untrusted,
    /// The upstream answered with an HTTP status that is not a success. Holds the status, the code of the error object
    /// if it is a single word, and the kind of refusal.
    Status(u16, Option<String>, Option<Hint>),
    /// The upstream sent an error object in the stream. Holds its code if that is a single word, and the kind of
    /// refusal.
    ErrorObject(Option<String>, Option<Hint>),
    /// The response is compressed, although the request did not ask for compression.
    Compressed,
    /// The connection ended before the reply did.
    Cut,
    /// The upstream ended the reply with a `finish_reason` that reports a failure.
    FailureReported,
    /// The response has a success status and an empty body.
    Empty,
    /// The response is not a stream of completion chunks.
    NotAStream,
    /// A line of the stream is longer than 1 MiB.
    LineTooLong,
    /// No delta arrived within the time limit.
    NoFirstToken,
    /// No further delta arrived within the time limit.
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
            Self::FailureReported => f.write_str("its finish_reason reports a failure"),
            Self::Empty => f.write_str("the answer was empty"),
            Self::NotAStream => f.write_str("not a stream of completion chunks"),
            Self::LineTooLong => f.write_str("a line over the limit"),
            Self::NoFirstToken => f.write_str("no first token in time"),
            Self::Idle => f.write_str("silence between deltas"),
        }
    }
}

/// A client of the upstream. Cheap to clone; clones share connections.
#[derive(Clone)]
pub enum Llm {
    /// An OpenAI-compatible endpoint, reached over HTTP.
    OpenAi(Box<openai::OpenAi>),
    /// The built-in echo.
    Echo,
}

impl Llm {
    /// Builds the client from the settings, without touching the network.
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

    /// Sends the prompt, retries failures that may be temporary, and returns the reply once it begins.
    ///
    /// # Errors
    /// The upstream could not be reached, rejected the request, or did not answer in time.
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

/// A reply that is arriving. Dropping it closes the request, so that the upstream can stop.
pub enum Reply {
    /// A reply of an OpenAI-compatible endpoint.
    OpenAi(Box<openai::Reply>),
    /// A reply of the built-in echo.
    Echo(echo::Reply),
}

impl Reply {
    /// Waits for the next step and returns it. Nothing follows [`Step::End`] or an error.
    ///
    /// # Errors
    /// The upstream failed, or sent nothing for too long.
    pub async fn next(&mut self) -> Result<Step, Error> {
        match self {
            Self::OpenAi(reply) => reply.next().await,
            Self::Echo(reply) => Ok(reply.next().await),
        }
    }
}
