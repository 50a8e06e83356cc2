//! Servers, stand-ins and tools for tests and benchmarks. The product does not link it.
//!
//! | module | owns |
//! | --- | --- |
//! | [`binary`] | the functions' real binaries, built once |
//! | [`stage`] | `chat-stream` with a Redis and an upstream, for tests that read as a conversation |
//! | [`redis`] | a real redis-server, killed on drop |
//! | [`sentinel`], [`cluster`], [`tls`] | servers in other arrangements |
//! | [`doorkeeper`] | a redis-server behind a TLS proxy that records every login |
//! | [`secrets`] | AWS Secrets Manager, real (moto) and scripted |
//! | [`sigv4`] | checks AWS signatures |
//! | [`proxy`] | a TCP proxy that loses, delays and cuts connections on demand |
//! | [`runtime`] | a stand-in for the Lambda Runtime API that drives a real binary and sees its stream frame by frame |
//! | [`upstream`] | an OpenAI-compatible server over real HTTP that follows a script, misbehaviour included |
//! | [`model_server`] | model servers as people run them, each on its own port |
//! | [`answer`] | a function's answer, and assertions about it |
//! | [`jwks`] | a server that publishes signing keys |
//! | [`tokens`] | bearer tokens, good and bad, with keys made at run time |
//! | [`events`] | API Gateway events |
//! | [`rights`] | the rights of the cache users in `template.yaml` |
//! | [`emf`] | metric events, as CloudWatch reads them |
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "in a test tool a panic is how a test fails, and its message says why"
)]

pub mod answer;
pub mod binary;
pub mod cluster;
pub mod doorkeeper;
pub mod emf;
pub mod events;
pub mod jwks;
pub mod model_server;
mod process;
pub mod proxy;
pub mod redis;
pub mod rights;
pub mod runtime;
pub mod secrets;
pub mod sentinel;
mod server;
pub mod sigv4;
pub mod stage;
pub mod tls;
pub mod tokens;
mod unspeakable;
pub mod upstream;
