//! Access to AWS Secrets Manager and to the execution role's credentials. Only this file and [`super::elasticache`]
//! know the AWS SDK.
//!
//! The SDK sends its requests through this project's HTTP client. It is initialised at first use.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use aws_sdk_secretsmanager::{Client, config};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use secrecy::SecretString;
use tokio::sync::OnceCell;
use tower::BoxError;

use super::Error;
use crate::config::SecretArn;
use crate::outbound::{HttpClient, Trust};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time allowed for one attempt, so that one that hangs leaves time for another.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before the first retry. The SDK's default of 1 s is as long as a whole read of the memory may take.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// Largest response that is read. A secret has at most 64 KiB, and JSON may escape each byte as six.
const MAX_RESPONSE_BYTES: usize = 512 * 1024;

/// The lazily initialised AWS SDK.
#[derive(Default)]
pub(super) struct Aws {
    config: OnceCell<SdkConfig>,
}

impl Aws {
    /// Fetches the whole text of a secret, from the region in its ARN.
    pub(super) async fn secret(&self, arn: &SecretArn) -> Result<SecretString, Error> {
        // The secret may be in another region than this process.
        let config = config::Builder::from(self.config().await?)
            .region(Region::new(arn.region.clone()))
            .build();
        let request = Client::from_conf(config).get_secret_value();
        // Boxed, because the future is large and needed only once in hours.
        let answer = Box::pin(request.secret_id(&arn.id).send()).await;
        let text = answer.map_err(|error| failure(&error))?.secret_string;
        text.filter(|text| !text.is_empty())
            .map(SecretString::from)
            .ok_or(Error::Malformed)
    }

    /// Returns the current credentials of the execution role.
    pub(super) async fn credentials(&self) -> Result<Credentials, Error> {
        let provider = self.config().await?.credentials_provider();
        let provider = provider.ok_or(Error::Denied)?;
        provider
            .provide_credentials()
            .await
            .map_err(|_| Error::Denied)
    }

    async fn config(&self) -> Result<&SdkConfig, Error> {
        let load = || async {
            let client = HttpClient::trusting(Trust::default(), CONNECT_TIMEOUT)
                .map_err(|_| Error::Unavailable)?;
            let connector = SharedHttpConnector::new(Connector { client });
            let loader = aws_config::defaults(BehaviorVersion::latest())
                .retry_config(RetryConfig::standard().with_initial_backoff(INITIAL_BACKOFF))
                .timeout_config(
                    TimeoutConfig::builder()
                        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                        .build(),
                )
                .http_client(http_client_fn(move |_, _| connector.clone()));
            Ok(Box::pin(loader.load()).await)
        };
        self.config.get_or_try_init(load).await
    }
}

/// Classifies by the error code alone: the message from AWS must not be logged.
fn failure(error: &impl ProvideErrorMetadata) -> Error {
    match error.code() {
        Some("ResourceNotFoundException") => Error::Missing,
        // Access to the KMS key of the secret may be denied instead of the secret itself.
        Some(
            "AccessDeniedException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "ExpiredTokenException"
            | "DecryptionFailure",
        ) => Error::Denied,
        _ => Error::Unavailable,
    }
}

/// Adapts the project's HTTP client to the SDK.
struct Connector {
    client: HttpClient,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.client.clone();
        HttpConnectorFuture::new(async move {
            let (parts, body) = request.try_into_http1x().map_err(user)?.into_parts();
            let body = body.bytes().map(Bytes::copy_from_slice);
            let body = body.ok_or_else(|| user("the body is a stream"))?;
            let request = http::Request::from_parts(parts, Full::new(body));
            let response = client.request(request).await.map_err(io)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_RESPONSE_BYTES)
                .collect()
                .await
                .map_err(io)?;
            let body = SdkBody::from(body.to_bytes());
            HttpResponse::try_from(http::Response::from_parts(parts, body)).map_err(user)
        })
    }
}

fn user(error: impl Into<BoxError>) -> ConnectorError {
    ConnectorError::user(error.into())
}

fn io(error: impl Into<BoxError>) -> ConnectorError {
    ConnectorError::io(error.into())
}
