//! The Lua scripts of short-term memory. Each is one round trip and runs atomically.
//!
//! They use only commands of Redis 6.0. They are sent by digest; if the server does not know the digest, for example
//! after a restart, the source is sent.

use std::sync::LazyLock;

use crate::store::Script;

/// Time to live of the mark of a clear, in seconds. The commit script rejects turns that began more than an hour ago;
/// the mark lives longer than that, and an hour is longer than the longest turn (15 minutes on Lambda).
pub(super) const CLEARED_TTL_SECONDS: u64 = 3_660;

macro_rules! script {
    ($($file:literal),*) => {
        concat!($(include_str!($file)),*)
    };
}

/// Stores a turn: appends the messages, trims the list, updates the session's figures, its expiry and its place among the
/// user's sessions, and closes the turn's record.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    let source = script!(
        "../record/marks.lua",
        "../record/record.lua",
        "scripts/messages.lua",
        "scripts/sessions.lua",
        "scripts/commit.lua"
    );
    Script::breakable(source, "BROKEN_COMMIT_SCRIPT")
});

/// Deletes a session and leaves a mark, once per id.
pub(super) static CLEAR: LazyLock<Script> = LazyLock::new(|| {
    Script::new(script!(
        "../record/marks.lua",
        "scripts/changes.lua",
        "scripts/clear.lua"
    ))
});

/// Removes a message and all after it and leaves a mark, once per id.
pub(super) static REWIND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(script!(
        "../record/marks.lua",
        "scripts/messages.lua",
        "scripts/changes.lua",
        "scripts/rewind.lua"
    ))
});

/// Deletes what is kept of a user and leaves a mark, once per id.
pub(super) static ERASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(script!(
        "../record/marks.lua",
        "../limits/limits.lua",
        "scripts/erase.lua"
    ))
});

/// Reads a session, after setting its state if one is passed, once per id.
pub(super) static SESSION: LazyLock<Script> =
    LazyLock::new(|| Script::new(script!("../record/marks.lua", "scripts/session.lua")));
