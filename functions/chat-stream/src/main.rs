//! `POST /api/v1/chat/stream`: says something to a character and streams the reply.

mod handler;

use std::error::Error;
use std::process::ExitCode;

use shared::config::{
    AuthConfig, ContextConfig, LlmConfig, LogConfig, MemoryConfig, MetricsConfig, RedisConfig,
    Section,
};
use shared::{
    auth::Authenticator, chat::Chat, http, llm::Llm, memory::Memory, secrets::Secrets, telemetry,
};

use self::handler::Handler;

fn main() -> ExitCode {
    let handler = match start() {
        Ok(handler) => handler,
        Err(error) => return telemetry::start_failed(&*error),
    };
    let ended = http::block_on(async {
        let chat = handler.chat();
        let ended = http::serve_streaming(move |request| handler.clone().handle(request)).await;
        chat.settle().await;
        ended
    });
    ended.map_or_else(
        |error| telemetry::platform_lost(&*error),
        |()| ExitCode::SUCCESS,
    )
}

fn start() -> Result<Handler, Box<dyn Error>> {
    let telemetry = telemetry::Telemetry::start(
        env!("CARGO_PKG_NAME"),
        LogConfig::from_env()?,
        MetricsConfig::from_env()?,
    );
    let secrets = Secrets::new();
    let memory = MemoryConfig::from_env()?;
    let authenticator = Authenticator::new(&AuthConfig::from_env()?, &secrets)?;
    let llm = Llm::new(&LlmConfig::from_env()?, &secrets)?;
    let redis = Memory::new(&RedisConfig::from_env()?, &memory, &secrets)?;
    Ok(Handler::new(
        telemetry,
        authenticator,
        Chat::new(redis, llm, ContextConfig::from_env()?, &memory),
    ))
}
