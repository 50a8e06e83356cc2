//! Where Redis is and how to reach it: variables that begin with `REDIS_`.

use secrecy::SecretString;

use super::read::{choice, secret, small, text};
use super::{ConfigError, Lookup, RedisLogin, Section};

/// How the Redis servers are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    Standalone,
    /// A master that sentinels name.
    Sentinel,
    /// A cluster.
    Cluster,
}

/// How keys are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLayout {
    /// `chat:user:character:…`
    Plain,
    /// `chat:{user}:character:…`: all keys of a user share a cluster slot.
    Tagged,
}

/// Where the memory is.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `REDIS_MODE`
    pub mode: RedisMode,
    /// `REDIS_URL`, split at its commas. A URL can hold a password.
    pub urls: Vec<SecretString>,
    /// `REDIS_SENTINEL_MASTER`
    pub sentinel_master: String,
    /// `REDIS_USERNAME`
    pub username: Option<String>,
    /// `REDIS_AUTH` and what it needs.
    pub login: RedisLogin,
    /// `REDIS_SENTINEL_USERNAME`
    pub sentinel_username: Option<String>,
    /// `REDIS_SENTINEL_PASSWORD`
    pub sentinel_password: Option<SecretString>,
    /// `REDIS_TLS_CA_FILE`
    pub tls_ca_file: Option<String>,
    /// `REDIS_WAIT_REPLICAS`: replicas that must have a commit before it counts as saved.
    pub wait_replicas: u32,
    /// `REDIS_KEY_LAYOUT`, with `auto` resolved.
    pub key_layout: KeyLayout,
}

impl Section for RedisConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        let mode = choice(
            lookup,
            "REDIS_MODE",
            RedisMode::Standalone,
            &[
                ("standalone", RedisMode::Standalone),
                ("sentinel", RedisMode::Sentinel),
                ("cluster", RedisMode::Cluster),
            ],
        )?;
        let urls: Vec<String> = text(lookup, "REDIS_URL")
            .unwrap_or_else(|| "redis://127.0.0.1:6379/0".to_owned())
            .split(',')
            .map(|url| url.trim().to_owned())
            .collect();
        let schemes = ["redis://", "rediss://", "redis+unix://", "unix://"];
        if !urls
            .iter()
            .all(|url| schemes.iter().any(|scheme| url.starts_with(scheme)))
        {
            return Err(ConfigError::new(
                "REDIS_URL",
                "must start with redis:// or rediss:// (or unix:// for a socket)",
            ));
        }
        if mode == RedisMode::Standalone && urls.len() > 1 {
            return Err(ConfigError::new(
                "REDIS_URL",
                "must be one URL while REDIS_MODE is standalone",
            ));
        }
        let auto = match mode {
            RedisMode::Standalone | RedisMode::Sentinel => KeyLayout::Plain,
            RedisMode::Cluster => KeyLayout::Tagged,
        };
        let key_layout = choice(
            lookup,
            "REDIS_KEY_LAYOUT",
            auto,
            &[
                ("auto", auto),
                ("plain", KeyLayout::Plain),
                ("tagged", KeyLayout::Tagged),
            ],
        )?;
        if mode == RedisMode::Cluster && key_layout == KeyLayout::Plain {
            return Err(ConfigError::new(
                "REDIS_KEY_LAYOUT",
                "plain keys of one session lie on different nodes of a cluster; use tagged or auto",
            ));
        }
        let username = text(lookup, "REDIS_USERNAME");
        let login = RedisLogin::from_lookup(lookup, username.as_deref(), &urls)?;
        Ok(Self {
            mode,
            urls: urls.into_iter().map(SecretString::from).collect(),
            sentinel_master: text(lookup, "REDIS_SENTINEL_MASTER")
                .unwrap_or_else(|| "mymaster".to_owned()),
            username,
            login,
            sentinel_username: text(lookup, "REDIS_SENTINEL_USERNAME"),
            sentinel_password: secret(lookup, "REDIS_SENTINEL_PASSWORD"),
            tls_ca_file: text(lookup, "REDIS_TLS_CA_FILE"),
            wait_replicas: small(lookup, "REDIS_WAIT_REPLICAS", 0, 0, 16)?,
            key_layout,
        })
    }
}
