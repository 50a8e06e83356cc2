//! Login to the data nodes: the credentials of the URL, a password that may be rotated, or an IAM token created for
//! each connection.

use redis::RedisConnectionInfo;
use secrecy::ExposeSecret;

use crate::config::{ConfigError, RedisConfig, RedisLogin};
use crate::secrets::{Error, Secret, Secrets, Value};

/// Credentials for the data nodes.
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

    /// Returns the password for a connection that is opened now; `None` to use the one of the URL.
    ///
    /// # Errors
    /// The secret cannot be fetched.
    pub(super) async fn password(&self) -> Result<Option<Value>, Error> {
        match &self.password {
            None => Ok(None),
            Some(password) => password.current().await.map(Some),
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
}
