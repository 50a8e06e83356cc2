//! `DELETE /api/v1/chat/history`: forgets a session.

mod handler;

use std::error::Error;
use std::process::ExitCode;

use shared::config::{AuthConfig, LogConfig, MemoryConfig, MetricsConfig, RedisConfig, Section};
use shared::{auth::Authenticator, http, memory::Memory, telemetry, telemetry::Telemetry};

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
    let telemetry = Telemetry::start(
        env!("CARGO_PKG_NAME"),
        LogConfig::from_env()?,
        MetricsConfig::from_env()?,
    );
    let authenticator = Authenticator::new(&AuthConfig::from_env()?)?;
    let memory = Memory::new(&RedisConfig::from_env()?, &MemoryConfig::from_env()?)?;
    Ok(Handler::new(telemetry, authenticator, memory))
}
