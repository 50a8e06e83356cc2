//! The runtime's loop, and what must not end it.
//!
//! When the connection to the runtime API breaks while an answer is sent, the runtime would end: the process, or one of
//! its workers for good. Every turn that still runs in it would be lost with the process. A broken answer is nothing but a
//! broken answer here; only a platform that cannot be asked for events any longer is the end.
//!
//! Every invocation is in a span of the runtime's, which puts its id on all that is logged in it.

use std::convert::Infallible;
use std::sync::Arc;

use http::Response;
use http_body_util::BodyExt;
use lambda_http::{Request, runtime_concurrent, service_fn, streaming_runtime_concurrent};
use lambda_runtime::Error;
use lambda_runtime::layers::TracingLayer;
use lambda_runtime::tower::util::MapResultLayer;

use super::Answer;
use super::nodelay::NoDelay;
use super::sse::StreamingBody;

/// Serves streamed answers, many at once where the platform allows it: `run_with_streaming_response_concurrent`, with the
/// layer that keeps it running.
///
/// # Errors
/// The platform is gone.
pub async fn serve_streaming<H, F>(handle: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<StreamingBody>, Infallible>> + Send + 'static,
{
    let no_delay = Arc::new(NoDelay::default());
    let service = service_fn(move |request| {
        no_delay.ensure();
        let (answer, no_delay) = (handle(request), Arc::clone(&no_delay));
        Box::pin(async move {
            answer
                .await
                .map(|response| response.map(|body| sent_at_once(body, no_delay)))
        })
    });
    streaming_runtime_concurrent(service)
        .layer(MapResultLayer::new(broken_answer))
        .layer(TracingLayer::new())
        .run_concurrent()
        .await
}

/// The connection that carries an answer may be made for it, after the handler was called: so the first frames look again.
fn sent_at_once(body: StreamingBody, no_delay: Arc<NoDelay>) -> StreamingBody {
    /// The first event, and the first text.
    const FRAMES: usize = 2;
    let mut seen = 0;
    body.map_frame(move |frame| {
        if seen < FRAMES {
            seen += 1;
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
pub async fn serve_buffered<H, F>(handle: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Infallible>> + Send + 'static,
{
    let service = service_fn(handle);
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
