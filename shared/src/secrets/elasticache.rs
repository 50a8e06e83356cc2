//! Tokens that authenticate an IAM role to ElastiCache. A token is a presigned request that is never sent.
//!
//! Follows "Authenticating with IAM" in the ElastiCache user guide. The token is the URL of a `GET` to the cache's
//! name, without the scheme, with the action and the user in its query, signed with AWS Signature Version 4 for the
//! service `elasticache`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;

use super::Error;
use super::aws::Aws;
use crate::config::IamLogin;

/// Lifetime of a token. ElastiCache accepts 15 minutes at most.
const TOKEN_LIFETIME: Duration = Duration::from_secs(900);

/// The bytes that Signature Version 4 percent-encodes: all but letters, digits, `-`, `_`, `.` and `~`.
const PERCENT_ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Signs tokens for one user of one cache.
pub(super) struct CacheToken {
    aws: Arc<Aws>,
    login: IamLogin,
}

impl CacheToken {
    pub(super) fn new(aws: Arc<Aws>, login: IamLogin) -> Self {
        Self { aws, login }
    }

    /// Returns a token that is valid for 15 minutes from `now`.
    ///
    /// # Errors
    /// Returns [`Error::Denied`] without credentials of a role, and [`Error::Malformed`] if the token cannot be signed.
    pub(super) async fn mint(&self, now: SystemTime) -> Result<SecretString, Error> {
        let credentials = self.aws.credentials().await.inspect_err(|error| {
            tracing::warn!(reason = error.reason(), "no role credentials are available");
        })?;
        token(&self.login, credentials, now).ok_or(Error::Malformed)
    }
}

fn token(login: &IamLogin, credentials: Credentials, now: SystemTime) -> Option<SecretString> {
    let user = utf8_percent_encode(&login.user, PERCENT_ENCODED);
    let kind = if login.serverless {
        "&ResourceType=ServerlessCache"
    } else {
        ""
    };
    let unsigned = format!("{}/?Action=connect&User={user}{kind}", login.cache);
    let uri = format!("http://{unsigned}");
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(TOKEN_LIFETIME);
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(&login.region)
        .name("elasticache")
        .time(now)
        .settings(settings)
        .build()
        .ok()?
        .into();
    let request = SignableRequest::new("GET", &uri, std::iter::empty(), SignableBody::empty());
    let (signed, _) = sign(request.ok()?, &parameters).ok()?.into_parts();
    let (_, query) = signed.into_parts();
    let token = query.iter().fold(unsigned, |url, (name, value)| {
        format!(
            "{url}&{name}={}",
            utf8_percent_encode(value, PERCENT_ENCODED)
        )
    });
    Some(SecretString::from(token))
}
