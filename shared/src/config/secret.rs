//! Secrets in the settings: the value itself, or the ARN of a secret in AWS Secrets Manager.

use secrecy::SecretString;

use super::read::{choice, secret, text};
use super::{ConfigError, Lookup};

/// Where the value of a secret comes from.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// The value of the variable itself.
    Value(SecretString),
    /// A secret in AWS Secrets Manager.
    Arn(SecretArn),
}

/// A secret in AWS Secrets Manager, or one member of a JSON secret. Parsed from `ARN` or `ARN#KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretArn {
    /// Environment variable that names the secret, for logs.
    pub variable: &'static str,
    /// ARN of the secret, without `#KEY`.
    pub id: String,
    /// AWS region of the secret, taken from the ARN.
    pub region: String,
    /// Member of the JSON secret that holds the value, taken from `#KEY`; `None` if the whole secret is the value.
    pub key: Option<String>,
}

/// Credentials for the data nodes of Redis.
#[derive(Debug, Clone)]
pub enum RedisLogin {
    /// A password. Read from `REDIS_PASSWORD` or `REDIS_PASSWORD_SECRET_ARN`; defaults to the password in the URL, if
    /// any.
    Password(Option<SecretSource>),
    /// Short-lived tokens, signed with the credentials of the function's IAM role (`REDIS_AUTH=iam`).
    Iam(IamLogin),
}

/// The cache and the user that an ElastiCache IAM token is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IamLogin {
    /// Name of the cache, in lower case as ElastiCache stores it. Read from `REDIS_IAM_CACHE_NAME`; required.
    pub cache: String,
    /// Whether the cache is an ElastiCache Serverless cache. Read from `REDIS_IAM_SERVERLESS`; defaults to `true`.
    pub serverless: bool,
    /// Name of the Redis user, which equals its id in ElastiCache. Read from `REDIS_USERNAME`; required.
    pub user: String,
    /// AWS region of the cache. Read from `AWS_REGION`, which Lambda sets; required.
    pub region: String,
}

impl SecretSource {
    /// Returns `value`, or the secret whose ARN is in `arn_variable`, or `None` if neither is set.
    pub(super) fn or_arn(
        lookup: Lookup<'_>,
        variable: &'static str,
        value: Option<SecretString>,
        arn_variable: &'static str,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(arn) = text(lookup, arn_variable) else {
            return Ok(value.map(Self::Value));
        };
        if value.is_some() {
            return Err(ConfigError::new(
                arn_variable,
                format!("conflicts with {variable}; set only one"),
            ));
        }
        needs_aws(arn_variable)?;
        SecretArn::parse(arn_variable, &arn).map(|arn| Some(Self::Arn(arn)))
    }
}

impl SecretArn {
    fn parse(variable: &'static str, text: &str) -> Result<Self, ConfigError> {
        let (id, key) = match text.split_once('#') {
            Some((id, key)) => (id, Some(key)),
            None => (text, None),
        };
        let mut parts = id.splitn(7, ':');
        let mut next = || parts.next().unwrap_or_default();
        let scheme = (next(), next(), next());
        let (region, account, kind, name) = (next(), next(), next(), next());
        let is_word = |word: &str, further: &[u8]| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || further.contains(&byte))
        };
        let is_arn = scheme.0 == "arn"
            && is_word(scheme.1, b"-")
            && scheme.2 == "secretsmanager"
            && is_word(region, b"-")
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && kind == "secret"
            // The characters that Secrets Manager allows in names.
            && is_word(name, b"/_+=.@-");
        if !is_arn || key.is_some_and(str::is_empty) {
            return Err(ConfigError::new(
                variable,
                "must be arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME; append #KEY to select one member of a JSON secret",
            ));
        }
        Ok(Self {
            variable,
            id: id.to_owned(),
            region: region.to_owned(),
            key: key.map(str::to_owned),
        })
    }
}

impl RedisLogin {
    pub(super) fn from_lookup(
        lookup: Lookup<'_>,
        username: Option<&str>,
        urls: &[String],
    ) -> Result<Self, ConfigError> {
        let password = SecretSource::or_arn(
            lookup,
            "REDIS_PASSWORD",
            secret(lookup, "REDIS_PASSWORD"),
            "REDIS_PASSWORD_SECRET_ARN",
        )?;
        if !choice(
            lookup,
            "REDIS_AUTH",
            false,
            &[("password", false), ("iam", true)],
        )? {
            return Ok(Self::Password(password));
        }
        needs_aws("REDIS_AUTH")?;
        if password.is_some() {
            return Err(ConfigError::new(
                "REDIS_AUTH",
                "conflicts with a password while it is iam; unset REDIS_PASSWORD and REDIS_PASSWORD_SECRET_ARN",
            ));
        }
        if !urls.iter().all(|url| url.starts_with("rediss://")) {
            return Err(ConfigError::new(
                "REDIS_URL",
                "must start with rediss:// while REDIS_AUTH is iam: tokens must not be sent unencrypted",
            ));
        }
        let missing = |name| ConfigError::new(name, "must be set while REDIS_AUTH is iam");
        Ok(Self::Iam(IamLogin {
            cache: cache_name(lookup)?.ok_or_else(|| missing("REDIS_IAM_CACHE_NAME"))?,
            serverless: choice(
                lookup,
                "REDIS_IAM_SERVERLESS",
                true,
                &[("true", true), ("false", false)],
            )?,
            user: username
                .ok_or_else(|| missing("REDIS_USERNAME"))?
                .to_owned(),
            region: text(lookup, "AWS_REGION").ok_or_else(|| missing("AWS_REGION"))?,
        }))
    }
}

/// Returns the cache's name. It stands in for the host in the signed URL, so only characters of host names are valid.
fn cache_name(lookup: Lookup<'_>) -> Result<Option<String>, ConfigError> {
    const NAME: &str = "REDIS_IAM_CACHE_NAME";
    let Some(name) = text(lookup, NAME) else {
        return Ok(None);
    };
    if name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        Ok(Some(name.to_ascii_lowercase()))
    } else {
        Err(ConfigError::new(
            NAME,
            "must be the name of an ElastiCache cache: only letters, digits and hyphens",
        ))
    }
}

fn needs_aws(variable: &'static str) -> Result<(), ConfigError> {
    if cfg!(feature = "aws") {
        Ok(())
    } else {
        Err(ConfigError::new(
            variable,
            "needs the AWS SDK; this binary was built without the feature `aws`",
        ))
    }
}
