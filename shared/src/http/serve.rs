//! The runtime's loop, kept running.
//!
//! When the connection to the runtime API breaks while an answer is sent, the runtime's loop ends with an error. Ending the
//! process then would lose every turn that still runs in it, so the loop is started again; only a loop that ended without
//! a single event, because the platform itself is gone, is final.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Response;
use lambda_http::{
    Error, Request, run_concurrent, run_with_streaming_response_concurrent, service_fn,
};

use super::Answer;
use super::nodelay::NoDelay;
use super::sse::StreamingBody;

/// Serves streamed answers, many at once where the platform allows it.
///
/// # Errors
/// The platform is gone.
pub async fn serve_streaming<H, F>(handle: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<StreamingBody>, Infallible>> + Send + 'static,
{
    let no_delay = Arc::new(NoDelay::default());
    keep_running(|served| {
        let (handle, no_delay) = (handle.clone(), Arc::clone(&no_delay));
        run_with_streaming_response_concurrent(service_fn(move |request| {
            served.store(true, Ordering::Relaxed);
            no_delay.ensure();
            handle(request)
        }))
    })
    .await
}

/// Serves buffered answers, many at once where the platform allows it.
///
/// # Errors
/// The platform is gone.
pub async fn serve_buffered<H, F>(handle: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Infallible>> + Send + 'static,
{
    keep_running(|served| {
        let handle = handle.clone();
        run_concurrent(service_fn(move |request| {
            served.store(true, Ordering::Relaxed);
            handle(request)
        }))
    })
    .await
}

async fn keep_running<R>(run: impl Fn(Arc<AtomicBool>) -> R) -> Result<(), Error>
where
    R: Future<Output = Result<(), Error>>,
{
    loop {
        let served = Arc::new(AtomicBool::new(false));
        let outcome = run(Arc::clone(&served)).await;
        if outcome.is_ok() || !served.load(Ordering::Relaxed) {
            return outcome;
        }
        tracing::warn!("the connection to the platform broke; serving on");
    }
}
