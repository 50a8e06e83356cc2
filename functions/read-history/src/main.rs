//! `GET /api/v1/chat/history`: reads the messages of a session, a page at a time.

mod handler;

use std::process::ExitCode;
use std::time::SystemTime;

use shared::characters::Characters;
use shared::http::{self, Base};

fn main() -> ExitCode {
    let rooms = |base: &Base| {
        let characters = Characters::new(base.store.clone(), SystemTime::now);
        Ok((base.memory.clone(), characters))
    };
    http::run_buffered(env!("CARGO_PKG_NAME"), |_| "GET", rooms, handler::history)
}
