//! How the record of a turn closes. The commit of a turn closes its record in the same script, so that what is stored
//! and what a reader is told at the end cannot differ; therefore `memory` and `turns` share this.

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
