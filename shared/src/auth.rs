//! Who calls: a bearer token becomes a [`UserId`], and nothing else does.
//!
//! A shared secret checks HS256, and published keys check RS256, ES256 and EdDSA. The header of a token chooses among the
//! algorithms that are configured and never adds one: a public key cannot be used as a shared secret, and `none` is never
//! accepted.

mod jwks;
mod key_set;
mod token;

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::ExposeSecret;

use self::jwks::Jwks;
use self::token::{ClaimRules, Token};
use crate::config::{AuthConfig, JwtRules};
use crate::ids::UserId;
use crate::outbound::TlsSetupError;
use crate::secrets::{Secret, Secrets, Value};

/// Why a request was not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The token is missing or not valid. The text is for the caller and reveals nothing about keys.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The published keys could not be fetched, so the token could not be checked.
    #[error("the published keys are unavailable")]
    KeysUnavailable,
    /// The shared secret could not be fetched, so the token could not be checked.
    #[error("the shared secret is unavailable")]
    SecretUnavailable,
}

/// What a request contains to prove who sent it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The bearer token.
    pub bearer: Option<&'a str>,
    /// The subject that the gateway's authorizer found.
    pub authorizer_subject: Option<&'a str>,
}

/// Checks credentials.
pub enum Authenticator {
    /// The gateway's authorizer has checked them already.
    Authorizer,
    /// The function checks tokens itself.
    Token(Box<TokenRules>),
}

/// What a token must satisfy.
pub struct TokenRules {
    secret: Option<Secret>,
    jwks: Option<Jwks>,
    claims: ClaimRules,
}

/// The age at which a shared secret is fetched again before it checks anything. Otherwise a secret that leaked and was replaced
/// would be accepted until somebody sends a token that is signed with its successor.
const MAX_SECRET_AGE: Duration = Duration::from_secs(3600);

const MISSING: Error = Error::Unauthorized("a bearer token is required");
const INVALID: Error = Error::Unauthorized("the token is not valid");
const EXPIRED: Error = Error::Unauthorized("the token has expired");
const ALGORITHM: Error =
    Error::Unauthorized("the token is signed in a way that is not accepted here");
const SUBJECT: Error = Error::Unauthorized("the token's subject must be 1 to 128 bytes");

impl Authenticator {
    /// Builds the authenticator without touching the network.
    ///
    /// # Errors
    /// TLS cannot be set up, or the file of a private certificate authority cannot be used.
    pub fn new(config: &AuthConfig, secrets: &Secrets) -> Result<Self, TlsSetupError> {
        match config {
            AuthConfig::Authorizer => Ok(Self::Authorizer),
            AuthConfig::Token(rules) => TokenRules::new(rules, secrets)
                .map(Box::new)
                .map(Self::Token),
        }
    }

    /// Returns the user that the credentials prove.
    ///
    /// # Errors
    /// The credentials prove nobody, or they cannot be checked at the moment.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<UserId, Error> {
        match self {
            Self::Authorizer => {
                let subject = credentials.authorizer_subject.ok_or(MISSING)?;
                UserId::parse(subject).map_err(|_| SUBJECT)
            }
            Self::Token(rules) => {
                let token = credentials
                    .bearer
                    .filter(|token| !token.is_empty())
                    .ok_or(MISSING)?;
                let subject = rules.subject(token).await?;
                UserId::parse(&subject).map_err(|_| SUBJECT)
            }
        }
    }
}

impl TokenRules {
    fn new(rules: &JwtRules, secrets: &Secrets) -> Result<Self, TlsSetupError> {
        Ok(Self {
            secret: rules.secret.as_ref().map(|source| secrets.open(source)),
            jwks: Jwks::of(rules)?,
            claims: ClaimRules {
                issuer: rules.issuer.clone(),
                audience: rules.audience.clone(),
            },
        })
    }

    async fn subject(&self, token: &str) -> Result<String, Error> {
        let token = Token::parse(token)?;
        let is_signed = match (token.algorithm, &self.secret, &self.jwks) {
            (Algorithm::HS256, Some(secret), _) => is_signed_by_secret(&token, secret).await?,
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(jwks)) => {
                jwks.has_signed(&token).await?
            }
            _ => return Err(ALGORITHM),
        };
        if !is_signed {
            return Err(INVALID);
        }
        token.subject(&self.claims, SystemTime::now())
    }
}

/// Returns whether the token is signed with the shared secret. A signature that does not match may be that of the secret's
/// successor, so the secret is then fetched again.
async fn is_signed_by_secret(token: &Token<'_>, secret: &Secret) -> Result<bool, Error> {
    let value = secret
        .renewed(MAX_SECRET_AGE)
        .await
        .map_err(|_| Error::SecretUnavailable)?;
    if is_signed_with(token, &value)? {
        return Ok(true);
    }
    match secret.refused(&value).await {
        Some(value) => is_signed_with(token, &value),
        None => Ok(false),
    }
}

/// The settings cannot show that a stored secret is blank, and anybody could sign with a blank one.
fn is_signed_with(token: &Token<'_>, value: &Value) -> Result<bool, Error> {
    let secret = value.expose_secret();
    if secret.trim().is_empty() {
        tracing::error!("the stored secret that JWT_SECRET_SECRET_ARN names is blank");
        return Err(Error::SecretUnavailable);
    }
    Ok(token.is_signed_by(&DecodingKey::from_secret(secret.as_bytes())))
}
