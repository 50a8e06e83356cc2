//! The library that all functions of companion-chat share.
//!
//! Each module is a room with one concern. A room may use only rooms further down this table:
//!
//! | room | owns |
//! | --- | --- |
//! | [`http`] | parsing, limits, problem+json, server-sent events; the only room that knows the Lambda runtime |
//! | [`auth`] | authenticating a bearer token as an [`ids::UserId`] |
//! | [`chat`] | one turn, from message to done; the only room that sees both memory and llm |
//! | [`data`] | everything that is kept about a user, for the user |
//! | [`llm`] | a stream of deltas from an upstream |
//! | [`characters`] | looking up, caching and storing the characters that users talk to; cards, macros, lorebooks |
//! | [`context`] | fitting messages into the context window |
//! | [`tokens`] | counting tokens |
//! | [`memory`] | short-term memory: sessions |
//! | [`turns`] | the records of turns: claim, journal, follow, stop |
//! | [`limits`] | what a user may use |
//! | `record` | what two of these rooms do in one script |
//! | [`store`] | the way to Redis; the only room that knows the `redis` crate |
//! | `keys` | how keys are spelled |
//! | [`message`], [`session`] | the forms in which messages and sessions are stored |
//! | `foreign` | reading what other writers left in the stored forms |
//! | [`secrets`] | the values of secrets; the only room that knows the AWS SDK |
//! | [`outbound`] | the HTTP client for the upstream, published keys and AWS |
//! | [`telemetry`] | logs and metrics |
//! | [`capacity`] | how many invocations and turns the descriptors and the memory of the process carry |
//! | [`clock`] | wall-clock ages, Unix time, and locks that survive a panic |
//! | [`ids`], [`config`] | identifiers and settings, parsed once at the edge |

pub mod auth;
pub mod capacity;
pub mod characters;
pub mod chat;
pub mod clock;
pub mod config;
pub mod context;
pub mod data;
mod foreign;
pub mod http;
pub mod ids;
mod keys;
pub mod limits;
pub mod llm;
pub mod memory;
pub mod message;
pub mod outbound;
mod record;
pub mod secrets;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod tokens;
pub mod turns;
