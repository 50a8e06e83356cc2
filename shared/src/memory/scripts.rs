//! The scripts that run in Redis. Each is one round trip and all or nothing.
//!
//! They use commands that Redis 6.0 has. They are sent by digest, and whole when the server does
//! not know them, after a restart for example.

use std::sync::LazyLock;

use crate::store::Script;

/// How long the mark of a clear lives, in seconds. The commit script keeps turns out that began longer ago than this,
/// so it is longer than the longest turn (15 minutes on Lambda).
pub(super) const CLEARED_TTL_SECONDS: u64 = 3_660;

/// Reads the newest messages.
pub(super) static LOAD: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/load.lua")));

/// Appends, trims, expires and counts.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(commit_source()));

/// Forgets a session.
pub(super) static CLEAR: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/clear.lua")));

/// Reads a session and can set its state.
pub(super) static SESSION: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/session.lua")));

/// With `test-hooks` a test can replace the script by a broken one, to show that the tests notice it.
fn commit_source() -> &'static str {
    #[cfg(feature = "test-hooks")]
    if let Some(path) = std::env::var_os("BROKEN_COMMIT_SCRIPT")
        && let Ok(source) = std::fs::read_to_string(path)
    {
        return source.leak();
    }
    include_str!("scripts/commit.lua")
}
