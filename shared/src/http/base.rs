//! What every function has, read from the environment once: logs and metrics, secrets, authentication, memory, CORS.

use std::error::Error;

use crate::auth::Authenticator;
use crate::config::{AuthConfig, CorsConfig, MemoryConfig, RedisConfig, Section};
use crate::memory::Memory;
use crate::secrets::Secrets;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// The parts that functions share. Building them touches no network, so an outage is not a crash at start.
pub struct Base {
    /// Where secret values come from.
    pub secrets: Secrets,
    /// The way to Redis.
    pub store: Store,
    /// The sessions.
    pub memory: Memory,
    /// The settings of `memory`.
    pub memory_config: MemoryConfig,
    pub(super) telemetry: Telemetry,
    pub(super) authenticator: Authenticator,
    pub(super) cors: CorsConfig,
}

impl Base {
    /// Reads the settings that every function has. `function` is the function's name in logs and metrics.
    ///
    /// # Errors
    /// The first setting that is missing or cannot be used.
    pub fn from_env(function: &'static str) -> Result<Self, Box<dyn Error>> {
        // First, so that whatever fails after it can be logged.
        let telemetry = Telemetry::from_env(function)?;
        let secrets = Secrets::new();
        let redis = RedisConfig::from_env()?;
        let memory_config = MemoryConfig::from_env()?;
        let store = Store::new(&redis, &memory_config, &secrets)?;
        Ok(Self {
            telemetry,
            authenticator: Authenticator::new(&AuthConfig::from_env()?, &secrets)?,
            memory: Memory::new(store.clone(), redis.key_layout, &memory_config),
            memory_config,
            store,
            secrets,
            cors: CorsConfig::from_env()?,
        })
    }
}
