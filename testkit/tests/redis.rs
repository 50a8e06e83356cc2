//! A server starts, ends, restarts, pauses and resumes.

use redis::{Client, ErrorKind};
use testkit::redis::Server;

#[tokio::test]
async fn it_answers_by_its_port_and_by_its_socket() {
    let server = Server::start().await;
    let _: () = server.command(&["RPUSH", "list", "a", "b"]).await;
    for url in [server.url(), server.unix_url()] {
        let client = Client::open(url).expect("a URL");
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .expect("it answers");
        let found: Vec<String> = redis::cmd("LRANGE")
            .arg(&["list", "0", "-1"])
            .query_async(&mut connection)
            .await
            .expect("the list");
        assert_eq!(found, ["a", "b"]);
    }
    assert!(server.url().contains(&server.port().to_string()));
}

#[tokio::test]
async fn killed_it_refuses_and_restarted_it_is_back_and_empty() {
    let mut server = Server::start().await;
    let (port, socket) = (server.port(), server.unix_url());
    let _: () = server.command(&["SET", "key", "1"]).await;

    server.kill().await;
    let refused = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    assert_eq!(
        refused.expect_err("refused").kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    // Its process's number is nobody's now, and is left alone.
    server.pause();
    server.resume();

    server.restart().await;
    assert_eq!((server.port(), server.unix_url()), (port, socket));
    assert_eq!(
        server.command::<Option<String>>(&["GET", "key"]).await,
        None
    );
}

#[tokio::test]
async fn paused_it_is_silent_and_resumed_it_answers() {
    let server = Server::start().await;
    assert!(server.answers());
    server.pause();
    assert!(!server.answers());
    server.resume();
    assert!(server.answers());
}

#[tokio::test]
async fn it_takes_further_arguments() {
    let server = Server::start_with(&["--requirepass", "x"]).await;
    let ping = async |url: String| {
        let client = Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await
    };
    let refused = ping(server.url()).await.expect_err("a password is needed");
    assert_eq!(refused.code(), Some("NOAUTH"));
    let wrong = server.url().replacen("//", "//:y@", 1);
    let wrong = ping(wrong).await.expect_err("another password is needed");
    assert_eq!(wrong.kind(), ErrorKind::AuthenticationFailed);
    let right = server.url().replacen("//", "//:x@", 1);
    assert_eq!(ping(right).await.expect("it answers"), "PONG");
}

#[tokio::test]
async fn nothing_of_it_is_left_when_it_is_dropped() {
    let server = Server::start().await;
    let (port, url) = (server.port(), server.unix_url());
    let socket = url
        .trim_start_matches("redis+unix://")
        .trim_end_matches("?db=0");
    assert!(std::path::Path::new(socket).exists());
    drop(server);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!std::path::Path::new(socket).exists());
}
