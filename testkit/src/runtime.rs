//! A stand-in for the Lambda Runtime API that drives a function's real binary and sees its stream frame by frame.
//!
//! After AWS's "Using the Lambda runtime API for custom runtimes": the function polls for its next event, and posts an
//! answer, buffered or streamed, or an error.

mod api;
mod streaming;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::mpsc;

use self::api::{Api, Invocation};
pub use self::streaming::Streaming;
use crate::answer::Answer;
use crate::binary::{binary, chat_stream_with_test_hooks};
use crate::process::Process;
use crate::server::HttpServer;
use crate::unspeakable::Unspeakable;

/// How long a test waits for something that should come at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest a test waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// How a function is started.
pub struct FunctionBuilder {
    path: PathBuf,
    runner: Vec<String>,
    arguments: Vec<String>,
    env: HashMap<String, String>,
    deadline: Duration,
    trace_id: String,
    cgroup: Option<PathBuf>,
}

impl FunctionBuilder {
    /// Starts `chat-stream` with the feature `test-hooks` instead: the message `/panic` panics in mid-reply, and
    /// `BROKEN_COMMIT_SCRIPT` names a file that replaces the commit script.
    ///
    /// # Panics
    /// If this is another function, or the build fails.
    #[must_use]
    pub fn test_hooks(mut self) -> Self {
        assert!(
            self.path.ends_with("chat-stream"),
            "only chat-stream has hooks"
        );
        self.path = chat_stream_with_test_hooks();
        self
    }

    /// Starts it in a cgroup, by the path of the file that takes its processes.
    #[must_use]
    pub fn cgroup(mut self, processes: PathBuf) -> Self {
        self.cgroup = Some(processes);
        self
    }

    /// Starts it by a program that can run it, with that program's arguments: an emulator of another processor.
    #[must_use]
    pub fn runner(mut self, program: &[&str]) -> Self {
        self.runner = program.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// Gives it arguments. The platform gives none; this is for programs that are a function among other things.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Sets variables.
    #[must_use]
    pub fn envs(mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env.extend(pairs);
        self
    }

    /// Leaves a variable out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Lets one process serve so many invocations at once.
    #[must_use]
    pub fn concurrency(self, invocations: usize) -> Self {
        self.env("AWS_LAMBDA_MAX_CONCURRENCY", invocations.to_string())
    }

    /// The time that an invocation is given; a minute otherwise.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The trace that the invocations belong to; one that is not sampled otherwise.
    #[must_use]
    pub fn trace_id(mut self, trace_id: &str) -> Self {
        trace_id.clone_into(&mut self.trace_id);
        self
    }

    /// Starts the function and waits until it asks for an event.
    ///
    /// # Panics
    /// If it ends instead.
    pub async fn start(self) -> Function {
        let (mut function, mut ready) = self.launch().await;
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                tokio::select! {
                    asked = ready.recv() => {
                        asked.expect("the stand-in runs");
                        return;
                    }
                    // Asked again and again, because only a dead process has a status.
                    () = tokio::time::sleep(Duration::from_millis(20)) => {
                        assert!(function.process.is_running(), "the function ended:\n{}", function.output());
                    }
                }
            }
        });
        assert!(
            waited.await.is_ok(),
            "the function does not ask for events:\n{}",
            function.output()
        );
        function.started_to_next = function.started.elapsed();
        function
    }

    /// Starts the function and waits until it ends by itself.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start_expecting_exit(self) -> Exit {
        let (mut function, _ready) = self.launch().await;
        let status = function.process.wait(PATIENCE).await;
        let output = function.output();
        Exit {
            status: status.unwrap_or_else(|| panic!("it runs on:\n{output}")),
            output,
            duration: function.started.elapsed(),
        }
    }

    async fn launch(self) -> (Function, mpsc::Receiver<()>) {
        let (asked, ready) = mpsc::channel(1);
        let mut unspeakable = Unspeakable::default();
        for (name, value) in &self.env {
            unspeakable.variable(name, value);
        }
        let api = Api::new(self.deadline, self.trace_id, asked, unspeakable);
        let serving = Arc::clone(&api);
        let server = HttpServer::start(move |received| {
            Arc::clone(&serving).serve(received.request, received.peer_port)
        })
        .await;
        let mut command = match (&self.cgroup, self.runner.split_first()) {
            (None, None) => Command::new(&self.path),
            (None, Some((program, arguments))) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.path);
                command
            }
            (Some(processes), _) => {
                // The shell moves itself and then becomes the function, which so never runs outside.
                let mut shell = Command::new("/bin/sh");
                shell
                    .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
                    .arg(processes)
                    .args(&self.runner)
                    .arg(&self.path);
                shell
            }
        };
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_LAMBDA_RUNTIME_API", server.address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "test")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .envs(self.env);
        let started = Instant::now();
        let process = Process::spawn(command).expect("the binary can be started");
        let function = Function {
            process,
            api,
            server,
            started,
            started_to_next: Duration::ZERO,
        };
        (function, ready)
    }
}

/// A function that ended by itself.
#[derive(Debug)]
pub struct Exit {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub output: String,
    /// From the start of the process to its end.
    pub duration: Duration,
}

/// A running function. When it ends, what it printed is searched for what was said through it, tokens and secrets.
pub struct Function {
    process: Process,
    api: Arc<Api>,
    server: HttpServer,
    started: Instant,
    started_to_next: Duration,
}

impl Function {
    /// Prepares a function of the workspace.
    #[must_use]
    pub fn builder(name: &str) -> FunctionBuilder {
        Self::builder_of(binary(name))
    }

    /// Prepares any binary that speaks to the Runtime API.
    #[must_use]
    pub fn builder_of(path: PathBuf) -> FunctionBuilder {
        FunctionBuilder {
            path,
            runner: Vec::new(),
            arguments: Vec::new(),
            env: HashMap::new(),
            deadline: Duration::from_secs(60),
            trace_id: "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0".to_owned(),
            cgroup: None,
        }
    }

    /// Hands it an event and waits for the whole answer.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn invoke(&self, event: &Value) -> Answer {
        self.invoke_streaming(event).await.finish().await
    }

    /// Hands it an event and waits until its answer begins.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn invoke_streaming(&self, event: &Value) -> Streaming {
        let (parts, received) = mpsc::channel(1_024);
        let id = uuid::Uuid::now_v7().to_string();
        let handed_over = Arc::new(Mutex::new(None));
        let invocation = Invocation {
            id: id.clone(),
            event: event.to_string().into(),
            parts,
            handed_over: Arc::clone(&handed_over),
        };
        self.api.hand_over(event, invocation);
        let mut streaming = Streaming::new(id, received);
        let begun = tokio::time::timeout(ANSWER_WITHIN, streaming.begin());
        assert!(begun.await.is_ok(), "no answer:\n{}", self.output());
        if let Some(at) = *handed_over.lock().unwrap() {
            streaming.handed_over_at(at);
        }
        streaming
    }

    /// Waits until it asks for an event again, after all that it was given.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn wait_idle(&self) {
        let idle = tokio::time::timeout(PATIENCE, self.api.wait_idle()).await;
        assert!(
            idle.is_ok(),
            "it does not ask for the next event:\n{}",
            self.output()
        );
    }

    /// What it printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Reads no more of its output, so that it blocks once the pipe is full; or goes on reading.
    pub fn hold_output(&self, held: bool) {
        self.process.hold_output(held);
    }

    /// Ends it, and gives all that it printed.
    #[must_use]
    pub fn stop(mut self) -> String {
        self.process.end();
        self.output()
    }

    /// Takes the platform away, upon which it ends by itself, and waits for that.
    ///
    /// # Panics
    /// If it runs on.
    pub async fn lose_platform(mut self) {
        self.server.stop();
        let status = self.process.wait(PATIENCE).await;
        assert!(status.is_some(), "it runs on:\n{}", self.output());
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The port of the stand-in.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.server.address.port()
    }

    /// Its TCP connections: its own port, the port at the other end, and whether what is sent leaves at once (TCP_NODELAY).
    ///
    /// # Panics
    /// If the operating system does not let a parent look at its child's sockets.
    #[must_use]
    pub fn connections(&self) -> Vec<(u16, u16, bool)> {
        self.process
            .connections()
            .expect("a parent may look at its child's sockets")
    }

    /// When its process was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// From the start of the process to its first request for an event.
    #[must_use]
    pub fn started_to_next(&self) -> Duration {
        self.started_to_next
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Freezes it, as the platform does between invocations.
    pub fn pause(&self) {
        self.process.stop();
    }

    /// Lets it go on.
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
            "a function printed {:?}, which it was given in confidence:\n{output}",
            found.unwrap_or_default()
        );
    }
}
