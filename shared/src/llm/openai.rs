//! Streaming chat completions from any OpenAI-compatible endpoint: the transport.
//!
//! Retries happen only before the first delta, because a second attempt would produce a different text. The bytes that
//! are read from an upstream are bounded, and a response that is not a valid reply is an error.

mod chunk;
mod dialect;
mod finish;
mod objection;
mod refusal;
mod reply;
mod text;
mod thought;
mod usage;

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use self::dialect::{Dialect, Dialects, without_older_half};
use self::objection::Objection;
use self::refusal::{Refusal, Retry};
pub(super) use self::reply::Reply;
use super::{Cause, Error, Prompt};
use crate::clock::unix_micros;
use crate::config::{LlmConfig, OpenAiConfig};
use crate::message::PromptMessage;
use crate::outbound::{self, HttpClient, TlsSetupError, Trust};
use crate::secrets::{self, Secret, Secrets, Value as SecretValue};

/// The pause before the first retry. It doubles with each further retry, and a random part is added.
const BACKOFF: Duration = Duration::from_millis(200);
/// The maximum number of times that a prompt that is too long loses the older half of its history.
const MAX_HALVINGS: u32 = 2;
/// The maximum number of bytes that are read of an error's body, to find the kind of refusal.
const MAX_ERROR_BYTES: usize = 16 * 1024;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// The header in which Azure's endpoints with an `api-version` expect the API key.
const AZURE_KEY: HeaderName = HeaderName::from_static("api-key");

/// A client of one endpoint. Clones share its connections.
#[derive(Clone)]
pub struct OpenAi {
    client: HttpClient,
    endpoint: Uri,
    api_key: Secret,
    model: String,
    dialects: Dialects,
    starts_thinking: bool,
    first_token_timeout: Duration,
    idle_timeout: Duration,
    max_retries: u32,
}

/// A prompt in the dialect of its model, as far as that dialect is known.
struct Question<'a> {
    prompt: &'a Prompt,
    model: &'a str,
    messages: Cow<'a, [PromptMessage]>,
    dialect: Dialect,
    halvings: u32,
}

impl Question<'_> {
    fn body(&self) -> Bytes {
        let body = self.dialect.body(self.model, &self.messages, self.prompt);
        body.into()
    }

    /// Leaves out what the model objects to. Returns `false` if there is nothing to leave out.
    fn reword(&mut self, objection: Objection) -> bool {
        if objection == Objection::TooLong {
            if self.halvings == MAX_HALVINGS {
                return false;
            }
            let Some(fewer) = without_older_half(&self.messages, self.prompt.behind_new) else {
                return false;
            };
            self.messages = Cow::Owned(fewer);
            self.halvings += 1;
            return true;
        }
        let Some(dialect) = self.dialect.without(objection, self.prompt) else {
            return false;
        };
        self.dialect = dialect;
        true
    }
}

impl OpenAi {
    pub(super) fn new(
        config: &LlmConfig,
        provider: &OpenAiConfig,
        secrets: &Secrets,
    ) -> Result<Self, TlsSetupError> {
        let ca_file = provider.tls_ca_file.as_deref();
        let trust = Trust::from_setting("LLM_TLS_CA_FILE", ca_file)?;
        Ok(Self {
            client: HttpClient::trusting(trust, config.connect_timeout)?,
            endpoint: provider.endpoint.clone(),
            api_key: secrets.open(&provider.api_key),
            model: provider.model.clone(),
            dialects: Dialects::new(),
            starts_thinking: provider.starts_thinking,
            first_token_timeout: config.first_token_timeout,
            idle_timeout: config.idle_timeout,
            max_retries: config.max_retries,
        })
    }

    pub(super) async fn reply(&self, prompt: &Prompt) -> Result<Reply, Error> {
        let deadline = Instant::now() + self.first_token_timeout;
        let model = prompt.model.as_deref().unwrap_or(&self.model);
        let known = self.dialects.of(model);
        let mut question = Question {
            prompt,
            model,
            messages: Cow::Borrowed(&prompt.messages),
            dialect: known,
            halvings: 0,
        };
        let mut body = question.body();
        let mut retries = 0;
        let mut key = timeout_at(deadline, self.api_key.current())
            .await
            .unwrap_or(Err(secrets::Error::Unavailable))
            .map_err(|_| Error::Unavailable(Cause::NoKey))?;
        let mut key_is_new = false;
        loop {
            let mut refusal = match self.attempt(&key, body.clone(), deadline).await {
                Ok(reply) => {
                    if question.dialect != known {
                        self.dialects.remember(model, question.dialect);
                    }
                    return Ok(reply);
                }
                Err(refusal) => refusal,
            };
            if refusal.is_of_key() && !key_is_new {
                let other = timeout_at(deadline, self.api_key.refused(&key)).await;
                let Ok(Some(other)) = other else {
                    return Err(refusal.error);
                };
                (key, key_is_new) = (other, true);
                continue;
            }
            // An empty response to a prompt that is not too long may succeed on a retry.
            if retries == self.max_retries {
                refusal.suspect_length();
            }
            if let Some(objection) = refusal.objection
                && question.reword(objection)
            {
                if let Some(hint) = refusal.hint {
                    tracing::warn!(
                        kind = hint.kind(),
                        remedy = %hint,
                        "the model refused the request as it was; asking again in another way"
                    );
                }
                body = question.body();
                continue;
            }
            let pause = match refusal.retry {
                Some(Retry::After(pause)) => pause,
                Some(Retry::Backoff) => BACKOFF * 2_u32.pow(retries) + jitter(),
                None => return Err(refusal.error),
            };
            // The pause that an upstream asks for may be beyond the range of the clock.
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

    /// Sends the request once and waits until the reply begins.
    async fn attempt(
        &self,
        key: &SecretValue,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Reply, Refusal> {
        let response = timeout_at(deadline, self.ask(key, body))
            .await
            .map_err(|_| Error::Timeout(Cause::NoFirstToken))??;
        let begun = Reply::begin(
            response.into_body(),
            deadline,
            self.idle_timeout,
            self.starts_thinking,
        )
        .await;
        if begun.is_err() {
            // A server that fails after the head of its response often ends the body first and closes the connection
            // a little later, when the next request is already on it.
            self.client.forget_connections();
        }
        begun
    }

    async fn ask(&self, key: &SecretValue, body: Bytes) -> Result<Response<Incoming>, Refusal> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(AUTHORIZATION, secret_header("Bearer ", key)?);
        let query = self.endpoint.query().unwrap_or_default();
        if query.contains("api-version=") {
            headers.insert(AZURE_KEY, secret_header("", key)?);
        }

        let response = self.client.request(request).await.map_err(|error| {
            if outbound::is_untrusted(&error) {
                return Refusal::from(Error::Unavailable(Cause::Untrusted));
            }
            Refusal {
                retry: Some(Retry::Backoff),
                ..Error::Unavailable(Cause::Connection).into()
            }
        })?;
        if !response.status().is_success() {
            let (parts, body) = response.into_parts();
            let body = error_body(body).await;
            return Err(Refusal::of_answer(parts.status, &parts.headers, &body));
        }
        if is_compressed(response.headers()) {
            return Err(Error::Unavailable(Cause::Compressed).into());
        }
        Ok(response)
    }
}

/// Returns the value of a header with the API key, marked sensitive so that it is never printed. Fails if the stored
/// key contains a character that a header cannot carry, such as a line break.
fn secret_header(scheme: &str, key: &SecretValue) -> Result<HeaderValue, Error> {
    let value = format!("{scheme}{}", key.expose_secret());
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        tracing::error!("the API key has a character that no HTTP header can carry");
        Error::Unavailable(Cause::NoKey)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns up to 0.1 s, so that many processes do not retry at the same moment.
fn jitter() -> Duration {
    Duration::from_micros(unix_micros(SystemTime::now()) % 100_000)
}

/// Returns the body of an error, or nothing if it exceeds its limits of size or time.
async fn error_body(body: Incoming) -> Bytes {
    let body = Limited::new(body, MAX_ERROR_BYTES).collect();
    let body = timeout(ERROR_BODY_TIMEOUT, body).await;
    body.ok()
        .and_then(Result::ok)
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default()
}

/// Returns whether a response is compressed, although the request did not ask for compression.
fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|encoding| {
        let encoding = encoding.as_bytes().trim_ascii();
        !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity")
    })
}
