//! Streaming chat completions from any OpenAI-compatible endpoint.
//!
//! Retries happen before the first delta only: afterwards a second attempt would say something else. Whatever the upstream
//! sends, bytes are bounded and nothing is taken for a reply that is not one.

mod reply;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

pub(super) use self::reply::Reply;
use super::{Cause, Error, Prompt};
use crate::config::LlmConfig;
use crate::message::PromptMessage;
use crate::outbound::{HttpClient, TlsSetupError};
use crate::secrets::{self, Secret, Value as SecretValue};

/// The pause before the first retry; it doubles, and a random part is added.
const BACKOFF: Duration = Duration::from_millis(200);
/// An error's body is read for its code only.
const MAX_ERROR_BYTES: usize = 16 * 1024;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// The upstream and the connections to it.
#[derive(Clone)]
pub struct OpenAi {
    client: HttpClient,
    url: http::Uri,
    api_key: Secret,
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

impl Refusal {
    /// Whether another key may be let in. Some upstreams say it of other things too, which a fetch now and then does no harm.
    /// A key that no header can carry did not even get there.
    fn is_of_key(&self) -> bool {
        matches!(
            self.error,
            Error::Rejected(Cause::Status(401 | 403, _)) | Error::Unavailable(Cause::NoKey)
        )
    }
}

impl OpenAi {
    pub(super) fn new(
        config: &LlmConfig,
        base_url: &str,
        api_key: Secret,
        model: &str,
    ) -> Result<Self, TlsSetupError> {
        // The settings have checked it; what cannot be parsed here fails each request, and is no panic.
        let url = format!("{base_url}/chat/completions")
            .parse()
            .unwrap_or_default();
        Ok(Self {
            client: HttpClient::new(config.connect_timeout)?,
            url,
            api_key,
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
        let mut key = timeout_at(deadline, self.api_key.current())
            .await
            .unwrap_or(Err(secrets::Error::Unavailable))
            .map_err(|_| Error::Unavailable(Cause::NoKey))?;
        let mut key_is_new = false;
        loop {
            let attempt = timeout_at(deadline, self.attempt(&key, body.clone())).await;
            let refusal = match attempt {
                Err(_) => return Err(Error::Timeout(Cause::NoFirstToken)),
                Ok(Err(refusal)) if refusal.is_of_key() && !key_is_new => {
                    let other = timeout_at(deadline, self.api_key.refused(&key)).await;
                    let Ok(Some(other)) = other else {
                        return Err(refusal.error);
                    };
                    (key, key_is_new) = (other, true);
                    continue;
                }
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

    async fn attempt(&self, key: &SecretValue, body: Bytes) -> Result<Response<Incoming>, Refusal> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(AUTHORIZATION, authorization(key)?);

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

/// Marked sensitive, so that it does not print itself. A line break in a stored key shows here, at use.
fn authorization(key: &SecretValue) -> Result<HeaderValue, Refusal> {
    let value = format!("Bearer {}", key.expose_secret());
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        tracing::error!("the API key has a character that no HTTP header can carry");
        Refusal {
            error: Error::Unavailable(Cause::NoKey),
            retry: None,
        }
    })?;
    value.set_sensitive(true);
    Ok(value)
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

/// Up to a tenth of a second, so that many processes do not come back at the same moment.
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
