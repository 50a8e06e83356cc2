//! `GET` and `PATCH /api/v1/chat/session`: reads a session, or sets its state. `GET /api/v1/chat/sessions`: lists a
//! user's sessions.

mod handler;

use std::process::ExitCode;

fn main() -> ExitCode {
    let memory = |base: &shared::http::Base| Ok(base.memory.clone());
    let allow = |resource: &str| match resource {
        "sessions" => "GET",
        _ => "GET, PATCH",
    };
    shared::http::run_buffered(env!("CARGO_PKG_NAME"), allow, memory, handler::route)
}
