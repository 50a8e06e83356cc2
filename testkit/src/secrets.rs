//! AWS Secrets Manager on loopback: moto's server, which implements the API, and a stand-in that fails, delays and
//! counts on demand. Also a trap that detects a function that loads the SDK's configuration.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;

use crate::process::Process;
use crate::redis::free_port;
use crate::server::{Body, HttpServer};

/// The AWS region that all functions here use.
pub const REGION: &str = "eu-west-1";
/// The role's access key id, as the platform puts it into the environment.
pub const ACCESS_KEY_ID: &str = "ASIAOFATEST000000000";
/// The role's secret access key, as the platform puts it into the environment.
pub const SECRET_ACCESS_KEY: &str = "secret+access/key+of+a+test";
/// The role's session token. Real ones contain characters that must be escaped, and so does this.
pub const SESSION_TOKEN: &str = "session//token+of+a+test==";

/// How long moto may take to start. Python needs seconds; a loaded machine may need more.
const START_WITHIN: Duration = Duration::from_secs(120);

/// The Python with moto and botocore that `scripts/setup.sh` installs.
#[must_use]
pub fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/aws-venv/bin/python3")
}

/// Returns the environment variables that make a function use AWS at this port.
#[must_use]
fn environment(port: u16) -> Vec<(String, String)> {
    [
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
        ("AWS_SESSION_TOKEN", SESSION_TOKEN.to_owned()),
        (
            "AWS_ENDPOINT_URL_SECRETS_MANAGER",
            format!("http://127.0.0.1:{port}"),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// moto's server without secrets, killed on drop.
pub struct Moto {
    /// Killed on drop.
    _process: Process,
    port: u16,
}

impl Moto {
    /// Starts moto's server.
    ///
    /// # Panics
    /// If moto is not installed or does not start.
    pub async fn start() -> Self {
        // Between choosing a free port and binding it, somebody else may take it.
        for _ in 0..5 {
            let port = free_port();
            let mut command = Command::new(python());
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p"]);
            command.arg(port.to_string());
            let mut process = Process::spawn(command).unwrap_or_else(|error| {
                panic!("moto cannot be started ({error}): run `make test`")
            });
            let started = Instant::now();
            while process.is_running() {
                if tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .is_ok()
                {
                    return Self {
                        _process: process,
                        port,
                    };
                }
                assert!(
                    started.elapsed() < START_WITHIN,
                    "moto did not answer in time:\n{}",
                    process.output()
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        panic!("moto's server exited at once: run `make test`, which installs it");
    }

    /// Returns the environment variables that make a function use this server.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        environment(self.port)
    }

    /// Creates a secret and returns its ARN.
    ///
    /// # Panics
    /// If moto refuses the request.
    pub async fn create(&self, name: &str, value: &str) -> String {
        let answer = self
            .ask(
                "CreateSecret",
                &json!({ "Name": name, "SecretString": value }),
            )
            .await;
        answer["ARN"].as_str().expect("an ARN").to_owned()
    }

    /// Replaces the value of a secret, as a rotation does.
    ///
    /// # Panics
    /// If moto refuses the request.
    pub async fn put(&self, arn: &str, value: &str) {
        let _ = self
            .ask(
                "PutSecretValue",
                &json!({ "SecretId": arn, "SecretString": value }),
            )
            .await;
    }

    async fn ask(&self, operation: &str, body: &Value) -> Value {
        // moto reads the service and the region out of it, and checks no signature.
        let scope = format!("{ACCESS_KEY_ID}/20260101/{REGION}/secretsmanager/aws4_request");
        let request = Request::post(format!("http://127.0.0.1:{}/", self.port))
            .header("x-amz-target", format!("secretsmanager.{operation}"))
            .header("content-type", "application/x-amz-json-1.1")
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"),
            )
            .body(Full::new(Bytes::from(body.to_string())))
            .expect("a valid request");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.expect("moto answers");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body");
        let body = body.to_bytes();
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }
}

/// A stand-in for `GetSecretValue`, the one operation that the product uses.
pub struct SecretsServer {
    server: HttpServer,
    state: Arc<State>,
}

struct State {
    values: Mutex<HashMap<String, String>>,
    fetches: Mutex<Vec<String>>,
    failing: watch::Sender<bool>,
    /// How many requests must have arrived before any is answered.
    together: usize,
    came: watch::Sender<usize>,
}

impl SecretsServer {
    /// Starts a stand-in that answers at once.
    pub async fn start() -> Self {
        Self::start_together(0).await
    }

    /// Starts a stand-in that answers no request before this many have arrived.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start_together(together: usize) -> Self {
        let state = Arc::new(State {
            values: Mutex::default(),
            fetches: Mutex::default(),
            failing: watch::Sender::new(false),
            together,
            came: watch::Sender::new(0),
        });
        let serving = Arc::clone(&state);
        let server = HttpServer::start(move |received| {
            let state = Arc::clone(&serving);
            async move {
                let body = received.request.into_body().collect().await;
                let body = body.map(http_body_util::Collected::to_bytes);
                let body: Value =
                    serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
                let id = body["SecretId"].as_str().unwrap_or_default().to_owned();
                state.answer(id).await
            }
        })
        .await;
        Self { server, state }
    }

    /// Returns the environment variables that make a function use this server.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        environment(self.server.address.port())
    }

    /// Creates or replaces the secret of this name and returns its ARN.
    ///
    /// # Panics
    /// Only after another panic in the stand-in.
    pub fn put(&self, name: &str, value: &str) -> String {
        let arn = format!("arn:aws:secretsmanager:{REGION}:123456789012:secret:{name}");
        let mut values = self.state.values.lock().unwrap();
        values.insert(arn.clone(), value.to_owned());
        arn
    }

    /// Refuses every request with 503 from now on (`true`), or stops doing so (`false`).
    pub fn fail(&self, failing: bool) {
        self.state.failing.send_replace(failing);
    }

    /// Returns the ARNs that were requested, in order.
    ///
    /// # Panics
    /// Only after another panic in the stand-in.
    #[must_use]
    pub fn fetches(&self) -> Vec<String> {
        self.state.fetches.lock().unwrap().clone()
    }
}

impl State {
    async fn answer(&self, id: String) -> Response<Body> {
        self.fetches.lock().unwrap().push(id.clone());
        self.came.send_modify(|came| *came += 1);
        let mut came = self.came.subscribe();
        // The sender lives as long as this, so waiting cannot fail.
        let _ = came.wait_for(|came| *came >= self.together).await;
        let value = self.values.lock().unwrap().get(&id).cloned();
        let (status, body) = match value {
            _ if *self.failing.borrow() => (503, json!({ "__type": "ServiceUnavailable" })),
            None => (
                400,
                json!({ "__type": "ResourceNotFoundException", "Message": "none" }),
            ),
            Some(value) => (200, json!({ "ARN": id, "SecretString": value })),
        };
        let body = Full::new(Bytes::from(body.to_string()));
        let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        response
    }
}

/// A FIFO in the place of the SDK's configuration file. No writer ever opens it, so a function that loads the
/// configuration blocks there, which [`SdkTrap::release`] detects.
pub struct SdkTrap {
    /// Removed on drop.
    _directory: tempfile::TempDir,
    fifo: PathBuf,
}

impl SdkTrap {
    /// Creates a trap.
    ///
    /// # Panics
    /// If no FIFO can be created.
    #[must_use]
    pub fn set() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let fifo = directory.path().join("config");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .expect("a FIFO can be made");
        Self {
            _directory: directory,
            fifo,
        }
    }

    /// Returns the environment variables that point the SDK at the trap.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let fifo = self.fifo.to_string_lossy().into_owned();
        ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]
            .map(|name| (name.to_owned(), fifo.clone()))
            .into()
    }

    /// Returns whether a process is blocked in the trap, and releases it with an empty file.
    ///
    /// # Panics
    /// If the FIFO cannot be opened.
    #[must_use]
    pub fn release(&self) -> bool {
        // To write to a FIFO without waiting is possible only where somebody reads or waits to, and closing it is the
        // end of the file to him. Who waits does so until then, so a look afterwards misses nobody.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(&self.fifo, flags, Mode::empty()) {
            Ok(_) => true,
            Err(Errno::NXIO) => false,
            Err(error) => panic!("the FIFO cannot be opened: {error}"),
        }
    }
}
