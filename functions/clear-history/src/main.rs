//! `DELETE /api/v1/chat/history`: forgets a session.

mod handler;

use std::error::Error;
use std::process::ExitCode;

use shared::config::{AuthConfig, CorsConfig, MemoryConfig, RedisConfig, Section};
use shared::{auth::Authenticator, http, memory::Memory, secrets::Secrets, telemetry::Telemetry};

use self::handler::Handler;

fn main() -> ExitCode {
    http::run(start, |(handler, cors)| {
        http::serve_buffered(cors, move |request| {
            Handler::clone(&handler).handle(request)
        })
    })
}

fn start() -> Result<(Handler, CorsConfig), Box<dyn Error>> {
    let telemetry = Telemetry::from_env(env!("CARGO_PKG_NAME"))?;
    let secrets = Secrets::new();
    let auth = Authenticator::new(&AuthConfig::from_env()?, &secrets)?;
    let memory = MemoryConfig::from_env()?;
    let redis = Memory::new(&RedisConfig::from_env()?, &memory, &secrets)?;
    let handler = Handler::new(telemetry, auth, redis);
    Ok((handler, CorsConfig::from_env()?))
}
