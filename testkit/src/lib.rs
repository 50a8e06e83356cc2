//! What tests and benchmarks need, and the product must not contain.
//!
//! | module | owns |
//! | --- | --- |
//! | [`binary`] | the functions' real binaries, built once |
//! | [`redis`] | a real redis-server, ended on drop |
//! | [`sentinel`], [`cluster`], [`tls`] | servers in other arrangements |
//! | [`doorkeeper`] | a redis-server behind TLS that notes who asks to be let in |
//! | [`secrets`] | AWS Secrets Manager |
//! | [`sigv4`] | checks AWS signatures |
//! | [`proxy`] | what networks do to connections |
//! | [`runtime`] | a stand-in for the Lambda Runtime API that drives a real binary and sees its stream frame by frame |
//! | [`upstream`] | an OpenAI-compatible server over real HTTP that does what it is told, misbehaviour included |
//! | [`jwks`] | a publisher of keys |
//! | [`tokens`] | bearer tokens, good and bad, with keys made at run time |
//! | [`events`] | API Gateway events |
//! | [`emf`] | metric events, as CloudWatch would read them |
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
mod process;
pub mod proxy;
pub mod redis;
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
