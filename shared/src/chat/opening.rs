//! How a turn opens: one round trip to Redis for the history, the character and the claim.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::time::{Instant, timeout};

use super::{Ask, Chat, MemoryStatus};
use crate::characters::lore::Greeting;
use crate::characters::{self, Character};
use crate::context::Past;
use crate::ids::{MessageId, TurnId, UserId};
use crate::limits::Limits;
use crate::memory::{self, Began, History};
use crate::telemetry::Invocation;
use crate::turns::{Claim, Record};

/// Time that a claim may take longer than the history, where it does not decide whether the turn begins: a server that
/// pauses writes must not hold up a turn.
const CLAIM_AFTER_READS: Duration = Duration::from_millis(10);

/// Everything that is known before a turn runs.
pub(super) struct Opening {
    pub(super) id: TurnId,
    /// `None` if turns are not recorded.
    pub(super) record: Option<Record>,
    pub(super) claim: Claiming,
    pub(super) began_at_unix: SystemTime,
    /// Until when the history may be read.
    pub(super) read_until: Instant,
    /// Time that the slower of the history and the character took.
    pub(super) round_trip: Duration,
    pub(super) history: Result<History, memory::Error>,
    pub(super) character: Result<Arc<Character>, characters::Error>,
}

/// A claim that is on its way.
pub(super) type Pending = Pin<Box<dyn Future<Output = Claim> + Send>>;

/// The claim of a turn.
pub(super) enum Claiming {
    /// There is a reply.
    Decided(Claim),
    /// It decides only whether a client can come back to the turn, so the upstream is asked meanwhile.
    Pending(Pending),
}

impl Claiming {
    /// Waits for the reply; if none has come yet, only a little.
    pub(super) async fn reply(self) -> Claim {
        match self {
            Self::Decided(claim) => claim,
            Self::Pending(claim) => timeout(CLAIM_AFTER_READS, claim)
                .await
                .unwrap_or(Claim::Unknown),
        }
    }
}

impl Ask {
    /// Returns 32 hex digits by which requests with the same content are recognised.
    fn fingerprint(&self) -> String {
        let mut content = Context::new(&SHA256);
        let metadata = self.metadata.as_ref().map_or("", |metadata| metadata.get());
        let replaces = self.replaces.as_ref().map_or("", MessageId::as_str);
        let mut add = |part: &str| {
            content.update(&part.len().to_be_bytes());
            content.update(part.as_bytes());
        };
        for part in [self.character.as_str(), self.text(), metadata, replaces] {
            add(part);
        }
        if let Some(name) = &self.user_name {
            add(&format!("user_name {name}"));
        }
        if let Some(number) = self.greeting {
            add(&format!("greeting {number}"));
        }
        let hash = content.finish();
        let half = hash.as_ref().first_chunk().copied().unwrap_or_default();
        format!("{:032x}", u128::from_be_bytes(half))
    }
}

impl Chat {
    /// Looks up the character, loads the history and claims the turn at the same time. `takes_over` names a dead turn
    /// whose idempotency key this one may have.
    pub(super) async fn open(
        &self,
        ask: &Ask,
        invocation: &Invocation,
        takes_over: Option<TurnId>,
    ) -> Opening {
        let began_at_unix = SystemTime::now();
        let began = Instant::now();
        let id = TurnId::new();
        let record = self.record(ask, id);
        let inner = &self.inner;
        let most = match ask.replaces {
            // It may be any of them.
            Some(_) => usize::MAX,
            None => inner.window.max_messages,
        };
        let reads = async {
            let read = tokio::join!(
                inner
                    .memory
                    .load(invocation, &ask.user, &ask.character, most),
                inner.characters.find(&ask.character, invocation),
            );
            (read, began.elapsed())
        };
        let decides = ask.key.is_some() || inner.limits.is_some();
        let (record_of_claim, limits) = (record.clone(), inner.limits.clone());
        let claim = claim(record_of_claim, limits, ask.user.clone(), id, takes_over);
        let (((history, character), round_trip), claim) =
            with_claim(reads, Box::pin(claim), decides).await;
        Opening {
            id,
            record,
            claim,
            began_at_unix,
            read_until: began + inner.read_timeout,
            round_trip,
            history,
            character,
        }
    }

    /// Returns the record of a turn with this request; `None` if turns are not recorded.
    pub(super) fn record(&self, ask: &Ask, id: TurnId) -> Option<Record> {
        let records = self.inner.records.as_ref()?;
        let fingerprint = ask.key.as_ref().map(|_| ask.fingerprint());
        let request = ask.key.as_ref().zip(fingerprint.as_deref());
        Some(records.record(&ask.user, &ask.character, id, request))
    }
}

/// Claims a turn, and takes it from the user's limits.
async fn claim(
    record: Option<Record>,
    limits: Option<Limits>,
    user: UserId,
    turn: TurnId,
    takes_over: Option<TurnId>,
) -> Claim {
    match (record, limits) {
        (Some(record), limits) => {
            let charge = limits.map(|limits| limits.charge(&user));
            record.claim(takes_over, charge.as_ref()).await
        }
        (None, Some(limits)) => match limits.take(&user, turn).await {
            Some(seconds) => Claim::Limited(seconds),
            None => Claim::Unknown,
        },
        (None, None) => Claim::Unknown,
    }
}

/// Awaits the reads, and the claim if it decides whether the turn begins. The reads are sent first, so a clear that comes
/// between the two is noticed.
async fn with_claim<R>(
    reads: impl Future<Output = R>,
    mut claim: Pending,
    decides: bool,
) -> (R, Claiming) {
    tokio::pin!(reads);
    let mut claimed = None;
    let read = loop {
        tokio::select! {
            biased;
            read = &mut reads => break read,
            claim = &mut claim, if claimed.is_none() => claimed = Some(claim),
        }
    };
    let claim = match claimed {
        Some(claim) => Claiming::Decided(claim),
        None if decides => Claiming::Decided(claim.await),
        None => Claiming::Pending(claim),
    };
    (read, claim)
}

/// What a turn knows of what was said before.
pub(super) struct Remembered {
    pub(super) status: MemoryStatus,
    pub(super) began: Began,
    pub(super) past: Past,
    /// The greeting that began the session.
    pub(super) greeted_with: Greeting,
}

impl Remembered {
    /// Returns what a turn knows whose history was read, or could not be read.
    pub(super) fn new(history: Result<History, memory::Error>, began_at: SystemTime) -> Self {
        match history {
            Ok(history) => {
                if history.skipped > 0 {
                    tracing::warn!(
                        skipped = history.skipped,
                        "stored elements could not be read as messages"
                    );
                }
                let is_empty = history.messages.is_empty() && history.skipped == 0;
                Self {
                    status: match is_empty {
                        true => MemoryStatus::Empty,
                        false => MemoryStatus::Ok,
                    },
                    began: history.read_at,
                    greeted_with: history.greeting.map_or(Greeting::Without, Greeting::Number),
                    past: Past {
                        older: history.older(),
                        messages: history.messages,
                    },
                }
            }
            Err(error) => {
                tracing::warn!(
                    reason = error.reason(),
                    "memory could not be read; the chat goes on without it"
                );
                Self {
                    status: MemoryStatus::Unavailable,
                    began: Began::on_local_clock(began_at),
                    past: Past::default(),
                    greeted_with: Greeting::Unknown,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// How long the claim takes, whether it decides, how long both then take, and what comes of it. The reads take 5
    /// ms.
    #[tokio::test(start_paused = true)]
    async fn a_claim_is_waited_for_only_if_it_decides() {
        for (claim_ms, decides, both_ms, expected) in [
            (1, false, 5, Claim::Owned),
            (14, false, 14, Claim::Owned),
            (1_000, false, 15, Claim::Unknown),
            (1, true, 5, Claim::Owned),
            (1_000, true, 1_000, Claim::Owned),
        ] {
            let began = Instant::now();
            let claim = async move {
                sleep(Duration::from_millis(claim_ms)).await;
                Claim::Owned
            };
            let reads = sleep(Duration::from_millis(5));
            let ((), claiming) = with_claim(reads, Box::pin(claim), decides).await;
            let opened_ms = if decides { both_ms } else { 5 };
            assert_eq!(
                began.elapsed().as_millis(),
                opened_ms,
                "{claim_ms} {decides}"
            );
            let claimed = claiming.reply().await;
            assert_eq!(claimed, expected, "{claim_ms} {decides}");
            assert_eq!(began.elapsed().as_millis(), both_ms, "{claim_ms} {decides}");
        }
    }
}
