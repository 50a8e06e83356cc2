//! Streaming chat completions from any OpenAI-compatible endpoint.
//!
//! Retries happen before the first delta only: afterwards a second attempt would say something else. Whatever the upstream
//! sends, bytes are bounded and nothing is taken for a reply that is not one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::sse::Parser;
use super::{Cause, Error, Event, FinishReason, Prompt, Usage};
use crate::config::LlmConfig;
use crate::message::PromptMessage;
use crate::outbound::{self, HttpClient, TlsSetupError};

/// The pause before the first retry; it doubles, and a random part is added.
const BACKOFF: Duration = Duration::from_millis(200);
/// A reply is complete with its `finish_reason`. What may still come is the usage, and it is not waited for any longer.
const USAGE_GRACE: Duration = Duration::from_secs(2);
/// How long the end of an answer may take after its `[DONE]` for its connection to be kept.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(1);
/// An error's body is read for its code only.
const MAX_ERROR_BYTES: usize = 16 * 1024;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// The upstream and the connections to it.
#[derive(Clone)]
pub struct OpenAi {
    client: HttpClient,
    url: http::Uri,
    /// Marked sensitive, so that it does not print itself.
    authorization: HeaderValue,
    model: String,
    first_token_timeout: Duration,
    idle_timeout: Duration,
    max_retries: u32,
}

#[derive(Serialize)]
struct CompletionRequest<'a> {
    model: &'a str,
    messages: &'a [PromptMessage],
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// Why an attempt failed, and whether another may succeed.
struct Refusal {
    error: Error,
    retry: Option<Retry>,
}

/// When to try again: as the upstream says, or as we think.
enum Retry {
    After(Duration),
    Backoff,
}

impl OpenAi {
    pub(super) fn new(
        config: &LlmConfig,
        base_url: &str,
        api_key: &SecretString,
        model: &str,
    ) -> Result<Self, TlsSetupError> {
        // The settings have checked both; what cannot be parsed here leads to a refusal by the upstream, not to a panic.
        let url = format!("{base_url}/chat/completions")
            .parse()
            .unwrap_or_default();
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", api_key.expose_secret()))
                .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        authorization.set_sensitive(true);
        Ok(Self {
            client: outbound::http_client(config.connect_timeout)?,
            url,
            authorization,
            model: model.to_owned(),
            first_token_timeout: config.first_token_timeout,
            idle_timeout: config.idle_timeout,
            max_retries: config.max_retries,
        })
    }

    pub(super) async fn reply(&self, prompt: &Prompt) -> Result<Reply, Error> {
        let deadline = Instant::now() + self.first_token_timeout;
        let body = self.body(prompt);
        let mut retries = 0;
        loop {
            let attempt = timeout_at(deadline, self.attempt(body.clone())).await;
            let refusal = match attempt {
                Err(_) => return Err(Error::Timeout(Cause::NoFirstToken)),
                Ok(Ok(response)) => {
                    return Ok(Reply::new(
                        response.into_body(),
                        deadline,
                        self.idle_timeout,
                    ));
                }
                Ok(Err(refusal)) => refusal,
            };
            let pause = match refusal.retry {
                Some(Retry::After(pause)) => pause,
                Some(Retry::Backoff) => BACKOFF * 2_u32.pow(retries) + jitter(),
                None => return Err(refusal.error),
            };
            // What an upstream asks for may be further away than any clock reaches.
            let again_at = Instant::now().checked_add(pause);
            let Some(again_at) = again_at.filter(|at| *at < deadline) else {
                return Err(refusal.error);
            };
            if retries == self.max_retries {
                return Err(refusal.error);
            }
            retries += 1;
            sleep_until(again_at).await;
        }
    }

    async fn attempt(&self, body: Bytes) -> Result<Response<Incoming>, Refusal> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(AUTHORIZATION, self.authorization.clone());

        let response = self.client.request(request).await.map_err(|_| Refusal {
            error: Error::Unavailable(Cause::Connection),
            retry: Some(Retry::Backoff),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let passing = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let retry =
            passing.then(|| retry_after(response.headers()).map_or(Retry::Backoff, Retry::After));
        let cause = Cause::Status(status.as_u16(), error_code_of(response).await);
        let error = if passing {
            Error::Unavailable(cause)
        } else {
            Error::Rejected(cause)
        };
        Err(Refusal { error, retry })
    }

    fn body(&self, prompt: &Prompt) -> Bytes {
        let request = CompletionRequest {
            model: prompt.model.as_deref().unwrap_or(&self.model),
            messages: &prompt.messages,
            stream: true,
            stream_options: StreamOptions {
                include_usage: true,
            },
            temperature: prompt.temperature,
            top_p: prompt.top_p,
            max_tokens: prompt.max_tokens,
        };
        // Text and finite numbers cannot fail to serialize.
        serde_json::to_vec(&request).unwrap_or_default().into()
    }
}

/// Seconds, or a date. Far off is as good as never.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const FAR_OFF: Duration = Duration::from_secs(86_400);
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds)
            .ok()
            .map(|pause| pause.min(FAR_OFF));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(
        date.duration_since(SystemTime::now())
            .unwrap_or_default()
            .min(FAR_OFF),
    )
}

/// Up to half a backoff, so that many processes do not come back at the same moment.
fn jitter() -> Duration {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    Duration::from_micros(u64::from(nanos / 1_000 % 100_000))
}

async fn error_code_of(response: Response<Incoming>) -> Option<String> {
    let body = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect();
    let body = timeout(ERROR_BODY_TIMEOUT, body)
        .await
        .ok()?
        .ok()?
        .to_bytes();
    let body: Value = serde_json::from_slice(&body).ok()?;
    error_code(body.get("error")?)
}

/// The code of an error object, if it is a word and not a sentence: a sentence may quote the prompt.
fn error_code(error: &Value) -> Option<String> {
    let code = [error.get("code"), error.get("type")]
        .into_iter()
        .flatten()
        .find(|code| !code.is_null())?;
    let code = code
        .as_str()
        .map_or_else(|| code.to_string(), str::to_owned);
    let is_word = code.len() <= 64
        && code
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    is_word.then_some(code)
}

/// A reply as it comes.
pub struct Reply {
    /// `None` after `[DONE]`.
    body: Option<Incoming>,
    parser: Parser,
    idle_timeout: Duration,
    /// When the next sign of life is due.
    deadline: Instant,
    /// A token has come, shown or not.
    alive: bool,
    /// Text has come that the user was shown.
    shown: bool,
    finish_reason: Option<FinishReason>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<UsageForm>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    /// What the model thinks before it speaks: neither shown nor stored, but a sign of life.
    #[serde(default)]
    reasoning_content: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct UsageForm {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl Reply {
    fn new(body: Incoming, first_token_deadline: Instant, idle_timeout: Duration) -> Self {
        Self {
            body: Some(body),
            parser: Parser::default(),
            idle_timeout,
            deadline: first_token_deadline,
            alive: false,
            shown: false,
            finish_reason: None,
            usage: None,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Event, Error> {
        loop {
            while let Some(data) = self
                .parser
                .next_event()
                .map_err(|_| self.broken(Cause::LineTooLong))?
            {
                if let Some(event) = self.take(&data)? {
                    return Ok(event);
                }
            }
            let Some(body) = &mut self.body else {
                return Ok(self.end());
            };
            match timeout_at(self.deadline, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.parser.push(bytes);
                    }
                }
                Ok(Some(Err(_))) => return self.ended(Cause::Cut),
                Ok(None) => {
                    let last = self
                        .parser
                        .finish()
                        .map_err(|_| self.broken(Cause::LineTooLong))?;
                    return match last.map(|data| self.take(&data)).transpose()?.flatten() {
                        Some(event) => Ok(event),
                        None if self.alive => self.ended(Cause::Cut),
                        None => self.ended(Cause::NotAStream),
                    };
                }
                Err(_) => return self.silent(),
            }
        }
    }

    /// Takes the data of one event; gives the step that it is, if it is one.
    fn take(&mut self, data: &[u8]) -> Result<Option<Event>, Error> {
        if data.trim_ascii() == b"[DONE]" {
            if let Some(body) = self.body.take() {
                read_last_bytes(body);
            }
            return Ok(Some(self.end()));
        }
        // The derived readers take a list for an object as well, and a list is no chunk.
        if !data.trim_ascii_start().starts_with(b"{") {
            return Err(self.broken(Cause::NotAStream));
        }
        let chunk: Chunk =
            serde_json::from_slice(data).map_err(|_| self.broken(Cause::NotAStream))?;
        if let Some(error) = chunk.error {
            return Err(self.refused(&error));
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(Usage {
                prompt_tokens: usage.prompt_tokens.unwrap_or(0),
                completion_tokens: usage.completion_tokens.unwrap_or(0),
                reasoning_tokens: usage
                    .completion_tokens_details
                    .and_then(|details| details.reasoning_tokens)
                    .unwrap_or(0),
            });
        }
        // Only one choice was asked for.
        let choice = chunk
            .choices
            .unwrap_or_default()
            .into_iter()
            .find(|choice| choice.index == 0);
        let Some(choice) = choice else {
            return Ok(None);
        };
        let delta = choice.delta.unwrap_or_default();
        let content = delta.content.filter(|content| !content.is_empty());
        self.alive |= content.is_some() || delta.reasoning_content.is_some();
        // Some servers send an empty word with every delta.
        if let Some(word) = choice.finish_reason.filter(|word| !word.is_empty()) {
            self.finish_reason = Some(FinishReason::from_upstream(&word));
            self.deadline = Instant::now() + USAGE_GRACE.min(self.idle_timeout);
        } else if self.alive && self.finish_reason.is_none() {
            self.deadline = Instant::now() + self.idle_timeout;
        }
        self.shown |= content.is_some();
        Ok(content.map(Event::Delta))
    }

    fn end(&self) -> Event {
        Event::End {
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Stop),
            usage: self.usage,
        }
    }

    /// The bytes ended. With a `finish_reason` the reply is complete all the same.
    fn ended(&self, cause: Cause) -> Result<Event, Error> {
        if self.finish_reason.is_some() {
            return Ok(self.end());
        }
        Err(self.broken(cause))
    }

    fn silent(&self) -> Result<Event, Error> {
        if self.finish_reason.is_some() {
            return Ok(self.end());
        }
        Err(Error::Timeout(if self.alive {
            Cause::Idle
        } else {
            Cause::NoFirstToken
        }))
    }

    fn broken(&self, cause: Cause) -> Error {
        if self.shown {
            Error::Interrupted(cause)
        } else {
            Error::Unavailable(cause)
        }
    }

    /// An error object in the stream. Before the first delta its code tells a refusal from an outage.
    fn refused(&self, error: &Value) -> Error {
        let cause = Cause::ErrorObject(error_code(error));
        let status = error
            .get("code")
            .and_then(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()));
        match status {
            _ if self.shown => Error::Interrupted(cause),
            Some(400..=428 | 430..=499) => Error::Rejected(cause),
            _ => Error::Unavailable(cause),
        }
    }
}

/// Reads what ends an answer after its `[DONE]`, often a packet of its own, because only a connection whose answer was read
/// to its end serves the next turn. No turn waits for it, and it ends by itself; if the process ends first, a connection is
/// lost and nothing else.
fn read_last_bytes(mut body: Incoming) {
    tokio::spawn(timeout(LAST_BYTES_TIMEOUT, async move {
        while let Some(Ok(_)) = body.frame().await {}
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).expect("a header"));
            retry_after(&headers)
        };
        assert_eq!(wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("1e19"), Some(Duration::from_secs(86_400)));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("Thu, 01 Jan 1970 00:00:10 GMT"), Some(Duration::ZERO));
    }

    #[test]
    fn an_error_code_is_a_word_and_never_a_sentence() {
        let code = |json: &str| error_code(&serde_json::from_str(json).expect("json"));
        assert_eq!(
            code(r#"{"code":"InvalidApiKey","message":"x"}"#).as_deref(),
            Some("InvalidApiKey")
        );
        assert_eq!(
            code(r#"{"code":null,"type":"server_error"}"#).as_deref(),
            Some("server_error")
        );
        assert_eq!(code(r#"{"code":429}"#).as_deref(), Some("429"));
        assert_eq!(code(r#"{"code":"you said: my secret"}"#), None);
        assert_eq!(code(r#"{"message":"my secret"}"#), None);
    }
}
