//! A running turn: generates, counts, commits, and reports the outcome, in this order. Its figures are recorded
//! before the last frame is sent.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep_until;

use super::count::Counts;
use super::opening::Claiming;
use super::record::{self, Last};
use super::relay::Relay;
use super::{Ask, FailureCode, Frame, Inner, MemoryStatus, Reply};
use crate::capacity::Place;
use crate::clock::unix_seconds;
use crate::ids::TurnId;
use crate::llm::{self, FinishReason, Prompt, Step};
use crate::memory::{self, Began, Commit};
use crate::message::{Message, Role, is_blank};
use crate::record::Closing;
use crate::telemetry::{Invocation, UpstreamTokens};
use crate::turns::{Claim, Journal, Outcome, Record};

/// Limit of a reply in bytes. A longer reply ends there, as if it had reached its token limit.
const MAX_REPLY_BYTES: usize = 256 * 1024;
/// Time reserved, on top of the write budget, to finish a turn before Lambda's deadline or the end of the process.
pub(crate) const FINISH_MARGIN: Duration = Duration::from_millis(500);

/// A running turn, with everything it needs until its last frame.
pub(super) struct Task {
    pub(super) service: Arc<Inner>,
    pub(super) id: TurnId,
    /// `None` if turns are not recorded.
    pub(super) record: Option<Record>,
    /// What the first frame says about the history.
    pub(super) memory: MemoryStatus,
    /// Number of stored messages in the prompt.
    pub(super) history_messages: usize,
    /// What the record says about the first frame, once that is sent.
    pub(super) start_text: String,
    /// Time that Redis took for the history.
    pub(super) round_trip: Duration,
    pub(super) began: Began,
    pub(super) began_at_unix: SystemTime,
    pub(super) prompt: Prompt,
    /// The greeting that the turn answers, to be stored before it.
    pub(super) greeting: Option<Message>,
    pub(super) ask: Ask,
    /// Declared before `relay` so that a panic drops it first: dropping the relay ends the response.
    pub(super) invocation: Invocation,
    pub(super) relay: Relay,
    /// Held until the turn has ended.
    pub(super) _place: Place,
}

/// How the generation ended.
pub(super) enum Ending {
    Complete {
        finish_reason: FinishReason,
        usage: Option<llm::Usage>,
    },
    Failed(llm::Error),
    /// A client has asked the turn to stop.
    Stopped,
    /// Lambda's deadline is near, or the process shall end.
    OutOfTime,
}

/// The text that the user has seen, and how the generation ended.
pub(super) struct Generated {
    pub(super) text: String,
    first_delta: Option<Duration>,
    pub(super) ending: Ending,
}

impl Generated {
    /// Returns whether the upstream has replied at all.
    fn has_reply(&self) -> bool {
        matches!(self.ending, Ending::Complete { .. } | Ending::Stopped) || !self.text.is_empty()
    }
}

impl Task {
    /// Runs the turn to its last frame.
    pub(super) async fn run(mut self, claim: Claiming) {
        let (generated, journal) = self.generate(claim).await;
        let counts = self.count(&generated).await;
        // Nothing is recorded beside the end of the turn.
        drop(journal);
        let spent = self.spend(&generated, &counts);
        let ((last, outcome), ()) = tokio::join!(self.end(&generated, &counts), spent);
        self.note(&generated, &counts);
        let Self {
            invocation, relay, ..
        } = self;
        drop(invocation);
        relay.finish(last.frame(outcome)).await;
    }

    /// Asks the upstream, and sends the first frame as soon as the claim is decided; then sends deltas as they arrive.
    async fn generate(&mut self, claim: Claiming) -> (Generated, Option<Journal>) {
        let mut generated = Generated {
            text: String::new(),
            first_delta: None,
            ending: Ending::OutOfTime,
        };
        let margin = self.service.write_timeout + FINISH_MARGIN;
        let reply = self.service.llm.reply(&self.prompt);
        tokio::pin!(reply);
        let claim = claim.reply();
        tokio::pin!(claim);
        let mut early = None;
        let claim = loop {
            tokio::select! {
                // The request goes out before the claim.
                biased;
                reply = &mut reply, if early.is_none() => early = Some(reply),
                claim = &mut claim => break claim,
            }
        };
        let start = Frame::Start {
            memory: self.memory,
            history_messages: self.history_messages,
            resumable: claim == Claim::Owned,
        };
        self.start_text = record::start_text(&start);
        self.relay.start(start);
        let journal = self
            .record
            .as_ref()
            .map(|record| Journal::keep(record.clone(), self.start_text.clone(), self.round_trip));
        let steps = async {
            let reply = match early {
                Some(reply) => reply,
                None => reply.await,
            };
            let (relay, invocation) = (&mut self.relay, &self.invocation);
            match reply {
                Ok(reply) => {
                    follow(reply, relay, invocation, journal.as_ref(), &mut generated).await;
                }
                Err(error) => generated.ending = Ending::Failed(error),
            }
        };
        let deadline = self
            .ask
            .deadline
            .and_then(|deadline| deadline.checked_sub(margin));
        let out_of_time = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let stop_asked = async {
            match &journal {
                Some(journal) => journal.stop_asked().await,
                None => pending().await,
            }
        };
        // In time, `steps` sets the ending; otherwise it stays as set above.
        let is_stopped = tokio::select! {
            biased;
            () = steps => false,
            () = stop_asked => true,
            () = out_of_time => false,
            () = self.service.ending.cancelled() => false,
        };
        if is_stopped {
            generated.ending = Ending::Stopped;
        }
        (generated, journal)
    }

    /// Starts to count the tokens that the turn took, if they are limited. An upstream that said nothing has taken none.
    fn spend(&self, generated: &Generated, counts: &Counts) -> impl Future<Output = ()> + use<> {
        let limits = self.service.limits.clone();
        let limits = limits.filter(|_| generated.has_reply());
        let (user, turn, invocation) = (self.ask.user.clone(), self.id, self.invocation.clone());
        // An upstream that counts nonsense must not lock a user out. A prompt was fitted by estimates, which may be half
        // of the true count, and a token has a byte at least.
        let most_prompt = self.service.window.max_tokens.saturating_mul(2);
        let usage = counts.usage;
        let tokens = usage.prompt_tokens.min(most_prompt)
            + usage.completion_tokens.min(MAX_REPLY_BYTES as u64);
        async move {
            if let Some(limits) = limits {
                limits.spend(&invocation, &user, turn, tokens).await;
            }
        }
    }

    /// Stores the turn, unless the reply is blank, and closes its record. Returns what the last frame says, and how the
    /// turn is stored.
    async fn end(&mut self, generated: &Generated, counts: &Counts) -> (Last, Outcome) {
        let (user, assistant) = self.messages(generated, counts);
        let last = match &generated.ending {
            Ending::Complete { finish_reason, .. } => {
                done(*finish_reason, counts, &user, &assistant)
            }
            Ending::Stopped => done(FinishReason::Stopped, counts, &user, &assistant),
            Ending::Failed(error) => Last::Failed(code(error)),
            Ending::OutOfTime => Last::Failed(FailureCode::UpstreamTimeout),
        };
        let closing = self.record.as_ref().map(|record| {
            let start = std::mem::take(&mut self.start_text);
            record.closing(start, last.to_string(), generated.text.clone())
        });
        // A reply that failed takes no other one's place: the old text is still there.
        let is_kept = match &generated.ending {
            Ending::Complete { .. } | Ending::Stopped => true,
            Ending::Failed(_) | Ending::OutOfTime => self.ask.replaces.is_none(),
        };
        let outcome = if is_blank(&generated.text) || !is_kept {
            self.close(Outcome::Empty, closing.as_ref()).await
        } else {
            let turn = memory::NewTurn {
                id: self.id,
                began: self.began,
                replaces: self.ask.replaces.take(),
                greeting: self.greeting.take(),
                user,
                assistant,
            };
            self.commit(&turn, closing.as_ref()).await
        };
        (last, outcome)
    }

    /// Returns the messages to store.
    fn messages(&mut self, generated: &Generated, counts: &Counts) -> (Message, Message) {
        let mark = match &generated.ending {
            Ending::Complete {
                finish_reason: FinishReason::Stop,
                ..
            } => None,
            Ending::Complete { finish_reason, .. } => Some(finish_reason.as_str()),
            Ending::Stopped => Some(FinishReason::Stopped.as_str()),
            Ending::Failed(_) | Ending::OutOfTime => Some("interrupted"),
        };
        let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
        let mut user = Message::new(
            Role::User,
            self.ask.message.take().unwrap_or_default(),
            unix_seconds(self.began_at_unix),
            signed(counts.user),
        );
        user.msg_id = self.id.message_id();
        user.metadata = self.ask.metadata.take();
        let mut assistant = Message::new(
            Role::Assistant,
            generated.text.clone(),
            unix_seconds(SystemTime::now()),
            signed(counts.assistant),
        );
        assistant.msg_id = self.id.reply_id();
        assistant.metadata = mark.and_then(|word| {
            serde_json::value::to_raw_value(&serde_json::json!({ "finish_reason": word })).ok()
        });
        (user, assistant)
    }

    /// Stores the turn and closes its record. Returns how the turn is stored.
    async fn commit(&self, turn: &memory::NewTurn, closing: Option<&Closing>) -> Outcome {
        let (user, character) = (&self.ask.user, &self.ask.character);
        let memory = &self.service.memory;
        let commit =
            |closing| memory.commit_and_close(&self.invocation, user, character, turn, closing);
        let committed = match commit(closing).await {
            // The cache user may be one from before there were records. The turn matters more than its record.
            Err(error) if error.is_missing_right() && closing.is_some() => commit(None).await,
            committed => committed,
        };
        match committed {
            Ok(Commit::Saved | Commit::Duplicate) => Outcome::Saved,
            Ok(Commit::Fenced) => {
                tracing::info!(
                    "the session was cleared or rewound, or the user's data erased, while the turn ran; it is not stored"
                );
                Outcome::Cleared
            }
            Ok(Commit::Conflict) => {
                tracing::info!(
                    "another turn has the idempotency key, or the message to replace is gone; this one is not stored"
                );
                Outcome::Conflict
            }
            Ok(Commit::Lost) => {
                tracing::warn!("the turn was taken for lost and is not stored");
                Outcome::Lost
            }
            Err(error) => {
                tracing::warn!(reason = error.reason(), "the turn could not be stored");
                self.invocation.note(|figures| {
                    // A turn counts as degraded once, for the first reason.
                    figures.degradation.get_or_insert(error.reason());
                });
                // If Redis has refused the commit, it may still take the end of the record.
                if error.is_refusal() {
                    return self.close(Outcome::Memory, closing).await;
                }
                Outcome::Memory
            }
        }
    }

    /// Closes the record of a turn that is not stored. Returns the outcome, which is another one if a reader has closed
    /// the record before.
    async fn close(&self, outcome: Outcome, closing: Option<&Closing>) -> Outcome {
        let (Some(record), Some(closing)) = (&self.record, closing) else {
            return outcome;
        };
        // A failure is logged. The record then ends with its lease.
        let closed = record.close(&self.invocation, outcome, closing).await;
        closed.unwrap_or(outcome)
    }

    /// Records the turn's figures: numbers and service-defined words only; never user or model text.
    fn note(&self, generated: &Generated, counts: &Counts) {
        let (outcome, upstream_error) = match &generated.ending {
            Ending::Complete { finish_reason, .. } => (finish_reason.as_str(), None),
            Ending::Failed(error) => {
                tracing::warn!(turn_id = %self.id, %error, "the upstream failed");
                let code = code(error).as_str();
                (code, Some(code))
            }
            Ending::Stopped => (FinishReason::Stopped.as_str(), None),
            Ending::OutOfTime => ("out_of_time", Some(FailureCode::UpstreamTimeout.as_str())),
        };
        let reply = self.invocation.elapsed();
        self.invocation.note(|figures| {
            let Some(turn) = &mut figures.turn else {
                return;
            };
            turn.outcome = outcome;
            turn.upstream_error = upstream_error;
            turn.first_delta = generated.first_delta;
            turn.reply = Some(reply);
            turn.tokens = generated.has_reply().then_some(UpstreamTokens {
                prompt: counts.usage.prompt_tokens,
                completion: counts.usage.completion_tokens,
            });
        });
    }
}

/// Sends deltas as they arrive: to the client, then to the journal. Sets all of `generated`.
async fn follow(
    mut reply: llm::Reply,
    relay: &mut Relay,
    invocation: &Invocation,
    journal: Option<&Journal>,
    generated: &mut Generated,
) {
    loop {
        let step = tokio::select! {
            biased;
            step = reply.next() => step,
            () = relay.catch_up() => continue,
        };
        match step {
            Ok(Step::Delta(delta)) if generated.text.len() + delta.len() > MAX_REPLY_BYTES => {
                generated.ending = Ending::Complete {
                    finish_reason: FinishReason::Length,
                    usage: None,
                };
                return;
            }
            Ok(Step::Delta(delta)) => {
                let before = generated.text.len();
                generated.text.push_str(&delta);
                relay.send(delta);
                if let Some(journal) = journal {
                    journal.push(generated.text.get(before..).unwrap_or_default());
                }
                if generated.first_delta.is_none() {
                    generated.first_delta = Some(invocation.elapsed());
                }
            }
            Ok(Step::End {
                finish_reason,
                usage,
            }) => {
                generated.ending = Ending::Complete {
                    finish_reason,
                    usage,
                };
                return;
            }
            Err(error) => {
                generated.ending = Ending::Failed(error);
                return;
            }
        }
    }
}

fn done(finish_reason: FinishReason, counts: &Counts, user: &Message, assistant: &Message) -> Last {
    Last::Done(Reply {
        msg_id: assistant.msg_id.clone(),
        user_msg_id: user.msg_id.clone(),
        finish_reason,
        usage: counts.usage,
    })
}

fn code(error: &llm::Error) -> FailureCode {
    match error {
        llm::Error::Unavailable(_) => FailureCode::UpstreamUnavailable,
        llm::Error::Timeout(_) => FailureCode::UpstreamTimeout,
        llm::Error::Rejected(_) => FailureCode::UpstreamRejected,
        llm::Error::Interrupted(_) => FailureCode::UpstreamInterrupted,
    }
}
