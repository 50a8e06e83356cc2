//! The parts that functions share, built from the environment: telemetry, secrets and memory, and for HTTP authentication
//! and CORS.

use std::error::Error;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::capacity::Capacity;
use crate::config::{AuthConfig, CorsConfig, KeyLayout, MemoryConfig, RedisConfig, Section};
use crate::memory::Memory;
use crate::secrets::Secrets;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::turns::Turns;

use super::poll::most_at_once;

/// The parts that all functions share. Building them connects to nothing, so an outage does not prevent a start.
pub struct Base {
    /// Reads and caches secret values.
    pub secrets: Secrets,
    /// Client for all Redis operations.
    pub store: Store,
    /// Short-term memory: the sessions.
    pub memory: Memory,
    /// The records of turns; `None` if the settings switch them off.
    pub turns: Option<Turns>,
    /// How the names of Redis keys are spelled.
    pub layout: KeyLayout,
    /// The settings of short-term memory.
    pub memory_config: MemoryConfig,
    /// Cancelled when the process is asked to end. What runs then settles at once.
    pub ending: CancellationToken,
    /// How many invocations and turns the process carries at once.
    pub capacity: Arc<Capacity>,
    pub(super) telemetry: Telemetry,
}

/// What serves HTTP: the parts that all functions share, and those that tell callers apart.
pub struct Server {
    pub(super) base: Base,
    pub(super) authenticator: Authenticator,
    pub(super) cors: CorsConfig,
}

impl Server {
    /// Adds the parts for HTTP, configured from the environment.
    ///
    /// # Errors
    /// A setting is missing or invalid. Only the first one is reported.
    pub(super) fn from_env(base: Base) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            authenticator: Authenticator::new(&AuthConfig::from_env()?, &base.secrets)?,
            cors: CorsConfig::from_env()?,
            base,
        })
    }
}

impl Base {
    /// Returns the parts that all functions share, configured from the environment. `function` is the function's name
    /// in logs and metrics.
    ///
    /// # Errors
    /// A setting is missing or invalid. Only the first one is reported.
    pub fn from_env(function: &'static str) -> Result<Self, Box<dyn Error>> {
        // Created first, so that later failures can be logged.
        let telemetry = Telemetry::from_env(function)?;
        let secrets = Secrets::new();
        let redis = RedisConfig::from_env()?;
        let memory_config = MemoryConfig::from_env()?;
        let store = Store::new(&redis, &memory_config, &secrets)?;
        Ok(Self {
            telemetry,
            memory: Memory::new(store.clone(), redis.key_layout, &memory_config),
            turns: Turns::new(store.clone(), redis.key_layout, &memory_config),
            layout: redis.key_layout,
            memory_config,
            ending: CancellationToken::new(),
            capacity: Arc::new(Capacity::of_this_process(most_at_once())),
            store,
            secrets,
        })
    }
}
