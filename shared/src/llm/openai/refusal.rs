//! Decides what to do after a response that is not a reply: whether to retry, when, and what to leave out.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::objection::{Objection, Said};
use crate::llm::hint::Hint;
use crate::llm::{Cause, Error};

/// The longest pause that an upstream can ask for. A longer one is treated like this one.
const FAR_OFF: Duration = Duration::from_secs(86_400);

/// A failed attempt, and what can be done about it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: Error,
    pub(super) retry: Option<Retry>,
    pub(super) objection: Option<Objection>,
    pub(super) hint: Option<Hint>,
}

/// The time of a retry: the upstream's choice or this service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    After(Duration),
    Backoff,
}

impl From<Error> for Refusal {
    /// Returns a refusal for which neither a retry nor another request helps.
    fn from(error: Error) -> Self {
        Self {
            error,
            retry: None,
            objection: None,
            hint: None,
        }
    }
}

impl Refusal {
    /// Returns the refusal that a response with an error status means.
    pub(super) fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let said = Said::new(json.as_ref(), &String::from_utf8_lossy(body));
        let passes = may_pass(status.as_u16());
        let hint = said.hint(Some(status.as_u16()));
        let code = json
            .as_ref()
            .and_then(|json| error_code(json.get("error").unwrap_or(json)));
        let cause = Cause::Status(status.as_u16(), code, hint);
        Self {
            error: if passes {
                Error::Unavailable(cause)
            } else {
                Error::Rejected(cause)
            },
            retry: passes.then(|| retry_after(headers).map_or(Retry::Backoff, Retry::After)),
            objection: said.objection(Some(status.as_u16())),
            hint,
        }
    }

    /// Returns the refusal that an error object in place of the first delta means.
    pub(super) fn of_event(error: &Value) -> Self {
        let said = Said::new(Some(error), "");
        let status = status_of(error);
        let hint = said.hint(status);
        let code = error_code(error);
        let passes = match status {
            Some(status) => may_pass(status),
            None => code.as_deref().is_some_and(is_passing_code),
        };
        let is_refusal = status.is_some_and(|status| (400..500).contains(&status)) && !passes;
        let objection = said.objection(status);
        let cause = Cause::ErrorObject(code, hint);
        Self {
            error: if is_refusal || objection.is_some() {
                Error::Rejected(cause)
            } else {
                Error::Unavailable(cause)
            },
            retry: passes.then_some(Retry::Backoff),
            objection,
            hint,
        }
    }

    /// Treats an empty response as an objection to the length of the prompt. The server of llama.cpp's Python binding
    /// cannot object in any other way once it streams, and a session whose history is too long for it would always
    /// fail.
    pub(super) fn suspect_length(&mut self) {
        if matches!(self.error, Error::Unavailable(Cause::Empty)) {
            self.objection = Some(Objection::TooLong);
            self.hint = Some(Hint::TooLong(None));
        }
    }

    /// Returns whether a newer API key might be accepted. Some upstreams use these answers for other failures too; then
    /// the only cost is fetching the key now and then. A key that no header can carry was not even sent.
    pub(super) fn is_of_key(&self) -> bool {
        matches!(
            self.error,
            Error::Rejected(Cause::Status(401 | 403, ..)) | Error::Unavailable(Cause::NoKey)
        )
    }
}

/// Returns whether a status reports a failure that may be temporary: a time-out, a conflict (OpenAI's clients take it
/// for a lock), too early, a rate limit, or a server error.
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 500..)
}

fn is_passing_code(code: &str) -> bool {
    let code = code.to_ascii_lowercase();
    [
        "overload",
        "rate_limit",
        "ratelimit",
        "server_error",
        "internal_error",
        "internal_server",
        "unavailable",
        "timeout",
        "busy",
        "too_many",
    ]
    .iter()
    .any(|word| code.contains(word))
}

/// Returns the HTTP status in the code of an error object, which is a number or text.
fn status_of(error: &Value) -> Option<u16> {
    let number = |value: &Value| {
        value
            .as_u64()
            .or_else(|| value.as_str()?.parse().ok())
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| (400..600).contains(status))
    };
    ["code", "status", "status_code"]
        .iter()
        .find_map(|name| number(error.get(name)?))
}

/// Returns the pause that an upstream asks for, given in milliseconds, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let seconds = |seconds: f64| {
        let pause = Duration::try_from_secs_f64(seconds).ok()?;
        Some(pause.min(FAR_OFF))
    };
    let milliseconds = ["retry-after-ms", "x-ms-retry-after-ms"]
        .iter()
        .find_map(|name| seconds(text(name)?.parse::<f64>().ok()? / 1_000.0));
    if milliseconds.is_some() {
        return milliseconds;
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(value) = value.parse() {
        return seconds(value);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let pause = date.duration_since(SystemTime::now()).unwrap_or_default();
    Some(pause.min(FAR_OFF))
}

/// Returns the code of an error object if it is a single word. A sentence may quote the prompt.
pub(super) fn error_code(error: &Value) -> Option<String> {
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
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_milliseconds_seconds_or_a_date() {
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).expect("a header"));
            retry_after(&headers)
        };
        assert_eq!(
            wait("retry-after-ms", "250"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            wait("x-ms-retry-after-ms", "1.5"),
            Some(Duration::from_micros(1_500))
        );
        assert_eq!(wait("retry-after", "3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(wait("retry-after", "-1"), None);
        assert_eq!(
            wait("retry-after", "1e19"),
            Some(Duration::from_secs(86_400))
        );
        assert_eq!(wait("retry-after", "soon"), None);
        assert_eq!(
            wait("retry-after", "Thu, 01 Jan 1970 00:00:10 GMT"),
            Some(Duration::ZERO)
        );
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
