//! `GET /api/v1/chat/data`: exports everything that is kept about a user. `DELETE` on the same path erases it.

mod handler;

use std::process::ExitCode;

use shared::data::Data;
use shared::http::{self, Base};

fn main() -> ExitCode {
    let data = |base: &Base| {
        let (memory, turns) = (base.memory.clone(), base.turns.clone());
        Ok(Data::new(memory, turns, base.store.clone(), base.layout))
    };
    http::run(env!("CARGO_PKG_NAME"), data, async |server, data| {
        http::serve_streaming(server, |_| "GET, DELETE", data, handler::data).await
    })
}
