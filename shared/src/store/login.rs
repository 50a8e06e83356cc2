//! How the data nodes let this process in: by the URL, by a password that may be rotated, or by a token that each connection
//! has made for it.

use std::io;
use std::pin::Pin;

use futures_util::{Stream, stream};
use redis::auth::{BasicAuth, StreamingCredentialsProvider};
use redis::{RedisConnectionInfo, RedisError, RedisResult};
use secrecy::ExposeSecret;

use crate::config::{ConfigError, RedisConfig, RedisLogin};
use crate::secrets::{Secret, Secrets, Value};

/// Who a user without a name is, since there are users.
const DEFAULT_USER: &str = "default";

/// The login of the data nodes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Login {
    username: Option<String>,
    /// `None`: what the URL says, or nothing.
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

    /// The password, if it can never be another.
    pub(super) fn fixed(&self) -> Option<&Value> {
        self.password.as_ref()?.fixed()
    }

    /// Whether two connections can need different passwords.
    pub(super) fn changes(&self) -> bool {
        self.password
            .as_ref()
            .is_some_and(|password| password.fixed().is_none())
    }

    /// The password for a connection that is made now; `None` where the URL decides.
    pub(super) async fn password(&self) -> RedisResult<Option<Value>> {
        match &self.password {
            None => Ok(None),
            Some(password) => password.current().await.map(Some).map_err(unavailable),
        }
    }

    /// Says that `value` may have been refused. Gives another if there is one.
    pub(super) async fn refused(&self, value: &Value) -> Option<Value> {
        self.password.as_ref()?.refused(value).await
    }

    /// The login of one connection: the settings go before the URL.
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

    /// The same for a cluster's connection, which makes connections to single nodes by itself.
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

/// Gives each connection to a node the password of its moment. The client asks twice for each: for the login itself, and for
/// what comes after it, and says AUTH again with that. Once more does no harm, and nothing follows: a connection that is let
/// in stays so until the server ends it.
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

/// As if the server could not be reached: that is what it comes to.
fn unavailable(error: crate::secrets::Error) -> RedisError {
    RedisError::from(io::Error::other(error))
}
