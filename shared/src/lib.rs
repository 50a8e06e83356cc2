//! What the functions of companion-chat have in common.
//!
//! One module is one room with one concern; the arrows between them only point down this list:
//!
//! | room | owns |
//! | --- | --- |
//! | [`http`] | parsing, limits, problem+json, server-sent events; the only room that knows `lambda_http` |
//! | [`auth`] | bearer token to [`ids::UserId`] |
//! | [`chat`] | one turn, from message to done; the only room that sees both memory and llm |
//! | [`llm`] | a stream of deltas from an upstream |
//! | [`characters`] | who the user talks to |
//! | [`context`] | what fits into the context window |
//! | [`tokens`] | counting tokens |
//! | [`memory`] | short-term memory; the only room that knows the `redis` crate |
//! | [`message`], [`session`] | the stored forms |
//! | `foreign` | what other writers of the stored forms left, read as well as it can be |
//! | [`secrets`] | where secret values come from; the only room that knows the AWS SDK |
//! | [`outbound`] | the one HTTP client, for the upstream, for published keys and for AWS |
//! | [`telemetry`] | logs and metrics |
//! | [`ids`], [`config`] | identifiers and settings, parsed once at the edge |

pub mod auth;
pub mod characters;
pub mod chat;
pub mod config;
pub mod context;
mod foreign;
pub mod http;
pub mod ids;
pub mod llm;
pub mod memory;
pub mod message;
pub mod outbound;
pub mod secrets;
pub mod session;
pub mod telemetry;
pub mod tokens;
