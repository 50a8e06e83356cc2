//! The event of an invocation as a line of the log: one per request, whatever its outcome.

use std::time::Duration;

use super::{CommitResult, Figures, LOG_TARGET, Operation};

/// Logs the figures of one invocation at INFO. The caller enters the invocation's span first.
pub(super) fn write(figures: &Figures) {
    let turn = figures.turn.as_ref();
    let tokens = turn.and_then(|turn| turn.tokens);
    tracing::info!(
        target: LOG_TARGET,
        request_id = figures.request_id,
        trace_id = figures.trace_id,
        function = figures.function,
        method = figures.method,
        cold_start = figures.cold_start,
        status = figures.status,
        duration_ms = milliseconds(figures.duration),
        user = figures.user,
        character_id = figures.character.as_ref().map(|id| id.as_str()),
        turn_id = turn.map(|turn| turn.id.to_string()),
        outcome = turn.map(|turn| turn.outcome),
        memory = turn.map(|turn| turn.memory),
        saved = turn.map(|_| figures.commit.is_some_and(CommitResult::is_saved)),
        commit = figures.commit.map(CommitResult::as_str),
        degradation = figures.degradation,
        breaker_open = figures.breaker_open,
        history_messages = turn.map(|turn| turn.history_messages),
        stored_messages = figures.stored_messages,
        prompt_tokens = tokens.map(|tokens| tokens.prompt),
        completion_tokens = tokens.map(|tokens| tokens.completion),
        first_delta_ms = turn.and_then(|turn| turn.first_delta).map(milliseconds),
        load_ms = took(figures, Operation::Load),
        commit_ms = took(figures, Operation::Commit),
        "request"
    );
}

/// Returns the duration of the first operation of this kind, in milliseconds.
fn took(figures: &Figures, operation: Operation) -> Option<u64> {
    let done = figures
        .operations
        .iter()
        .find(|done| done.operation == operation)?;
    Some(milliseconds(done.duration))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
