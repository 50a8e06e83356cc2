//! Authentication: turns a bearer token into a [`UserId`], the only proof of who sent a request.
//!
//! A shared secret verifies HS256, and published keys verify RS256, ES256 and EdDSA. The header of a token selects one
//! of the configured algorithms and never adds one: a public key cannot be used as a shared secret, and `none` is never
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

/// The reason why a request was not authenticated.
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

/// The parts of a request that prove who sent it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// Bearer token of the `Authorization` header.
    pub bearer: Option<&'a str>,
    /// Subject that the gateway's authorizer reports.
    pub authorizer_subject: Option<&'a str>,
}

/// Authenticates requests, in the configured way.
pub enum Authenticator {
    /// The gateway's authorizer has already verified the token.
    Authorizer,
    /// The function verifies tokens itself.
    Token(Box<TokenRules>),
}

/// The keys that verify a token, and the claims that it must contain.
pub struct TokenRules {
    secret: Option<Secret>,
    jwks: Option<Jwks>,
    claims: ClaimRules,
}

/// The maximum age of a cached shared secret. An older one is fetched again before it verifies anything. Otherwise a
/// secret that leaked and was replaced would be accepted until somebody sends a token that is signed with the new one.
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

    /// Returns the user whom the credentials prove.
    ///
    /// # Errors
    /// The credentials are missing or not valid, or they cannot be verified at the moment.
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

/// Returns whether the token is signed with the shared secret. If the signature does not match, the secret may have
/// been replaced, so it is fetched again.
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

/// Returns whether the token is signed with `value`. Fails for a blank secret, with which anybody could sign; the
/// settings only name a stored secret, so this is the first place that sees its value.
fn is_signed_with(token: &Token<'_>, value: &Value) -> Result<bool, Error> {
    let secret = value.expose_secret();
    if secret.trim().is_empty() {
        tracing::error!("the stored secret that JWT_SECRET_SECRET_ARN names is blank");
        return Err(Error::SecretUnavailable);
    }
    Ok(token.is_signed_by(&DecodingKey::from_secret(secret.as_bytes())))
}
