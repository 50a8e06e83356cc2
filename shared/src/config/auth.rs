//! Who may call: variables that begin with `JWT_` and `AUTH_`.

use super::read::{choice, http_url, secret, text};
use super::{ConfigError, Lookup, SecretSource, Section};

/// Where published keys are.
#[derive(Debug, Clone)]
pub struct JwtRules {
    /// `JWT_SECRET` or `JWT_SECRET_SECRET_ARN`, for HS256.
    pub secret: Option<SecretSource>,
    /// `JWT_JWKS_URL`, for RS256, ES256 and EdDSA.
    pub jwks_url: Option<String>,
    /// `JWT_ISSUER`: what `iss` must be.
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`: what `aud` must hold.
    pub audience: Option<String>,
}

/// Who says who the caller is.
#[derive(Debug, Clone)]
pub enum AuthConfig {
    /// `AUTH_TRUST_AUTHORIZER`: the gateway's authorizer has checked the token.
    Authorizer,
    /// The function checks the token itself.
    Token(JwtRules),
}

impl Section for AuthConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        if choice(
            lookup,
            "AUTH_TRUST_AUTHORIZER",
            false,
            &[("true", true), ("false", false)],
        )? {
            return Ok(Self::Authorizer);
        }
        let rules = JwtRules {
            secret: SecretSource::or_arn(
                lookup,
                "JWT_SECRET",
                secret(lookup, "JWT_SECRET"),
                "JWT_SECRET_SECRET_ARN",
            )?,
            jwks_url: http_url(lookup, "JWT_JWKS_URL")?,
            issuer: text(lookup, "JWT_ISSUER"),
            audience: text(lookup, "JWT_AUDIENCE"),
        };
        if rules.secret.is_none() && rules.jwks_url.is_none() {
            return Err(ConfigError::new(
                "JWT_SECRET",
                "must be set, unless JWT_SECRET_SECRET_ARN or JWT_JWKS_URL is or AUTH_TRUST_AUTHORIZER is true: without one of them nobody can be let in",
            ));
        }
        Ok(Self::Token(rules))
    }
}
