//! The sample events: each is sent to the real binary that it is for, and the whole response is compared.
//!
//! `events/` contains one whole event for each route and gateway, and for each action of the function without a route.
//! `events/refusals.json` is a table of patches (RFC
//! 7396) that turn a sample into an event that is refused, each with the refusal. To try one by hand, use
//! `scripts/event.py`.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod promised;
mod record;
mod samples;
mod service;

use std::collections::BTreeSet;

use serde_json::Value;
use testkit::binary;

use self::samples::{Refusal, direct, files, function_of, read, refusals, routes, samples};
use self::service::Service;

/// The user of the samples, in tokens and in the claims of authorizers.
const CALLER: &str = "8f14e45f-ceea-467f-a3d1-0c6f3b7d21ab";
/// The turn of the samples that name one.
const TURN: &str = "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b90";
/// The idempotency key of the samples that have one.
const KEY: &str = "5b0c1d9e-8a41-4c57-b0d3-2f6e7a9c1b84";
const GATEWAYS: [&str; 2] = ["rest", "http"];

/// The part that verifies tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checks {
    Function,
    Authorizer,
}

#[test]
fn every_function_has_samples_for_each_gateway_and_every_refusal_patches_one() {
    let names = BTreeSet::from_iter(routes().into_iter().chain(direct()));
    let sampled: BTreeSet<&str> = names.iter().map(|name| function_of(name)).collect();
    assert_eq!(Vec::from_iter(sampled), binary::functions());
    let mut expected = BTreeSet::from_iter(samples());
    for refusal in refusals() {
        assert!(expected.contains(&refusal.base), "{}", refusal.name);
    }
    expected.insert("refusals.json".into());
    assert_eq!(files(), expected);
    let names: BTreeSet<String> = refusals().into_iter().map(|refusal| refusal.name).collect();
    assert_eq!(names.len(), refusals().len(), "a name is used twice");
}

#[test]
fn every_code_of_the_contract_has_an_event() {
    let codes: BTreeSet<String> = refusals().into_iter().map(|refusal| refusal.code).collect();
    let contract = [
        "bad_request",
        "character_not_found",
        "idempotency_key_reused",
        "internal",
        "invalid_json",
        "invalid_request",
        "memory_unavailable",
        "message_not_found",
        "method_not_allowed",
        "payload_too_large",
        "session_not_found",
        "too_many_requests",
        "turn_not_found",
        "unauthorized",
        "unsupported_media_type",
    ];
    assert_eq!(codes, contract.map(str::to_owned).into());
}

#[test]
fn no_event_holds_a_token() {
    let mut events: Vec<String> = samples().iter().map(|name| read(name)).collect();
    events.extend(refusals().iter().map(Refusal::event));
    for event in events {
        let event: Value = serde_json::from_str(&event).expect("JSON");
        let headers = event["headers"].as_object().into_iter().flatten();
        let authorization = headers
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .map(|(_, value)| value.as_str().expect("text"));
        let harmless = [
            None,
            Some("Bearer ${TOKEN}"),
            Some("Bearer ${EXPIRED_TOKEN}"),
            Some("Bearer not-a-token"),
        ];
        assert!(harmless.contains(&authorization), "{event}");
    }
}

#[tokio::test]
async fn every_event_is_answered_as_expected_by_functions_that_check_tokens() {
    let records = Service::start(Checks::Function).await.replay().await;
    record::write(&records);
}

/// Here the events are sent as they are, with placeholders instead of tokens.
#[tokio::test]
async fn every_event_is_answered_as_expected_by_functions_behind_an_authorizer() {
    Service::start(Checks::Authorizer).await.replay().await;
}
