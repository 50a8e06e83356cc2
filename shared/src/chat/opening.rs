//! How a turn opens: one round trip to Redis for the history, the character and the claim.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::time::{Instant, timeout};

use super::{Ask, Chat, MemoryStatus};
use crate::characters::{self, Character};
use crate::ids::TurnId;
use crate::memory::{self, Began, History};
use crate::message::Message;
use crate::telemetry::Invocation;
use crate::turns::{Claim, Record};

/// Time that a claim may take longer than the history, where it does not decide whether the turn begins.
const CLAIM_AFTER_READS: Duration = Duration::from_millis(10);

/// Everything that is known before a turn runs.
pub(super) struct Opening {
    pub(super) id: TurnId,
    /// `None` if turns are not recorded.
    pub(super) record: Option<Record>,
    pub(super) claim: Claim,
    pub(super) began_at_unix: SystemTime,
    /// Until when the history may be read.
    pub(super) read_until: Instant,
    /// Time that the slower of the history and the character took.
    pub(super) round_trip: Duration,
    pub(super) history: Result<History, memory::Error>,
    pub(super) character: Result<Arc<Character>, characters::Error>,
}

impl Ask {
    /// Returns 32 hex digits by which requests with the same content are recognised.
    fn fingerprint(&self) -> String {
        let mut content = Context::new(&SHA256);
        let metadata = self.metadata.as_ref().map_or("", |metadata| metadata.get());
        for part in [self.character.as_str(), &self.message, metadata] {
            content.update(&part.len().to_be_bytes());
            content.update(part.as_bytes());
        }
        let hash = content.finish();
        let half = hash.as_ref().first_chunk().copied().unwrap_or_default();
        format!("{:032x}", u128::from_be_bytes(half))
    }
}

impl Chat {
    /// Looks up the character, loads the history and claims the turn at the same time. `replaces` names a dead turn
    /// whose idempotency key this one may take over.
    pub(super) async fn open(
        &self,
        ask: &Ask,
        invocation: &Invocation,
        replaces: Option<TurnId>,
    ) -> Opening {
        let began_at_unix = SystemTime::now();
        let began = Instant::now();
        let id = TurnId::new();
        let record = self.record(ask, id);
        let inner = &self.inner;
        let most = inner.limits.max_messages;
        let reads = async {
            let read = tokio::join!(
                inner
                    .memory
                    .load(invocation, &ask.user, &ask.character, most),
                inner.characters.find(&ask.character, invocation),
            );
            (read, began.elapsed())
        };
        let claim = async {
            match &record {
                Some(record) => record.claim(replaces).await,
                None => Claim::Unknown,
            }
        };
        let (((history, character), round_trip), claim) =
            with_claim(reads, claim, ask.key.is_some()).await;
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

/// Awaits both. The reads are sent first, so a clear that comes between the two is noticed. A claim that does not
/// decide whether the turn begins is given up a little after the reads: a server that pauses writes must not hold up a
/// turn.
async fn with_claim<R>(
    reads: impl Future<Output = R>,
    claim: impl Future<Output = Claim>,
    decides: bool,
) -> (R, Claim) {
    tokio::pin!(reads, claim);
    let mut claimed = None;
    let read = loop {
        tokio::select! {
            biased;
            read = &mut reads => break read,
            claim = &mut claim, if claimed.is_none() => claimed = Some(claim),
        }
    };
    let claim = match claimed {
        Some(claim) => claim,
        None if decides => claim.await,
        None => timeout(CLAIM_AFTER_READS, claim)
            .await
            .unwrap_or(Claim::Unknown),
    };
    (read, claim)
}

/// Returns what a turn knows of its history.
pub(super) fn remembered(
    history: Result<History, memory::Error>,
    began_at: SystemTime,
) -> (MemoryStatus, Began, Vec<Message>) {
    match history {
        Ok(history) => {
            if history.skipped > 0 {
                tracing::warn!(
                    skipped = history.skipped,
                    "stored elements could not be read as messages"
                );
            }
            let status = if history.messages.is_empty() && history.skipped == 0 {
                MemoryStatus::Empty
            } else {
                MemoryStatus::Ok
            };
            (status, history.read_at, history.messages)
        }
        Err(error) => {
            tracing::warn!(
                reason = error.reason(),
                "memory could not be read; the chat goes on without it"
            );
            (
                MemoryStatus::Unavailable,
                Began::on_local_clock(began_at),
                Vec::new(),
            )
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
            let claim = async {
                sleep(Duration::from_millis(claim_ms)).await;
                Claim::Owned
            };
            let reads = sleep(Duration::from_millis(5));
            let ((), claimed) = with_claim(reads, claim, decides).await;
            assert_eq!(claimed, expected, "{claim_ms} {decides}");
            assert_eq!(began.elapsed().as_millis(), both_ms, "{claim_ms} {decides}");
        }
    }
}
