//! How a turn begins: it is opened, fitted into the character's context window, and then runs in a task of its own.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::follow::Repeated;
use super::opening::{Claiming, Opening, Remembered};
use super::prompt::{self, Moment};
use super::relay::Relay;
use super::turn::Task;
use super::{Ask, Chat, FailureCode, MemoryStatus, Refusal, Source, Turn};
use crate::capacity::Place;
use crate::characters::lore::Greeting;
use crate::characters::{Audience, Character};
use crate::clock::unix_seconds;
use crate::context::{self, Context, Past};
use crate::llm::Prompt;
use crate::memory::{self, Began, History};
use crate::message::{Message, PromptMessage};
use crate::telemetry::{Invocation, TurnFigures};
use crate::tokens::estimate;
use crate::turns::{Claim, Record};

/// Most attempts to claim a turn whose key belongs to dead turns, or to one whose record is gone.
const MAX_CLAIMS: usize = 3;

/// What a turn asks the upstream, and what it knows of its history.
struct Fitted {
    memory: MemoryStatus,
    /// Why the history could not be read.
    unavailable: Option<&'static str>,
    began: Began,
    prompt: Prompt,
    /// The greeting that the turn answers, to be stored before it.
    greeting: Option<Message>,
    history_messages: usize,
}

impl Chat {
    /// Starts a turn: looks up the character, loads the history and claims the turn concurrently, then spawns the
    /// turn's task. If the same request has begun a turn before, that turn is returned, from its beginning.
    ///
    /// Figures are recorded in `invocation`; the turn drops its handle before it sends the last frame. A history that
    /// cannot be read is not an error, unless the turn replaces a part of it: the turn runs without it.
    ///
    /// # Errors
    /// Returns [`Refusal`] if the process is full, the character is not available, the message does not fit, the message
    /// to replace is not stored, a limit is used up, or the idempotency key is of another request. Nothing is sent
    /// upstream or stored.
    pub async fn begin(&self, ask: Ask, invocation: Invocation) -> Result<Turn, Refusal> {
        let place = self.inner.capacity.admit().map_err(Refusal::Full)?;
        let mut takes_over = None;
        for _ in 0..MAX_CLAIMS {
            let opening = self.open(&ask, &invocation, takes_over).await;
            let other = match &opening.claim {
                Claiming::Pending(_) | Claiming::Decided(Claim::Owned | Claim::Unknown) => {
                    return self.run(ask, invocation, opening, place).await;
                }
                Claiming::Decided(Claim::Reused) => return Err(Refusal::KeyReused),
                Claiming::Decided(Claim::Limited(seconds)) => {
                    return Err(Refusal::LimitReached(*seconds));
                }
                Claiming::Decided(Claim::Other(id)) => *id,
            };
            takes_over = match self.repeat(&ask, &invocation, other).await? {
                Repeated::Turn(turn) => return Ok(turn),
                Repeated::Lost => Some(other),
                Repeated::Gone => None,
            };
            // What refused that turn may refuse this one.
            let character = opening.character?;
            let moment = Moment {
                greeting: None,
                greeted_with: Greeting::Unknown,
                default_prompt: &self.inner.default_system_prompt,
            };
            let frame = prompt::frame(&character, &ask, moment, &Past::default());
            context::fit(frame, Past::default(), ask.text(), self.inner.window)?;
        }
        Err(Refusal::TurnNotFound)
    }

    /// Begins the turn that was opened, in a task of its own. If it is refused, its claim is released.
    async fn run(
        &self,
        mut ask: Ask,
        invocation: Invocation,
        opening: Opening,
        place: Place,
    ) -> Result<Turn, Refusal> {
        let Opening {
            id,
            mut record,
            claim,
            began_at_unix,
            read_until,
            round_trip,
            history,
            character,
        } = opening;
        let fitted = match character {
            Ok(character) => {
                let began = (began_at_unix, read_until);
                self.fit(&mut ask, &invocation, &character, history, began)
                    .await
            }
            Err(error) => Err(error.into()),
        };
        let fitted = match fitted {
            Ok(fitted) => fitted,
            Err(refusal) => {
                release(&invocation, record, claim).await;
                return Err(refusal);
            }
        };
        let Fitted {
            memory,
            unavailable,
            began,
            prompt,
            greeting,
            history_messages,
        } = fitted;
        if let Some(record) = &mut record {
            record.note_beginning(began.beginning());
        }
        invocation.note(|figures| {
            figures.degradation = unavailable;
            figures.turn = Some(TurnFigures {
                id,
                memory: memory.as_str(),
                history_messages,
                // Stays only if the task panics, because the end of a turn always sets its outcome.
                outcome: FailureCode::Internal.as_str(),
                upstream_error: None,
                first_delta: None,
                reply: None,
                tokens: None,
            });
        });
        let (relay, frames) = Relay::new();
        let task = Task {
            service: Arc::clone(&self.inner),
            id,
            record,
            memory,
            history_messages,
            start_text: String::new(),
            round_trip,
            began,
            began_at_unix,
            prompt,
            greeting,
            ask,
            invocation,
            relay,
            _place: place,
        };
        // The task outlives the connection and ends by itself: every wait in it is bounded, except the wait for a
        // client that neither reads nor disconnects, and by then the commit is decided. `settle` awaits the task at the
        // end of the process.
        self.inner.turns.spawn(task.run(claim).in_current_span());
        Ok(Turn {
            id,
            source: Source::Own(frames),
            seen: 0,
            ended: false,
        })
    }

    /// Fits the message into the character's context window, with as much of the history as there is room for. Without a
    /// message, the stored one is asked that the turn replaces. `began` is when the turn began, and until when more of the
    /// history may be read.
    async fn fit(
        &self,
        ask: &mut Ask,
        invocation: &Invocation,
        character: &Character,
        mut history: Result<History, memory::Error>,
        (began_at_unix, read_until): (SystemTime, Instant),
    ) -> Result<Fitted, Refusal> {
        let inner = &self.inner;
        if let Some(id) = &ask.replaces {
            let mut before = history.map_err(Refusal::HistoryUnavailable)?;
            let replaced = before.cut_at(id).ok_or(Refusal::MessageNotFound)?;
            history = Ok(before);
            if ask.message.is_none() {
                ask.message = Some(replaced.content);
                ask.metadata = ask.metadata.take().or(replaced.metadata);
            }
        }
        // While the history is not known, the client says what it showed.
        let is_first = history.as_ref().map_or(true, History::is_empty);
        let greeting = match is_first {
            true => greeting(character, ask, began_at_unix)?,
            false => None,
        };
        let unavailable = history.as_ref().err().map(memory::Error::reason);
        let rest = match (&history, &ask.replaces) {
            (Ok(history), None) => history
                .stored
                .min(inner.stored_messages)
                .saturating_sub(history.read()),
            _ => 0,
        };
        let fit = |past: Past, greeted_with: Greeting| {
            let moment = Moment {
                greeting: greeting.as_ref().map(|greeting| greeting.content.as_str()),
                greeted_with: match ask.greeting.filter(|_| is_first) {
                    Some(number) => Greeting::Number(number),
                    None => greeted_with,
                },
                default_prompt: &inner.default_system_prompt,
            };
            let frame = prompt::frame(character, ask, moment, &past);
            context::fit(frame, past, ask.text(), inner.window)
        };
        let mut known = Remembered::new(history, began_at_unix);
        let mut context = fit(std::mem::take(&mut known.past), known.greeted_with)?;
        if context.has_room && rest > 0 {
            // Much of what was read is not of whole turns. Older turns are read as well, if that can be done in time.
            let (user, stored) = (&ask.user, inner.stored_messages);
            let all = inner.memory.load(invocation, user, &ask.character, stored);
            if let Ok(Ok(history)) = timeout_at(read_until, all).await {
                known = Remembered::new(Ok(history), began_at_unix);
                context = fit(std::mem::take(&mut known.past), known.greeted_with)?;
            }
        }
        let Context {
            messages,
            history_messages,
            behind_new,
            ..
        } = context;
        Ok(Fitted {
            memory: known.status,
            unavailable,
            began: known.began,
            prompt: asked(character, messages, behind_new),
            greeting,
            history_messages,
        })
    }
}

/// Releases the claim of a turn that is refused. If it is not known to have succeeded, it may yet: the refusal does not
/// wait for that.
async fn release(invocation: &Invocation, record: Option<Record>, claim: Claiming) {
    let Some(record) = record else { return };
    if matches!(claim, Claiming::Decided(Claim::Owned)) {
        record.release(invocation).await;
        return;
    }
    drop(tokio::spawn(async move {
        claim.reply().await;
        record.release(&Invocation::detached()).await;
    }));
}

/// Returns the greeting that a turn answers, to be stored before it.
fn greeting(
    character: &Character,
    ask: &Ask,
    began_at: SystemTime,
) -> Result<Option<Message>, Refusal> {
    let Some(number) = ask.greeting else {
        return Ok(None);
    };
    let audience = Audience::new(&ask.user, &ask.character, ask.user_name.as_deref());
    let sheet = character.sheet();
    let text = sheet.and_then(|sheet| sheet.greeting(number, &audience));
    let text = text.ok_or(Refusal::GreetingNotFound)?;
    let tokens = i64::try_from(estimate(&text).max(1)).unwrap_or(i64::MAX);
    Ok(Some(Message::greeting(
        number,
        text,
        unix_seconds(began_at),
        tokens,
    )))
}

fn asked(character: &Character, messages: Vec<PromptMessage>, behind_new: usize) -> Prompt {
    Prompt {
        messages,
        behind_new,
        model: character.model.clone(),
        temperature: character.temperature,
        top_p: character.top_p,
        max_tokens: character.max_tokens,
    }
}
