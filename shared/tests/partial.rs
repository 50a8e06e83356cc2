//! Redis under partial failure: what is slow, late or half broken costs only those whom it concerns.
//!
//! `cargo test -p shared --test partial -- --nocapture` prints the times.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that prints its measurements"
)]

mod subject;

#[path = "partial/cluster.rs"]
mod cluster;
#[path = "partial/evicted.rs"]
mod evicted;
#[path = "partial/late.rs"]
mod late;
#[path = "partial/replicas.rs"]
mod replicas;
#[path = "partial/writes.rs"]
mod writes;

use std::time::{Duration, Instant};

/// The budget of each operation, by default.
const BUDGET: Duration = Duration::from_secs(1);

/// Returns the longest of several runs of `action`, one after the other, until `ended`.
async fn longest(ended: impl AsyncFn() -> bool, action: impl AsyncFn()) -> Duration {
    let mut longest = Duration::ZERO;
    while !ended().await {
        let started = Instant::now();
        action().await;
        longest = longest.max(started.elapsed());
    }
    longest
}
