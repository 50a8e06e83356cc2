//! Connecting to Redis: the variables that start with `REDIS_`, except those of the circuit breaker.

use secrecy::SecretString;

use super::read::{choice, secret, small, text};
use super::{ConfigError, Lookup, RedisLogin, Section};

/// The topology of the Redis servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisMode {
    /// A single server.
    Standalone,
    /// A master with replicas; Redis Sentinel reports which server is the master.
    Sentinel,
    /// A Redis Cluster.
    Cluster,
}

/// The spelling of the keys of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLayout {
    /// `chat:user:character:…`.
    Plain,
    /// `chat:{user}:character:…`: the hash tag puts all keys of a user into one cluster slot.
    Tagged,
}

/// The Redis servers that hold the memory, and how to connect to them.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Topology of the servers. Read from `REDIS_MODE`; defaults to `standalone`.
    pub mode: RedisMode,
    /// URLs of the server, the sentinels or the cluster's seed nodes. Read from `REDIS_URL`, separated by commas;
    /// defaults to `redis://127.0.0.1:6379/0`. Secret, because a URL may contain a password.
    pub urls: Vec<SecretString>,
    /// Name under which the sentinels know the master. Read from `REDIS_SENTINEL_MASTER`; defaults to `mymaster`.
    pub sentinel_master: String,
    /// User to authenticate as on the data nodes. Read from `REDIS_USERNAME`; defaults to the user in the URL.
    pub username: Option<String>,
    /// Credentials for the data nodes. Read from `REDIS_AUTH` (`password` or `iam`); defaults to `password`.
    pub login: RedisLogin,
    /// User to authenticate as on the sentinels. Read from `REDIS_SENTINEL_USERNAME`; optional.
    pub sentinel_username: Option<String>,
    /// Password for the sentinels. Read from `REDIS_SENTINEL_PASSWORD`; optional.
    pub sentinel_password: Option<SecretString>,
    /// PEM file with the certificate authorities to trust. Read from `REDIS_TLS_CA_FILE`; defaults to those that are
    /// compiled in.
    pub tls_ca_file: Option<String>,
    /// Number of replicas that must acknowledge a commit before it counts as saved. Read from `REDIS_WAIT_REPLICAS`;
    /// defaults to 0.
    pub wait_replicas: u32,
    /// Spelling of the keys. Read from `REDIS_KEY_LAYOUT`; defaults to `auto`, which is `tagged` for a cluster and
    /// `plain` otherwise.
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
                "must be tagged or auto while REDIS_MODE is cluster: plain keys of one session are on different nodes",
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
