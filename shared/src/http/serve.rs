//! Runs a function: the runtime's loop, and the steps that all invocations share.
//!
//! If the connection to the Runtime API breaks while a response is sent, the runtime would end the process, or
//! permanently one of its workers, and with it every turn that still runs there. Here a failed response is logged and
//! the loop goes on. It ends only when the process is asked to end, or when the Runtime API can no longer be polled.
//!
//! Every invocation has a span of the runtime, which adds the request id to every log line.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, Stream};
use http::Response;
use http_body_util::BodyExt;
use lambda_http::aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayV2httpResponse};
use lambda_runtime::{Error, LambdaEvent, MetadataPrelude, Runtime, StreamResponse, service_fn};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::runtime::Builder;

use super::cors::Grant;
use super::event::{Event, Gateway};
use super::nodelay::NoDelay;
use super::poll::{self, Polling};
use super::request::UserRequest;
use super::sse::{self, StreamingAnswer, StreamingBody};
use super::{Answer, Base, CharacterCommand, Problem, Server, direct};
use crate::chat::FINISH_MARGIN;
use crate::telemetry::{self, Invocation};

/// Returns the methods of a path in the format of the `Allow` header. Gets the last segment of the path.
pub type Allow = fn(&str) -> &'static str;

/// Runs a function with buffered responses from start to end, and returns the exit code of the process.
///
/// `function` is its name in logs and metrics. `build` returns the state that `route` needs; every invocation receives a
/// clone of it.
pub fn run_buffered<S, F>(
    function: &'static str,
    allow: Allow,
    build: impl FnOnce(&Base) -> Result<S, Box<dyn StdError>>,
    route: fn(S, UserRequest) -> F,
) -> ExitCode
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    run(function, build, async |server, service| {
        serve_buffered(server, allow, service, route).await
    })
}

/// Runs a function without a route from start to end, and returns the exit code of the process. Its events come from
/// callers with the right to invoke it, so it needs no settings for tokens.
pub fn run_direct<S, F>(
    function: &'static str,
    build: impl FnOnce(&Base) -> Result<S, Box<dyn StdError>>,
    route: fn(S, Invocation, CharacterCommand) -> F,
) -> ExitCode
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    let build = |base: Base| build(&base).map(|built| (base, built));
    start(function, build, async |(base, service)| {
        serve_direct(base, service, route).await
    })
}

/// Runs a function from start to end, and returns the exit code of the process. `build` returns the state that it
/// needs besides the [`Base`]; `serve` ends when the process is asked to end (SIGTERM), or when the Runtime API can no
/// longer be polled.
///
/// If one invocation runs at a time, one thread serves it, because passing a delta between threads costs more than
/// all other work on it. If the platform sends several invocations at once, one thread per CPU serves them.
pub fn run<S>(
    function: &'static str,
    build: impl FnOnce(&Base) -> Result<S, Box<dyn StdError>>,
    serve: impl AsyncFnOnce(Server, S) -> Result<(), Error>,
) -> ExitCode {
    let build = |base: Base| {
        let server = Server::from_env(base)?;
        let built = build(&server.base)?;
        Ok((server, built))
    };
    start(function, build, async |(server, built)| {
        serve(server, built).await
    })
}

fn start<T>(
    function: &'static str,
    build: impl FnOnce(Base) -> Result<T, Box<dyn StdError>>,
    serve: impl AsyncFnOnce(T) -> Result<(), Error>,
) -> ExitCode {
    let started = Base::from_env(function).and_then(|base| {
        let (ending, capacity) = (base.ending.clone(), Arc::clone(&base.capacity));
        Ok((ending, capacity, build(base)?))
    });
    let (ending, capacity, built) = match started {
        Ok(started) => started,
        Err(error) => return telemetry::start_failed(&*error),
    };
    let mut runtime = match capacity.invocations() {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return telemetry::start_failed(&error),
    };
    let ended = runtime.block_on(async {
        poll::end_on_sigterm(ending);
        serve(built).await
    });
    // Blocking computations and name look-ups may still run on their own threads; the process does not wait for them.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::platform_lost(&*error),
    }
}

/// Serves buffered responses, concurrently where the platform allows it. Ends when the process is asked to end, or the
/// Runtime API can no longer be polled.
///
/// # Errors
/// The Runtime API can no longer be polled.
async fn serve_buffered<S, F>(
    server: Server,
    allow: Allow,
    service: S,
    route: fn(S, UserRequest) -> F,
) -> Result<(), Error>
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    let polling = polling(&server.base);
    let server = Arc::new(server);
    let service = service_fn(move |event: LambdaEvent<Event>| {
        let (server, service) = (Arc::clone(&server), service.clone());
        let route = move |request| route(service, request);
        let gateway = event.payload.gateway;
        async move {
            answer(&server, allow, event, route, |refusal| refusal)
                .await
                .map(|answer| buffered(answer, gateway))
        }
    });
    polling.serve(|| Runtime::new(service.clone())).await
}

/// Serves streamed responses, concurrently where the platform allows it, until the process is asked to end. A response
/// that cannot be sent is logged and does not end the loop.
///
/// # Errors
/// The Runtime API can no longer be polled.
pub async fn serve_streaming<S, F>(
    server: Server,
    allow: Allow,
    service: S,
    route: fn(S, UserRequest) -> F,
) -> Result<(), Error>
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<StreamingAnswer, Problem>> + Send + 'static,
{
    let polling = polling(&server.base);
    let server = Arc::new(server);
    let no_delay = Arc::new(NoDelay::default());
    let service = service_fn(move |event: LambdaEvent<Event>| {
        let (server, service) = (Arc::clone(&server), service.clone());
        let no_delay = Arc::clone(&no_delay);
        let route = move |request| route(service, request);
        async move {
            // Boxed, so that a worker has no room for it while it waits or streams, which is nearly always.
            Box::pin(answer(&server, allow, event, route, sse::whole))
                .await
                .map(|response| streamed(response, no_delay))
        }
    });
    polling.serve(|| Runtime::new(service.clone())).await
}

/// Serves events without a route until the process is asked to end.
///
/// # Errors
/// The Runtime API can no longer be polled.
async fn serve_direct<S, F>(
    base: Base,
    service: S,
    route: fn(S, Invocation, CharacterCommand) -> F,
) -> Result<(), Error>
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    let polling = polling(&base);
    let base = Arc::new(base);
    let service = service_fn(move |event: LambdaEvent<Box<RawValue>>| {
        let (base, service) = (Arc::clone(&base), service.clone());
        async move {
            let invocation = direct::begin(&base.telemetry, &event.context);
            let route = |command| route(service, invocation.clone(), command);
            Ok::<_, Infallible>(direct::answer(&event.payload, &invocation, route).await)
        }
    });
    polling.serve(|| Runtime::new(service.clone())).await
}

/// Returns how invocations are polled for. After the process was asked to end, they have the time limit of a commit, and
/// the time to send the last frame.
fn polling(base: &Base) -> Polling {
    Polling {
        workers: base.capacity.invocations(),
        ending: base.ending.clone(),
        margin: base.memory_config.write_timeout + FINISH_MARGIN,
    }
}

/// Returns the response to one request, even if its route fails or panics. The runtime would turn an error or a panic
/// into a 502 without a body.
async fn answer<T, F>(
    server: &Server,
    allow: Allow,
    event: LambdaEvent<Event>,
    route: impl FnOnce(UserRequest) -> F,
    refuse: impl FnOnce(Answer) -> Response<T>,
) -> Result<Response<T>, Infallible>
where
    F: Future<Output = Result<Response<T>, Problem>>,
{
    let LambdaEvent { payload, context } = event;
    let grant = Grant::of(&server.cors, &payload.headers);
    let invocation = super::request::begin(&server.base.telemetry, &payload, &context);
    let authenticator = &server.authenticator;
    let accepted = UserRequest::accept(payload, &context, allow, authenticator, invocation.clone());
    let outcome = async { route(accepted.await?).await };
    // A panic cannot leave partial changes here: a route shares no state with this function.
    let outcome = AssertUnwindSafe(outcome).catch_unwind().await;
    let response = match outcome.unwrap_or(Err(Problem::Internal)) {
        Ok(response) => response,
        Err(problem) => refuse(problem.into_answer()),
    };
    invocation.note(|figures| figures.status = Some(response.status().as_u16()));
    Ok(grant.add_to(response))
}

/// A buffered response in the format of its gateway.
#[derive(Serialize)]
#[serde(untagged)]
enum Buffered {
    Rest(ApiGatewayProxyResponse),
    Http(ApiGatewayV2httpResponse),
}

fn buffered(answer: Answer, gateway: Gateway) -> Buffered {
    let (head, body) = answer.into_parts();
    let status_code = head.status.as_u16().into();
    match gateway {
        Gateway::Rest => {
            let mut response = ApiGatewayProxyResponse::default();
            response.status_code = status_code;
            response.multi_value_headers = head.headers;
            response.body = Some(body);
            Buffered::Rest(response)
        }
        Gateway::Http => {
            let mut response = ApiGatewayV2httpResponse::default();
            response.status_code = status_code;
            response.headers = head.headers;
            response.body = Some(body);
            Buffered::Http(response)
        }
    }
}

/// Returns a response in the form that the runtime sends as a stream.
fn streamed(
    response: Response<StreamingBody>,
    no_delay: Arc<NoDelay>,
) -> StreamResponse<impl Stream<Item = Result<Bytes, Infallible>> + Send + Unpin> {
    let (head, body) = response.into_parts();
    StreamResponse {
        metadata_prelude: MetadataPrelude {
            status_code: head.status,
            headers: head.headers,
            cookies: Vec::new(),
        },
        stream: sent_at_once(body, no_delay).into_data_stream(),
    }
}

/// Sets TCP_NODELAY on the connection that carries the response, before its first frame is sent. The runtime may open
/// that connection after the handler was called. It is open at the first frame, because the runtime sends the head of
/// the response before it polls for a frame.
fn sent_at_once(body: StreamingBody, no_delay: Arc<NoDelay>) -> StreamingBody {
    let mut is_first = true;
    body.map_frame(move |frame| {
        if std::mem::take(&mut is_first) {
            no_delay.ensure();
        }
        frame
    })
    .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_that_is_sent_whole_has_the_form_of_its_gateway() {
        let json = |gateway| {
            let answer = Problem::BadRequest("x").into_answer();
            let mut json = serde_json::to_value(buffered(answer, gateway)).expect("JSON");
            assert!(json["body"].take().is_string());
            json.to_string()
        };
        assert_eq!(
            json(Gateway::Rest),
            r#"{"body":null,"headers":{},"isBase64Encoded":false,"multiValueHeaders":{"cache-control":["no-store"],"content-type":["application/problem+json"]},"statusCode":400}"#
        );
        assert_eq!(
            json(Gateway::Http),
            r#"{"body":null,"cookies":[],"headers":{"cache-control":"no-store","content-type":"application/problem+json"},"isBase64Encoded":false,"multiValueHeaders":{},"statusCode":400}"#
        );
    }
}
