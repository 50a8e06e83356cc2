//! What a user may use: turns a minute, and tokens a day. The clock is Redis's. Where Redis cannot be asked, nothing is
//! limited.

use std::sync::LazyLock;

use crate::config::{KeyLayout, LimitsConfig};
use crate::ids::{TurnId, UserId};
use crate::keys::UserKeys;
use crate::record::{Charge, limited};
pub use crate::store::Error;
use crate::store::{Call, Script, Store};
use crate::telemetry::{Invocation, Operation};

/// Counts a turn that has no record. The claim of a turn that has one counts it as well.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("limits/limits.lua"),
        include_str!("limits/take.lua")
    ))
});
/// Counts the tokens of a turn.
static SPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("limits/limits.lua"),
        include_str!("limits/spend.lua")
    ))
});

/// Returns what a user has used: of the turns of this minute, and of the tokens of this day.
///
/// # Errors
/// Redis is unavailable.
pub async fn used(
    store: &Store,
    layout: KeyLayout,
    invocation: &Invocation,
    user: &UserId,
) -> Result<[u64; 2], Error> {
    let keys = UserKeys::new(layout, user);
    let call = Call::reads(&keys.minute)
        .and::<&str>("GET", &keys.minute, &[])
        .and::<&str>("GET", &keys.day, &[]);
    let (_, minute, day): ((u64, u64), Option<String>, Option<String>) =
        store.read(invocation, Operation::Export, &call).await?;
    // As `limits.lua` writes it: the number of the window, what was used in it, and turns.
    let used = |count: Option<String>| {
        let count = count.unwrap_or_default();
        let used = count.split(' ').nth(1).map(str::parse);
        used.and_then(Result::ok).unwrap_or(0)
    };
    Ok([used(minute), used(day)])
}

/// The limits of users. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Limits {
    store: Store,
    layout: KeyLayout,
    config: LimitsConfig,
}

impl Limits {
    /// Returns the limits whose counts are in `store`, or `None` if the settings set none. Connects to nothing.
    #[must_use]
    pub fn new(store: Store, layout: KeyLayout, config: LimitsConfig) -> Option<Self> {
        (config != LimitsConfig::default()).then_some(Self {
            store,
            layout,
            config,
        })
    }

    /// Returns what a turn of this user takes.
    pub(crate) fn charge(&self, user: &UserId) -> Charge {
        let UserKeys { minute, day, .. } = UserKeys::new(self.layout, user);
        Charge {
            keys: [minute, day],
            most_turns: self.config.turns_per_minute,
            most_tokens: self.config.tokens_per_day,
        }
    }

    /// Counts a turn that has no record. Returns the seconds after which the user may try again if a limit is used up. A
    /// failure is logged, and refuses nothing.
    pub(crate) async fn take(&self, user: &UserId, turn: TurnId) -> Option<u64> {
        let charge = self.charge(user);
        let call = Call::script(&TAKE, []).arg(turn.to_string());
        let reply: Result<String, Error> = self
            .store
            .beside(Operation::Limit, &charge.add_to(call))
            .await;
        limited(&reply.ok()?)
    }

    /// Counts the tokens that a turn took. A failure is logged.
    pub(crate) async fn spend(
        &self,
        invocation: &Invocation,
        user: &UserId,
        turn: TurnId,
        tokens: u64,
    ) {
        if self.config.tokens_per_day == 0 {
            return;
        }
        let keys = UserKeys::new(self.layout, user);
        let turn = turn.to_string();
        let spend = |_until: u64| Call::script(&SPEND, [&keys.day]).arg(&turn).arg(tokens);
        // The store logs why it failed.
        let _: Result<String, Error> = self
            .store
            .write(invocation, Operation::Limit, &keys.day, &spend)
            .await;
    }
}
