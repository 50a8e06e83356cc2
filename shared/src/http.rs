//! HTTP in, HTTP out: what handlers share. The only room that knows `lambda_http`.
//!
//! A request is parsed once, here, into types that cannot be wrong; whatever is wrong with it becomes a [`Problem`] that
//! names it. Order of the checks: method, caller, then the body or the query. What can be told of a request is noted in the
//! invocation's event as it becomes known.

mod cors;
mod error;
#[cfg(target_os = "linux")]
mod nodelay;
#[cfg(not(target_os = "linux"))]
#[path = "http/nodelay_elsewhere.rs"]
mod nodelay;
mod request;
mod serve;
pub mod sse;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use lambda_http::Body;
use serde::Serialize;

use crate::ids::CharacterId;
use crate::session::Session;
use crate::telemetry::Invocation;

pub use self::error::Problem;
pub use self::request::{
    ChatBody, StateBody, authenticate, begin, character_of_query, deadline, expect_method,
};
pub use self::serve::{run, serve_buffered, serve_streaming};

/// A buffered answer.
pub type Answer = Response<Body>;

#[derive(Serialize)]
struct Cleared {
    message: &'static str,
}

/// The answer to a clear.
#[must_use]
pub fn cleared() -> Answer {
    ok(&Cleared {
        message: "历史已清空",
    })
}

#[derive(Serialize)]
struct SessionOf<'a> {
    character_id: &'a str,
    #[serde(flatten)]
    session: &'a Session,
}

/// The answer that shows a session.
#[must_use]
pub fn session(character: &CharacterId, session: &Session) -> Answer {
    ok(&SessionOf {
        character_id: character.as_str(),
        session,
    })
}

fn ok(body: &impl Serialize) -> Answer {
    json_answer(http::StatusCode::OK, "application/json", body)
}

fn json_answer(
    status: http::StatusCode,
    content_type: &'static str,
    body: &impl Serialize,
) -> Answer {
    // The bodies of this service are text and numbers, which cannot fail to serialize.
    let text = serde_json::to_string(body).unwrap_or_default();
    let mut response = Response::new(Body::Text(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // An answer is one user's, and true for a moment.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Makes any outcome of a handler, a panic included, an answer: the runtime must never see an error, because it would
/// answer with an empty 502. The answer's status is noted in `invocation`.
///
/// # Errors
/// None; the type is what the runtime asks for.
pub async fn respond<T>(
    invocation: &Invocation,
    outcome: impl Future<Output = Result<Response<T>, Problem>>,
    refuse: impl FnOnce(Answer) -> Response<T>,
) -> Result<Response<T>, Infallible> {
    // A handler shares nothing with its caller that a panic could leave half done.
    let outcome = AssertUnwindSafe(outcome).catch_unwind().await;
    let response = match outcome.unwrap_or(Err(Problem::Internal)) {
        Ok(response) => response,
        Err(problem) => refuse(problem.into_answer()),
    };
    invocation.note(|figures| figures.status = Some(response.status().as_u16()));
    Ok(response)
}
