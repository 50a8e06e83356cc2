//! The upstream and the publisher of keys follow their scripts, as a plain HTTP client observes them.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use testkit::jwks::JwksServer;
use testkit::upstream::{Gate, Script, Step, Upstream, chunk, delta};
use tokio::net::TcpStream;

const COMPLETIONS: &str = "/v1/chat/completions";

/// A connection of its own. It closes when this and the answers over it are dropped.
struct Client(SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("it listens");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self(sender)
    }

    async fn ask(&mut self, method: Method, path: &str) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "test")
            .header("authorization", "Bearer sk-of-a-test")
            .body(Full::from(
                r#"{"messages":[{"role":"user","content":"在吗"}]}"#,
            ))
            .expect("a request");
        self.0.ready().await.expect("an open connection");
        self.0.send_request(request).await.expect("an answer")
    }
}

async fn ask(upstream: &Upstream) -> Response<Incoming> {
    Client::connect(upstream.port())
        .await
        .ask(Method::POST, COMPLETIONS)
        .await
}

/// The next frame; nothing at the end, an error where the connection ends before the answer.
async fn next(answer: &mut Response<Incoming>) -> Option<Result<Bytes, hyper::Error>> {
    let frame = tokio::time::timeout(Duration::from_secs(20), answer.frame());
    let frame = frame.await.expect("in time")?;
    Some(frame.map(|frame| frame.into_data().expect("data")))
}

/// All frames, and whether the answer ended well.
async fn all(mut answer: Response<Incoming>) -> (Vec<Bytes>, bool) {
    let mut frames = Vec::new();
    loop {
        match next(&mut answer).await {
            Some(Ok(frame)) => frames.push(frame),
            Some(Err(_)) => return (frames, false),
            None => return (frames, true),
        }
    }
}

async fn of(script: Script) -> (Vec<Bytes>, bool) {
    all(ask(&Upstream::start(script).await).await).await
}

fn chunk_of(frame: &Bytes) -> Value {
    serde_json::from_slice(frame.strip_prefix(b"data: ").expect("an event")).expect("JSON")
}

fn content(frame: &Bytes) -> Value {
    chunk_of(frame)["choices"][0]["delta"]["content"].clone()
}

#[tokio::test]
async fn a_reply_is_as_a_good_upstream_sends_it() {
    let upstream = Upstream::start(Script::reply(&["你", "好"])).await;
    let answer = ask(&upstream).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let (frames, whole) = all(answer).await;
    assert!(whole);
    assert_eq!(frames.len(), 6);
    assert_eq!(
        chunk_of(&frames[0])["choices"][0]["delta"]["role"],
        "assistant"
    );
    assert_eq!(
        (content(&frames[1]), content(&frames[2])),
        (json!("你"), json!("好"))
    );
    assert_eq!(frames[1], delta("你"));
    assert_eq!(chunk_of(&frames[3])["choices"][0]["finish_reason"], "stop");
    let usage = chunk_of(&frames[4]);
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["prompt_tokens"], 310);
    assert_eq!(usage["usage"]["completion_tokens"], 2);
    assert_eq!(frames[5], "data: [DONE]\n\n");
}

#[tokio::test]
async fn what_came_and_over_which_connection_is_known() {
    let upstream = Upstream::start(Script::reply(&[])).await;
    let before = Instant::now();
    let mut client = Client::connect(upstream.port()).await;
    all(client.ask(Method::POST, COMPLETIONS).await).await;
    all(client.ask(Method::POST, COMPLETIONS).await).await;
    all(ask(&upstream).await).await;
    upstream.wait_for_requests(3).await;
    let requests = upstream.requests();
    let connections: Vec<_> = requests.iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    let first = &requests[0];
    assert_eq!(
        (&first.method, first.path.as_str()),
        (&Method::POST, COMPLETIONS)
    );
    assert_eq!(first.headers["authorization"], "Bearer sk-of-a-test");
    assert_eq!(first.messages(), [("user".to_owned(), "在吗".to_owned())]);
    assert!(first.at >= before && requests[1].at >= first.at);
    assert_eq!(
        upstream.base_url(),
        format!("http://127.0.0.1:{}/v1", upstream.port())
    );
}

#[tokio::test]
async fn other_paths_are_not_there_and_do_not_count() {
    let upstream = Upstream::start(Script::reply(&[])).await;
    let mut client = Client::connect(upstream.port()).await;
    assert_eq!(client.ask(Method::POST, "/v1/models").await.status(), 404);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn each_request_has_its_script_and_the_last_one_stays() {
    let scripts = vec![
        Script::status(429, r#"{"error":{}}"#).header("retry-after", "1"),
        Script::raw(vec![Step::Bytes("<html>".into())]).header("content-type", "text/html"),
        Script::reply(&["好"]).with_status(202),
    ];
    let upstream = Upstream::start_sequence(scripts).await;
    let first = ask(&upstream).await;
    assert_eq!(first.status(), 429);
    assert_eq!(first.headers()["content-type"], "application/json");
    assert_eq!(first.headers()["retry-after"], "1");
    assert_eq!(all(first).await.0, [r#"{"error":{}}"#]);
    let second = ask(&upstream).await;
    assert_eq!(second.status(), 200);
    assert_eq!(second.headers()["content-type"], "text/html");
    for _ in 0..2 {
        assert_eq!(ask(&upstream).await.status(), 202);
    }
}

#[tokio::test]
async fn a_reply_may_lack_what_replies_have() {
    let reply = Script::reply(&["好"]);
    let (frames, _) = of(reply.clone().without_usage()).await;
    assert_eq!(frames.len(), 4);
    assert!(
        frames
            .iter()
            .take(3)
            .all(|frame| chunk_of(frame)["usage"].is_null())
    );
    let (frames, _) = of(reply.clone().without_done()).await;
    assert_eq!(chunk_of(&frames[3])["usage"]["completion_tokens"], 1);
    assert_eq!(frames.len(), 4);
    let (frames, _) = of(reply.finish_reason("length")).await;
    assert_eq!(
        chunk_of(&frames[2])["choices"][0]["finish_reason"],
        "length"
    );
    assert_eq!(frames.len(), 5);
}

#[tokio::test]
async fn all_that_came_before_a_cut_arrives_and_the_answer_does_not_end() {
    let steps = vec![
        Step::Bytes(delta("在")),
        Step::Bytes(chunk(&json!({ "n": 1 }))),
        Step::Cut,
    ];
    let upstream = Upstream::start(Script::raw(steps)).await;
    // Once could be luck.
    for _ in 0..50 {
        let (frames, whole) = all(ask(&upstream).await).await;
        assert_eq!(frames, [delta("在"), chunk(&json!({ "n": 1 }))]);
        assert!(!whole);
    }
    let (frames, whole) = of(Script::raw(Vec::new()).cut()).await;
    assert_eq!((frames.len(), whole), (0, false));
    let (frames, whole) = of(Script::reply(&["我", "在"]).then_cut()).await;
    assert_eq!((frames.len(), whole), (3, false));
    assert_eq!(content(&frames[2]), "在");
}

#[tokio::test]
async fn bytes_by_themselves_split_characters() {
    let script = Script::reply(&["你好"]);
    let (frames, _) = of(script.clone()).await;
    let (bytes, whole) = of(script.byte_by_byte()).await;
    assert!(whole && bytes.iter().all(|frame| frame.len() == 1));
    assert_eq!(bytes.concat(), frames.concat());
    let split = bytes
        .iter()
        .any(|frame| std::str::from_utf8(frame).is_err());
    assert!(split);
}

#[tokio::test]
async fn a_gate_holds_after_the_first_delta() {
    let gate = Gate::new();
    let script = Script::reply(&["我", "在"]).gated(gate.clone());
    let upstream = Upstream::start(script).await;
    let mut answer = ask(&upstream).await;
    next(&mut answer).await.expect("the role").expect("whole");
    let first = next(&mut answer).await.expect("a delta").expect("whole");
    assert_eq!(content(&first), "我");
    let held = tokio::time::timeout(Duration::from_millis(100), answer.frame()).await;
    assert!(held.is_err(), "the gate is closed");
    assert_eq!(upstream.open_streams(), 1);
    gate.open();
    let (rest, whole) = all(answer).await;
    assert_eq!(
        (content(&rest[0]), rest.len(), whole),
        (json!("在"), 4, true)
    );
    upstream.wait_until_no_streams().await;
}

#[tokio::test]
async fn silence_lasts_until_the_client_leaves() {
    for script in [
        Script::reply(&["在"]).then_silence(),
        Script::raw(vec![Step::Silence]),
    ] {
        let upstream = Upstream::start(script).await;
        let mut client = Client::connect(upstream.port()).await;
        let mut answer = client.ask(Method::POST, COMPLETIONS).await;
        let silent = tokio::time::timeout(Duration::from_millis(100), async {
            while let Some(frame) = answer.frame().await {
                frame.expect("no end");
            }
        });
        assert!(silent.await.is_err(), "neither an end nor an error");
        assert_eq!(upstream.open_streams(), 1);
        drop((client, answer));
        upstream.wait_until_no_streams().await;
        assert_eq!(upstream.open_streams(), 0);
    }
}

#[tokio::test]
async fn a_paced_reply_takes_its_time() {
    let pace = Duration::from_millis(20);
    let upstream = Upstream::start(Script::reply(&["a", "b", "c"]).paced(pace)).await;
    upstream.note_sent();
    all(ask(&upstream).await).await;
    let sent = upstream.sent_at(0);
    assert_eq!(sent.len(), 7);
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= pace));
}

#[tokio::test]
async fn a_very_long_line_is_a_step_like_others() {
    let line = Bytes::from(vec![b'x'; 10 << 20]);
    let (frames, whole) = of(Script::raw(vec![Step::Bytes(line.clone())])).await;
    assert!(whole);
    assert!(frames.concat() == line);
}

#[tokio::test]
async fn it_is_gone_when_it_is_dropped() {
    let upstream = Upstream::start(Script::raw(vec![Step::Silence])).await;
    let port = upstream.port();
    let mut answer = ask(&upstream).await;
    drop(upstream);
    let end = next(&mut answer).await;
    assert!(end.is_some_and(|end| end.is_err()), "it breaks off");
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn keys_are_published_changed_counted_and_refused() {
    let server = JwksServer::start(vec![json!({ "kid": "a" })]).await;
    let url: http::Uri = server.url().parse().expect("a URL");
    let mut client = Client::connect(url.port_u16().expect("a port")).await;
    let mut published = async || {
        let answer = client.ask(Method::GET, url.path()).await;
        let status = answer.status().as_u16();
        let body = all(answer).await.0.concat();
        (
            status,
            serde_json::from_slice::<Value>(&body).expect("JSON"),
        )
    };
    assert_eq!(
        published().await,
        (200, json!({ "keys": [{ "kid": "a" }] }))
    );
    server.set_keys(vec![json!({ "kid": "b" })]);
    assert_eq!(
        published().await,
        (200, json!({ "keys": [{ "kid": "b" }] }))
    );
    server.fail(true);
    assert_eq!(published().await.0, 500);
    server.fail(false);
    assert_eq!(published().await.0, 200);
    assert_eq!(server.fetches(), 4);
}
