//! Short-term memory: what was said, kept in Redis. The only room that knows the `redis` crate.
//!
//! Every operation is one round trip inside a budget. An error means that memory is unavailable, which is never the same
//! as memory that is empty.

mod breaker;
mod call;
mod connection;
mod failure;
mod keys;
mod login;
mod observed;
mod scripts;
mod topology;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{FromRedisValue, RedisError, Value};
use tokio::time::Instant;

use self::call::{Call, Replicas};
use self::connection::Redis;
use self::keys::SessionKeys;
pub use self::observed::Observed;
use crate::config::{ConfigError, KeyLayout, MemoryConfig, RedisConfig};
use crate::ids::{CharacterId, TurnId, UserId};
use crate::message::Message;
use crate::secrets::Secrets;
use crate::session::{self, Session, State};

/// A local clock is taken to be at most this far from Redis's. It only matters for a turn that began while Redis could
/// not be asked for the time.
const CLOCK_SKEW: Duration = Duration::from_secs(2);

/// Memory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing came back within the operation's budget.
    #[error("redis did not answer within the budget")]
    Timeout,
    /// Redis is known to be down, so it was not asked.
    #[error("redis is known to be down")]
    BreakerOpen,
    /// Redis could not be reached, or refused.
    #[error("redis failed")]
    Redis(#[source] RedisError),
    /// Fewer replicas than asked for (`REDIS_WAIT_REPLICAS`) have it. It may be lost in a failover.
    #[error("too few replicas have it")]
    NotReplicated,
    /// Redis answered something that this operation cannot mean.
    #[error("redis answered in an unexpected form")]
    Unexpected,
}

impl Error {
    /// Whether the key holds a value of another type. That says something about the data, not about Redis.
    #[must_use]
    pub fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Redis(error) if error.code() == Some("WRONGTYPE"))
    }

    /// A word for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::BreakerOpen => "breaker_open",
            Self::Redis(error) if error.is_io_error() => "connection",
            Self::Redis(_) if self.is_wrong_type() => "wrong_type",
            Self::Redis(_) => "refused",
            Self::NotReplicated => "not_replicated",
            Self::Unexpected => "unexpected_answer",
        }
    }
}

/// When a turn began, so that a clear that came later wins over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began {
    redis_microseconds: u64,
    /// The same moment by the local clock, to tell how long ago that is.
    local: SystemTime,
}

impl Began {
    /// For a turn whose history could not be read, and whose beginning Redis has therefore not seen. It is dated early by the
    /// largest clock difference that is allowed for, so that a clear still wins over it.
    #[must_use]
    pub fn by_local_clock(now: SystemTime) -> Self {
        let early = now.checked_sub(CLOCK_SKEW).unwrap_or(UNIX_EPOCH);
        Self {
            redis_microseconds: unix_microseconds(early),
            local: early,
        }
    }

    /// The present by Redis's clock, as near as it is known.
    fn redis_now(self, now: SystemTime) -> u64 {
        let elapsed = now.duration_since(self.local).unwrap_or_default();
        self.redis_microseconds
            .saturating_add(microseconds(elapsed))
    }
}

fn unix_microseconds(time: SystemTime) -> u64 {
    microseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What was said so far.
#[derive(Debug)]
pub struct History {
    /// The newest messages, oldest first.
    pub messages: Vec<Message>,
    /// Elements that could not be read as messages and were left out.
    pub skipped: usize,
    /// Elements stored in all, those that were not asked for included.
    pub stored: usize,
    /// When it was read.
    pub read_at: Began,
}

impl History {
    /// How many elements were read, those that were left out included.
    #[must_use]
    pub fn read(&self) -> usize {
        self.messages.len() + self.skipped
    }
}

/// A message and its reply, to be stored together or not at all.
#[derive(Debug)]
pub struct NewTurn {
    /// Commits are idempotent by it.
    pub id: TurnId,
    /// When the turn began.
    pub began: Began,
    /// What the user said.
    pub user: Message,
    /// What the character said.
    pub assistant: Message,
}

/// What became of a commit that Redis answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Stored now.
    Saved,
    /// Stored by an earlier attempt whose answer was lost.
    Duplicate,
    /// Not stored: the session was cleared after the turn began.
    Fenced,
}

impl Commit {
    /// Whether the turn is in Redis.
    #[must_use]
    pub fn is_saved(self) -> bool {
        match self {
            Self::Saved | Self::Duplicate => true,
            Self::Fenced => false,
        }
    }
}

/// Short-term memory. Cheap to clone; clones share one connection.
#[derive(Clone)]
pub struct Memory {
    redis: Redis,
    layout: KeyLayout,
    config: MemoryConfig,
    /// Who else must have a write before it counts.
    replicas: Option<Replicas>,
}

impl Memory {
    /// Makes ready without touching the network.
    ///
    /// # Errors
    /// A `REDIS_…` setting that cannot be used.
    pub fn new(
        redis: &RedisConfig,
        memory: &MemoryConfig,
        secrets: &Secrets,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            redis: Redis::new(redis, memory, secrets)?,
            layout: redis.key_layout,
            config: *memory,
            replicas: (redis.wait_replicas > 0).then(|| Replicas {
                count: redis.wait_replicas,
                // The other half of the budget is for the write itself.
                wait_milliseconds: u64::try_from(memory.write_timeout.as_millis() / 2)
                    .unwrap_or(u64::MAX)
                    .max(1),
            }),
        })
    }

    /// Reads the newest `most` messages.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn load(
        &self,
        user: &UserId,
        character: &CharacterId,
        most: usize,
    ) -> Result<History, Error> {
        let keys = self.keys(user, character);
        let call = load(keys.messages, most);
        let answer = self.redis.run(self.config.read_timeout, &call).await?;
        let ((seconds, microseconds), elements, stored): ((u64, u64), Vec<Vec<u8>>, usize) =
            parse(answer)?;
        let read = elements.len();
        let messages: Vec<Message> = elements
            .iter()
            .rev()
            .filter_map(|element| Message::from_json(element).ok())
            .collect();
        Ok(History {
            skipped: read - messages.len(),
            stored,
            messages,
            read_at: Began {
                redis_microseconds: seconds
                    .saturating_mul(1_000_000)
                    .saturating_add(microseconds),
                local: SystemTime::now(),
            },
        })
    }

    /// Stores a turn, unless it is stored already or the session was cleared after the turn began.
    ///
    /// # Errors
    /// Memory is unavailable. The turn is then stored at most once: not at all, or by an attempt whose answer was lost.
    pub async fn commit_turn(
        &self,
        user: &UserId,
        character: &CharacterId,
        turn: &NewTurn,
    ) -> Result<Commit, Error> {
        self.commit(
            user,
            character,
            turn.id,
            Some(turn.began),
            &[&turn.user, &turn.assistant],
        )
        .await
    }

    /// Appends one message that is no part of a turn, a greeting for example.
    ///
    /// # Errors
    /// As [`Memory::commit_turn`].
    pub async fn append(
        &self,
        user: &UserId,
        character: &CharacterId,
        message: &Message,
    ) -> Result<Commit, Error> {
        self.commit(user, character, TurnId::new(), None, &[message])
            .await
    }

    async fn commit(
        &self,
        user: &UserId,
        character: &CharacterId,
        id: TurnId,
        began: Option<Began>,
        messages: &[&Message],
    ) -> Result<Commit, Error> {
        let keys = self.keys(user, character);
        let tokens: i64 = messages
            .iter()
            .map(|message| message.token_count.max(0))
            .fold(0, i64::saturating_add);
        let id = id.to_string();
        let began_at = began
            .map(|began| began.redis_microseconds.to_string())
            .unwrap_or_default();
        let messages: Vec<String> = messages.iter().map(|message| message.to_json()).collect();
        let commit = |until: u64| {
            Call::script(
                &scripts::COMMIT,
                [&keys.messages, &keys.meta, &keys.cleared],
            )
            .arg(&id)
            .arg(&began_at)
            .arg(self.config.max_messages)
            .arg(self.config.ttl_seconds)
            .arg(tokens)
            .arg(until)
            .arg(&messages)
            .on_replicas(self.replicas)
        };
        let now = SystemTime::now();
        let redis_now = began.map_or_else(|| unix_microseconds(now), |began| began.redis_now(now));
        match self.write(redis_now, commit).await?.as_str() {
            "saved" => Ok(Commit::Saved),
            "duplicate" => Ok(Commit::Duplicate),
            "fenced" => Ok(Commit::Fenced),
            _ => Err(Error::Unexpected),
        }
    }

    /// Runs a script that must not do anything once it has been given up here. `call` makes it from the moment, by Redis's
    /// clock, until which it may be done; `redis_now` is the present by that clock as far as it is known here. An answer that
    /// comes in time and says "late" tells the right time, and then it is tried again by that.
    async fn write(&self, redis_now: u64, call: impl Fn(u64) -> Call) -> Result<String, Error> {
        let budget = self.config.write_timeout;
        let begun = Instant::now();
        let until = redis_now.saturating_add(microseconds(budget));
        let answer: String = parse(self.redis.run(budget, &call(until)).await?)?;
        let Some(redis_now) = answer.strip_prefix("late:") else {
            return Ok(answer);
        };
        let redis_now: u64 = redis_now.parse().map_err(|_| Error::Unexpected)?;
        let left = budget.saturating_sub(begun.elapsed());
        let until = redis_now.saturating_add(microseconds(left));
        parse(self.redis.run(left, &call(until)).await?)
    }

    /// Forgets a session. Turns that began before are not stored after it.
    ///
    /// # Errors
    /// Memory is unavailable, and the session may or may not be forgotten.
    pub async fn clear(&self, user: &UserId, character: &CharacterId) -> Result<(), Error> {
        let keys = self.keys(user, character);
        let clear = |until: u64| {
            Call::script(&scripts::CLEAR, [&keys.messages, &keys.meta, &keys.cleared])
                .arg(scripts::CLEARED_TTL_SECONDS)
                .arg(until)
                .on_replicas(self.replicas)
        };
        match self
            .write(unix_microseconds(SystemTime::now()), clear)
            .await?
            .as_str()
        {
            "cleared" => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// Reads a session; `None` where there is none.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn session(
        &self,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<Option<Session>, Error> {
        self.read_session(user, character, None, self.config.read_timeout)
            .await
    }

    /// Sets a session's state and reads it; `None` where there is none. Never creates one, never changes its expiry.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn set_state(
        &self,
        user: &UserId,
        character: &CharacterId,
        state: State,
    ) -> Result<Option<Session>, Error> {
        self.read_session(user, character, Some(state), self.config.write_timeout)
            .await
    }

    async fn read_session(
        &self,
        user: &UserId,
        character: &CharacterId,
        state: Option<State>,
        budget: Duration,
    ) -> Result<Option<Session>, Error> {
        let keys = self.keys(user, character);
        let call = Call::script(&scripts::SESSION, [&keys.messages, &keys.meta])
            .arg(state.map_or("", State::as_str));
        let answer = self.redis.run(budget, &call).await?;
        let Some(fields) = parse::<Option<Vec<Option<String>>>>(answer)? else {
            return Ok(None);
        };
        let field = |index: usize| fields.get(index).and_then(Option::as_deref);
        let figure = |index| field(index).and_then(session::figure);
        let moment = |index| field(index).and_then(session::moment);
        Ok(Some(Session {
            state: field(0).and_then(State::parse).unwrap_or(State::Active),
            last_active_at: moment(1),
            message_count: figure(2).unwrap_or(0).max(0),
            session_start: moment(3),
            total_tokens: figure(4).unwrap_or(0).max(0),
            stored_messages: figure(5).unwrap_or(0),
            expires_in: figure(6).filter(|seconds| *seconds >= 0),
        }))
    }

    /// Counts the stored messages.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn stored_messages(
        &self,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<usize, Error> {
        let keys = self.keys(user, character);
        let call = Call::command("LLEN", keys.messages);
        parse(self.redis.run(self.config.read_timeout, &call).await?)
    }

    /// Reads a character's JSON; `None` where there is none.
    pub(crate) async fn character_json(&self, id: &CharacterId) -> Result<Option<Vec<u8>>, Error> {
        let call = Call::command("GET", keys::character(id));
        parse(self.redis.run(self.config.read_timeout, &call).await?)
    }

    /// Whether Redis is known to be down, as far as this session is concerned.
    fn breaker_is_open(&self, user: &UserId, character: &CharacterId) -> bool {
        self.redis
            .is_known_down(&self.keys(user, character).messages)
    }

    fn keys(&self, user: &UserId, character: &CharacterId) -> SessionKeys {
        SessionKeys::new(self.layout, user, character)
    }
}

/// The time comes first: a clear between the commands is then one that came after the turn began, and the turn is not stored
/// after it.
fn load(messages: String, most: usize) -> Call {
    let (first, last) = match most.checked_sub(1) {
        Some(last) => (0, last),
        None => (1, 0),
    };
    let mut commands = redis::pipe();
    commands
        .cmd("TIME")
        .cmd("LRANGE")
        .arg(&messages)
        .arg(first)
        .arg(last)
        .cmd("LLEN")
        .arg(&messages);
    Call::script(&scripts::LOAD, [&messages])
        .arg(first)
        .arg(last)
        .or_plain(commands)
}

fn parse<T: FromRedisValue>(answer: Value) -> Result<T, Error> {
    redis::from_redis_value(answer).map_err(|_| Error::Unexpected)
}
