//! A stand-in for the Lambda Runtime API that drives a function's real binary and records its stream frame by frame.
//!
//! Follows AWS's "Using the Lambda runtime API for custom runtimes": the function polls for its next event, and posts a
//! response, buffered or streamed, or an error.

mod api;
mod builder;
mod streaming;

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::mpsc;

use self::api::{Api, Invocation, Part};
pub use self::builder::FunctionBuilder;
pub use self::streaming::Streaming;
use crate::answer::Answer;
use crate::binary::binary;
use crate::process::Process;
use crate::server::HttpServer;

/// The time that a test waits for something that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time that a test waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A function that exited by itself.
#[derive(Debug)]
pub struct Exit {
    /// The exit status.
    pub status: ExitStatus,
    /// All that the function printed, to standard output and standard error.
    pub output: String,
    /// The time from the start of the process to its exit.
    pub duration: Duration,
}

/// A running function, killed on drop. Dropping it also searches its output for message text, tokens and secrets that
/// passed through it, and panics if it printed any.
///
/// # Example
/// ```no_run
/// # use testkit::{events, redis::Server, runtime::Function, tokens::{secret, token}};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let redis = Server::start().await;
/// let clear = Function::builder("clear-history")
///     .env("REDIS_URL", redis.url())
///     .env("JWT_SECRET", secret())
///     .start()
///     .await;
/// let answer = clear.invoke(&events::clear(&token("alice"), "luna")).await;
/// assert_eq!(answer.status, 200);
/// # }
/// ```
pub struct Function {
    process: Process,
    api: Arc<Api>,
    server: HttpServer,
    started: Instant,
    started_to_next: Duration,
}

impl Function {
    /// Prepares a function of the workspace by its name, and builds it first.
    ///
    /// # Panics
    /// If the build fails.
    #[must_use]
    pub fn builder(name: &str) -> FunctionBuilder {
        Self::builder_of(binary(name))
    }

    /// Prepares any binary that uses the Runtime API.
    #[must_use]
    pub fn builder_of(path: PathBuf) -> FunctionBuilder {
        FunctionBuilder::new(path)
    }

    /// Sends the function an event and returns the whole answer.
    ///
    /// # Panics
    /// If the answer is not complete within two minutes.
    pub async fn invoke(&self, event: &Value) -> Answer {
        self.invoke_streaming(event).await.finish().await
    }

    /// Sends the function an event and returns the answer as soon as it begins.
    ///
    /// # Panics
    /// If nothing arrives in time.
    pub async fn invoke_streaming(&self, event: &Value) -> Streaming {
        let handed_over = Arc::new(Mutex::new(None));
        let (id, received) = self.hand_over(event, event.to_string(), &handed_over);
        let mut streaming = Streaming::new(id, received);
        let begun = tokio::time::timeout(ANSWER_WITHIN, streaming.begin());
        assert!(begun.await.is_ok(), "no answer in time:\n{}", self.output());
        if let Some(at) = *handed_over.lock().unwrap() {
            streaming.handed_over_at(at);
        }
        streaming
    }

    /// Sends an event to a function without a route and returns its answer, which has neither a status nor headers.
    ///
    /// # Panics
    /// If there is no answer within two minutes, or it is not JSON.
    pub async fn invoke_direct(&self, event: &Value) -> Value {
        let answer = self.invoke_text(&event.to_string()).await;
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer:?}"))
    }

    /// Sends an event to a function without a route and returns its answer, both to the letter.
    ///
    /// # Panics
    /// If the event is not JSON, or there is no answer within two minutes.
    pub async fn invoke_text(&self, event: &str) -> String {
        let parsed = serde_json::from_str(event).expect("JSON");
        let (_, mut received) = self.hand_over(&parsed, event.to_owned(), &Arc::default());
        match tokio::time::timeout(ANSWER_WITHIN, received.recv()).await {
            Ok(Some(Part::Whole { json, .. })) => {
                String::from_utf8(json.to_vec()).expect("the answer is UTF-8")
            }
            Ok(Some(Part::Error(error))) => panic!("{error}:\n{}", self.output()),
            _ => panic!("no whole answer in time:\n{}", self.output()),
        }
    }

    /// Queues an event, which is the parsed `text`. Returns the request id and the parts of the answer.
    fn hand_over(
        &self,
        event: &Value,
        text: String,
        handed_over: &Arc<Mutex<Option<Instant>>>,
    ) -> (String, mpsc::Receiver<Part>) {
        let (parts, received) = mpsc::channel(1_024);
        let id = uuid::Uuid::now_v7().to_string();
        let invocation = Invocation {
            id: id.clone(),
            event: text.into(),
            parts,
            handed_over: Arc::clone(handed_over),
        };
        self.api.hand_over(event, invocation);
        (id, received)
    }

    /// Waits until the function has answered every event and polls for the next one.
    ///
    /// # Panics
    /// If nothing arrives in time.
    pub async fn wait_idle(&self) {
        let idle = tokio::time::timeout(PATIENCE, self.api.wait_idle()).await;
        assert!(
            idle.is_ok(),
            "the function did not poll for the next event in time:\n{}",
            self.output()
        );
    }

    /// Waits until this many polls wait for an event.
    ///
    /// # Panics
    /// If they do not arrive in time.
    pub async fn wait_for_polls(&self, polls: usize) {
        let waited = tokio::time::timeout(PATIENCE, self.api.wait_for_polls(polls)).await;
        assert!(waited.is_ok(), "fewer polls in time:\n{}", self.output());
    }

    /// Returns all that the function has printed and that has been read so far: a line may lag behind the response that
    /// follows it.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Waits until the function has printed `text`, and returns all that it has printed so far.
    ///
    /// # Panics
    /// If the text is not there within 10 s.
    pub async fn printed(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let output = self.output();
            if output.contains(text) {
                return output;
            }
            assert!(Instant::now() < deadline, "no {text:?} in\n{output}");
            tokio::task::yield_now().await;
        }
    }

    /// Stops reading the output (`true`), so that the function blocks once the pipe is full, or reads on (`false`).
    pub fn hold_output(&self, held: bool) {
        self.process.hold_output(held);
    }

    /// Kills the function and returns all that it printed.
    #[must_use]
    pub fn stop(mut self) -> String {
        self.process.end();
        self.output()
    }

    /// Kills the function in the middle of whatever it does, as a platform that loses a sandbox. Requests without an
    /// answer end without one, and so do those that are made later.
    pub fn kill(&self) {
        self.process.signal(Signal::KILL);
        self.api.lose_function();
    }

    /// Stops the Runtime API, upon which the function exits by itself, and waits for that.
    ///
    /// # Panics
    /// If the function still runs after 20 s.
    pub async fn lose_platform(mut self) {
        self.server.stop();
        self.exit().await;
    }

    /// Answers polls for the next event with this status, also those that wait already. `None` lets them work again.
    ///
    /// # Panics
    /// If this is not a status.
    pub fn fail_polls(&self, status: Option<u16>) {
        let status = status.map(|status| StatusCode::from_u16(status).expect("a status"));
        self.api.fail_polls(status);
    }

    /// Returns the number of polls for the next event so far, also of those that failed.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.api.polls()
    }

    /// Returns the CPU time that the process has used so far, in all its threads.
    ///
    /// # Panics
    /// If the process is gone.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let times = threads.flatten().map(|thread| {
            let times = std::fs::read_to_string(thread.path().join("schedstat"));
            let times = times.unwrap_or_default();
            let on_cpu = times.split(' ').next().and_then(|time| time.parse().ok());
            Duration::from_nanos(on_cpu.unwrap_or(0))
        });
        times.sum()
    }

    /// Returns the CPU time that the process uses while this time passes.
    ///
    /// # Panics
    /// If the process ends meanwhile.
    pub async fn cpu_while(&self, watched: Duration) -> Duration {
        let before = self.cpu();
        // The figure is a rate, so time has to pass.
        tokio::time::sleep(watched).await;
        self.cpu() - before
    }

    /// Sends the function SIGTERM, as those do who want it to end.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits until the function exits by itself, and returns its exit and all that it printed.
    ///
    /// # Panics
    /// If the function still runs after 20 s.
    pub async fn exit(&mut self) -> Exit {
        let status = self.process.wait(PATIENCE).await;
        let output = self.output();
        Exit {
            status: status
                .unwrap_or_else(|| panic!("the function did not exit in time:\n{output}")),
            output,
            duration: self.started.elapsed(),
        }
    }

    /// Stops the Runtime API. A function that serves one invocation at a time then exits by itself.
    pub fn stop_platform(&self) {
        self.server.stop();
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Takes all descriptors from the function that it has not opened yet (`true`), or gives them back.
    ///
    /// # Panics
    /// If the operating system does not let a parent limit its child.
    pub fn withhold_descriptors(&self, withheld: bool) {
        self.process
            .withhold_descriptors(withheld)
            .expect("a parent may limit its child");
    }

    /// Returns the port of the stand-in Runtime API.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.server.address.port()
    }

    /// Returns the function's TCP connections: own port, peer's port, and whether `TCP_NODELAY` is set.
    ///
    /// # Panics
    /// If the operating system does not let a parent inspect its child's sockets.
    #[must_use]
    pub fn connections(&self) -> Vec<(u16, u16, bool)> {
        self.process
            .connections()
            .expect("a parent may look at its child's sockets")
    }

    /// Returns when the process was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the time from the start of the process to its first poll for an event.
    #[must_use]
    pub fn started_to_next(&self) -> Duration {
        self.started_to_next
    }

    /// Returns whether the function is running.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Freezes the function, as the platform does between invocations.
    pub fn pause(&self) {
        self.process.stop();
    }

    /// Resumes a frozen function.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.process.end();
        // A second panic would hide the first, and end the process.
        if std::thread::panicking() {
            return;
        }
        let output = self.output();
        let found = self.api.unspeakable_in(&output);
        assert!(
            found.is_none(),
            "a function printed {:?}, which it must never print:\n{output}",
            found.unwrap_or_default()
        );
    }
}
