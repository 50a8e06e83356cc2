//! Finds the master that Redis Sentinel monitors.

use futures_util::StreamExt;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use redis::{RedisConnectionInfo, Value};
use secrecy::ExposeSecret;

use super::address::Address;
use super::dial::{ConnectError, Connection, Dialer};
use crate::config::RedisConfig;

/// The sentinels, and the credentials for them.
pub(super) struct Sentinels {
    addresses: Vec<Address>,
    /// The name of the monitored master, from `REDIS_SENTINEL_MASTER`.
    master: String,
    login: RedisConnectionInfo,
}

enum Step {
    Named(Address),
    Opened(Connection),
}

impl Sentinels {
    pub(super) fn new(redis: &RedisConfig, addresses: Vec<Address>) -> Self {
        let mut login = RedisConnectionInfo::default();
        if let Some(username) = &redis.sentinel_username {
            login = login.set_username(username);
        }
        if let Some(password) = &redis.sentinel_password {
            login = login.set_password(password.expose_secret());
        }
        Self {
            addresses,
            master: redis.sentinel_master.clone(),
            login,
        }
    }

    /// Connects to the first named server that confirms that it is a master. All sentinels are asked at once, so those
    /// that are down or hang cost no time.
    pub(super) async fn open_master(&self, dialer: &Dialer) -> Result<Connection, ConnectError> {
        let mut failed = ConnectError::NobodyServes;
        let mut named = Vec::new();
        let mut running: FuturesUnordered<_> = self
            .addresses
            .iter()
            .map(|sentinel| Either::Left(self.ask(dialer, sentinel)))
            .collect();
        while let Some(step) = running.next().await {
            match step {
                Ok(Step::Opened(connection)) => return Ok(connection),
                Ok(Step::Named(address)) if !named.contains(&address) => {
                    named.push(address.clone());
                    running.push(Either::Right(open(dialer, address)));
                }
                Ok(Step::Named(_)) => {}
                // What a named server returns says more than the silence of a sentinel.
                Err(error) if named.is_empty() || !matches!(error, ConnectError::Io(_)) => {
                    failed = error
                }
                Err(_) => {}
            }
        }
        Err(failed)
    }

    /// Returns the address of the master according to one sentinel.
    async fn ask(&self, dialer: &Dialer, sentinel: &Address) -> Result<Step, ConnectError> {
        let mut connection = dialer.open_as(sentinel, &self.login).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let reply = connection
            .command(&command)
            .await
            .map_err(ConnectError::Server)?;
        let address = redis::from_redis_value::<Option<(String, u16)>>(reply)
            .ok()
            .flatten()
            .and_then(|(host, port)| sentinel.neighbour(&host, port));
        address.map(Step::Named).ok_or(ConnectError::NobodyServes)
    }
}

/// Connects to a server and makes sure that it is a master: a sentinel may not know yet that it no longer is.
async fn open(dialer: &Dialer, address: Address) -> Result<Step, ConnectError> {
    let mut connection = dialer.open(&address, true).await?;
    let role = connection
        .command(&redis::cmd("ROLE"))
        .await
        .map_err(ConnectError::Server)?;
    let is_master = matches!(
        &role,
        Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master")
    );
    is_master
        .then_some(Step::Opened(connection))
        .ok_or(ConnectError::NobodyServes)
}
