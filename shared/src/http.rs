//! HTTP requests and responses: what the handlers share. The only module that uses `lambda_http` and `lambda_runtime`.
//!
//! A function consists of its route; [`run_buffered`] and [`run`] do the rest. A request is parsed once, into types
//! that cannot hold invalid values. An error becomes a [`Problem`] that names the cause. Checks run in this order:
//! method, caller, then body or query. Facts about a request are recorded in its invocation.

mod base;
mod body;
mod cors;
mod direct;
mod error;
mod event;
pub mod ndjson;
#[cfg(target_os = "linux")]
mod nodelay;
#[cfg(not(target_os = "linux"))]
#[path = "http/nodelay_elsewhere.rs"]
mod nodelay;
mod poll;
mod request;
mod serve;
pub mod sse;
mod turn_json;
mod ui_stream;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use lambda_http::Body;
use serde::Serialize;

use crate::characters::card::Card;
use crate::characters::{Audience, Character, Sheet};
use crate::ids::{CharacterId, TurnId};
use crate::memory::{Erased, LastMessage, Page, Sessions};
use crate::message::Message;
use crate::session::Session;

pub use http::Method;

pub use self::base::{Base, Server};
pub use self::body::{ChatBody, StateBody};
pub use self::direct::{CharacterCommand, characters, deleted_character, put, stored_character};
pub use self::error::Problem;
pub use self::request::{Seen, UserRequest};
pub use self::serve::{Allow, run, run_buffered, run_direct, serve_streaming};
pub use self::sse::Protocol;

/// A buffered response.
pub type Answer = Response<Body>;

#[derive(Serialize)]
struct Changed {
    message: &'static str,
}

/// Returns the response to a successful clear.
#[must_use]
pub fn cleared() -> Answer {
    ok(&Changed {
        message: "历史已清空",
    })
}

/// Returns the response to a successful rewind.
#[must_use]
pub fn rewound() -> Answer {
    ok(&Changed {
        message: "历史已回退",
    })
}

#[derive(Serialize)]
struct ErasedOf {
    message: &'static str,
    erased: Erased,
}

/// Returns the response to a successful erasure.
#[must_use]
pub fn erased(erased: Erased) -> Answer {
    ok(&ErasedOf {
        message: "数据已删除",
        erased,
    })
}

#[derive(Serialize)]
struct HistoryOf<'a> {
    character_id: &'a str,
    messages: &'a [Message],
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    greeting: Option<String>,
}

/// Returns the response with a part of a session's messages, and the character's greeting if there is one to show.
#[must_use]
pub fn history(character: &CharacterId, page: &Page, greeting: Option<String>) -> Answer {
    ok(&HistoryOf {
        character_id: character.as_str(),
        messages: &page.messages,
        has_more: page.has_more,
        greeting,
    })
}

#[derive(Serialize)]
struct CharacterOf<'a> {
    character_id: &'a str,
    name: &'a str,
    greetings: Vec<String>,
    creator: &'a str,
    creator_notes: &'a str,
    character_version: &'a str,
    tags: &'a [String],
}

/// Returns the response with what a client may show of a character.
#[must_use]
pub fn character(id: &CharacterId, character: &Character, audience: &Audience<'_>) -> Answer {
    let sheet = character.sheet();
    let card = sheet.map(Sheet::card);
    let text = |field: fn(&Card) -> &str| card.map_or("", field);
    ok(&CharacterOf {
        character_id: id.as_str(),
        name: character.name(),
        greetings: sheet.map_or_else(Vec::new, |sheet| sheet.greetings_for(audience)),
        creator: text(|card| &card.creator),
        creator_notes: text(|card| &card.creator_notes),
        character_version: text(|card| &card.character_version),
        tags: card.map_or(&[], |card| &card.tags),
    })
}

#[derive(Serialize)]
struct List<'a> {
    sessions: Vec<ListedSession<'a>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct ListedSession<'a> {
    #[serde(flatten)]
    session: SessionOf<'a>,
    last_message: Option<&'a LastMessage>,
}

/// Returns the response with a part of the list of a user's sessions.
#[must_use]
pub fn sessions(list: &Sessions) -> Answer {
    let sessions = list.sessions.iter().map(|listed| ListedSession {
        session: SessionOf {
            character_id: listed.character.as_str(),
            session: &listed.session,
        },
        last_message: listed.last.as_ref(),
    });
    ok(&List {
        sessions: sessions.collect(),
        next: list.next.map(|place| place.to_string()),
    })
}

#[derive(Serialize)]
struct Stopping {
    turn_id: String,
    state: &'static str,
}

/// Returns the response to a stop that was asked for.
#[must_use]
pub fn stopping(turn: TurnId) -> Answer {
    let body = Stopping {
        turn_id: turn.to_string(),
        state: "stopping",
    };
    json_answer(StatusCode::ACCEPTED, "application/json", &body)
}

/// Returns a response without a body.
#[must_use]
pub fn nothing() -> Answer {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[derive(Serialize)]
struct SessionOf<'a> {
    character_id: &'a str,
    #[serde(flatten)]
    session: &'a Session,
}

/// Returns the response with a session's state and figures.
#[must_use]
pub fn session(character: &CharacterId, session: &Session) -> Answer {
    ok(&SessionOf {
        character_id: character.as_str(),
        session,
    })
}

fn ok(body: &impl Serialize) -> Answer {
    json_answer(StatusCode::OK, "application/json", body)
}

fn json_answer(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Answer {
    // Bodies consist of text and numbers, which always serialize.
    let text = serde_json::to_string(body).unwrap_or_default();
    let mut response = Response::new(Body::Text(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Responses are per user and change at any time, so they must not be cached.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
