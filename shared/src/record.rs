//! How the record of a turn closes. The commit of a turn closes its record in the same script, so that what is stored and
//! what a reader is told at the end cannot differ; therefore `memory` and `turns` share this.

use crate::keys::TurnKeys;
use crate::store::Call;

/// Everything that a closed record says, but for the outcome.
#[derive(Debug, Clone)]
pub(crate) struct Closing {
    pub(crate) keys: TurnKeys,
    /// The idempotency key, if the turn has one.
    pub(crate) claim: Option<Claimed>,
    /// What the first event of the stream said.
    pub(crate) start: String,
    /// What the last event of the stream says besides the outcome.
    pub(crate) last: String,
    /// Offset of `tail` in the reply's text, in bytes. The text before it is recorded.
    pub(crate) offset: usize,
    /// The rest of the reply's text.
    pub(crate) tail: String,
    /// Seconds for which the record and the key are kept.
    pub(crate) remember_seconds: u64,
}

/// The idempotency key of a turn, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Name of the Redis key.
    pub(crate) key: String,
    /// Its value: the id of the turn, a colon, and the fingerprint of the request.
    pub(crate) value: String,
}

impl Claimed {
    /// Returns the fingerprint of the request.
    pub(crate) fn fingerprint(&self) -> &str {
        self.value
            .split_once(':')
            .map_or("", |(_, fingerprint)| fingerprint)
    }
}

impl Closing {
    /// Appends the keys of the record to a call of a script.
    pub(crate) fn add_keys(&self, call: Call) -> Call {
        let call = call.key_too(&self.keys.record).key_too(&self.keys.text);
        match &self.claim {
            Some(claim) => call.key_too(&claim.key),
            None => call,
        }
    }

    /// Appends the six arguments of the record to a call of the commit script.
    pub(crate) fn add_arguments(&self, call: Call) -> Call {
        call.arg(&self.start)
            .arg(&self.last)
            .arg(self.offset)
            .arg(&self.tail)
            .arg(self.remember_seconds)
            .arg(self.value())
    }

    /// Appends six empty arguments, for a turn without a record.
    pub(crate) fn add_none(call: Call) -> Call {
        (0..6).fold(call, |call, _| call.arg(""))
    }

    /// Returns the value of the idempotency key; empty if there is none.
    pub(crate) fn value(&self) -> &str {
        self.claim.as_ref().map_or("", |claim| &claim.value)
    }
}
