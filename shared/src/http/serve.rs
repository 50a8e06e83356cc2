//! Runs a function: the runtime's loop, and the parts that all invocations share.
//!
//! If the connection to the Runtime API breaks while a response is sent, the runtime would end the process, or
//! permanently one of its workers, with every turn that still runs there. Here a failed response is logged and the
//! loop goes on; it ends only when the Runtime API can no longer be polled.
//!
//! Every invocation has a span of the runtime, which adds the request id to every log line.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use futures_util::FutureExt;
use http::Response;
use http_body_util::BodyExt;
use lambda_http::{Request, runtime_concurrent, service_fn, streaming_runtime_concurrent};
use lambda_runtime::Error;
use lambda_runtime::layers::TracingLayer;
use lambda_runtime::tower::util::MapResultLayer;
use tokio::runtime::Builder;

use super::cors::Grant;
use super::nodelay::NoDelay;
use super::request::UserRequest;
use super::sse::{self, StreamingAnswer, StreamingBody};
use super::{Answer, Base, Problem};
use crate::telemetry;

/// Runs a function with buffered responses, from start to end.
///
/// `function` is its name in logs and metrics. `allow` lists its methods in the format of the `Allow` header. `build`
/// returns the state that `route` needs; every invocation receives a clone of it.
pub fn run_buffered<S, F>(
    function: &'static str,
    allow: &'static str,
    build: impl FnOnce(&Base) -> Result<S, Box<dyn StdError>>,
    route: fn(S, UserRequest) -> F,
) -> ExitCode
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    run(function, build, async |base, service| {
        serve_buffered(base, allow, service, route).await
    })
}

/// Runs a function from start to end, and returns the exit code of the process. `build` returns the state that it
/// needs besides the [`Base`]; `serve` ends when the Runtime API can no longer be polled.
///
/// If one invocation runs at a time, one thread serves it, because passing a delta between threads costs more than
/// all other work on it. If the platform sends several invocations at once, one thread per CPU serves them.
pub fn run<S>(
    function: &'static str,
    build: impl FnOnce(&Base) -> Result<S, Box<dyn StdError>>,
    serve: impl AsyncFnOnce(Base, S) -> Result<(), Error>,
) -> ExitCode {
    let started = Base::from_env(function).and_then(|base| build(&base).map(|built| (base, built)));
    let (base, built) = match started {
        Ok(started) => started,
        Err(error) => return telemetry::start_failed(&*error),
    };
    // The runtime reads this variable in the same way, to choose between one worker and several.
    let one_at_a_time = std::env::var("AWS_LAMBDA_MAX_CONCURRENCY")
        .ok()
        .and_then(|most| most.parse::<u32>().ok())
        .is_none_or(|most| most <= 1);
    let mut runtime = if one_at_a_time {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return telemetry::start_failed(&error),
    };
    match runtime.block_on(serve(base, built)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::platform_lost(&*error),
    }
}

/// Serves buffered responses, concurrently where the platform allows it. Ends when the Runtime API can no longer be
/// polled.
///
/// # Errors
/// The Runtime API can no longer be polled.
async fn serve_buffered<S, F>(
    base: Base,
    allow: &'static str,
    service: S,
    route: fn(S, UserRequest) -> F,
) -> Result<(), Error>
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    let base = Arc::new(base);
    let service = service_fn(move |request: Request| {
        let (base, service) = (Arc::clone(&base), service.clone());
        let route = move |request| route(service, request);
        Box::pin(async move { answer(&base, allow, request, route, |refusal| refusal).await })
    });
    runtime_concurrent(service)
        .layer(MapResultLayer::new(survive_failed_response))
        .layer(TracingLayer::new())
        .run_concurrent()
        .await
}

/// Serves streamed responses, concurrently where the platform allows it. A response that cannot be sent is logged and
/// does not end the loop.
///
/// # Errors
/// The Runtime API can no longer be polled.
pub async fn serve_streaming<S, F>(
    base: Base,
    allow: &'static str,
    service: S,
    route: fn(S, UserRequest) -> F,
) -> Result<(), Error>
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<StreamingAnswer, Problem>> + Send + 'static,
{
    let base = Arc::new(base);
    let no_delay = Arc::new(NoDelay::default());
    let service = service_fn(move |request: Request| {
        let (base, service) = (Arc::clone(&base), service.clone());
        let no_delay = Arc::clone(&no_delay);
        let route = move |request| route(service, request);
        Box::pin(async move {
            answer(&base, allow, request, route, sse::whole)
                .await
                .map(|response| response.map(|body| sent_at_once(body, no_delay)))
        })
    });
    streaming_runtime_concurrent(service)
        .layer(MapResultLayer::new(survive_failed_response))
        .layer(TracingLayer::new())
        .run_concurrent()
        .await
}

/// Returns the response to one request, even if its route fails or panics. The runtime would turn an error or a panic
/// into a 502 without a body.
async fn answer<T, F>(
    base: &Base,
    allow: &'static str,
    request: Request,
    route: impl FnOnce(UserRequest) -> F,
    refuse: impl FnOnce(Answer) -> Response<T>,
) -> Result<Response<T>, Infallible>
where
    F: Future<Output = Result<Response<T>, Problem>>,
{
    let grant = Grant::of(&base.cors, request.headers());
    let invocation = super::request::begin(&base.telemetry, &request);
    let accepted = UserRequest::accept(request, allow, &base.authenticator, invocation.clone());
    let outcome = async { route(accepted.await?).await };
    // A panic cannot leave half-done changes here: a route shares no state with this function.
    let outcome = AssertUnwindSafe(outcome).catch_unwind().await;
    let response = match outcome.unwrap_or(Err(Problem::Internal)) {
        Ok(response) => response,
        Err(problem) => refuse(problem.into_answer()),
    };
    invocation.note(|figures| figures.status = Some(response.status().as_u16()));
    Ok(grant.add_to(response))
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

/// Logs a response that could not be sent, and returns success so that the runtime goes on.
fn survive_failed_response(outcome: Result<(), Error>) -> Result<(), Error> {
    if outcome.is_err() {
        tracing::warn!("failed to send a response to the Runtime API; continuing");
    }
    Ok(())
}
