//! An export as lines of JSON: each thing that is kept about a user is an object, with its `type`.

use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Serialize;

use super::SessionOf;
use super::error::DATA_UNAVAILABLE;
use super::sse::StreamingAnswer;
use crate::data::{Export, Item};
use crate::message::Message;
use crate::turns::StoredTurn;

/// Size, in bytes, at which a chunk of lines is sent.
const CHUNK_BYTES: usize = 32 * 1024;

/// Returns the response that streams an export. A failure is the last line, because the head is sent by then.
#[must_use]
pub fn stream(export: Export) -> StreamingAnswer {
    let chunks = unfold(export, |mut export| async {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_BYTES {
            let Some(item) = export.next().await else {
                break;
            };
            line(&mut chunk, &item);
        }
        (!chunk.is_empty()).then(|| (Ok(Frame::data(chunk.into())), export))
    });
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Session(SessionOf<'a>),
    Message {
        character_id: &'a str,
        #[serde(flatten)]
        message: &'a Message,
    },
    Unreadable {
        character_id: &'a str,
        stored: &'a str,
    },
    Turn {
        turn_id: String,
        character_id: &'a str,
        state: &'static str,
        text: &'a str,
    },
    Limit {
        window: &'static str,
        used: u64,
    },
    End {
        sessions: u64,
        messages: u64,
        turns: u64,
    },
    Error {
        code: &'static str,
        detail: &'static str,
    },
}

fn line(into: &mut Vec<u8>, item: &Item) {
    let line = match item {
        Item::Session(character, session) => Line::Session(SessionOf {
            character_id: character.as_str(),
            session,
        }),
        Item::Message(character, message) => Line::Message {
            character_id: character.as_str(),
            message,
        },
        Item::Unreadable(character, stored) => Line::Unreadable {
            character_id: character.as_str(),
            stored,
        },
        Item::Turn(character, turn, StoredTurn { has_ended, text }) => Line::Turn {
            turn_id: turn.to_string(),
            character_id: character.as_str(),
            state: if *has_ended { "ended" } else { "running" },
            text,
        },
        Item::Limit(window, used) => Line::Limit {
            window,
            used: *used,
        },
        Item::End(counts) => Line::End {
            sessions: counts.sessions,
            messages: counts.messages,
            turns: counts.turns,
        },
        Item::Failed => Line::Error {
            code: "memory_unavailable",
            detail: DATA_UNAVAILABLE,
        },
    };
    // Text, numbers and raw JSON always serialize.
    let _ = serde_json::to_writer(&mut *into, &line);
    into.push(b'\n');
}
