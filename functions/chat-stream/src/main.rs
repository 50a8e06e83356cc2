//! `POST /api/v1/chat/stream`: sends a message to a character and streams the reply. `GET` on the same path comes back
//! to a turn.

mod handler;

use std::error::Error;
use std::process::ExitCode;
use std::time::SystemTime;

use shared::chat::{Chat, Rooms};
use shared::config::{ContextConfig, LimitsConfig, LlmConfig, Section};
use shared::http::{self, Base};
use shared::{characters::Characters, limits::Limits, llm::Llm};

fn main() -> ExitCode {
    http::run(env!("CARGO_PKG_NAME"), chat, async |server, chat| {
        let ended =
            http::serve_streaming(server, |_| "GET, POST", chat.clone(), handler::stream).await;
        chat.settle().await;
        ended
    })
}

fn chat(base: &Base) -> Result<Chat, Box<dyn Error>> {
    let rooms = Rooms {
        memory: base.memory.clone(),
        records: base.turns.clone(),
        limits: Limits::new(base.store.clone(), base.layout, LimitsConfig::from_env()?),
        characters: Characters::new(base.store.clone(), SystemTime::now),
        llm: Llm::new(&LlmConfig::from_env()?, &base.secrets)?,
        capacity: base.capacity.clone(),
    };
    let (context, memory) = (ContextConfig::from_env()?, &base.memory_config);
    Ok(Chat::new(rooms, context, memory, base.ending.clone()))
}
