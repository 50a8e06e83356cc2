//! The Lua scripts of turns' records. Each is one round trip, runs atomically, and uses only commands of Redis 6.0.

use std::sync::LazyLock;

use crate::store::Script;

macro_rules! script {
    ($broken:literal, $($file:literal),*) => {
        LazyLock::new(|| {
            let source = concat!(
                include_str!("../record/marks.lua"),
                include_str!("../record/record.lua"),
                $(include_str!($file)),*
            );
            Script::breakable(source, $broken)
        })
    };
}

/// Opens the record of a turn, unless another turn has its key or a limit is used up.
pub(super) static CLAIM: LazyLock<Script> = script!(
    "BROKEN_CLAIM_SCRIPT",
    "../limits/limits.lua",
    "scripts/claim.lua"
);
/// Records text, renews the lease, and returns whether the turn shall stop.
pub(super) static JOURNAL: LazyLock<Script> =
    script!("BROKEN_JOURNAL_SCRIPT", "scripts/journal.lua");
/// Closes the record of a turn that is not stored.
pub(super) static CLOSE: LazyLock<Script> = script!("BROKEN_CLOSE_SCRIPT", "scripts/close.lua");
/// Undoes the claim of a turn that did not begin.
pub(super) static RELEASE: LazyLock<Script> =
    script!("BROKEN_RELEASE_SCRIPT", "scripts/release.lua");
/// Asks a turn to stop.
pub(super) static STOP: LazyLock<Script> = script!("BROKEN_STOP_SCRIPT", "scripts/stop.lua");
