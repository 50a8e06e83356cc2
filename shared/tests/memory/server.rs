//! Connecting to the server: URLs, sockets, logins, rights and round trips.

use super::*;

#[tokio::test]
async fn each_operation_is_one_round_trip() {
    let server = Server::start().await;
    let subject = subject(&server);
    // This connects and loads the scripts.
    subject.say("warm").await;
    subject.session().await;
    subject.clear().await;
    let turn = subject.turn("one").await;
    // One connection for all: the end of another would be counted at some later time.
    let connection = server.connection().await;
    let reads = async || -> u64 {
        let mut connection = connection.clone();
        let info: String = redis::cmd("INFO")
            .arg("stats")
            .query_async(&mut connection)
            .await
            .expect("Redis answers");
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.expect("INFO has the line").parse().expect("a number")
    };
    // The server counts every packet it reads, so first measure what the INFO command itself adds.
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
        "~user:*",
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
        "+zadd",
        "+zrem",
        "+zrevrange",
        "+zremrangebyscore",
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
        .set_state(
            &Invocation::detached(),
            &subject.user,
            &subject.character,
            State::Ended,
        )
        .await;
    assert_eq!(
        ended.expect("allowed").expect("a session").state,
        State::Ended
    );
    assert_eq!(subject.load().await.stored, 2);
    subject.clear().await;
    assert_eq!(subject.contents().await, Vec::<String>::new());
}
