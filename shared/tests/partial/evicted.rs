//! Redis evicts the keys of a session one by one. What is left of it never passes for the whole.

use shared::memory::Commit;
use testkit::redis::Server;

use crate::subject::{Subject, memory};

const MESSAGES: &str = "chat:alice:luna:messages";
const META: &str = "chat:alice:luna:meta";
const CLEARED: &str = "chat:alice:luna:cleared";

#[tokio::test]
async fn figures_without_messages_are_begun_anew() {
    let server = Server::start().await;
    let subject = Subject::new(&[("REDIS_URL", &server.url())]);
    subject.say("one").await;
    let turn = subject.turn("two").await;
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    server.command::<i64>(&["DEL", MESSAGES]).await;
    // Also a repeated commit finds that its turn is gone.
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    assert_eq!(subject.contents().await, ["two", "re: two"]);
    let session = subject.session().await.expect("a session");
    assert_eq!((session.message_count, session.total_tokens), (2, 5));
}

#[tokio::test]
async fn messages_without_figures_are_counted_and_not_stored_twice() {
    let server = Server::start().await;
    let subject = Subject::new(&[("REDIS_URL", &server.url())]);
    subject.say("one").await;
    let turn = subject.turn("two").await;
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    server.command::<i64>(&["DEL", META]).await;
    assert_eq!(subject.commit(&turn).await, Commit::Duplicate);
    assert_eq!(subject.say("three").await, Commit::Saved);
    let session = subject.session().await.expect("a session");
    assert_eq!((session.message_count, session.stored_messages), (6, 6));
}

#[tokio::test]
async fn a_session_remembers_the_clear_whose_mark_is_gone() {
    let server = Server::start().await;
    let subject = Subject::new(&[("REDIS_URL", &server.url())]);
    let before = subject.turn("began before").await;
    subject.clear().await;
    let after = subject.turn("began after").await;
    subject.say("stored").await;
    server.command::<i64>(&["DEL", CLEARED]).await;
    assert_eq!(subject.commit(&before).await, Commit::Fenced);
    assert_eq!(subject.commit(&after).await, Commit::Saved);
    assert_eq!(subject.say("later").await, Commit::Saved);
}

#[tokio::test]
async fn under_load_with_little_memory_no_session_counts_what_it_does_not_have() {
    const USERS: usize = 60;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../redis.conf");
    let server = Server::start_with(&["--include", file, "--appendonly", "no"]).await;
    let memory = memory(&[("REDIS_URL", &server.url())]);
    // Connections and scripts take memory too.
    Subject::of("first", memory.clone()).say("hello").await;
    let info: String = server.command(&["INFO", "memory"]).await;
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .expect("INFO has the line");
    let used: u64 = used.parse().expect("a number");
    // Room for some of the sessions.
    let limit = (used + 300_000).to_string();
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", &limit])
        .await;
    let users: Vec<_> = (0..USERS)
        .map(|number| Subject::of(&format!("user{number}"), memory.clone()))
        .collect();
    let (mut partly, mut refused) = (0, 0);
    for round in 0..6 {
        for user in &users {
            let mut turn = user.turn("hello").await;
            turn.assistant.content = "x".repeat(1_500);
            match user.try_commit(&turn).await {
                Ok(committed) => assert_eq!(committed, Commit::Saved),
                // Redis has not evicted enough in time. Nothing is stored, and the client is told so.
                Err(error) => {
                    assert_eq!(error.reason(), "out_of_memory");
                    refused += 1;
                    continue;
                }
            }
            // A commit that is repeated at once finds itself, whatever was evicted.
            if round % 2 == 0 {
                let _ = user.try_commit(&turn).await;
            }
            let session = user.session().await;
            let stored = user.load().await.stored;
            match session {
                Some(session) if stored > 0 => {
                    let stored = i64::try_from(stored).expect("few");
                    assert_eq!(session.message_count, stored, "round {round}");
                }
                // Between the commit and the reads, Redis may have evicted one of them.
                Some(_) | None => partly += 1,
            }
        }
    }
    let stats: String = server.command(&["INFO", "stats"]).await;
    let evicted: u64 = stats
        .lines()
        .find_map(|line| line.strip_prefix("evicted_keys:"))
        .and_then(|number| number.parse().ok())
        .expect("INFO has the line");
    println!(
        "{evicted} keys were evicted; {partly} sessions were incomplete when read; {refused} commits were refused"
    );
    assert!(refused < USERS, "hardly a turn was stored");
    assert!(evicted > 50, "the limit is too high to show anything");
}
