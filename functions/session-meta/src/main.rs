//! `GET` and `PATCH /api/v1/chat/session`: reads a session, or sets its state. `GET /api/v1/chat/sessions`: lists a user's
//! sessions.

mod handler;

use std::process::ExitCode;

fn main() -> ExitCode {
    let memory = |base: &shared::http::Base| Ok(base.memory.clone());
    shared::http::run_buffered(env!("CARGO_PKG_NAME"), "GET, PATCH", memory, handler::route)
}
