//! The stand-in drives a real function on the real runtime. The function is this test program, started again.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "a test")]

use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use lambda_http::{Body, Error, Request, RequestExt, Response, service_fn};
use serde_json::json;
use testkit::events::{Event, Gateway};
use testkit::runtime::{Function, FunctionBuilder};

/// As this program when it is started again: a function, until it is killed. As a test: the runtime cannot start here.
#[test]
fn a_function_needs_the_variables_of_the_platform() {
    let ended = std::panic::catch_unwind(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        if std::env::var_os("BUFFERED").is_some() {
            runtime.block_on(lambda_http::run(service_fn(buffered)))
        } else {
            runtime.block_on(lambda_http::run_with_streaming_response_concurrent(
                service_fn(streamed),
            ))
        }
    });
    assert!(ended.is_err());
}

fn function() -> FunctionBuilder {
    Function::builder_of(std::env::current_exe().expect("this program")).arguments(&[
        "--exact",
        "a_function_needs_the_variables_of_the_platform",
        "--nocapture",
    ])
}

async fn buffered(request: Request) -> Result<Response<Body>, Error> {
    // The type decides whether the body is sent as base64.
    let (content_type, body) = match request.raw_http_path() {
        "/bytes" => (
            "application/octet-stream",
            Body::Binary(vec![0, 159, 146, 150]),
        ),
        "/error" => return Err("the handler failed".into()),
        _ => ("text/plain", Body::Text("你好".into())),
    };
    Ok(Response::builder()
        .status(418)
        .header("content-type", content_type)
        .header("x-of-a-test", "1")
        .body(body)?)
}

type StreamedBody = UnsyncBoxBody<Bytes, Infallible>;

async fn streamed(request: Request) -> Result<Response<StreamedBody>, Error> {
    let start = frame("id: 0\nevent: start\ndata: {\"n\":0}\n\n: a comment\n\n");
    let body = match request.raw_http_path() {
        "/context" => {
            let context = request.lambda_context();
            let seen = json!({
                "id": context.request_id, "trace": context.xray_trace_id, "deadline": context.deadline,
                "path": std::env::var("PATH").is_ok(), "given": std::env::var("GIVEN").ok(),
                "cargo": std::env::var("CARGO_MANIFEST_DIR").ok(),
            });
            Full::new(Bytes::from(seen.to_string())).boxed_unsync()
        }
        "/held" => {
            let held = Held;
            let silence = stream::once(async move {
                let _held = held;
                std::future::pending().await
            });
            StreamBody::new(stream::iter([start]).chain(silence)).boxed_unsync()
        }
        "/exit" => {
            let exit = stream::once(async {
                // Until what came before is on its way.
                tokio::time::sleep(Duration::from_millis(50)).await;
                std::process::exit(3)
            });
            StreamBody::new(stream::iter([start]).chain(exit)).boxed_unsync()
        }
        "/error" => return Err("the handler failed".into()),
        _ => {
            let deltas = ["你", "好"].map(|text| {
                frame(&format!(
                    "id: 1\nevent: message\ndata: {{\"content\":\"{text}\"}}\n\n"
                ))
            });
            StreamBody::new(stream::iter([start]).chain(stream::iter(deltas))).boxed_unsync()
        }
    };
    Ok(Response::builder()
        .header("content-type", "text/event-stream")
        .body(body)?)
}

fn frame(text: &str) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))
}

/// Says when it is dropped.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        println!("the body was dropped");
    }
}

#[tokio::test]
async fn a_streamed_answer_is_seen_frame_by_frame() {
    let function = function().start().await;
    for gateway in [Gateway::Rest, Gateway::Http] {
        let asked = Instant::now();
        let answer = function
            .invoke(&Event::post("/stream").build(gateway))
            .await;
        assert_eq!((answer.status, answer.streamed), (200, true));
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.chunks.len(), 3, "{answer:?}");
        assert_eq!(answer.start(), json!({ "n": 0 }));
        assert_eq!(answer.reply(), "你好");
        assert_eq!(answer.last(), json!({ "content": "好" }));
        assert_eq!((answer.events().len(), answer.comments()), (3, 1));
        assert_eq!((answer.error.clone(), answer.truncated), (None, false));
        let mut times = vec![asked, answer.handed_over];
        times.extend(answer.events().iter().map(|event| event.at));
        times.push(answer.ended);
        assert!(times.is_sorted(), "{times:?}");
        function.wait_idle().await;
    }
    assert!(function.started_to_next() > Duration::ZERO);
}

#[tokio::test]
async fn a_function_is_told_what_the_platform_tells_it_and_nothing_of_this_environment() {
    let function = function()
        .env("GIVEN", "1")
        .trace_id("Root=1-2-3;Sampled=1")
        .deadline(Duration::from_secs(7))
        .start()
        .await;
    let event = Event::get("/context").http();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let (first, second) = (function.invoke(&event).await, function.invoke(&event).await);
    assert_ne!(first.request_id, second.request_id);
    let seen = first.json();
    let deadline = seen["deadline"].as_u64().expect("milliseconds");
    let left = Duration::from_millis(deadline).saturating_sub(now);
    assert!(
        left > Duration::from_millis(6_900) && left < Duration::from_secs(27),
        "{left:?}"
    );
    assert_eq!(
        seen,
        json!({
            "id": first.request_id, "trace": "Root=1-2-3;Sampled=1", "deadline": deadline,
            "path": true, "given": "1", "cargo": null,
        })
    );
}

#[tokio::test]
async fn a_buffered_answer_is_one_chunk() {
    let function = function().env("BUFFERED", "1").start().await;
    let answer = function.invoke(&Event::get("/text").rest()).await;
    assert_eq!((answer.status, answer.streamed), (418, false));
    assert_eq!(answer.header("x-of-a-test"), Some("1"));
    assert_eq!((answer.text().as_str(), answer.chunks.len()), ("你好", 1));

    let answer = function.invoke(&Event::get("/bytes").http()).await;
    assert_eq!(answer.body(), [0, 159, 146, 150]);
}

#[tokio::test]
async fn an_error_of_the_handler_is_no_answer() {
    for builder in [function(), function().env("BUFFERED", "1")] {
        let function = builder.start().await;
        let answer = function.invoke(&Event::get("/error").http()).await;
        let error = answer.error.expect("an error");
        assert_eq!(error["errorMessage"], "the handler failed");
        assert_eq!((answer.status, answer.chunks.len()), (0, 0));
        function.wait_idle().await;
    }
}

#[tokio::test]
async fn a_function_that_ends_in_mid_answer_leaves_it_truncated() {
    let mut function = function().start().await;
    let mut streaming = function
        .invoke_streaming(&Event::post("/exit").http())
        .await;
    assert_eq!(streaming.status(), 200);
    assert_eq!(streaming.headers()["content-type"], "text/event-stream");
    let start = streaming.next_event().await.expect("an event");
    assert_eq!(start.event, "start");
    assert!(streaming.next_event().await.is_none());
    let answer = streaming.finish().await;
    assert!(answer.truncated);
    assert_eq!(answer.start(), json!({ "n": 0 }));
    until(|| !function.is_running()).await;
}

#[tokio::test]
async fn a_connection_that_the_platform_drops_drops_the_body() {
    let function = function().start().await;
    let mut streaming = function
        .invoke_streaming(&Event::post("/held").http())
        .await;
    streaming.next_event().await.expect("an event");
    assert!(!function.output().contains("the body was dropped"));
    streaming.drop_connection();
    until(|| function.output().contains("the body was dropped")).await;
}

#[tokio::test]
async fn a_concurrent_function_answers_one_while_another_is_held() {
    let function = function().concurrency(2).start().await;
    let held = Event::post("/held").http();
    let mut held = function.invoke_streaming(&held).await;
    assert!(held.next_event().await.is_some());
    for _ in 0..5 {
        let answer = function.invoke(&Event::post("/stream").http()).await;
        assert_eq!(answer.reply(), "你好");
    }
}

#[tokio::test]
async fn a_paused_function_goes_on_where_it_was() {
    let function = function().start().await;
    function.pause();
    let event = Event::post("/stream").http();
    let mut invocation = std::pin::pin!(function.invoke(&event));
    let waited = tokio::time::timeout(Duration::from_millis(100), &mut invocation).await;
    assert!(waited.is_err(), "it is paused");
    function.resume();
    assert_eq!(invocation.await.reply(), "你好");
}

#[tokio::test]
async fn a_function_that_ends_at_once_says_how() {
    let this = std::env::current_exe().expect("this program");
    let exit = Function::builder_of(this)
        .arguments(&["--list"])
        .start_expecting_exit()
        .await;
    assert!(exit.status.success());
    assert!(
        exit.output
            .contains("a_function_that_ends_at_once_says_how"),
        "{exit:?}"
    );
    assert!(exit.duration > Duration::ZERO);
}

async fn until(mut reached: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("in time");
}
