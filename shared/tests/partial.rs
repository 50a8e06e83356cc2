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

/// Times of the runs of one operation.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    /// Runs `action` again and again, one after the other, until `ended`.
    async fn of(ended: impl AsyncFn() -> bool, action: impl AsyncFn()) -> Self {
        let mut times = Self::default();
        while !ended().await {
            let started = Instant::now();
            action().await;
            times.0.push(started.elapsed());
        }
        times
    }

    /// Prints the times and checks that 9 of 10 runs took less than `limit`. An operation that waits for another server
    /// does so in most runs; one that waits for a busy machine, in a few.
    fn assert_under(mut self, limit: Duration, what: &str) {
        self.0.sort();
        let at = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index"
            )]
            let index = (self.0.len() as f64 * share) as usize;
            self.0.get(index).or(self.0.last()).copied().expect("a run")
        };
        let (most, longest) = (at(0.9), at(1.0));
        println!(
            "{what}: {} runs, 90% within {most:?}, the longest {longest:?}",
            self.0.len()
        );
        assert!(most < limit, "{what}: {most:?}");
    }
}
