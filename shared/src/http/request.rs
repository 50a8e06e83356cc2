//! Requests: who sends them, and the parameters and headers that they have.

use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method};
use lambda_runtime::Context;
use tokio::time::Instant;

use super::body::user_name;
use super::event::Event;
use super::serve::Allow;
use super::{Problem, Protocol};
use crate::auth::{Authenticator, Credentials};
use crate::ids::{CharacterId, IdempotencyKey, MessageId, TurnId, UserId};
use crate::telemetry::{Invocation, Telemetry};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LAST_EVENT_ID: &str = "last-event-id";
/// Most messages or sessions in one answer.
const MAX_LIMIT: usize = 100;

/// A request of an authenticated caller, with a method that the route supports.
pub struct UserRequest {
    /// The authenticated caller, from the token or the gateway's authorizer; never from the body or the query.
    pub user: UserId,
    /// The record of the invocation that carries the request.
    pub invocation: Invocation,
    deadline: Option<Instant>,
    pub(super) request: Event,
}

impl UserRequest {
    /// Checks the method and authenticates the caller.
    ///
    /// # Errors
    /// [`Problem::BadRequest`], [`Problem::MethodNotAllowed`], [`Problem::Unauthorized`], or [`Problem::Internal`] if
    /// the keys cannot be fetched.
    pub(super) async fn accept(
        request: Event,
        context: &Context,
        allow: Allow,
        authenticator: &Authenticator,
        invocation: Invocation,
    ) -> Result<Self, Problem> {
        if let Some(reason) = request.malformed {
            return Err(Problem::BadRequest(reason));
        }
        let method = request.method.as_str();
        let allow = allow(request.resource());
        if !allow.split(", ").any(|allowed| allowed == method) {
            return Err(Problem::MethodNotAllowed(allow));
        }
        let credentials = Credentials {
            bearer: bearer(&request),
            authorizer_subject: request.authorizer_subject.as_deref(),
        };
        let user = authenticator.authenticate(credentials).await?;
        invocation.note_user(&user);
        Ok(Self {
            user,
            invocation,
            deadline: deadline(context),
            request,
        })
    }

    /// Returns the request's method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.request.method
    }

    /// Returns the last segment of the request's path.
    #[must_use]
    pub fn resource(&self) -> &str {
        self.request.resource()
    }

    /// Returns when the platform ends this invocation, or `None` if that is unknown.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the `character_id` of the query, and records it in the invocation.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter is missing, appears more than once, or is not a valid id.
    pub fn character(&self) -> Result<CharacterId, Problem> {
        let character = character(self.parameter("character_id")?)?;
        self.invocation.note_character(&character);
        Ok(character)
    }

    /// Returns the id of a message from a parameter of the query, or `None` if it is missing.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter appears more than once or is not a valid id.
    pub fn message(&self, name: &'static str) -> Result<Option<MessageId>, Problem> {
        let parse = |id: &str| message_id(name, id);
        self.optional(name)?.map(parse).transpose()
    }

    /// Returns the `user_name` of the query, or `None` if it is missing.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter appears more than once or is not a valid name.
    pub fn user_name(&self) -> Result<Option<String>, Problem> {
        let name = self.optional("user_name")?;
        name.map(|name| user_name(name.to_owned())).transpose()
    }

    /// Returns the `limit` of the query: how many to return at most, from 1 to 100.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter appears more than once or is not such a number.
    pub fn limit(&self, default: usize) -> Result<usize, Problem> {
        let Some(limit) = self.optional("limit")? else {
            return Ok(default);
        };
        digits(limit)
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| invalid("limit", "must be a number from 1 to 100"))
    }

    /// Returns the place in a list from the parameter `before` of the query, or `None` if it is missing.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter appears more than once or is not the `next` of a list.
    pub fn place(&self) -> Result<Option<u64>, Problem> {
        let parse = |place: &str| {
            digits(place)
                .ok_or_else(|| invalid("before", "must be the `next` of an earlier answer"))
        };
        self.optional("before")?.map(parse).transpose()
    }

    /// Returns the `turn_id` of the query, or `None` if it is missing.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter appears more than once or is not the id of a turn.
    pub fn turn(&self) -> Result<Option<TurnId>, Problem> {
        let parse = |id: &str| {
            TurnId::parse(id).map_err(|_| invalid("turn_id", "must be a UUID in lower case"))
        };
        self.optional("turn_id")?.map(parse).transpose()
    }

    /// Returns the form in which the client wants the turn.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter `protocol` of the query appears more than once or is unknown.
    pub fn protocol(&self) -> Result<Protocol, Problem> {
        match self.optional("protocol")? {
            None => Ok(Protocol::Events),
            Some("ui-message-stream") => Ok(Protocol::UiMessageStream),
            Some(_) => Err(invalid(
                "protocol",
                "must be ui-message-stream, or left out",
            )),
        }
    }

    /// Returns what the client has seen of a turn: from the header `Last-Event-ID`, else from the parameter `after` of
    /// the query.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if neither is the id of an event.
    pub fn seen(&self) -> Result<Seen, Problem> {
        let header = self.request.headers.get(LAST_EVENT_ID);
        let (name, value) = match header {
            Some(value) => ("Last-Event-ID", value.to_str().unwrap_or_default()),
            None => match self.optional("after")? {
                Some(value) => ("after", value),
                None => return Ok(Seen::Nothing),
            },
        };
        if value == "done" {
            return Ok(Seen::Everything);
        }
        digits(value)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map(Seen::Text)
            .ok_or_else(|| invalid(name, "must be the id of an event: a number, or done"))
    }

    /// Returns the idempotency key of the request, or `None` if it has none.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the header is not a valid key.
    pub fn idempotency_key(&self) -> Result<Option<IdempotencyKey>, Problem> {
        let value = self.request.headers.get(IDEMPOTENCY_KEY);
        let parse = |value: &HeaderValue| {
            IdempotencyKey::parse(value.as_bytes())
                .map_err(|error| invalid("Idempotency-Key", &error.to_string()))
        };
        value.map(parse).transpose()
    }

    /// Returns the value of a required parameter of the query.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] as for [`Self::optional`], or if the parameter is missing.
    fn parameter(&self, name: &'static str) -> Result<&str, Problem> {
        let value = self.optional(name)?;
        value.ok_or_else(|| invalid(name, "is required in the query"))
    }

    /// Returns the value of a parameter of the query, or `None` if it is missing.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter appears more than once, or contains U+FFFD. Bytes that are not
    /// UTF-8 arrive as U+FFFD, whichever side decodes the query; different ones would name the same thing.
    fn optional(&self, name: &'static str) -> Result<Option<&str>, Problem> {
        let mut values = self.request.parameters(name);
        let value = match (values.next(), values.next()) {
            (value, None) => value,
            (_, Some(_)) => return Err(invalid(name, "must be given once")),
        };
        if value.is_some_and(|value| value.contains(char::REPLACEMENT_CHARACTER)) {
            return Err(invalid(name, "must be valid UTF-8 without U+FFFD"));
        }
        Ok(value)
    }
}

/// What a client has seen of a turn that it comes back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// No event.
    Nothing,
    /// The first event, and this number of bytes of the reply's text.
    Text(usize),
    /// The last event.
    Everything,
}

/// Starts the record of the invocation that carries `request`.
pub(super) fn begin(telemetry: &Telemetry, request: &Event, context: &Context) -> Invocation {
    let trace_id = context.xray_trace_id.as_deref().and_then(root);
    let method = match request.method {
        _ if request.malformed.is_some() => "other",
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    telemetry.begin(
        method,
        context.request_id.clone(),
        trace_id.map(str::to_owned),
    )
}

/// Returns when the platform ends the invocation, or `None` if that lies in the past, as under `cargo lambda watch`,
/// which sends a time in 1970.
fn deadline(context: &Context) -> Option<Instant> {
    let deadline = context.deadline();
    let left = deadline.duration_since(SystemTime::now()).ok()?;
    Instant::now().checked_add(left)
}

/// Returns the trace id from a tracing header, such as `Root=1-…;Parent=…;Sampled=1`.
fn root(header: &str) -> Option<&str> {
    header
        .split(';')
        .find_map(|part| part.trim().strip_prefix("Root="))
}

/// Returns the bearer token of the `Authorization` header. The scheme may be in any case (RFC 9110).
fn bearer(request: &Event) -> Option<&str> {
    let (scheme, token) = request
        .headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start())
}

pub(super) fn character(id: &str) -> Result<CharacterId, Problem> {
    CharacterId::parse(id).map_err(|error| invalid("character_id", &error.to_string()))
}

pub(super) fn message_id(field: &'static str, id: &str) -> Result<MessageId, Problem> {
    MessageId::parse(id).map_err(|error| invalid(field, &error.to_string()))
}

/// Returns the number that a text of digits alone stands for.
fn digits(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

pub(super) fn invalid(field: &'static str, problem: &str) -> Problem {
    Problem::InvalidRequest(format!("{field}: {problem}"))
}
