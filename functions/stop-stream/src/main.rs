//! `DELETE /api/v1/chat/stream`: stops a turn that runs, in whichever process it does.

mod handler;

use std::process::ExitCode;

fn main() -> ExitCode {
    let turns = |base: &shared::http::Base| Ok(base.turns.clone());
    shared::http::run_buffered(env!("CARGO_PKG_NAME"), |_| "DELETE", turns, handler::stop)
}
