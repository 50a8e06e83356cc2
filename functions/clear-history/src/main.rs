//! `DELETE /api/v1/chat/history`: forgets a session.

mod handler;

use std::error::Error;
use std::process::ExitCode;

use shared::config::{AuthConfig, CorsConfig, LogConfig, MemoryConfig, RedisConfig, Section};
use shared::{auth::Authenticator, http, memory::Memory, telemetry};

use self::handler::Handler;

#[tokio::main]
async fn main() -> ExitCode {
    let (handler, cors) = match start() {
        Ok(ready) => ready,
        Err(error) => return telemetry::start_failed(&*error),
    };
    let ended = http::serve_buffered(cors, move |request| handler.clone().handle(request)).await;
    ended.map_or_else(
        |error| telemetry::platform_lost(&*error),
        |()| ExitCode::SUCCESS,
    )
}

fn start() -> Result<(Handler, CorsConfig), Box<dyn Error>> {
    telemetry::init(LogConfig::from_env()?);
    let authenticator = Authenticator::new(&AuthConfig::from_env()?)?;
    let memory = Memory::new(&RedisConfig::from_env()?, &MemoryConfig::from_env()?)?;
    Ok((Handler::new(authenticator, memory), CorsConfig::from_env()?))
}
