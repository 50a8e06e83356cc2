//! Proofs that the checker sees what it must: scripts that are broken on purpose are found out, each by the rule that
//! is about it.

use super::{Run, run};

/// What the scripts share, in front of each.
const SHARED: &str = concat!(
    include_str!("../../../shared/src/record/marks.lua"),
    include_str!("../../../shared/src/record/record.lua"),
    include_str!("../../../shared/src/limits/limits.lua"),
    include_str!("../../../shared/src/memory/scripts/messages.lua"),
    include_str!("../../../shared/src/memory/scripts/sessions.lua"),
);
const COMMIT: &str = include_str!("../../../shared/src/memory/scripts/commit.lua");
const CLAIM: &str = include_str!("../../../shared/src/turns/scripts/claim.lua");
const JOURNAL: &str = include_str!("../../../shared/src/turns/scripts/journal.lua");

/// Without the line that fences turns behind a clear, and without the one that stores both messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_broken_on_purpose_is_found_out() {
    let commit = ("BROKEN_COMMIT_SCRIPT", COMMIT);
    let fence = ("if is_cleared or", "if");
    is_found(commit, fence, true, "began before a clear").await;
    let both = ("unpack(ARGV, FIRST))", "ARGV[FIRST])");
    is_found(commit, both, true, "a turn is not whole").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_ignores_the_key_is_found_out() {
    let claim = ("BROKEN_CLAIM_SCRIPT", CLAIM);
    let keys = ("if key then\n  local other", "if false then\n  local other");
    is_found(claim, keys, false, "two turns for one key").await;
}

/// It writes one byte less than there is, and one byte too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_writes_something_else_is_found_out() {
    let journal = ("BROKEN_JOURNAL_SCRIPT", JOURNAL);
    let write = "'SETRANGE', text, offset, ARGV[6])";
    let shorter = "'SETRANGE', text, offset, string.sub(ARGV[6], 1, -2))";
    is_found(
        journal,
        (write, shorter),
        false,
        "the text of one turn differs",
    )
    .await;
    let earlier = "'SETRANGE', text, math.max(offset - 1, 0), ARGV[6])";
    is_found(
        journal,
        (write, earlier),
        false,
        "the text of one turn differs",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_nobody_hears_is_found_out() {
    let journal = ("BROKEN_JOURNAL_SCRIPT", JOURNAL);
    let answer = ("return found[2] and 'stop' or 'go'", "return 'go'");
    is_found(journal, answer, false, "after the stop").await;
}

/// Otherwise the findings above would prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_where_nothing_is_broken() {
    let verdict = run(&Run::short(false)).await;
    assert!(
        verdict.violations.is_empty(),
        "{}",
        verdict.violations.join("\n")
    );
}

/// Replaces a part of a script, lets clients talk for a while, and expects this violation.
async fn is_found(
    (variable, script): (&'static str, &str),
    (line, by): (&str, &str),
    has_faults: bool,
    violation: &str,
) {
    let source = format!("{SHARED}{script}");
    let broken = source.replace(line, by);
    assert_ne!(
        broken, source,
        "the script has changed, and the mutation no longer applies"
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), broken).expect("written");
    let path = file.path().to_str().expect("UTF-8").to_owned();
    let verdict = run(&Run {
        broken: Some((variable, &path)),
        ..Run::short(has_faults)
    })
    .await;
    assert!(
        verdict
            .violations
            .iter()
            .any(|found| found.contains(violation)),
        "not noticed: {violation}:\n{}",
        verdict.violations.join("\n")
    );
}
