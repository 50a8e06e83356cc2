//! A function that prints confidential text fails its test. The function is this test program, started again.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "a test")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http_body_util::Full;
use lambda_http::{Body, Error, Request, RequestExt, Response, service_fn};
use testkit::events::chat;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};

const SAID: &str = "晚霞像橘子汽水";
const REPLIED: &str = "海风很轻";

/// As this program when it is started again: a function, until it is killed. As a test: the runtime cannot start here.
#[test]
fn a_function_needs_the_variables_of_the_platform() {
    let ended = catch_unwind(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let run = lambda_http::run_with_streaming_response_concurrent(service_fn(answer));
        runtime.block_on(run)
    });
    assert!(ended.is_err());
}

async fn answer(request: Request) -> Result<Response<Full<Bytes>>, Error> {
    println!("serving {}", request.raw_http_path());
    let Body::Text(body) = request.body() else {
        return Err("no text".into());
    };
    match std::env::var("PRINTS").as_deref() {
        Ok("body") => println!("got {body}"),
        Ok("token") => println!("from {:?}", request.headers().get("authorization")),
        Ok("secret") => println!("knows {:?}", std::env::var("JWT_SECRET")),
        Ok("reply") => println!("says {REPLIED}"),
        _ => {}
    }
    let event = format!("id: 1\nevent: message\ndata: {{\"content\":\"{REPLIED}\"}}\n\n");
    Ok(Response::builder()
        .header("content-type", "text/event-stream")
        .body(event.into())?)
}

fn function(prints: &str) -> FunctionBuilder {
    Function::builder_of(std::env::current_exe().expect("this program"))
        .arguments(&[
            "--exact",
            "a_function_needs_the_variables_of_the_platform",
            "--nocapture",
        ])
        .env("JWT_SECRET", secret())
        .env("PRINTS", prints)
}

/// Whether a test would fail that has such a function and looks at nothing.
async fn is_found_out(prints: &str) -> bool {
    let function = function(prints).start().await;
    let answer = function.invoke(&chat(&token("alice"), "luna", SAID)).await;
    assert_eq!(answer.reply(), REPLIED);
    catch_unwind(AssertUnwindSafe(|| drop(function))).is_err()
}

#[tokio::test]
async fn what_was_said_replied_and_entrusted_is_found_in_what_a_function_printed() {
    for prints in ["body", "token", "secret", "reply"] {
        assert!(is_found_out(prints).await, "{prints}");
    }
}

#[tokio::test]
async fn a_function_that_prints_nothing_of_it_passes() {
    assert!(!is_found_out("nothing").await);
}

#[tokio::test]
async fn what_a_function_prints_before_it_ends_at_once_is_searched_too() {
    let ended = tokio::spawn(
        Function::builder_of("/bin/sh".into())
            .arguments(&["-c", "echo \"$JWT_SECRET\""])
            .env("JWT_SECRET", secret())
            .start_expecting_exit(),
    );
    assert!(ended.await.expect_err("it is found").is_panic());
}
