//! Stores, reads, deletes and lists characters. It has no route: callers need the IAM right to invoke it.

mod handler;

use std::process::ExitCode;

use shared::characters::Shelf;
use shared::config::{ContextConfig, Section};
use shared::http::{self, Base};

fn main() -> ExitCode {
    let state = |base: &Base| {
        let context = ContextConfig::from_env()?;
        Ok((Shelf::new(base.store.clone()), context))
    };
    http::run_direct(env!("CARGO_PKG_NAME"), state, handler::command)
}
