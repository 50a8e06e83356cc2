//! Polls the Runtime API for invocations, and stops when the process is asked to end.
//!
//! Lambda sends SIGTERM before it ends a process in which an extension is registered, and so do containers and process
//! managers. Invocations that still run then have a limited time to finish, and their responses are sent completely.
//!
//! As many workers as the process serves invocations at once poll, each on a connection of its own. A worker pauses
//! after a failed poll and tries again. A response that cannot be sent is logged, and the worker goes on: see
//! docs/decisions/own-polling.md.

use std::sync::Arc;
use std::time::Duration;

use lambda_runtime::layers::trace::request_span;
use lambda_runtime::{Config, Error, LambdaEvent};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::platform::{Invocation, Platform, Reply};

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
    /// Has `handle` answer invocations until the process is asked to end.
    ///
    /// # Errors
    /// The Runtime API can no longer be polled.
    pub(super) async fn serve<E, F>(
        self,
        handle: impl Fn(LambdaEvent<E>) -> F + Clone + Send + Sync + 'static,
    ) -> Result<(), Error>
    where
        E: DeserializeOwned + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let running = TaskTracker::new();
        let worker = Worker {
            handle,
            config: Arc::new(Config::from_env()),
            give_up_after: match self.workers {
                1 => GIVE_UP_ALONE_AFTER,
                _ => GIVE_UP_AFTER,
            },
            ending: self.ending.clone(),
            running: running.clone(),
        };
        let ended = async {
            self.ending.cancelled().await;
            running.close();
            if timeout(self.margin, running.wait()).await.is_err() {
                tracing::warn!("invocations that still run are given up");
            }
        };
        tokio::select! {
            served = work(worker, self.workers) => served,
            () = ended => Ok(()),
        }
    }
}

async fn work<E, F, H>(worker: Worker<H>, workers: usize) -> Result<(), Error>
where
    H: Fn(LambdaEvent<E>) -> F + Clone + Send + Sync + 'static,
    E: DeserializeOwned + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let mut working = JoinSet::new();
    for _ in 0..workers {
        working.spawn(worker.clone().run());
    }
    let mut outcome = Ok(());
    while let Some(ended) = working.join_next().await {
        match ended {
            Ok(ended) => outcome = outcome.and(ended),
            // A worker that panicked is replaced.
            Err(_panic) => {
                working.spawn(worker.clone().run());
            }
        }
    }
    outcome
}

/// Serves one invocation after another.
#[derive(Clone)]
struct Worker<H> {
    handle: H,
    config: Arc<Config>,
    give_up_after: Duration,
    ending: CancellationToken,
    /// The invocations that run in this process.
    running: TaskTracker,
}

impl<H> Worker<H> {
    /// Runs until the process is asked to end, or until nothing runs and all polls have failed for `give_up_after`.
    async fn run<E, F>(self) -> Result<(), Error>
    where
        H: Fn(LambdaEvent<E>) -> F,
        E: DeserializeOwned,
        F: Future<Output = Reply>,
    {
        let mut platform = Platform::from_env(Arc::clone(&self.config))?;
        let mut failures = Failures::default();
        while let Some(polled) = self.ending.run_until_cancelled(platform.next()).await {
            match polled {
                Ok(invocation) => {
                    failures = Failures::default();
                    let span = request_span(&invocation.context);
                    let answered = self.answer(&mut platform, invocation).instrument(span);
                    self.running.track_future(answered).await;
                }
                Err(error) => {
                    // What runs may hold the descriptors that a poll needs.
                    if !self.running.is_empty() {
                        failures.since = None;
                    }
                    failures
                        .pause(error, self.give_up_after, &self.ending)
                        .await?;
                }
            }
        }
        Ok(())
    }

    async fn answer<E, F>(&self, platform: &mut Platform, invocation: Invocation)
    where
        H: Fn(LambdaEvent<E>) -> F,
        E: DeserializeOwned,
        F: Future<Output = Reply>,
    {
        let event = invocation.event();
        let invocation = invocation.without_event();
        let reply = match event {
            Ok(event) => {
                let event = LambdaEvent::new(event, invocation.context.clone());
                // Boxed, because a worker that waits, or a response that streams, would keep room for it.
                Box::pin((self.handle)(event)).await
            }
            Err(_) => Reply::Unreadable,
        };
        if let Err(error) = platform.respond(&invocation, reply).await {
            tracing::warn!(%error, "failed to send a response to the Runtime API; continuing");
        }
    }
}

/// The failed polls since the last one that returned an event.
#[derive(Default)]
struct Failures {
    count: u32,
    since: Option<Instant>,
}

impl Failures {
    /// Counts a failure, tells of the first, and pauses until the next poll is due or `ending` is cancelled.
    ///
    /// # Errors
    /// `error`, if all polls have failed for `give_up_after`.
    async fn pause(
        &mut self,
        error: Error,
        give_up_after: Duration,
        ending: &CancellationToken,
    ) -> Result<(), Error> {
        let Some(pause) = self.pause_after(Instant::now(), give_up_after) else {
            return Err(error);
        };
        if self.count == 1 {
            tracing::warn!(%error, "the Runtime API cannot be polled; trying again");
        }
        ending.run_until_cancelled(sleep(pause)).await;
        Ok(())
    }

    /// Counts a failure, and returns how long to pause after it, or `None` to give up.
    fn pause_after(&mut self, now: Instant, give_up_after: Duration) -> Option<Duration> {
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
        while let Some(pause) = failures.pause_after(now, GIVE_UP_AFTER) {
            pauses.push(pause.as_millis());
            now += pause;
        }
        assert_eq!(pauses[..7], [50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(pauses.len(), 64);
    }
}
