//! Prepares a function: its environment, its limits, and the program that starts it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::sync::mpsc;

use super::api::Api;
use super::{Exit, Function, PATIENCE};
use crate::binary::chat_stream_with_test_hooks;
use crate::process::Process;
use crate::server::HttpServer;
use crate::unspeakable::Unspeakable;

/// Prepares a [`Function`]. The function's environment holds only `PATH`, the platform's variables and those set here.
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
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            runner: Vec::new(),
            arguments: Vec::new(),
            env: HashMap::new(),
            deadline: Duration::from_secs(60),
            trace_id: "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0".to_owned(),
            cgroup: None,
        }
    }

    /// Starts `chat-stream` with the feature `test-hooks` instead: the message `/panic` panics in mid-reply, and a
    /// variable such as `BROKEN_COMMIT_SCRIPT` names a file that replaces the script.
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

    /// Starts the function in a cgroup, given the path of the cgroup's `cgroup.procs`.
    #[must_use]
    pub fn cgroup(mut self, processes: PathBuf) -> Self {
        self.cgroup = Some(processes);
        self
    }

    /// Starts the function through another program with that program's arguments, such as an emulator.
    #[must_use]
    pub fn runner(mut self, program: &[&str]) -> Self {
        self.runner = program.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// Limits the descriptors that the function may have open at once, up to `hard` if it raises the limit itself.
    #[must_use]
    pub fn descriptors(self, soft: usize, hard: usize) -> Self {
        self.runner(&["prlimit", &format!("--nofile={soft}:{hard}")])
    }

    /// Runs the function on this CPU alone, counted from 0.
    #[must_use]
    pub fn on_cpu(self, cpu: usize) -> Self {
        self.runner(&["taskset", "-c", &cpu.to_string()])
    }

    /// Sets the memory that the platform says the function has, in MB. It has as much as the machine all the same.
    #[must_use]
    pub fn memory(self, megabytes: usize) -> Self {
        self.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", megabytes.to_string())
    }

    /// Replaces `/etc/hosts` for this function alone, so that a name can have several addresses.
    #[must_use]
    pub fn hosts(self, lines: &str) -> Self {
        const MOUNT: &str = "file=$(mktemp) && printf %s \"$HOSTS\" > \"$file\" && mount --bind \"$file\" /etc/hosts \
                             && rm \"$file\" && unset HOSTS && exec \"$0\" \"$@\"";
        self.env("HOSTS", lines).runner(&[
            "unshare",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            MOUNT,
        ])
    }

    /// Adds command-line arguments. The platform passes none; this is for programs with further modes.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Sets environment variables.
    #[must_use]
    pub fn envs(mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env.extend(pairs);
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Lets the process serve this many invocations at once.
    #[must_use]
    pub fn concurrency(self, invocations: usize) -> Self {
        self.env("AWS_LAMBDA_MAX_CONCURRENCY", invocations.to_string())
    }

    /// Sets how long the platform lets an invocation run. Defaults to a minute.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the X-Ray trace of the invocations. Defaults to one that is not sampled.
    #[must_use]
    pub fn trace_id(mut self, trace_id: &str) -> Self {
        trace_id.clone_into(&mut self.trace_id);
        self
    }

    /// Starts the function and waits until it polls for its first event.
    ///
    /// # Panics
    /// If the function exits, or does not poll within 20 s.
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
                        assert!(function.process.is_running(), "the function exited:\n{}", function.output());
                    }
                }
            }
        });
        assert!(
            waited.await.is_ok(),
            "the function did not poll for an event in time:\n{}",
            function.output()
        );
        function.started_to_next = function.started.elapsed();
        function
    }

    /// Starts the function and waits until it exits by itself.
    ///
    /// # Panics
    /// If the function still runs after 20 s.
    pub async fn start_expecting_exit(self) -> Exit {
        let (mut function, _ready) = self.launch().await;
        function.exit().await
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
