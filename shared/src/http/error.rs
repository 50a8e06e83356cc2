//! Errors as HTTP reports them: RFC 9457 problem details. Only this file defines their status, code and public text.

use http::header::{ALLOW, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::{Answer, json_answer};
use crate::auth;
use crate::characters::{self, Malformed};
use crate::chat::Refusal;
use crate::context::TooLong;
use crate::memory;

/// Value of `Retry-After`, in seconds, while memory is unavailable or the process is full.
const SOON: HeaderValue = HeaderValue::from_static("1");

/// Public text for data of a user that cannot be reached.
pub(super) const DATA_UNAVAILABLE: &str = "the data cannot be read or erased at the moment";

/// An error before a stream begins. Public texts are fixed or name a field. None quotes a request or an internal
/// error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The event is not a request that can be read. Holds the reason.
    BadRequest(&'static str),
    /// The caller could not be authenticated. Holds the reason.
    Unauthorized(&'static str),
    /// The body is not valid JSON. Holds the position or the field.
    InvalidJson(String),
    /// The body or the query does not match what this route expects. Holds a text that names the field.
    InvalidRequest(String),
    /// The body exceeds the limit of 64 KiB.
    PayloadTooLarge,
    /// The body's content type is not `application/json`.
    UnsupportedMediaType,
    /// The character does not exist.
    CharacterNotFound,
    /// The session does not exist.
    SessionNotFound,
    /// The turn is unknown or forgotten, belongs to another user, or does not run.
    TurnNotFound,
    /// The message is not stored in this session.
    MessageNotFound,
    /// The user has used up a limit. Holds the seconds after which the user may try again.
    TooManyRequests(u64),
    /// The idempotency key was used for a request with another content.
    KeyReused,
    /// The route does not support the method. Holds the value of `Allow`, the methods that it supports.
    MethodNotAllowed(&'static str),
    /// Redis is unavailable, and this request needs it. Holds the public text.
    MemoryUnavailable(&'static str),
    /// The process carries as many turns as it can.
    Overloaded,
    /// The character's prompt alone exceeds the context limit, so that no message can be answered.
    CharacterTooLarge,
    /// A defect of this service, of its configuration or of its data.
    Internal,
}

#[derive(Serialize)]
struct Details<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::BadRequest(_) | Self::InvalidJson(_) => StatusCode::BAD_REQUEST,
            Self::InvalidRequest(_) | Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::CharacterNotFound
            | Self::SessionNotFound
            | Self::TurnNotFound
            | Self::MessageNotFound => StatusCode::NOT_FOUND,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::MemoryUnavailable(_) | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::CharacterTooLarge | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::Unauthorized(_) => "unauthorized",
            Self::InvalidJson(_) => "invalid_json",
            Self::InvalidRequest(_) => "invalid_request",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::CharacterNotFound => "character_not_found",
            Self::SessionNotFound => "session_not_found",
            Self::TurnNotFound => "turn_not_found",
            Self::MessageNotFound => "message_not_found",
            Self::TooManyRequests(_) => "too_many_requests",
            Self::KeyReused => "idempotency_key_reused",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::MemoryUnavailable(_) => "memory_unavailable",
            Self::Overloaded => "overloaded",
            Self::CharacterTooLarge => "character_too_large",
            Self::Internal => "internal",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::InvalidJson(detail) | Self::InvalidRequest(detail) => detail,
            Self::BadRequest(detail)
            | Self::Unauthorized(detail)
            | Self::MemoryUnavailable(detail) => detail,
            Self::PayloadTooLarge => "the body must be at most 64 KiB",
            Self::UnsupportedMediaType => "the body must be sent as application/json",
            Self::CharacterNotFound => "the character does not exist",
            Self::SessionNotFound => "the session does not exist",
            Self::TurnNotFound => "the turn does not exist, or is no longer remembered",
            Self::MessageNotFound => "the message does not exist, or is no longer stored",
            Self::TooManyRequests(_) => {
                "a limit for this user is used up; Retry-After says until when"
            }
            Self::KeyReused => "this Idempotency-Key was used for another request",
            Self::MethodNotAllowed(_) => "this path does not support this method",
            Self::Overloaded => "too many turns run at the moment; try again soon",
            Self::CharacterTooLarge => {
                "this character's prompt does not fit into the context window"
            }
            Self::Internal => "服务暂时不可用，请稍后重试",
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthorized(_) => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::MethodNotAllowed(allow) => Some((ALLOW, HeaderValue::from_static(allow))),
            Self::MemoryUnavailable(_) | Self::Overloaded => Some((RETRY_AFTER, SOON)),
            Self::TooManyRequests(seconds) => Some((RETRY_AFTER, HeaderValue::from(*seconds))),
            Self::BadRequest(_)
            | Self::InvalidJson(_)
            | Self::InvalidRequest(_)
            | Self::PayloadTooLarge
            | Self::UnsupportedMediaType
            | Self::CharacterNotFound
            | Self::SessionNotFound
            | Self::TurnNotFound
            | Self::MessageNotFound
            | Self::KeyReused
            | Self::CharacterTooLarge
            | Self::Internal => None,
        }
    }

    /// Returns the response that reports the problem.
    #[must_use]
    pub fn into_answer(self) -> Answer {
        let status = self.status();
        let details = Details {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.detail(),
            code: self.code(),
        };
        let mut answer = json_answer(status, "application/problem+json", &details);
        if let Some((name, value)) = self.header() {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

/// Problems of an operation that needs memory. The cause is logged and not part of the response.
impl Problem {
    /// Returns the problem for a session that could not be cleared.
    #[must_use]
    pub fn clear_failed(error: memory::Error) -> Self {
        Self::of_memory(&error, "清空历史失败")
    }

    /// Returns the problem for a session that could not be read or changed.
    #[must_use]
    pub fn session_unavailable(error: memory::Error) -> Self {
        Self::of_memory(
            &error,
            "the session cannot be read or changed at the moment",
        )
    }

    /// Returns the problem for a history that could not be read or rewound.
    #[must_use]
    pub fn history_unavailable(error: memory::Error) -> Self {
        Self::of_memory(
            &error,
            "the history cannot be read or changed at the moment",
        )
    }

    /// Returns the problem for data of a user that could not be read or erased.
    #[must_use]
    pub fn data_unavailable(error: memory::Error) -> Self {
        Self::of_memory(&error, DATA_UNAVAILABLE)
    }

    /// Returns the problem for stored characters that could not be reached.
    #[must_use]
    pub fn characters_unavailable(error: memory::Error) -> Self {
        Self::of_memory(
            &error,
            "the stored characters cannot be reached at the moment",
        )
    }

    /// Returns the problem for a file that holds no character. The texts of [`Malformed`] are public: they quote nothing.
    #[must_use]
    pub fn unreadable_card(error: &Malformed) -> Self {
        Self::InvalidRequest(format!("card: {error}"))
    }

    /// Returns the problem for a part of a turn in a protocol whose streams cannot begin in the middle.
    #[must_use]
    pub fn always_from_start() -> Self {
        Self::InvalidRequest(
            "Last-Event-ID or after: is not for this protocol, which always begins with the first event".to_owned(),
        )
    }

    /// Returns the problem for a turn that could not be looked up.
    #[must_use]
    pub fn turn_unavailable(error: memory::Error) -> Self {
        Self::of_memory(&error, "the turn cannot be looked up at the moment")
    }

    fn of_memory(error: &memory::Error, detail: &'static str) -> Self {
        tracing::warn!(reason = error.reason(), "memory is unavailable");
        Self::MemoryUnavailable(detail)
    }
}

impl From<auth::Error> for Problem {
    fn from(error: auth::Error) -> Self {
        match error {
            auth::Error::Unauthorized(detail) => Self::Unauthorized(detail),
            auth::Error::KeysUnavailable | auth::Error::SecretUnavailable => Self::Internal,
        }
    }
}

impl From<characters::Error> for Problem {
    fn from(error: characters::Error) -> Self {
        match error {
            characters::Error::NotFound => Self::CharacterNotFound,
            characters::Error::Unavailable(_) => {
                Self::MemoryUnavailable("the character cannot be looked up at the moment")
            }
            error @ characters::Error::WrongType => {
                tracing::error!(key = "character:<id>", %error, "a character's key cannot be read");
                Self::Internal
            }
            characters::Error::Failed => Self::Internal,
            characters::Error::Malformed(error) => {
                tracing::error!(key = "character:<id>", %error, "a stored character cannot be read");
                Self::Internal
            }
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Character(error) => error.into(),
            Refusal::TooLong(error @ TooLong::Character { .. }) => {
                tracing::error!(%error, setting = "CONTEXT_MAX_TOKENS", "a character is too large");
                Self::CharacterTooLarge
            }
            Refusal::MessageNotFound => Self::MessageNotFound,
            Refusal::GreetingNotFound => Self::InvalidRequest(
                "greeting: must be the number of one of the character's greetings".to_owned(),
            ),
            Refusal::HistoryUnavailable(error) => Self::history_unavailable(error),
            Refusal::Full(shortage) => {
                tracing::warn!(
                    lacks = shortage.as_str(),
                    "the process is full; a turn is refused"
                );
                Self::Overloaded
            }
            Refusal::LimitReached(seconds) => Self::TooManyRequests(seconds),
            Refusal::KeyReused => Self::KeyReused,
            Refusal::TurnNotFound => Self::TurnNotFound,
            Refusal::NotAnOffset => Self::InvalidRequest(
                "Last-Event-ID or after: is not the id of an event of this turn".to_owned(),
            ),
            Refusal::Unavailable(error) => Self::turn_unavailable(error),
            Refusal::TooLong(TooLong::Message) => Self::InvalidRequest(
                "message: it does not fit into this character's context window".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_a_problem_document() {
        let answer = Problem::InvalidRequest("message: must be text".into()).into_answer();
        assert_eq!(answer.status(), 422);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let lambda_http::Body::Text(body) = answer.body() else {
            panic!("text");
        };
        assert_eq!(
            body,
            r#"{"type":"about:blank","title":"Unprocessable Entity","status":422,"detail":"message: must be text","code":"invalid_request"}"#
        );
    }

    #[test]
    fn headers_that_the_contract_names() {
        let header =
            |problem: Problem, name: &str| problem.into_answer().headers().get(name).cloned();
        assert_eq!(
            header(Problem::Unauthorized("x"), "www-authenticate").expect("set"),
            "Bearer"
        );
        assert_eq!(
            header(Problem::MethodNotAllowed("GET, PATCH"), "allow").expect("set"),
            "GET, PATCH"
        );
        assert_eq!(
            header(Problem::MemoryUnavailable("x"), "retry-after").expect("set"),
            "1"
        );
        assert_eq!(
            header(Problem::Overloaded, "retry-after").expect("set"),
            "1"
        );
        assert_eq!(
            header(Problem::TooManyRequests(17), "retry-after").expect("set"),
            "17"
        );
    }
}
