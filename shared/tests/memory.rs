//! Memory against a real Redis.
#![expect(clippy::expect_used, reason = "a test")]

mod subject;

use std::time::{Duration, SystemTime};

use shared::memory::{Began, Commit};
use shared::message::{Message, Role};
use shared::session::State;
use testkit::redis::Server;

use self::subject::{Subject, memory};

const MESSAGES: &str = "chat:alice:luna:messages";
const META: &str = "chat:alice:luna:meta";
const CLEARED: &str = "chat:alice:luna:cleared";

fn subject(server: &Server) -> Subject {
    Subject::new(&[("REDIS_URL", &server.url())])
}

fn keeping(server: &Server, max_messages: &str) -> Subject {
    Subject::new(&[
        ("REDIS_URL", &server.url()),
        ("MEMORY_MAX_MESSAGES", max_messages),
    ])
}

#[tokio::test]
async fn a_turn_reads_back_in_order() {
    let server = Server::start().await;
    let subject = subject(&server);
    assert_eq!(subject.contents().await, Vec::<String>::new());
    assert_eq!(subject.say("one").await, Commit::Saved);
    assert_eq!(subject.say("two").await, Commit::Saved);
    assert_eq!(
        subject.contents().await,
        ["one", "re: one", "two", "re: two"]
    );
    // The newest is at the head of the list.
    let head: String = server.command(&["LINDEX", MESSAGES, "0"]).await;
    assert!(head.contains("re: two"), "{head}");
    assert_eq!(
        subject
            .memory
            .stored_messages(&subject.user, &subject.character)
            .await
            .expect("up"),
        4
    );
}

#[tokio::test]
async fn only_the_newest_messages_are_read() {
    let server = Server::start().await;
    let subject = subject(&server);
    for n in 0..3 {
        subject.say(&n.to_string()).await;
    }
    let history = subject
        .memory
        .load(&subject.user, &subject.character, 2)
        .await
        .expect("up");
    let contents: Vec<_> = history
        .messages
        .iter()
        .map(|message| message.content.as_str())
        .collect();
    assert_eq!(contents, ["2", "re: 2"]);
}

#[tokio::test]
async fn a_commit_that_is_repeated_stores_and_counts_once() {
    let server = Server::start().await;
    let subject = subject(&server);
    let turn = subject.turn("one").await;
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    // Others come in between, so the repetition does not meet its own turn at the head.
    for n in 0..60 {
        subject.say(&n.to_string()).await;
    }
    assert_eq!(subject.commit(&turn).await, Commit::Duplicate);
    let session = subject.session().await.expect("a session");
    assert_eq!((session.message_count, session.total_tokens), (122, 61 * 5));
    assert_eq!(session.stored_messages, 100);
}

#[tokio::test]
async fn a_clear_wins_over_turns_that_began_before_it() {
    let server = Server::start().await;
    let subject = subject(&server);
    subject.say("old").await;
    let before = subject.turn("began before").await;
    subject.clear().await;
    assert_eq!(subject.commit(&before).await, Commit::Fenced);
    assert_eq!(
        server.command::<Vec<String>>(&["KEYS", "*"]).await,
        [CLEARED]
    );
    assert_eq!(subject.session().await, None);
    assert_eq!(subject.say("after").await, Commit::Saved);
    assert_eq!(subject.contents().await, ["after", "re: after"]);
    // The mark outlives the longest turn.
    let ttl: i64 = server.command(&["TTL", CLEARED]).await;
    assert!(ttl > 900, "{ttl}");
}

#[tokio::test]
async fn a_clear_wins_over_a_turn_whose_beginning_redis_did_not_see() {
    let server = Server::start().await;
    let subject = subject(&server);
    let mut turn = subject.turn("began in an outage").await;
    turn.began = Began::by_local_clock(SystemTime::now());
    subject.clear().await;
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);
}

#[tokio::test]
async fn a_turn_older_than_the_mark_of_a_clear_can_be_is_not_stored() {
    let server = Server::start().await;
    let subject = subject(&server);
    let mut turn = subject.turn("from long ago").await;
    turn.began = Began::by_local_clock(SystemTime::now() - Duration::from_secs(3_700));
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);
}

#[tokio::test]
async fn the_list_is_trimmed_to_whole_turns() {
    let server = Server::start().await;
    let subject = keeping(&server, "5");
    for n in 0..4 {
        subject.say(&n.to_string()).await;
        let contents = subject.contents().await;
        assert!(contents.len() <= 5);
        assert!(
            contents
                .first()
                .is_some_and(|first| !first.starts_with("re:")),
            "{contents:?}"
        );
    }
    assert_eq!(subject.contents().await, ["2", "re: 2", "3", "re: 3"]);
    assert_eq!(subject.session().await.expect("a session").message_count, 8);
}

#[tokio::test]
async fn trimming_knows_messages_that_others_spell_in_another_way() {
    for (oldest, stays) in [
        (r#"{"role": "user", "content": "x"}"#, true),
        (r#"{"msg_id":"a\"b","role":"user","content":"x"}"#, true),
        (
            r#"{"content":"\"role\":\"user\"","role":"assistant"}"#,
            false,
        ),
        (r#"{"metadata":{"role":"user"},"role":"assistant"}"#, false),
        ("not a message", false),
        ("[]", false),
    ] {
        let server = Server::start().await;
        let subject = keeping(&server, "3");
        server
            .command::<i64>(&["LPUSH", MESSAGES, "dropped", oldest])
            .await;
        assert_eq!(subject.say("one").await, Commit::Saved);
        let stored: i64 = server.command(&["LLEN", MESSAGES]).await;
        assert_eq!(stored, if stays { 3 } else { 2 }, "{oldest}");
    }
}

#[tokio::test]
async fn trimming_never_takes_what_was_just_stored() {
    let server = Server::start().await;
    let subject = keeping(&server, "2");
    for n in 0..2 {
        server
            .command::<i64>(&["LPUSH", MESSAGES, &format!("not a message {n}")])
            .await;
    }
    assert_eq!(subject.say("one").await, Commit::Saved);
    assert_eq!(subject.contents().await, ["one", "re: one"]);
}

#[tokio::test]
async fn elements_that_cannot_be_read_are_counted_and_not_fatal() {
    let server = Server::start().await;
    let subject = subject(&server);
    subject.say("one").await;
    for element in ["", "{", "[]", "{\"role\":\"user\"}", "\u{0}\u{1}"] {
        server.command::<i64>(&["LPUSH", MESSAGES, element]).await;
    }
    let history = subject.load().await;
    assert_eq!((history.messages.len(), history.skipped), (2, 5));
}

#[tokio::test]
async fn a_session_keeps_its_figures_and_its_expiry() {
    let server = Server::start().await;
    let subject = subject(&server);
    assert_eq!(subject.session().await, None);
    subject.say("one").await;
    let first = subject.session().await.expect("a session");
    assert_eq!(first.state, State::Active);
    assert_eq!(
        (
            first.message_count,
            first.stored_messages,
            first.total_tokens
        ),
        (2, 2, 5)
    );
    assert_eq!(first.session_start, first.last_active_at);
    assert!(
        first
            .expires_in
            .is_some_and(|seconds| (86_390..=86_400).contains(&seconds))
    );

    // Both keys expire together, a day after the last turn.
    server.command::<i64>(&["EXPIRE", MESSAGES, "100"]).await;
    server.command::<i64>(&["EXPIRE", META, "100"]).await;
    server
        .command::<i64>(&["HSET", META, "session_start", "7"])
        .await;
    subject.say("two").await;
    let ttls: (i64, i64) = (
        server.command(&["TTL", MESSAGES]).await,
        server.command(&["TTL", META]).await,
    );
    assert!(ttls.0 > 86_390 && ttls.1 > 86_390, "{ttls:?}");
    assert_eq!(
        subject.session().await.expect("a session").session_start,
        Some(7)
    );
}

#[tokio::test]
async fn setting_a_state_creates_nothing_and_prolongs_nothing() {
    let server = Server::start().await;
    let subject = subject(&server);
    let set = async |state| {
        subject
            .memory
            .set_state(&subject.user, &subject.character, state)
            .await
            .expect("up")
    };
    assert_eq!(set(State::Ended).await, None);
    assert_eq!(
        server.command::<Vec<String>>(&["KEYS", "*"]).await,
        Vec::<String>::new()
    );

    subject.say("one").await;
    server.command::<i64>(&["EXPIRE", META, "100"]).await;
    let session = set(State::Ended).await.expect("a session");
    assert_eq!(session.state, State::Ended);
    assert!(session.expires_in.is_some_and(|seconds| seconds <= 100));
    subject.say("two").await;
    assert_eq!(
        subject.session().await.expect("a session").state,
        State::Active
    );
}

#[tokio::test]
async fn one_message_can_be_appended() {
    let server = Server::start().await;
    let subject = subject(&server);
    let greeting = Message::new(Role::Assistant, "hello".into(), 1, 1);
    let appended = subject
        .memory
        .append(&subject.user, &subject.character, &greeting)
        .await
        .expect("up");
    assert_eq!(appended, Commit::Saved);
    assert_eq!(subject.contents().await, ["hello"]);
    assert_eq!(subject.session().await.expect("a session").message_count, 1);
}

#[tokio::test]
async fn a_refused_commit_leaves_nothing_behind() {
    let server = Server::start().await;
    let subject = subject(&server);

    // A key of the wrong type, each of the three in turn.
    for (key, others) in [
        (MESSAGES, [META, CLEARED]),
        (META, [MESSAGES, CLEARED]),
        (CLEARED, [MESSAGES, META]),
    ] {
        server.command::<String>(&["FLUSHALL"]).await;
        let turn = subject.turn("one").await;
        server.command::<i64>(&["ZADD", key, "1", "x"]).await;
        let refused = subject
            .memory
            .commit_turn(&subject.user, &subject.character, &turn)
            .await;
        assert!(refused.is_err(), "{key}");
        for other in others {
            assert_eq!(
                server.command::<i64>(&["EXISTS", other]).await,
                0,
                "{key} was wrong, {other} was written"
            );
        }
    }

    // A server that is full.
    server.command::<String>(&["FLUSHALL"]).await;
    let turn = subject.turn("one").await;
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    assert!(
        subject
            .memory
            .commit_turn(&subject.user, &subject.character, &turn)
            .await
            .is_err()
    );
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "0"])
        .await;
    assert_eq!(
        server.command::<Vec<String>>(&["KEYS", "*"]).await,
        Vec::<String>::new()
    );
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
}

#[tokio::test]
async fn a_full_server_can_still_be_cleared() {
    let server = Server::start().await;
    let subject = subject(&server);
    subject.say("one").await;
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    subject.clear().await;
    assert_eq!(subject.contents().await, Vec::<String>::new());
}

#[tokio::test]
async fn figures_that_make_no_sense_are_begun_anew() {
    let server = Server::start().await;
    let subject = subject(&server);
    server
        .command::<i64>(&[
            "HSET",
            META,
            "message_count",
            "many",
            "total_tokens",
            "",
            "recent_turns",
            "damaged",
            "state",
            "?",
        ])
        .await;
    assert_eq!(subject.say("one").await, Commit::Saved);
    let session = subject.session().await.expect("a session");
    assert_eq!(
        (session.message_count, session.total_tokens, session.state),
        (2, 5, State::Active)
    );
}

#[tokio::test]
async fn what_the_python_service_stored_is_read_and_continued() {
    let server = Server::start().await;
    let subject = subject(&server);
    // Its commands, in its order: one LPUSH a message, then the figures, and no session_start.
    for message in [
        r#"{"msg_id":"0d0d7e5e-9d5f-4d25-8f5e-6f4f1b4e7a10","role":"user","content":"你好","timestamp":1732430000,"token_count":2,"metadata":null}"#,
        r#"{"msg_id":"4a4c1e0b-6c3e-4d3c-9d0a-0b9a4a1f2c33","role":"assistant","content":"你好呀！","timestamp":1732430002,"token_count":5,"metadata":null}"#,
    ] {
        server.command::<i64>(&["LPUSH", MESSAGES, message]).await;
    }
    server
        .command::<i64>(&[
            "HSET",
            META,
            "state",
            "ACTIVE",
            "last_active_at",
            "1732430002",
        ])
        .await;
    server
        .command::<i64>(&["HINCRBY", META, "message_count", "2"])
        .await;
    server
        .command::<i64>(&["HINCRBY", META, "total_tokens", "7"])
        .await;

    assert_eq!(subject.contents().await, ["你好", "你好呀！"]);
    let session = subject.session().await.expect("a session");
    assert_eq!((session.session_start, session.expires_in), (None, None));
    subject.say("three").await;
    assert_eq!(
        subject.contents().await,
        ["你好", "你好呀！", "three", "re: three"]
    );
    let session = subject.session().await.expect("a session");
    assert_eq!((session.message_count, session.total_tokens), (4, 12));
    assert!(session.session_start.is_some() && session.expires_in.is_some());
}

#[tokio::test]
async fn each_operation_is_one_round_trip() {
    let server = Server::start().await;
    let subject = subject(&server);
    // The scripts and the connection are there after this.
    subject.say("warm").await;
    subject.session().await;
    subject.clear().await;
    let turn = subject.turn("one").await;
    let reads = async || -> u64 {
        let info: String = server.command(&["INFO", "stats"]).await;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.expect("a figure").parse().expect("a number")
    };
    // Every packet that the server reads counts: this is what asking itself costs.
    let (before, after) = (reads().await, reads().await);
    let asking = after - before;
    let before = reads().await;
    subject.commit(&turn).await;
    subject.load().await;
    subject.session().await;
    subject.clear().await;
    assert_eq!(reads().await - before - asking, 4);
}

#[tokio::test]
async fn a_socket_a_database_and_a_login_by_url_or_by_settings() {
    let server = Server::start_with(&["--requirepass", "of-a-test"]).await;
    let with_password = format!("redis://:of-a-test@127.0.0.1:{}/3", server.port());
    let without_password = format!("redis://127.0.0.1:{}/3", server.port());
    let wrong_password = format!("redis://:wrong@127.0.0.1:{}/3", server.port());
    let socket = server.unix_url().replace("db=0", "db=3");
    let ways: [&[(&str, &str)]; 4] = [
        &[("REDIS_URL", &with_password)],
        &[
            ("REDIS_URL", &without_password),
            ("REDIS_PASSWORD", "of-a-test"),
        ],
        &[
            ("REDIS_URL", &wrong_password),
            ("REDIS_USERNAME", "default"),
            ("REDIS_PASSWORD", "of-a-test"),
        ],
        &[("REDIS_URL", &socket), ("REDIS_PASSWORD", "of-a-test")],
    ];
    for (number, settings) in ways.into_iter().enumerate() {
        let subject = Subject::new(settings);
        assert_eq!(subject.load().await.messages.len(), 2 * number);
        subject.say("hello").await;
    }
    let wrong = memory(&[("REDIS_URL", &wrong_password)]);
    assert!(Subject::of("alice", wrong).try_load().await.is_err());
}

#[tokio::test]
async fn a_user_of_its_own_with_no_more_rights_than_needed() {
    let server = Server::start().await;
    let rights = [
        "ACL",
        "SETUSER",
        "companion",
        "on",
        ">of-a-test",
        "~chat:*",
        "~character:*",
        "-@all",
        "+eval",
        "+evalsha",
        "+time",
        "+type",
        "+get",
        "+set",
        "+del",
        "+exists",
        "+expire",
        "+ttl",
        "+llen",
        "+lrange",
        "+lindex",
        "+lpush",
        "+ltrim",
        "+rpop",
        "+hmget",
        "+hset",
        "+wait",
    ];
    server.command::<String>(&rights).await;
    server
        .command::<String>(&["ACL", "SETUSER", "default", "off"])
        .await;
    let url = format!("redis://127.0.0.1:{}/0", server.port());
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("REDIS_USERNAME", "companion"),
        ("REDIS_PASSWORD", "of-a-test"),
    ];
    let subject = Subject::new(&settings);
    assert_eq!(subject.say("hello").await, Commit::Saved);
    assert_eq!(subject.session().await.expect("a session").message_count, 2);
    let ended = subject
        .memory
        .set_state(&subject.user, &subject.character, State::Ended)
        .await;
    assert_eq!(
        ended.expect("allowed").expect("a session").state,
        State::Ended
    );
    assert_eq!(
        subject
            .memory
            .stored_messages(&subject.user, &subject.character)
            .await
            .expect("allowed"),
        2
    );
    subject.clear().await;
    assert_eq!(subject.contents().await, Vec::<String>::new());
}
