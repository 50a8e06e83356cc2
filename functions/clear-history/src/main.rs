//! `DELETE /api/v1/chat/history`: deletes a session, or the messages from one on.

mod handler;

use std::process::ExitCode;

fn main() -> ExitCode {
    let memory = |base: &shared::http::Base| Ok(base.memory.clone());
    shared::http::run_buffered(env!("CARGO_PKG_NAME"), |_| "DELETE", memory, handler::clear)
}
