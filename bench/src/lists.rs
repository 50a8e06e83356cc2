//! What a client reads besides turns, compared with the bare commands: a page of history, and the list of sessions.

use std::time::Instant;

use shared::ids::CharacterId;
use shared::memory::Commit;
use shared::telemetry::Invocation;
use testkit::redis::Server;

use super::Effort;
use super::memory::{Subject, turn};
use super::report::{Report, Series, heading};

const GROUP: &str = "lists";
const MESSAGES: usize = 50;
const SESSIONS: usize = 20;

/// Measures a page of 50 messages and a list of 20 sessions.
pub(crate) async fn lists(report: &mut Report, effort: Effort) {
    let server = Server::start().await;
    let mut subject = Subject::new(&server.url()).await;
    let invocation = Invocation::detached();
    for session in 0..SESSIONS {
        let character = CharacterId::parse(&format!("c{session}")).expect("valid");
        for _ in 0..MESSAGES / 2 {
            store(&subject, &character).await;
        }
    }
    heading("What a client reads, against the bare commands");

    let (mut page, mut lrange) = (Series::default(), Series::default());
    let (mut list, mut commands) = (Series::default(), Series::default());
    let character = CharacterId::parse("c0").expect("valid");
    for _ in 0..effort.turns {
        let asked = Instant::now();
        let elements: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(&["chat:measured:c0:messages", "0", "49"])
            .query_async(&mut subject.bare)
            .await
            .expect("answers");
        lrange.push_time(asked.elapsed());
        assert_eq!(elements.len(), MESSAGES);

        let asked = Instant::now();
        let read = subject
            .memory
            .messages(&invocation, &subject.user, &character, MESSAGES, None)
            .await
            .expect("Redis is up")
            .expect("it exists");
        page.push_time(asked.elapsed());
        assert_eq!(read.messages.len(), MESSAGES);

        let asked = Instant::now();
        bare_list(&mut subject).await;
        commands.push_time(asked.elapsed());

        let asked = Instant::now();
        let read = subject
            .memory
            .sessions(&invocation, &subject.user, SESSIONS, None)
            .await
            .expect("Redis is up");
        list.push_time(asked.elapsed());
        assert_eq!(read.sessions.len(), SESSIONS);
    }
    for (what, ours, bare_name, bare) in [
        ("history of 50 messages", page, "a bare LRANGE", lrange),
        ("list of 20 sessions", list, "the bare commands", commands),
    ] {
        report.measured(GROUP, what, "µs", &ours);
        report.measured(GROUP, &format!("{what}: {bare_name}"), "µs", &bare);
        let ratio = ours.median() / bare.median();
        report.single(GROUP, &format!("{what} / {bare_name}"), "x", ratio);
    }
}

async fn store(subject: &Subject, character: &CharacterId) {
    let invocation = Invocation::detached();
    let history = subject
        .memory
        .load(&invocation, &subject.user, character, 0)
        .await
        .expect("Redis is up");
    let commit = subject
        .memory
        .commit_turn(&invocation, &subject.user, character, &turn(&history))
        .await;
    assert_eq!(commit.expect("Redis is up"), Commit::Saved);
}

/// What any client of this layout has to ask for a list with last messages: the ids, then each session.
async fn bare_list(subject: &mut Subject) {
    let ids: Vec<(String, f64)> = redis::cmd("ZREVRANGE")
        .arg(&["user:measured:sessions", "0", "19", "WITHSCORES"])
        .query_async(&mut subject.bare)
        .await
        .expect("answers");
    assert_eq!(ids.len(), SESSIONS);
    let mut commands = redis::pipe();
    for (id, _) in ids {
        let (messages, meta) = (
            format!("chat:measured:{id}:messages"),
            format!("chat:measured:{id}:meta"),
        );
        let fields = [
            "state",
            "last_active_at",
            "message_count",
            "session_start",
            "total_tokens",
        ];
        commands.cmd("HMGET").arg(&meta).arg(&fields);
        commands.cmd("TTL").arg(&meta);
        commands.cmd("LLEN").arg(&messages);
        commands.cmd("LINDEX").arg(&messages).arg(0);
    }
    let _: redis::Value = commands
        .query_async(&mut subject.bare)
        .await
        .expect("answers");
}
