//! `GET /api/v1/chat/character`: reads what a client may show of a character.

mod handler;

use std::process::ExitCode;
use std::time::SystemTime;

use shared::characters::Characters;
use shared::http::{self, Base};

fn main() -> ExitCode {
    let characters = |base: &Base| Ok(Characters::new(base.store.clone(), SystemTime::now));
    http::run_buffered(
        env!("CARGO_PKG_NAME"),
        |_| "GET",
        characters,
        handler::character,
    )
}
