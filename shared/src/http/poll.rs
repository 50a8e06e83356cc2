//! Polls the Runtime API for invocations, and stops when the process is asked to end.
//!
//! Lambda sends SIGTERM before it ends a process in which an extension is registered, and so do containers and process
//! managers. Invocations that still run then have a limited time to finish, and their responses are sent completely.
//!
//! The runtime's own loop ends at the first poll that fails. For one invocation at a time, it is run again after a
//! pause. For several at once, it would poll again immediately, which keeps a CPU busy while the Runtime API is
//! unavailable, and it would permanently lose a worker to a response that is not an event. The workers here pause
//! after a failure and try again: see docs/decisions/own-polling.md.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use lambda_runtime::layers::TracingLayer;
use lambda_runtime::tower::util::{MapFutureLayer, MapRequestLayer, MapResultLayer};
use lambda_runtime::tower::{Layer, Service, ServiceExt};
use lambda_runtime::{Config, Context, Error, LambdaInvocation, Runtime};
use lambda_runtime_api_client::{PooledClient, body::Body, build_request};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::lock;

const NEXT: &str = "/2018-06-01/runtime/invocation/next";
const REQUEST_ID: &str = "lambda-runtime-aws-request-id";
const DEADLINE: &str = "lambda-runtime-deadline-ms";

/// The pause after the first failed poll. It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The time after which a worker whose polls all fail ends, if nothing runs. The process ends with its last worker.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// The same for a process that serves one invocation at a time: nothing else runs in it, so it is replaced soon.
const GIVE_UP_ALONE_AFTER: Duration = Duration::from_secs(2);

/// Returns the number of invocations that the platform sends to this process at once. The runtime reads the variable
/// in the same way.
pub(super) fn most_at_once() -> usize {
    let most = std::env::var("AWS_LAMBDA_MAX_CONCURRENCY").ok();
    most.and_then(|most| most.parse().ok()).unwrap_or(1).max(1)
}

/// Cancels `ending` when the process receives SIGTERM.
pub(super) fn end_on_sigterm(ending: CancellationToken) {
    // Without a handler, SIGTERM ends the process at once.
    let Ok(mut signals) = signal(SignalKind::terminate()) else {
        return;
    };
    // Not awaited: the task ends with the process.
    tokio::spawn(async move {
        if signals.recv().await.is_some() {
            tracing::info!("SIGTERM: running invocations end, and then the process");
            ending.cancel();
        }
    });
}

/// How invocations are polled for, and until when.
pub(super) struct Polling {
    /// The number of invocations to wait for at once.
    pub(super) workers: usize,
    /// Cancelled when the process is asked to end.
    pub(super) ending: CancellationToken,
    /// The time that the invocations which run then have to finish.
    pub(super) margin: Duration,
}

impl Polling {
    /// Serves invocations until the process is asked to end. `new` returns the runtime, each time with a client of its
    /// own.
    ///
    /// # Errors
    /// The Runtime API can no longer be polled.
    pub(super) async fn serve<S>(self, new: impl Fn() -> Runtime<S>) -> Result<(), Error>
    where
        S: Service<LambdaInvocation, Response = (), Error = Error> + Clone + Send + 'static,
        S::Future: Send,
    {
        let running = TaskTracker::new();
        let new = || tracked(new(), running.clone());
        let served = async {
            match self.workers {
                1 => alone(new, &self.ending).await,
                workers => {
                    let service = service_of(new()).ok_or("the runtime has no service")?;
                    let platform = Platform::new(workers, self.ending.clone(), running.clone());
                    work(service, workers, platform).await
                }
            }
        };
        let ended = async {
            self.ending.cancelled().await;
            running.close();
            if timeout(self.margin, running.wait()).await.is_err() {
                tracing::warn!("invocations that still run are given up");
            }
        };
        tokio::select! {
            served = served => served,
            () = ended => Ok(()),
        }
    }
}

/// Returns the runtime with a span around each invocation, which survives a response that cannot be sent, and with the
/// running ones counted in `running`.
fn tracked<S>(
    runtime: Runtime<S>,
    running: TaskTracker,
) -> Runtime<
    impl Service<LambdaInvocation, Response = (), Error = Error, Future: Send> + Clone + Send + 'static,
>
where
    S: Service<LambdaInvocation, Response = (), Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    runtime
        .layer(MapFutureLayer::new(move |invocation: S::Future| {
            running.track_future(invocation)
        }))
        .layer(MapResultLayer::new(survive_failed_response))
        .layer(TracingLayer::new())
}

/// Logs a response that could not be sent, and returns success so that the runtime goes on.
fn survive_failed_response(outcome: Result<(), Error>) -> Result<(), Error> {
    if outcome.is_err() {
        tracing::warn!("failed to send a response to the Runtime API; continuing");
    }
    Ok(())
}

/// Returns the service of a runtime, which sends its responses through the runtime's own client.
fn service_of<S>(runtime: Runtime<S>) -> Option<S>
where
    S: Service<LambdaInvocation, Response = (), Error = Error> + Clone,
{
    /// A layer that adds nothing, and keeps a copy of the service that it is put around.
    struct Kept<S>(Arc<Mutex<Option<S>>>);

    impl<S: Clone> Layer<S> for Kept<S> {
        type Service = S;

        fn layer(&self, service: S) -> S {
            *lock(&self.0) = Some(service.clone());
            service
        }
    }

    let kept = Arc::new(Mutex::new(None));
    drop(runtime.layer(Kept(Arc::clone(&kept))));
    lock(&kept).take()
}

/// Serves one invocation after another in the runtime's own loop, until all polls have failed for
/// [`GIVE_UP_ALONE_AFTER`].
///
/// The loop polls with the client that sends the responses, so a poll takes the connection of the response before it.
/// `cargo lambda watch` needs that: it answers a response before it has read all of it. If the end of the response
/// then comes with a later read than its beginning, as it does above 8 KiB, hyper's server (1.12 and earlier)
/// withholds that it has ended until the connection carries another request, or closes. On a connection for responses
/// alone, that is the next response: the client of this one would wait for it.
async fn alone<S>(new: impl Fn() -> Runtime<S>, ending: &CancellationToken) -> Result<(), Error>
where
    S: Service<LambdaInvocation, Response = (), Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    let invoked = Arc::new(AtomicBool::new(false));
    let mut failures = Failures::default();
    loop {
        let noted = Arc::clone(&invoked);
        let runtime = new().layer(MapRequestLayer::new(move |invocation| {
            noted.store(true, Ordering::Relaxed);
            invocation
        }));
        // A panic leaves nothing behind: the next round has a runtime of its own.
        let ended = AssertUnwindSafe(runtime.run_concurrent())
            .catch_unwind()
            .await;
        let error = match ended {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            // The runtime panics if a response lacks the headers of an event.
            Err(_panic) => "the Runtime API answered without an event".into(),
        };
        if invoked.swap(false, Ordering::Relaxed) {
            failures = Failures::default();
        }
        // Its only invocation has ended.
        failures
            .pause(error, GIVE_UP_ALONE_AFTER, true, ending)
            .await?;
    }
}

async fn work<S>(service: S, workers: usize, platform: Platform) -> Result<(), Error>
where
    S: Service<LambdaInvocation, Response = (), Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    let platform = Arc::new(platform);
    let mut working = JoinSet::new();
    for _ in 0..workers {
        working.spawn(worker(service.clone(), Arc::clone(&platform)));
    }
    let mut outcome = Ok(());
    while let Some(ended) = working.join_next().await {
        match ended {
            Ok(ended) => outcome = outcome.and(ended),
            // A worker that panicked is replaced.
            Err(_panic) => {
                working.spawn(worker(service.clone(), Arc::clone(&platform)));
            }
        }
    }
    outcome
}

/// Serves one invocation after another, until the process is asked to end, or until nothing runs and all polls have
/// failed for [`GIVE_UP_AFTER`].
async fn worker<S>(mut service: S, platform: Arc<Platform>) -> Result<(), Error>
where
    S: Service<LambdaInvocation, Response = (), Error = Error> + Send,
    S::Future: Send,
{
    let mut failures = Failures::default();
    while let Some(polled) = platform.ending.run_until_cancelled(platform.next()).await {
        match polled {
            Ok(invocation) => {
                failures = Failures::default();
                service.ready().await?.call(invocation).await?;
            }
            Err(error) => {
                let is_idle = platform.running.is_empty();
                failures
                    .pause(error, GIVE_UP_AFTER, is_idle, &platform.ending)
                    .await?;
            }
        }
    }
    Ok(())
}

struct Platform {
    client: PooledClient,
    config: Arc<Config>,
    ending: CancellationToken,
    /// The invocations that run.
    running: TaskTracker,
}

impl Platform {
    fn new(workers: usize, ending: CancellationToken, running: TaskTracker) -> Self {
        Self {
            client: PooledClient::builder().with_pool_size(workers).build(),
            config: Arc::new(Config::from_env()),
            ending,
            running,
        }
    }

    /// Waits for the next invocation and returns it.
    async fn next(&self) -> Result<LambdaInvocation, Error> {
        let poll = build_request().method(Method::GET).uri(NEXT);
        let answer = self.client.call(poll.body(Body::empty())?).await?;
        let (parts, body) = answer.into_parts();
        if parts.status != StatusCode::OK {
            return Err(format!("the Runtime API answered {}", parts.status).into());
        }
        let body = body.collect().await?.to_bytes();
        let header = |name| parts.headers.get(name);
        // The runtime panics if one of these headers is missing.
        let (Some(id), Some(_)) = (header(REQUEST_ID), header(DEADLINE)) else {
            return Err("the Runtime API answered without an event".into());
        };
        let context = Context::new(id.to_str()?, Arc::clone(&self.config), &parts.headers)?;
        Ok(LambdaInvocation {
            parts,
            body,
            context,
        })
    }
}

/// The failed polls since the last one that returned an event.
#[derive(Default)]
struct Failures {
    count: u32,
    since: Option<Instant>,
}

impl Failures {
    /// Counts a failure, tells of the first, and pauses until the next poll is due or `ending` is cancelled. `is_idle` says
    /// whether no invocation runs.
    ///
    /// # Errors
    /// `error`, if all polls have failed for `give_up_after` while no invocation ran.
    async fn pause(
        &mut self,
        error: Error,
        give_up_after: Duration,
        is_idle: bool,
        ending: &CancellationToken,
    ) -> Result<(), Error> {
        let Some(pause) = self.pause_after(Instant::now(), give_up_after, is_idle) else {
            return Err(error);
        };
        if self.count == 1 {
            tracing::warn!(%error, "the Runtime API cannot be polled; trying again");
        }
        ending.run_until_cancelled(sleep(pause)).await;
        Ok(())
    }

    /// Counts a failure, and returns how long to pause after it, or `None` to give up.
    fn pause_after(
        &mut self,
        now: Instant,
        give_up_after: Duration,
        is_idle: bool,
    ) -> Option<Duration> {
        // What runs may hold the descriptors that a poll needs.
        if !is_idle {
            self.since = None;
        }
        let since = *self.since.get_or_insert(now);
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.count.min(16));
        self.count = self.count.saturating_add(1);
        (now.duration_since(since) < give_up_after).then(|| doubled.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_end_after_a_minute() {
        let mut failures = Failures::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        while let Some(pause) = failures.pause_after(now, GIVE_UP_AFTER, true) {
            pauses.push(pause.as_millis());
            now += pause;
        }
        assert_eq!(pauses[..7], [50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(pauses.len(), 64);
    }

    #[test]
    fn nothing_is_given_up_while_an_invocation_runs() {
        let mut failures = Failures::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            now += failures
                .pause_after(now, GIVE_UP_AFTER, false)
                .expect("a pause");
        }
        assert!(failures.pause_after(now, GIVE_UP_AFTER, true).is_some());
        let later = now + GIVE_UP_AFTER;
        assert_eq!(failures.pause_after(later, GIVE_UP_AFTER, true), None);
    }
}
