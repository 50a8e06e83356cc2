//! A secret in the settings: the value itself, or the place in AWS Secrets Manager where it is kept.

use secrecy::SecretString;

use super::read::{choice, secret, text};
use super::{ConfigError, Lookup};

/// Where a secret is.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// In the variable itself.
    Value(SecretString),
    /// In Secrets Manager.
    Arn(SecretArn),
}

/// A secret in Secrets Manager, or one key of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretArn {
    /// The variable that names it, for logs.
    pub variable: &'static str,
    /// The ARN as Secrets Manager knows it.
    pub id: String,
    /// The region in the ARN.
    pub region: String,
    /// What follows `#`: the secret is a JSON object, and this member of it is meant.
    pub key: Option<String>,
}

/// How the data nodes let this process in.
#[derive(Debug, Clone)]
pub enum RedisLogin {
    /// `REDIS_PASSWORD` or `REDIS_PASSWORD_SECRET_ARN`; without either, what the URL says.
    Password(Option<SecretSource>),
    /// By tokens that are made from the role's credentials.
    Iam(IamLogin),
}

/// What an ElastiCache token speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IamLogin {
    /// `REDIS_IAM_CACHE_NAME`, in lower case as ElastiCache keeps it.
    pub cache: String,
    /// `REDIS_IAM_SERVERLESS`
    pub serverless: bool,
    /// `REDIS_USERNAME`; the user's id in ElastiCache is the same.
    pub user: String,
    /// `AWS_REGION`, which the platform sets.
    pub region: String,
}

impl SecretSource {
    /// The value, or the secret that `arn_variable` names.
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
                format!("is set, and {variable} too; unset one of them"),
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
            // The characters that Secrets Manager allows in a name.
            && is_word(name, b"/_+=.@-");
        if !is_arn || key.is_some_and(str::is_empty) {
            return Err(ConfigError::new(
                variable,
                "must be arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME, with #KEY at its end where one key of a JSON secret is meant",
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
                "is iam, and there is a password too; unset REDIS_PASSWORD and REDIS_PASSWORD_SECRET_ARN",
            ));
        }
        if !urls.iter().all(|url| url.starts_with("rediss://")) {
            return Err(ConfigError::new(
                "REDIS_URL",
                "must be rediss:// while REDIS_AUTH is iam: a token must not travel in clear",
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

/// The name takes the host's place in what is signed, so it can have no character that a host cannot.
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
            "must be the name of an ElastiCache cache: letters, digits and hyphens",
        ))
    }
}

fn needs_aws(variable: &'static str) -> Result<(), ConfigError> {
    if cfg!(feature = "aws") {
        Ok(())
    } else {
        Err(ConfigError::new(
            variable,
            "needs a binary with the AWS SDK in it; this one was built without the feature `aws`",
        ))
    }
}
