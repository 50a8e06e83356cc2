//! Login to the data nodes: the credentials of the URL, a password that may be rotated, or an IAM token created for
//! each connection.

use std::io;
use std::pin::Pin;

use futures_util::{Stream, stream};
use redis::auth::{BasicAuth, StreamingCredentialsProvider};
use redis::{RedisConnectionInfo, RedisError, RedisResult};
use secrecy::ExposeSecret;

use crate::config::{ConfigError, RedisConfig, RedisLogin};
use crate::secrets::{Secret, Secrets, Value};

/// The name of Redis's default user (ACLs, Redis 6).
const DEFAULT_USER: &str = "default";

/// Credentials for the data nodes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Login {
    username: Option<String>,
    /// The password or token; `None` to use the password of the URL, if it has one.
    password: Option<Secret>,
}

impl Login {
    pub(super) fn new(redis: &RedisConfig, secrets: &Secrets) -> Result<Self, ConfigError> {
        let password = match &redis.login {
            RedisLogin::Password(source) => source.as_ref().map(|source| secrets.open(source)),
            RedisLogin::Iam(iam) => {
                let token = secrets.cache_token(iam).ok_or_else(|| {
                    ConfigError::new(
                        "REDIS_AUTH",
                        "is iam, and the AWS SDK is not in this binary",
                    )
                });
                Some(token?)
            }
        };
        Ok(Self {
            username: redis.username.clone(),
            password,
        })
    }

    /// Returns the password if it can never change.
    pub(super) fn fixed(&self) -> Option<&Value> {
        self.password.as_ref()?.fixed()
    }

    /// Returns whether two connections can need different passwords.
    pub(super) fn changes(&self) -> bool {
        self.password
            .as_ref()
            .is_some_and(|password| password.fixed().is_none())
    }

    /// Returns the password for a connection that is opened now; `None` to use the one of the URL.
    ///
    /// # Errors
    /// The secret cannot be fetched.
    pub(super) async fn password(&self) -> RedisResult<Option<Value>> {
        match &self.password {
            None => Ok(None),
            Some(password) => password.current().await.map(Some).map_err(unavailable),
        }
    }

    /// Reports that the server may have rejected `value`. Returns a different password if there is one by now.
    pub(super) async fn refused(&self, value: &Value) -> Option<Value> {
        self.password.as_ref()?.refused(value).await
    }

    /// Returns the login of one connection. The settings take precedence over the URL.
    pub(super) fn over(
        &self,
        from_url: &RedisConnectionInfo,
        password: Option<&Value>,
    ) -> RedisConnectionInfo {
        let mut login = from_url.clone();
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = password {
            login = login.set_password(password.expose_secret());
        }
        login
    }

    /// Returns the credentials provider of a cluster connection, which connects to single nodes on its own.
    pub(super) fn provider(&self, from_url: &RedisConnectionInfo) -> NodeLogin {
        NodeLogin {
            username: self
                .username
                .as_deref()
                .or(from_url.username())
                .unwrap_or(DEFAULT_USER)
                .to_owned(),
            login: self.clone(),
        }
    }
}

/// Provides every connection to a cluster node with the password that is valid at that moment.
///
/// The client subscribes twice per connection: once for the login, and once for later changes, whose first value it
/// sends as another AUTH. That AUTH is harmless. No value follows it, because a connection stays authenticated until
/// the server closes it.
pub(super) struct NodeLogin {
    username: String,
    login: Login,
}

impl StreamingCredentialsProvider for NodeLogin {
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send + 'static>> {
        let (username, login) = (self.username.clone(), self.login.clone());
        Box::pin(stream::once(async move {
            let password = login.password().await?;
            let password =
                password.map_or_else(String::new, |password| password.expose_secret().to_owned());
            Ok(BasicAuth::new(username, password))
        }))
    }
}

/// Returns `error` as an I/O error: without credentials the server is effectively unreachable.
fn unavailable(error: crate::secrets::Error) -> RedisError {
    RedisError::from(io::Error::other(error))
}
