//! Parsing and validation of requests.

use std::collections::HashMap;
use std::time::SystemTime;

use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt as _};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Problem;
use crate::auth::{Authenticator, Credentials};
use crate::ids::{CharacterId, UserId};
use crate::message::is_blank;
use crate::session::State;
use crate::telemetry::{Invocation, Telemetry};

const MAX_BODY_BYTES: usize = 64 * 1024;
const MAX_MESSAGE_CHARACTERS: usize = 2_000;
/// Limit of the raw JSON text of `metadata`, in bytes.
const MAX_METADATA_BYTES: usize = 2 * 1024;
/// Limit of nested objects and lists in `metadata`; a common limit of JSON parsers.
const MAX_METADATA_DEPTH: usize = 127;

/// A request of an authenticated caller, with a method that the route supports.
#[derive(Debug)]
pub struct UserRequest {
    /// The authenticated caller, from the token or the gateway's authorizer; never from the body or the query.
    pub user: UserId,
    /// The record of the invocation that carries the request.
    pub invocation: Invocation,
    request: Request,
}

impl UserRequest {
    /// Checks the method and authenticates the caller. `allow` lists the methods of the route in the format of the
    /// `Allow` header.
    ///
    /// # Errors
    /// [`Problem::MethodNotAllowed`], [`Problem::Unauthorized`], or [`Problem::Internal`] if the keys cannot be
    /// fetched.
    pub(super) async fn accept(
        request: Request,
        allow: &'static str,
        authenticator: &Authenticator,
        invocation: Invocation,
    ) -> Result<Self, Problem> {
        let method = request.method().as_str();
        if !allow.split(", ").any(|allowed| allowed == method) {
            return Err(Problem::MethodNotAllowed(allow));
        }
        let context = request.request_context_ref();
        let credentials = Credentials {
            bearer: bearer(&request),
            authorizer_subject: context.and_then(authorizer_subject),
        };
        let user = authenticator.authenticate(credentials).await?;
        invocation.note_user(&user);
        Ok(Self {
            user,
            invocation,
            request,
        })
    }

    /// Returns the request's method.
    #[must_use]
    pub fn method(&self) -> &Method {
        self.request.method()
    }

    /// Returns when the platform ends this invocation, or `None` if that is unknown or lies in the past, as under
    /// `cargo lambda watch`, which sends a time in 1970.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let deadline = self.request.lambda_context_ref()?.deadline();
        let left = deadline.duration_since(SystemTime::now()).ok()?;
        Instant::now().checked_add(left)
    }

    /// Returns the `character_id` of the query, and records it in the invocation.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] if the parameter is missing, appears more than once, or is not a valid id.
    pub fn character(&self) -> Result<CharacterId, Problem> {
        let parameters = self.request.query_string_parameters_ref();
        let values = parameters
            .and_then(|parameters| parameters.all("character_id"))
            .unwrap_or_default();
        let character = match values.as_slice() {
            [id] => character(id)?,
            [] => return Err(invalid("character_id", "is required in the query")),
            _ => return Err(invalid("character_id", "must be given once")),
        };
        self.invocation.note_character(&character);
        Ok(character)
    }
}

/// Starts the record of the invocation that carries `request`.
pub(super) fn begin(telemetry: &Telemetry, request: &Request) -> Invocation {
    let context = request.lambda_context_ref();
    let request_id = context.map(|context| context.request_id.clone());
    let trace_id = context
        .and_then(|context| context.xray_trace_id.as_deref())
        .and_then(root)
        .map(str::to_owned);
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    telemetry.begin(method, request_id.unwrap_or_default(), trace_id)
}

/// Returns the trace id from a tracing header, such as `Root=1-…;Parent=…;Sampled=1`.
fn root(header: &str) -> Option<&str> {
    header
        .split(';')
        .find_map(|part| part.trim().strip_prefix("Root="))
}

/// Returns the bearer token of the `Authorization` header. The scheme may be in any case (RFC 9110).
fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request
        .headers()
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start())
}

/// Returns the subject that an API Gateway authorizer put into the event: REST APIs with Cognito in `claims.sub`,
/// HTTP APIs in `jwt.claims.sub`, Lambda authorizers in `principalId`.
fn authorizer_subject(context: &RequestContext) -> Option<&str> {
    let authorizer = context.authorizer()?;
    if let Some(jwt) = &authorizer.jwt {
        return jwt.claims.get("sub").map(String::as_str);
    }
    let fields = &authorizer.fields;
    let claimed = fields.get("claims").and_then(|claims| claims.get("sub"));
    claimed.or_else(|| fields.get("principalId"))?.as_str()
}

/// The body of a chat request.
#[derive(Debug)]
pub struct ChatBody {
    /// The character addressed.
    pub character: CharacterId,
    /// The message text: 1 to 2,000 characters (Unicode scalar values), at least one of them visible.
    pub message: String,
    /// A JSON object of at most 2 KiB, stored verbatim with the message.
    pub metadata: Option<Box<RawValue>>,
}

/// The fields as raw JSON, so that an error can name the field.
#[derive(Deserialize)]
struct ChatForm<'a> {
    #[serde(borrow)]
    character_id: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

impl ChatBody {
    /// Parses the body of `request`, and records its character in the invocation.
    ///
    /// # Errors
    /// A [`Problem`] that names the invalid field.
    pub fn parse(request: &UserRequest) -> Result<Self, Problem> {
        let form: ChatForm<'_> = json(&request.request)?;
        let character = character(&text("character_id", form.character_id)?)?;
        request.invocation.note_character(&character);
        let message = text("message", form.message)?;
        if is_blank(&message) {
            return Err(invalid("message", "must not be empty"));
        }
        if message.chars().count() > MAX_MESSAGE_CHARACTERS {
            return Err(invalid("message", "must be at most 2000 characters"));
        }
        let metadata = form.metadata.map(metadata).transpose()?;
        Ok(Self {
            character,
            message,
            metadata,
        })
    }
}

/// The body of a request that sets a session's state.
#[derive(Debug)]
pub struct StateBody {
    /// The character of the session.
    pub character: CharacterId,
    /// The state to set.
    pub state: State,
}

#[derive(Deserialize)]
struct StateForm<'a> {
    #[serde(borrow)]
    character_id: Option<&'a RawValue>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
}

impl StateBody {
    /// Parses the body of `request`, and records its character in the invocation.
    ///
    /// # Errors
    /// A [`Problem`] that names the invalid field.
    pub fn parse(request: &UserRequest) -> Result<Self, Problem> {
        let form: StateForm<'_> = json(&request.request)?;
        let character = character(&text("character_id", form.character_id)?)?;
        request.invocation.note_character(&character);
        Ok(Self {
            character,
            state: State::parse(&text("state", form.state)?)
                .ok_or_else(|| invalid("state", "must be ACTIVE, INACTIVE or ENDED"))?,
        })
    }
}

fn json<'a, T: Deserialize<'a>>(request: &'a Request) -> Result<T, Problem> {
    let bytes: &[u8] = match request.body() {
        Body::Text(text) => text.as_bytes(),
        Body::Binary(bytes) => bytes,
        _ => &[],
    };
    if bytes.len() > MAX_BODY_BYTES {
        return Err(Problem::PayloadTooLarge);
    }
    if !is_json(request) {
        return Err(Problem::UnsupportedMediaType);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Problem::InvalidJson("the body is not UTF-8".to_owned()))?;
    // Serde also accepts an array, as the fields in order.
    let is_object = text.trim_start().starts_with('{');
    match serde_json::from_str(text) {
        Ok(form) if is_object => Ok(form),
        Err(error) if !error.is_data() => Err(Problem::InvalidJson(format!(
            "the body is not valid JSON (line {}, column {})",
            error.line(),
            error.column()
        ))),
        // A field that appears twice is rejected, because either value may be the intended one.
        Err(_) if is_object => Err(Problem::InvalidRequest(
            "the body has a field twice".to_owned(),
        )),
        Ok(_) | Err(_) => Err(Problem::InvalidRequest(
            "the body must be a JSON object".to_owned(),
        )),
    }
}

fn is_json(request: &Request) -> bool {
    let content_type = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn text(field: &'static str, value: Option<&RawValue>) -> Result<String, Problem> {
    let value = value.ok_or_else(|| invalid(field, "is required"))?;
    serde_json::from_str(value.get()).map_err(|error| match error.classify() {
        Category::Data => invalid(field, "must be text"),
        // Half of a surrogate pair, for example.
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::InvalidJson(format!("{field}: is not valid JSON text"))
        }
    })
}

fn character(id: &str) -> Result<CharacterId, Problem> {
    CharacterId::parse(id).map_err(|error| invalid("character_id", &error.to_string()))
}

fn metadata(value: &RawValue) -> Result<Box<RawValue>, Problem> {
    if value.get().len() > MAX_METADATA_BYTES {
        return Err(invalid("metadata", "must be at most 2 KiB"));
    }
    if !value.get().starts_with('{') {
        return Err(invalid("metadata", "must be a JSON object"));
    }
    if !is_readable(value, MAX_METADATA_DEPTH) {
        return Err(Problem::InvalidJson(
            "metadata: is not valid JSON, or nested too deeply".to_owned(),
        ));
    }
    Ok(value.to_owned())
}

/// Returns whether other parsers can read JSON that is stored raw: no half surrogate pairs, and at most `depth`
/// nested objects and lists. Numbers may have any size.
fn is_readable(value: &RawValue, depth: usize) -> bool {
    let json = value.get();
    let below = depth.checked_sub(1);
    let is_below = |value: &RawValue| below.is_some_and(|depth| is_readable(value, depth));
    if json.starts_with('{') {
        serde_json::from_str::<HashMap<String, &RawValue>>(json)
            .is_ok_and(|members| below.is_some() && members.into_values().all(is_below))
    } else if json.starts_with('[') {
        serde_json::from_str::<Vec<&RawValue>>(json)
            .is_ok_and(|elements| below.is_some() && elements.into_iter().all(is_below))
    } else if json.starts_with('"') {
        serde_json::from_str::<String>(json).is_ok()
    } else {
        true
    }
}

fn invalid(field: &'static str, problem: &str) -> Problem {
    Problem::InvalidRequest(format!("{field}: {problem}"))
}
