//! `POST /api/v1/chat/stream`: sends a message to a character and streams the reply. `GET` on the same path comes back
//! to a turn.

mod handler;

use std::error::Error;
use std::process::ExitCode;
use std::time::SystemTime;

use shared::config::{ContextConfig, LlmConfig, Section};
use shared::http::{self, Base};
use shared::{characters::Characters, chat::Chat, llm::Llm};

fn main() -> ExitCode {
    http::run(env!("CARGO_PKG_NAME"), chat, async |base, chat| {
        let ended = http::serve_streaming(base, "GET, POST", chat.clone(), handler::stream).await;
        chat.settle().await;
        ended
    })
}

fn chat(base: &Base) -> Result<Chat, Box<dyn Error>> {
    Ok(Chat::new(
        base.memory.clone(),
        base.turns.clone(),
        Characters::new(base.store.clone(), SystemTime::now),
        Llm::new(&LlmConfig::from_env()?, &base.secrets)?,
        ContextConfig::from_env()?,
        &base.memory_config,
        base.ending.clone(),
    ))
}
