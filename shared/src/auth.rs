//! Who calls: a bearer token becomes a [`UserId`], and nothing else does.
//!
//! HS256 by a shared secret; RS256, ES256 and EdDSA by published keys. A token's own header chooses among the algorithms
//! that are configured and never adds one, so a public key cannot be used as a shared secret, and `none` is nothing.

mod jwks;

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use secrecy::ExposeSecret;
use serde::Deserialize;

use self::jwks::Jwks;
use crate::config::{AuthConfig, JwtRules};
use crate::ids::UserId;
use crate::outbound::TlsSetupError;
use crate::secrets::{Secret, Secrets, Value};

/// Why nobody was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no token, or it is not valid. The words are for the caller and say nothing about keys.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The published keys could not be fetched, so nothing can be said about the token.
    #[error("the published keys are unavailable")]
    KeysUnavailable,
    /// The shared secret could not be fetched, so nothing can be said about the token.
    #[error("the shared secret is unavailable")]
    SecretUnavailable,
}

/// What a request brings to prove who sent it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The bearer token.
    pub bearer: Option<&'a str>,
    /// The subject that the gateway's authorizer found.
    pub authorizer_subject: Option<&'a str>,
}

/// Checks credentials.
pub enum Authenticator {
    /// The gateway's authorizer has checked.
    Authorizer,
    /// Tokens are checked here.
    Token(Box<TokenRules>),
}

/// What a token must satisfy.
pub struct TokenRules {
    secret: Option<Secret>,
    jwks: Option<Jwks>,
    issuer: Option<String>,
    audience: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

/// A shared secret of this age is fetched again before it checks anything, or one that leaked and was replaced would open the
/// door for as long as nobody brings a token by its successor.
const OLD: Duration = Duration::from_secs(3600);

const MISSING: Error = Error::Unauthorized("a bearer token is required");
const INVALID: Error = Error::Unauthorized("the token is not valid");
const EXPIRED: Error = Error::Unauthorized("the token has expired");
const ALGORITHM: Error =
    Error::Unauthorized("the token is signed in a way that is not accepted here");
const SUBJECT: Error = Error::Unauthorized("the token's subject must be 1 to 128 bytes");

impl Authenticator {
    /// Makes ready without touching the network.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(config: &AuthConfig, secrets: &Secrets) -> Result<Self, TlsSetupError> {
        match config {
            AuthConfig::Authorizer => Ok(Self::Authorizer),
            AuthConfig::Token(rules) => TokenRules::new(rules, secrets)
                .map(Box::new)
                .map(Self::Token),
        }
    }

    /// Finds out who calls.
    ///
    /// # Errors
    /// Nobody that is known here, or it cannot be found out now.
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
            jwks: rules.jwks_url.as_deref().map(Jwks::new).transpose()?,
            issuer: rules.issuer.clone(),
            audience: rules.audience.clone(),
        })
    }

    async fn subject(&self, token: &str) -> Result<String, Error> {
        let header = decode_header(token).map_err(|_| INVALID)?;
        match (header.alg, &self.secret, &self.jwks) {
            (Algorithm::HS256, Some(secret), _) => self.subject_by_secret(token, secret).await,
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(jwks)) => {
                let keys = jwks.keys(header.kid.as_deref(), header.alg).await?;
                let mut outcome = Err(INVALID);
                for key in &keys {
                    outcome = self
                        .verify(token, header.alg, key)
                        .map_err(Rejection::public);
                    if outcome != Err(INVALID) {
                        break;
                    }
                }
                outcome
            }
            _ => Err(ALGORITHM),
        }
    }

    /// A signature that is not the secret's may be that of its successor.
    async fn subject_by_secret(&self, token: &str, secret: &Secret) -> Result<String, Error> {
        let verify = |value: &Value| {
            let key = DecodingKey::from_secret(value.expose_secret().as_bytes());
            self.verify(token, Algorithm::HS256, &key)
        };
        let value = secret
            .renewed(OLD)
            .await
            .map_err(|_| Error::SecretUnavailable)?;
        let mut outcome = verify(&value);
        if let Err(Rejection::Signature) = outcome
            && let Some(value) = secret.refused(&value).await
        {
            outcome = verify(&value);
        }
        outcome.map_err(Rejection::public)
    }

    fn verify(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &DecodingKey,
    ) -> Result<String, Rejection> {
        use jsonwebtoken::errors::ErrorKind;

        let mut validation = Validation::new(algorithm);
        // An expired token is expired. Issuers and this service keep their clocks by the same sources.
        validation.leeway = 0;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        decode::<Claims>(token, key, &validation)
            .map(|data| data.claims.sub)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => Rejection::Signature,
                ErrorKind::ExpiredSignature => Rejection::Expired,
                _ => Rejection::Other,
            })
    }
}

/// Why a token is not good.
enum Rejection {
    /// Another key has signed it.
    Signature,
    /// Its time is over.
    Expired,
    /// Something in it.
    Other,
}

impl Rejection {
    /// What the caller is told, who learns nothing about keys.
    fn public(self) -> Error {
        match self {
            Self::Expired => EXPIRED,
            Self::Signature | Self::Other => INVALID,
        }
    }
}
