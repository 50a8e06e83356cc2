//! Redis is down: each request is refused with the answer of the contract, and nothing is half done.

use testkit::answer::Problem;
use testkit::events::Event;
use testkit::stage::Stage;

use super::{Service, replacing};

#[tokio::test]
async fn every_request_that_needs_redis_says_so_and_works_again_after_it() {
    let mut service = Service::start().await;
    let [id, _] = service.say("one").await;
    // It keeps its data.
    let _: () = service.redis().command(&["SAVE"]).await;
    service.stage.redis.kill().await;
    let authorized = |event: Event| event.token(&service.stage.token);
    let of_luna = |event: Event| authorized(event).query("character_id", Stage::CHARACTER);
    let history = "the history cannot be read or changed at the moment";
    let data = "the data cannot be read or erased at the moment";
    let session = "the session cannot be read or changed at the moment";
    for (function, event, detail) in [
        (
            &service.history,
            of_luna(Event::get("/api/v1/chat/history")),
            history,
        ),
        (
            &service.clear,
            of_luna(Event::clear()).query("from", &id),
            history,
        ),
        (&service.clear, of_luna(Event::clear()), "清空历史失败"),
        (
            &service.session,
            authorized(Event::get("/api/v1/chat/sessions")),
            session,
        ),
        (
            &service.data,
            authorized(Event::get("/api/v1/chat/data")),
            data,
        ),
        (
            &service.data,
            authorized(Event::delete("/api/v1/chat/data")),
            data,
        ),
        (
            &service.stage.chat,
            replacing(&service.stage, &id, None),
            history,
        ),
    ] {
        let answer = function.invoke(&event.http()).await;
        let expected = Problem {
            status: 503,
            code: "memory_unavailable".into(),
            detail: detail.into(),
        };
        assert_eq!(answer.problem(), expected);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(service.stage.upstream.requests().len(), 1);
}
