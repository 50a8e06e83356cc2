//! The stored form: trimmed to whole turns, written all or nothing, and compatible with other writers.

use super::*;

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
async fn a_session_of_the_python_service_is_read_and_continued() {
    let server = Server::start().await;
    let subject = subject(&server);
    // The commands of the Python service, in its order: one LPUSH per message, then the counters, and no session_start.
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
async fn a_refused_commit_leaves_nothing_behind() {
    let server = Server::start().await;
    let subject = subject(&server);

    // A key of the wrong type: each of the three keys in turn.
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
            .commit_turn(
                &Invocation::detached(),
                &subject.user,
                &subject.character,
                &turn,
            )
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

    // A server that is out of memory.
    server.command::<String>(&["FLUSHALL"]).await;
    let turn = subject.turn("one").await;
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    assert!(
        subject
            .memory
            .commit_turn(
                &Invocation::detached(),
                &subject.user,
                &subject.character,
                &turn
            )
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
