//! One connection to the Lambda Runtime API, as AWS describes it in "Using the Lambda runtime API for custom runtimes".
//!
//! It polls for an invocation and then carries the response to it, so a process holds one connection for each invocation
//! that it waits for or serves. Why this is not left to the runtime: see docs/decisions/own-polling.md.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::iter;
use http::header::{CONTENT_TYPE, HOST, TRAILER, TRANSFER_ENCODING, USER_AGENT};
use http::uri::{Authority, Uri};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use lambda_runtime::{Config, Context, Error, MetadataPrelude};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::sse::StreamingBody;

const INVOCATION: &str = "/2018-06-01/runtime/invocation";
const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");
const DEADLINE: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");
/// The platform recognises a response that is too late by this header, which is sent back to it as it came.
const INVOCATION_ID: HeaderName = HeaderName::from_static("lambda-runtime-invocation-id");
const ERROR_TYPE: HeaderName = HeaderName::from_static("lambda-runtime-function-error-type");
const RESPONSE_MODE: HeaderName = HeaderName::from_static("lambda-runtime-function-response-mode");
const STREAMING: HeaderValue = HeaderValue::from_static("streaming");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const HTTP_INTEGRATION: HeaderValue =
    HeaderValue::from_static("application/vnd.awslambda.http-integration-response");
/// What a stream could end with. The streams here end with an event that says so instead.
const TRAILERS: HeaderValue = HeaderValue::from_static(
    "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body",
);
const OWN_NAME: HeaderValue =
    HeaderValue::from_static(concat!("companion-chat/", env!("CARGO_PKG_VERSION")));
/// Between the status and headers of a streamed response, and its body.
const DELIMITER: [u8; 8] = [0; 8];

/// An event, and what the platform says about it.
pub(super) struct Invocation {
    event: Bytes,
    pub(super) context: Context,
    id: Option<HeaderValue>,
}

impl Invocation {
    /// Parses the event.
    ///
    /// # Errors
    /// It does not have the form `E`.
    pub(super) fn event<E: DeserializeOwned>(&self) -> serde_json::Result<E> {
        serde_json::from_slice(&self.event)
    }

    /// Returns the invocation without its event, which nobody needs after it was parsed.
    pub(super) fn without_event(self) -> Self {
        Self {
            event: Bytes::new(),
            ..self
        }
    }
}

/// The response to an invocation.
pub(super) enum Reply {
    /// Sent whole, as JSON.
    Whole(Vec<u8>),
    /// Streamed, with a status and headers for the gateway.
    Streamed(Response<StreamingBody>),
    /// The event cannot be read. The gateway answers 502.
    Unreadable,
}

/// A connection to the Runtime API, opened when it is needed and replaced when it breaks.
pub(super) struct Platform {
    authority: Authority,
    /// What comes before all paths: empty on Lambda.
    base_path: String,
    config: Arc<Config>,
    connection: Option<Connection>,
}

struct Connection {
    requests: SendRequest<StreamingBody>,
    _driver: AbortOnDropHandle<()>,
}

impl Platform {
    /// Returns a connection that is not open yet, to the address in `AWS_LAMBDA_RUNTIME_API`.
    ///
    /// # Errors
    /// There is none, or it is not one.
    pub(super) fn from_env(config: Arc<Config>) -> Result<Self, Error> {
        let address = std::env::var("AWS_LAMBDA_RUNTIME_API")
            .map_err(|_| "AWS_LAMBDA_RUNTIME_API is not set")?;
        let address = address.strip_prefix("http://").unwrap_or(&address);
        let uri: Uri = format!("http://{address}").parse()?;
        Ok(Self {
            authority: uri.authority().cloned().ok_or("no host")?,
            base_path: uri.path().trim_end_matches('/').to_owned(),
            config,
            connection: None,
        })
    }

    /// Waits for the next invocation and returns it.
    ///
    /// # Errors
    /// The platform could not be reached, or its answer is not an invocation.
    pub(super) async fn next(&mut self) -> Result<Invocation, Error> {
        let poll = self.request(Method::GET, "next", whole(Bytes::new()))?;
        let (head, body) = self.send(poll).await?.into_parts();
        let event = body.collect().await?.to_bytes();
        if head.status != StatusCode::OK {
            return Err(format!("the Runtime API answered {}", head.status).into());
        }
        let (Some(id), Some(_)) = (head.headers.get(REQUEST_ID), head.headers.get(DEADLINE)) else {
            return Err("the Runtime API answered without an event".into());
        };
        Ok(Invocation {
            event,
            context: Context::new(id.to_str()?, Arc::clone(&self.config), &head.headers)?,
            id: head.headers.get(INVOCATION_ID).cloned(),
        })
    }

    /// Sends the response to an invocation, and waits until the platform has received it.
    ///
    /// # Errors
    /// It could not be sent, or was refused.
    pub(super) async fn respond(
        &mut self,
        invocation: &Invocation,
        reply: Reply,
    ) -> Result<(), Error> {
        let path = |end: &str| format!("{}/{end}", invocation.context.request_id);
        let mut request = match reply {
            Reply::Whole(json) => {
                self.request(Method::POST, &path("response"), whole(json.into()))?
            }
            Reply::Streamed(response) => {
                let body = streamed(response)?;
                let mut request = self.request(Method::POST, &path("response"), body)?;
                let headers = request.headers_mut();
                headers.insert(CONTENT_TYPE, HTTP_INTEGRATION);
                headers.insert(RESPONSE_MODE, STREAMING);
                headers.insert(TRANSFER_ENCODING, CHUNKED);
                headers.insert(TRAILER, TRAILERS);
                request
            }
            Reply::Unreadable => {
                let error =
                    br#"{"errorType":"Unreadable","errorMessage":"the event cannot be read"}"#;
                let body = whole(Bytes::from_static(error));
                let mut request = self.request(Method::POST, &path("error"), body)?;
                let kind = HeaderValue::from_static("Unreadable");
                request.headers_mut().insert(ERROR_TYPE, kind);
                request
            }
        };
        if let Some(id) = &invocation.id {
            request.headers_mut().insert(INVOCATION_ID, id.clone());
        }
        let (head, body) = self.send(request).await?.into_parts();
        // The connection is used again only after a whole answer.
        body.collect().await?;
        if !head.status.is_success() {
            return Err(format!("the Runtime API answered {}", head.status).into());
        }
        Ok(())
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: StreamingBody,
    ) -> Result<Request<StreamingBody>, Error> {
        Ok(Request::builder()
            .method(method)
            .uri(format!("{}{INVOCATION}/{path}", self.base_path))
            .header(HOST, self.authority.as_str())
            .header(USER_AGENT, OWN_NAME)
            .body(body)?)
    }

    /// Sends a request over the connection, or over a new one if it is closed.
    async fn send(&mut self, request: Request<StreamingBody>) -> Result<Response<Incoming>, Error> {
        let mut connection = self.open_connection().await?;
        let response = connection.requests.send_request(request).await?;
        // Only a connection that works is kept.
        self.connection = Some(connection);
        Ok(response)
    }

    /// Takes the connection that is kept, or opens one if there is none or the platform has closed it.
    async fn open_connection(&mut self) -> Result<Connection, Error> {
        if let Some(mut kept) = self.connection.take()
            && kept.requests.ready().await.is_ok()
        {
            return Ok(kept);
        }
        self.connect().await
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let port = self.authority.port_u16().unwrap_or(80);
        let stream = TcpStream::connect((self.authority.host(), port)).await?;
        // A frame would otherwise wait for the acknowledgement of the one before it, 40 ms on some peers.
        stream.set_nodelay(true)?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Connection {
            requests,
            // An error ends the request that runs, which reports it.
            _driver: AbortOnDropHandle::new(tokio::spawn(async move {
                let _ = connection.await;
            })),
        })
    }
}

fn whole(body: Bytes) -> StreamingBody {
    Full::new(body).boxed_unsync()
}

/// Returns the body of a streamed response: the status and headers in JSON, the delimiter, and the body.
fn streamed(response: Response<StreamingBody>) -> Result<StreamingBody, Error> {
    let (head, body) = response.into_parts();
    let prelude = serde_json::to_vec(&MetadataPrelude {
        status_code: head.status,
        headers: head.headers,
        cookies: Vec::new(),
    })?;
    let mut beginning = BytesMut::from(prelude.as_slice());
    beginning.extend_from_slice(&DELIMITER);
    let beginning = iter([Ok(Frame::data(beginning.freeze()))]);
    Ok(StreamBody::new(beginning.chain(BodyStream::new(body))).boxed_unsync())
}
