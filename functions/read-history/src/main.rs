//! `GET /api/v1/chat/history`: reads the messages of a session, a page at a time.

mod handler;

use std::process::ExitCode;

fn main() -> ExitCode {
    let memory = |base: &shared::http::Base| Ok(base.memory.clone());
    shared::http::run_buffered(env!("CARGO_PKG_NAME"), |_| "GET", memory, handler::history)
}
