//! The event of one invocation while it is open.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;
use tracing::Span;

use super::{Done, Figures, Operation, Process, Status, Telemetry, request_line};
use crate::clock::lock;
use crate::ids::{CharacterId, UserId};

/// The open event of one invocation. Clones share the event; it is logged and measured once, when the last clone is
/// dropped.
///
/// A panic drops the clones too, so an invocation that panics is recorded as well.
#[derive(Clone)]
pub struct Invocation {
    open: Arc<Open>,
}

struct Open {
    /// `None` where nothing is to be reported.
    process: Option<Arc<Process>>,
    /// The invocation's, wherever the last holder is.
    span: Span,
    began: Instant,
    /// Locked for an assignment, never across an await.
    figures: Mutex<Figures>,
}

impl Telemetry {
    /// Opens the event of an invocation that begins now. Call it inside the invocation's span.
    #[must_use]
    pub fn begin(
        &self,
        method: &'static str,
        request_id: String,
        trace_id: Option<String>,
    ) -> Invocation {
        let process = Arc::clone(&self.process);
        let figures = Figures {
            function: process.function,
            request_id,
            trace_id,
            method,
            cold_start: !process.warm.swap(true, Ordering::Relaxed),
            ..Figures::default()
        };
        Invocation {
            open: Arc::new(Open {
                process: Some(process),
                span: Span::current(),
                began: Instant::now(),
                figures: Mutex::new(figures),
            }),
        }
    }
}

impl Invocation {
    /// Returns the record of work that no invocation asked for, in tests and tools. Nothing is reported of it.
    #[must_use]
    pub fn detached() -> Self {
        Self {
            open: Arc::new(Open {
                process: None,
                span: Span::none(),
                began: Instant::now(),
                figures: Mutex::default(),
            }),
        }
    }

    /// Changes the figures. `note` must be quick: it runs while the figures are locked.
    pub fn note(&self, note: impl FnOnce(&mut Figures)) {
        note(&mut lock(&self.open.figures));
    }

    /// Records the caller, as a hash of the user id.
    pub fn note_user(&self, user: &UserId) {
        let user = pseudonym(user);
        self.note(|figures| figures.user = Some(user));
    }

    /// Records the character that the request names.
    pub fn note_character(&self, character: &CharacterId) {
        self.note(|figures| figures.character = Some(character.clone()));
    }

    /// Runs an operation on the memory, and records its outcome and duration. `status` classifies an error.
    ///
    /// # Errors
    /// Returns the error of `run`, unchanged.
    pub async fn timed<T, E>(
        &self,
        operation: Operation,
        status: impl FnOnce(&E) -> Status,
        run: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let outcome = run.await;
        let done = Done {
            operation,
            status: outcome.as_ref().err().map_or(Status::Success, status),
            duration: began.elapsed(),
        };
        self.note(|figures| figures.operations.push(done));
        outcome
    }

    /// Returns the time since the invocation began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.open.began.elapsed()
    }
}

/// Hides the figures: they are written when they are complete, and not by accident before.
impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invocation(…)")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(process) = &self.process else {
            return;
        };
        let mut figures = lock(&self.figures);
        figures.duration = self.began.elapsed();
        let write = || {
            let _in_span = self.span.enter();
            if let Some(metrics) = &process.metrics {
                metrics.write(&figures);
            }
            request_line::write(&figures);
        };
        // The reader of standard output may be slow. That may delay the end of this invocation, but of no other.
        let others = Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        if others {
            block_in_place(write);
        } else {
            write();
        }
    }
}

/// Returns the first 16 hex digits of the SHA-256 of the id: enough to distinguish users, and not reversible without
/// already knowing the id.
fn pseudonym(user: &UserId) -> String {
    const HASH_BYTES: usize = 8;
    let digest = digest(&SHA256, user.as_str().as_bytes());
    let hash = digest.as_ref().iter().take(HASH_BYTES);
    hash.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_recorded_as_the_first_16_digits_of_the_hash() {
        let user = UserId::parse("abc").expect("valid");
        assert_eq!(pseudonym(&user), "ba7816bf8f01cfea");
    }
}
