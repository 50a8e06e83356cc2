//! Authentication: the variables that start with `JWT_` and `AUTH_`.

use http::Uri;
use secrecy::SecretString;

use super::read::{choice, http_url, not_blank};
use super::{ConfigError, Lookup, SecretSource, Section};

/// The keys and claims with which a function verifies tokens.
#[derive(Debug, Clone)]
pub struct JwtRules {
    /// Shared secret for HS256. Read from `JWT_SECRET` or `JWT_SECRET_SECRET_ARN`; optional.
    pub secret: Option<SecretSource>,
    /// URL of the key set for RS256, ES256 and EdDSA. Read from `JWT_JWKS_URL`; optional.
    pub jwks_url: Option<Uri>,
    /// PEM file with the certificate authorities to trust for the publisher of keys. Read from `JWT_JWKS_TLS_CA_FILE`;
    /// defaults to the authorities that are compiled in.
    pub jwks_tls_ca_file: Option<String>,
    /// Required value of `iss`. Read from `JWT_ISSUER`; without it, any issuer is accepted.
    pub issuer: Option<String>,
    /// Value that `aud` must contain. Read from `JWT_AUDIENCE`; without it, any audience is accepted.
    pub audience: Option<String>,
}

/// The way in which callers are authenticated.
#[derive(Debug, Clone)]
pub enum AuthConfig {
    /// The gateway's authorizer has verified the token. Chosen by `AUTH_TRUST_AUTHORIZER`, which defaults to `false`.
    Authorizer,
    /// The function verifies the token itself.
    Token(Box<JwtRules>),
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
                not_blank(lookup, "JWT_SECRET")?.map(SecretString::from),
                "JWT_SECRET_SECRET_ARN",
            )?,
            jwks_url: jwks_url(lookup)?,
            jwks_tls_ca_file: not_blank(lookup, "JWT_JWKS_TLS_CA_FILE")?,
            issuer: not_blank(lookup, "JWT_ISSUER")?,
            audience: not_blank(lookup, "JWT_AUDIENCE")?,
        };
        if rules.secret.is_none() && rules.jwks_url.is_none() {
            return Err(ConfigError::new(
                "JWT_SECRET",
                "must be set, unless JWT_SECRET_SECRET_ARN, JWT_JWKS_URL or AUTH_TRUST_AUTHORIZER=true is set: requests must be \
                 authenticated in one of these ways",
            ));
        }
        Ok(Self::Token(Box::new(rules)))
    }
}

fn jwks_url(lookup: Lookup<'_>) -> Result<Option<Uri>, ConfigError> {
    const NAME: &str = "JWT_JWKS_URL";
    not_blank(lookup, NAME)?
        .map(|url| http_url(&url).map_err(|problem| ConfigError::new(NAME, problem)))
        .transpose()
}
