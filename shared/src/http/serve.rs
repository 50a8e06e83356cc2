//! The runtime's loop, and what must not end it.
//!
//! When the connection to the runtime API breaks while an answer is sent, the runtime would end: the process, or one of
//! its workers for good. Every turn that still runs in it would be lost with the process. A broken answer is nothing but a
//! broken answer here; only a platform that cannot be asked for events any longer is the end.
//!
//! Every invocation is in a span of the runtime's, which puts its id on all that is logged in it.

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;

use http::Response;
use http_body_util::BodyExt;
use lambda_http::{Request, runtime_concurrent, service_fn, streaming_runtime_concurrent};
use lambda_runtime::Error;
use lambda_runtime::layers::TracingLayer;
use lambda_runtime::tower::util::MapResultLayer;
use tokio::runtime::Builder;

use super::Answer;
use super::cors::Grant;
use super::nodelay::NoDelay;
use super::sse::StreamingBody;
use crate::config::CorsConfig;
use crate::telemetry;

/// A function from its start to its end, on the runtime that suits the platform: one thread while one invocation runs at a
/// time, because handing a delta from thread to thread costs more than everything else that is done with it; as many threads
/// as there are CPUs where the platform sends many invocations at once.
pub fn run<T, F>(
    start: impl FnOnce() -> Result<T, Box<dyn std::error::Error>>,
    serve: impl FnOnce(T) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), Error>>,
{
    let ready = match start() {
        Ok(ready) => ready,
        Err(error) => return telemetry::start_failed(&*error),
    };
    // The runtime reads it in the same way, to decide between one loop and many.
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
    match runtime.block_on(serve(ready)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::platform_lost(&*error),
    }
}

/// Serves streamed answers, many at once where the platform allows it: `run_with_streaming_response_concurrent`, with the
/// layer that keeps it running.
///
/// # Errors
/// The platform is gone.
pub async fn serve_streaming<H, F>(cors: CorsConfig, handle: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<StreamingBody>, Infallible>> + Send + 'static,
{
    let no_delay = Arc::new(NoDelay::default());
    let service = service_fn(move |request: Request| {
        let grant = Grant::of(&cors, request.headers());
        let (answer, no_delay) = (handle(request), Arc::clone(&no_delay));
        Box::pin(async move {
            answer.await.map(|response| {
                grant
                    .add_to(response)
                    .map(|body| sent_at_once(body, no_delay))
            })
        })
    });
    streaming_runtime_concurrent(service)
        .layer(MapResultLayer::new(broken_answer))
        .layer(TracingLayer::new())
        .run_concurrent()
        .await
}

/// The connection that carries an answer may be made for it, after the handler was called. By the first frame it is there: the
/// runtime sends the answer's head first, and asks for a frame once the connection has taken that.
fn sent_at_once(body: StreamingBody, no_delay: Arc<NoDelay>) -> StreamingBody {
    let mut unseen = true;
    body.map_frame(move |frame| {
        if std::mem::take(&mut unseen) {
            no_delay.ensure();
        }
        frame
    })
    .boxed_unsync()
}

/// Serves buffered answers, many at once where the platform allows it: `run_concurrent`, with the same layer.
///
/// # Errors
/// The platform is gone.
pub async fn serve_buffered<H, F>(cors: CorsConfig, handle: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Infallible>> + Send + 'static,
{
    let service = service_fn(move |request: Request| {
        let grant = Grant::of(&cors, request.headers());
        let answer = handle(request);
        Box::pin(async move { answer.await.map(|response| grant.add_to(response)) })
    });
    runtime_concurrent(service)
        .layer(MapResultLayer::new(broken_answer))
        .layer(TracingLayer::new())
        .run_concurrent()
        .await
}

fn broken_answer(outcome: Result<(), Error>) -> Result<(), Error> {
    if outcome.is_err() {
        tracing::warn!("an answer could not be handed to the platform; serving on");
    }
    Ok(())
}
