//! Tokens by which ElastiCache lets an IAM role in: a presigned request that is never sent.
//!
//! After "Authenticating with IAM" in the ElastiCache user guide: the URL of a `GET` to the cache's name, with the action and
//! the user in its query, signed by Signature Version 4 for the service `elasticache`, without its scheme.

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

/// The longest that ElastiCache accepts.
const VALID_FOR: Duration = Duration::from_secs(900);

/// All but what signature version 4 leaves as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A source of tokens for one user of one cache.
pub(super) struct CacheToken {
    aws: Arc<Aws>,
    login: IamLogin,
}

impl CacheToken {
    pub(super) fn new(aws: Arc<Aws>, login: IamLogin) -> Self {
        Self { aws, login }
    }

    /// A token that is good for the next quarter of an hour.
    pub(super) async fn mint(&self, now: SystemTime) -> Result<SecretString, Error> {
        let credentials = self.aws.credentials().await.inspect_err(|error| {
            tracing::warn!(
                reason = error.reason(),
                "there are no credentials of a role"
            );
        })?;
        token(&self.login, credentials, now).ok_or(Error::Malformed)
    }
}

fn token(login: &IamLogin, credentials: Credentials, now: SystemTime) -> Option<SecretString> {
    let user = utf8_percent_encode(&login.user, ESCAPED);
    let kind = if login.serverless {
        "&ResourceType=ServerlessCache"
    } else {
        ""
    };
    let unsigned = format!("{}/?Action=connect&User={user}{kind}", login.cache);
    let uri = format!("http://{unsigned}");
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(VALID_FOR);
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
        format!("{url}&{name}={}", utf8_percent_encode(value, ESCAPED))
    });
    Some(SecretString::from(token))
}
