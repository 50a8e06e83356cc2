//! Real model servers: programs that `scripts/setup.sh upstreams` installs, each on its own loopback port.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Process;
use crate::redis::free_port;

/// How long a server may take to start. LiteLLM imports for many seconds; a loaded machine may need more.
const START_WITHIN: Duration = Duration::from_secs(180);

/// Keeps the programs from asking anybody else for anything, and from reporting what they do.
const OFFLINE: [(&str, &str); 4] = [
    ("HF_HUB_OFFLINE", "1"),
    ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
    ("LITELLM_TELEMETRY", "False"),
    ("DO_NOT_TRACK", "1"),
];

/// A running model server, killed on drop.
///
/// # Example
/// ```no_run
/// # use testkit::model_server::ModelServer;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let llmock = ModelServer::start("llmock/bin/llmock", "/health", |port, _| {
///     vec!["serve".into(), "--port".into(), port.to_string()]
/// })
/// .await;
/// assert_eq!(llmock.get("/_llmock/verdict").await["passed"], true);
/// # }
/// ```
pub struct ModelServer {
    process: Process,
    port: u16,
    /// Its home, removed on drop.
    _home: TempDir,
}

impl ModelServer {
    /// Starts a program of `.tools` and waits until it answers `GET` on a path with 200. Its arguments are a function
    /// of its port and of a folder of its own, which is its home.
    ///
    /// The program's environment holds nothing of the user's: no key, no proxy, no configuration.
    ///
    /// # Panics
    /// If the program is not installed, exits, or does not answer within three minutes.
    pub async fn start(
        program: &str,
        health: &str,
        arguments: impl Fn(u16, &Path) -> Vec<String>,
    ) -> Self {
        // Between choosing a free port and binding it, somebody else may take it.
        for _ in 0..5 {
            let home = tempfile::tempdir().expect("a temporary directory");
            let port = free_port();
            let mut command = Command::new(tool(program));
            command
                .args(arguments(port, home.path()))
                .current_dir(home.path())
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("HOME", home.path())
                .envs(OFFLINE)
                .env("PYTHONUNBUFFERED", "1")
                .env("LLAMA_CPP_LIB_PATH", tool("llama/server"));
            let process = Process::spawn(command).unwrap_or_else(|error| {
                panic!("{program} cannot be started ({error}): run `make upstreams`")
            });
            let mut server = Self {
                process,
                port,
                _home: home,
            };
            if server.becomes_healthy(health).await {
                return server;
            }
            let output = server.output();
            assert!(output.contains("in use"), "{program} exited:\n{output}");
        }
        panic!("{program} found no free port");
    }

    /// Waits until the server answers 200; returns `false` if it exits instead.
    async fn becomes_healthy(&mut self, path: &str) -> bool {
        let started = Instant::now();
        while self.process.is_running() {
            if matches!(self.send(&Method::GET, path, None).await, Ok((200, _))) {
                return true;
            }
            assert!(
                started.elapsed() < START_WITHIN,
                "the server did not answer in time:\n{}",
                self.output()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Returns the value for `LLM_BASE_URL`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// Returns all that the server has printed and that has been read so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Sends a GET request and returns the JSON of the answer.
    ///
    /// # Panics
    /// If the server does not answer with a success and JSON.
    pub async fn get(&self, path: &str) -> Value {
        self.ask(&Method::GET, path, None).await
    }

    /// Sends a POST request with a JSON body and returns the JSON of the answer.
    ///
    /// # Panics
    /// As [`ModelServer::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        self.ask(&Method::POST, path, Some(body)).await
    }

    async fn ask(&self, method: &Method, path: &str, body: Option<&Value>) -> Value {
        let (status, body) = self
            .send(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}:\n{}", self.output()));
        let text = String::from_utf8_lossy(&body);
        assert!((200..300).contains(&status), "{path}: {status}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error} in {text}"))
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error>> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

/// Returns the path of what `scripts/setup.sh upstreams` installed.
fn tool(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.tools")
        .join(path)
}
