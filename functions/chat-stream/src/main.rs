//! `POST /api/v1/chat/stream`: says something to a character and streams the reply.

mod handler;

use std::error::Error;
use std::process::ExitCode;

use shared::config::{
    AuthConfig, ContextConfig, LlmConfig, LogConfig, MemoryConfig, MetricsConfig, RedisConfig,
    Section,
};
use shared::{
    auth::Authenticator, chat::Chat, http, llm::Llm, memory::Memory, telemetry,
    telemetry::Telemetry,
};

use self::handler::Handler;

#[tokio::main]
async fn main() -> ExitCode {
    let handler = match start() {
        Ok(handler) => handler,
        Err(error) => return telemetry::start_failed(&*error),
    };
    let chat = handler.chat();
    let ended = http::serve_streaming(move |request| handler.clone().handle(request)).await;
    chat.settle().await;
    ended.map_or_else(
        |error| telemetry::platform_lost(&*error),
        |()| ExitCode::SUCCESS,
    )
}

fn start() -> Result<Handler, Box<dyn Error>> {
    let telemetry = Telemetry::start(
        env!("CARGO_PKG_NAME"),
        LogConfig::from_env()?,
        MetricsConfig::from_env()?,
    );
    let memory = MemoryConfig::from_env()?;
    let authenticator = Authenticator::new(&AuthConfig::from_env()?)?;
    let llm = Llm::new(&LlmConfig::from_env()?)?;
    let redis = Memory::new(&RedisConfig::from_env()?, &memory)?;
    Ok(Handler::new(
        telemetry,
        authenticator,
        Chat::new(redis, llm, ContextConfig::from_env()?, &memory),
    ))
}
