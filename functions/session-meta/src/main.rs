//! `GET` and `PATCH /api/v1/chat/session`: reads a session, or sets its state.

mod handler;

use std::error::Error;
use std::process::ExitCode;

use shared::config::{AuthConfig, LogConfig, MemoryConfig, RedisConfig, Section};
use shared::{auth::Authenticator, http, memory::Memory, secrets::Secrets, telemetry};

use self::handler::Handler;

#[tokio::main]
async fn main() -> ExitCode {
    let handler = match start() {
        Ok(handler) => handler,
        Err(error) => return telemetry::start_failed(&*error),
    };
    let ended = http::serve_buffered(move |request| handler.clone().handle(request)).await;
    ended.map_or_else(
        |error| telemetry::platform_lost(&*error),
        |()| ExitCode::SUCCESS,
    )
}

fn start() -> Result<Handler, Box<dyn Error>> {
    telemetry::init(LogConfig::from_env()?);
    let secrets = Secrets::new();
    let authenticator = Authenticator::new(&AuthConfig::from_env()?, &secrets)?;
    let memory = Memory::new(
        &RedisConfig::from_env()?,
        &MemoryConfig::from_env()?,
        &secrets,
    )?;
    Ok(Handler::new(authenticator, memory))
}
