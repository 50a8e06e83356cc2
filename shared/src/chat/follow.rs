//! Coming back to a turn: the same events again, from its record.

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::record::{LAST_IF_LOST, Last, start_frame};
use super::{Ask, Chat, FINISH_MARGIN, FailureCode, Frame, Refusal, Source, Turn};
use crate::ids::{CharacterId, TurnId, UserId};
use crate::telemetry::Invocation;
use crate::turns::{Begun, Follower, Opened, Record, Seen};

/// A request to come back to a turn.
#[derive(Debug)]
pub struct Resume {
    /// The authenticated user.
    pub user: UserId,
    /// The character addressed.
    pub character: CharacterId,
    /// The turn; without it, the newest of the session that runs.
    pub turn: Option<TurnId>,
    /// Bytes of the reply's text that the client has seen. `None` if it has not even seen the first event.
    pub after: Option<usize>,
    /// Time at which Lambda ends the invocation, if known.
    pub deadline: Option<Instant>,
}

/// What became of a turn that the same request has begun before.
pub(super) enum Repeated {
    /// It runs, or has ended.
    Turn(Turn),
    /// Its owner died. It is not stored, and never will be.
    Lost,
    /// It has no record. Either it was refused, and its key is free; or Redis has evicted the record and not the key, and
    /// the turn may be stored.
    Gone,
}

/// Reads the frames of a turn from its record.
pub(super) struct Reader {
    follower: Box<Follower>,
    /// Dropped before the last frame is given, as a turn's own.
    invocation: Option<Invocation>,
    ending: CancellationToken,
    /// Until when this invocation can read.
    until: Option<Instant>,
}

impl Chat {
    /// Returns a turn as its record has it, or `None` if the request names no turn and none runs.
    ///
    /// # Errors
    /// [`Refusal::TurnNotFound`], [`Refusal::NotAnOffset`], or [`Refusal::Unavailable`].
    pub async fn resume(
        &self,
        resume: Resume,
        invocation: Invocation,
    ) -> Result<Option<Turn>, Refusal> {
        let Resume {
            user,
            character,
            turn,
            after,
            deadline,
        } = resume;
        let Some(records) = &self.inner.records else {
            return match turn {
                Some(_) => Err(Refusal::TurnNotFound),
                None => Ok(None),
            };
        };
        let turn = match turn {
            Some(turn) => turn,
            None => {
                let newest = records.newest_running(&invocation, &user, &character);
                match newest.await.map_err(Refusal::Unavailable)? {
                    Some(turn) => turn,
                    None => return Ok(None),
                }
            }
        };
        let record = records.record(&user, &character, turn, None);
        match follower(&invocation, record, after).await? {
            Opened::Found(follower) => {
                Ok(Some(self.read(turn, follower, after, deadline, invocation)))
            }
            Opened::NotFound | Opened::Cleared => Err(Refusal::TurnNotFound),
            Opened::NotAnOffset => Err(Refusal::NotAnOffset),
        }
    }

    /// Returns what became of the turn that the same request has begun before.
    pub(super) async fn repeat(
        &self,
        ask: &Ask,
        invocation: &Invocation,
        turn: TurnId,
    ) -> Result<Repeated, Refusal> {
        let Some(record) = self.record(ask, turn) else {
            return Ok(Repeated::Gone);
        };
        match follower(invocation, record.clone(), None).await? {
            Opened::Found(mut follower) => {
                let begun = follower.begun(invocation).await;
                Ok(match begun.map_err(Refusal::Unavailable)? {
                    Begun::Yes => {
                        let invocation = invocation.clone();
                        Repeated::Turn(self.read(turn, follower, None, ask.deadline, invocation))
                    }
                    Begun::Lost => Repeated::Lost,
                    Begun::Refused => Repeated::Gone,
                })
            }
            Opened::NotFound => Ok(Repeated::Gone),
            Opened::Cleared | Opened::NotAnOffset => Err(Refusal::TurnNotFound),
        }
    }

    fn read(
        &self,
        id: TurnId,
        follower: Box<Follower>,
        after: Option<usize>,
        deadline: Option<Instant>,
        invocation: Invocation,
    ) -> Turn {
        Turn {
            id,
            source: Source::Record(Box::new(Reader {
                follower,
                invocation: Some(invocation),
                ending: self.inner.ending.clone(),
                until: deadline.and_then(|deadline| deadline.checked_sub(FINISH_MARGIN)),
            })),
            seen: after.unwrap_or(0),
            ended: false,
        }
    }
}

async fn follower(
    invocation: &Invocation,
    record: Record,
    after: Option<usize>,
) -> Result<Opened, Refusal> {
    let opened = Follower::open(invocation, record, after, LAST_IF_LOST).await;
    opened.map_err(Refusal::Unavailable)
}

impl Reader {
    /// Waits for the next frame; `None` if this process can read no longer. Cancel-safe: no frame is lost.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let out_of_time = async {
            match self.until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let seen = tokio::select! {
            biased;
            seen = self.follower.next() => seen,
            () = out_of_time => None,
            () = self.ending.cancelled() => None,
        };
        let frame = seen.map(|seen| match seen {
            Seen::Start(text) => start_frame(&text).unwrap_or(UNREADABLE),
            Seen::Text(text) => Frame::Delta(text),
            Seen::End(outcome, last) => {
                Last::parse(&last).map_or(UNREADABLE, |last| last.frame(outcome))
            }
        });
        if !matches!(frame, Some(Frame::Start { .. } | Frame::Delta(_))) {
            self.invocation = None;
        }
        frame
    }
}

/// The last frame where the record makes no sense.
const UNREADABLE: Frame = Frame::Failed {
    code: FailureCode::Internal,
    saved: false,
};
