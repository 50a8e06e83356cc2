//! The Lua scripts of short-term memory. Each is one round trip and runs atomically.
//!
//! They use only commands of Redis 6.0. They are sent by digest; if the server does not know the digest, for example
//! after a restart, the source is sent.

use std::sync::LazyLock;

use crate::store::Script;

/// Time to live of the mark of a clear, in seconds. The commit script rejects turns that began more than an hour ago;
/// the mark lives longer than that, and an hour is longer than the longest turn (15 minutes on Lambda).
pub(super) const CLEARED_TTL_SECONDS: u64 = 3_660;

/// Stores a turn: appends the messages, trims the list, updates the session's figures and its expiry, and closes the
/// turn's record.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    let source = concat!(
        include_str!("../record/record.lua"),
        include_str!("scripts/commit.lua")
    );
    Script::breakable(source, "BROKEN_COMMIT_SCRIPT")
});

/// Deletes a session and leaves a mark, once per id.
pub(super) static CLEAR: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/clear.lua")));

/// Reads a session, after setting its state if one is passed, once per id.
pub(super) static SESSION: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/session.lua")));

#[cfg(test)]
mod tests {
    /// Otherwise a clear could leave a mark that commits ignore.
    #[test]
    fn commit_and_clear_allow_for_the_same_difference_of_clocks() {
        let allowed = |source: &str| {
            let line = source
                .lines()
                .find(|line| line.starts_with("local MARK_SKEW_MICROSECONDS = "));
            let value = line.and_then(|line| line.split(" -- ").next());
            value.expect("both scripts have the constant").to_owned()
        };
        assert_eq!(
            allowed(include_str!("scripts/commit.lua")),
            allowed(include_str!("scripts/clear.lua"))
        );
    }
}
