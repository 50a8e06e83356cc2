//! AWS's own event types accept the sample events and read the intended values.
#![expect(clippy::expect_used, reason = "a test")]

use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::{Body, Request, RequestExt};
use serde_json::{Value, json};
use testkit::events::{self, Event, Gateway};

const GATEWAYS: [Gateway; 2] = [Gateway::Rest, Gateway::Http];

fn parsed(event: &Value) -> LambdaRequest {
    serde_json::from_str(&event.to_string()).expect("an event of a gateway")
}

#[test]
fn each_gateway_has_a_form_of_its_own() {
    let event = Event::stream()
        .token("t")
        .query("q", "1")
        .json(&json!({ "character_id": "luna" }));
    let bare = Event::delete("/api/v1/chat/history");
    for event in [event, bare] {
        assert!(matches!(
            parsed(&event.build(Gateway::Rest)),
            LambdaRequest::ApiGatewayV1(_)
        ));
        assert!(matches!(
            parsed(&event.build(Gateway::Http)),
            LambdaRequest::ApiGatewayV2(_)
        ));
    }
}

#[test]
fn a_request_is_the_same_behind_both() {
    let event = Event::patch("/api/v1/chat/session")
        .token("t")
        .header("x-kept", "1")
        .header("x-dropped", "1")
        .without_header("X-Dropped")
        .query("character_id", "露娜 &=%+")
        .query("twice", "a")
        .query("twice", "b")
        .json(&json!({ "state": "结束" }));
    for gateway in GATEWAYS {
        let request = Request::from(parsed(&event.build(gateway)));
        assert_eq!(request.method(), "PATCH");
        assert_eq!(request.raw_http_path(), "/api/v1/chat/session");
        let query = request.query_string_parameters();
        assert_eq!(
            query.first("character_id"),
            Some("露娜 &=%+"),
            "{gateway:?}"
        );
        assert_eq!(query.all("twice"), Some(vec!["a", "b"]), "{gateway:?}");
        let headers = request.headers();
        assert_eq!(headers["authorization"], "Bearer t");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["x-kept"], "1");
        assert!(!headers.contains_key("x-dropped"));
        assert_eq!(request.body(), &Body::Text(r#"{"state":"结束"}"#.into()));
    }
}

#[test]
fn a_stage_is_in_the_path_of_a_rest_api_alone() {
    let path = |gateway| {
        let request = Request::from(parsed(&Event::get("/api/v1/chat/session").build(gateway)));
        request.uri().path().to_owned()
    };
    assert_eq!(path(Gateway::Rest), "/prod/api/v1/chat/session");
    assert_eq!(path(Gateway::Http), "/api/v1/chat/session");
}

#[test]
fn bytes_and_nothing_are_bodies_too() {
    for gateway in GATEWAYS {
        let bytes = Event::post("/").bytes(&[0xff, 0]).build(gateway);
        assert_eq!(
            Request::from(parsed(&bytes)).body(),
            &Body::Binary(vec![0xff, 0])
        );
        let nothing = Event::post("/").build(gateway);
        assert_eq!(Request::from(parsed(&nothing)).body(), &Body::Empty);
    }
}

#[test]
fn an_authorizers_claims_are_where_its_gateway_puts_them() {
    let event = Event::stream().authorizer_claims(json!({ "sub": "alice" }));
    let subject = |gateway| match Request::from(parsed(&event.build(gateway))).request_context() {
        RequestContext::ApiGatewayV1(context) => context.authorizer.fields["claims"]["sub"].clone(),
        RequestContext::ApiGatewayV2(context) => {
            json!(
                context
                    .authorizer
                    .expect("found")
                    .jwt
                    .expect("a token")
                    .claims["sub"]
            )
        }
        other => panic!("{other:?}"),
    };
    for gateway in GATEWAYS {
        assert_eq!(subject(gateway), "alice", "{gateway:?}");
    }
    let found = json!({ "principalId": "bob" });
    assert_eq!(
        Event::stream().authorizer(found.clone()).rest()["requestContext"]["authorizer"],
        found
    );
}

#[test]
fn the_requests_of_the_product_have_a_word_each() {
    let cases = [
        (
            events::chat("t", "luna", "在吗"),
            "POST",
            "/api/v1/chat/stream",
        ),
        (events::clear("t", "luna"), "DELETE", "/api/v1/chat/history"),
        (events::session("t", "luna"), "GET", "/api/v1/chat/session"),
        (
            events::set_state("t", "luna", "ENDED"),
            "PATCH",
            "/api/v1/chat/session",
        ),
    ];
    for (event, method, path) in cases {
        let request = Request::from(parsed(&event));
        assert_eq!(request.method(), method);
        assert_eq!(request.raw_http_path(), path);
        assert_eq!(request.headers()["authorization"], "Bearer t");
        let in_query = request
            .query_string_parameters()
            .first("character_id")
            .map(str::to_owned);
        let in_body = serde_json::from_slice::<Value>(request.body())
            .ok()
            .and_then(|body| body["character_id"].as_str().map(str::to_owned));
        assert_eq!(in_query.or(in_body).as_deref(), Some("luna"), "{method}");
    }
}
