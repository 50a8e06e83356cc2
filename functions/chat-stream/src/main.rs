//! `POST /api/v1/chat/stream`: says something to a character and streams the reply.

mod handler;

use std::error::Error;
use std::process::ExitCode;

use shared::config::{
    AuthConfig, ContextConfig, CorsConfig, LlmConfig, MemoryConfig, RedisConfig, Section,
};
use shared::{auth::Authenticator, chat::Chat, http, llm::Llm, memory::Memory};
use shared::{secrets::Secrets, telemetry::Telemetry};

use self::handler::Handler;

fn main() -> ExitCode {
    http::run(start, async |(handler, cors): (Handler, CorsConfig)| {
        let chat = handler.chat();
        let handle = move |request| handler.clone().handle(request);
        let ended = http::serve_streaming(cors, handle).await;
        chat.settle().await;
        ended
    })
}

fn start() -> Result<(Handler, CorsConfig), Box<dyn Error>> {
    let telemetry = Telemetry::from_env(env!("CARGO_PKG_NAME"))?;
    let secrets = Secrets::new();
    let memory = MemoryConfig::from_env()?;
    let auth = Authenticator::new(&AuthConfig::from_env()?, &secrets)?;
    let llm = Llm::new(&LlmConfig::from_env()?, &secrets)?;
    let redis = Memory::new(&RedisConfig::from_env()?, &memory, &secrets)?;
    let chat = Chat::new(redis, llm, ContextConfig::from_env()?, &memory);
    let handler = Handler::new(telemetry, auth, chat);
    Ok((handler, CorsConfig::from_env()?))
}
