//! What rooms share because one script does the work of both. The commit of a turn closes its record, so that what is
//! stored and what a reader is told at the end cannot differ: `memory` and `turns`. The claim of a turn takes it from the
//! user's limits, so that a repeated request costs nothing: `turns` and `limits`.

use crate::keys::TurnKeys;
use crate::store::Call;

/// Seconds for which a turn may run, and a margin. An open record is kept for as long, and then remembered.
pub(crate) const LONGEST_TURN_SECONDS: u64 = 960;

/// Everything that a closed record says, but for the outcome.
#[derive(Debug, Clone)]
pub(crate) struct Closing {
    pub(crate) keys: TurnKeys,
    /// The idempotency key, if the turn has one.
    pub(crate) request: Option<RequestKey>,
    /// What the first event of the stream said.
    pub(crate) start: String,
    /// What the last event of the stream says besides the outcome.
    pub(crate) last: String,
    /// The whole text of the reply, whatever is recorded of it already.
    pub(crate) text: String,
    /// Seconds for which the record and the key are kept.
    pub(crate) remember_seconds: u64,
}

/// The idempotency key of a turn, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestKey {
    /// Name of the Redis key.
    pub(crate) name: String,
    /// Its value: the id of the turn, a colon, and the fingerprint of the request.
    pub(crate) value: String,
}

impl RequestKey {
    /// Returns the name of the Redis key.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the fingerprint of the request.
    pub(crate) fn fingerprint(&self) -> &str {
        self.value
            .split_once(':')
            .map_or("", |(_, fingerprint)| fingerprint)
    }
}

/// What scripts get in place of a mark that the turn could not read.
pub(crate) const UNREAD: &[u8] = b"?";

/// When a turn began, for the scripts that must leave nothing behind after a later erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// The mark of the last erasure that the turn has read, or [`UNREAD`].
    pub(crate) erased: Vec<u8>,
    /// The moment on Redis's clock, in Unix microseconds.
    pub(crate) redis_micros: u64,
}

/// What a claim takes from the limits of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Charge {
    /// Redis keys of what the user has used of the minute, and of the day.
    pub(crate) keys: [String; 2],
    /// Most turns a minute; 0 for no limit.
    pub(crate) most_turns: u64,
    /// Most tokens a day; 0 for no limit.
    pub(crate) most_tokens: u64,
}

impl Charge {
    /// Appends the keys and the two limits to a call of a script.
    pub(crate) fn add_to(&self, call: Call) -> Call {
        call.keys(self.keys.iter().map(String::as_str))
            .arg(self.most_turns)
            .arg(self.most_tokens)
    }
}

/// Reads the reply of a script that refuses a turn because a limit is used up. Returns the seconds after which the user
/// may try again, or `None` for any other reply.
pub(crate) fn limited(reply: &str) -> Option<u64> {
    reply.strip_prefix("limited:")?.parse().ok()
}

impl Closing {
    /// Appends the record's keys and its five arguments to a call of the commit script.
    pub(crate) fn add_to(&self, call: Call) -> Call {
        call.keys([self.keys.record.as_str(), &self.keys.text])
            .keys(self.request.iter().map(RequestKey::name))
            .arg(&self.start)
            .arg(&self.last)
            .arg(&self.text)
            .arg(self.remember_seconds)
            .arg(self.request_value())
    }

    /// Returns the value of the idempotency key; empty if there is none.
    pub(crate) fn request_value(&self) -> &str {
        self.request.as_ref().map_or("", |request| &request.value)
    }
}
