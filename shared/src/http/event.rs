//! API Gateway events: reads one into a request. No event can make it panic, because callers choose most of an event.
//!
//! REST APIs send version 1 of the payload and HTTP APIs version 2. `lambda_http` reads both too, but it panics at odd
//! input: at a host or a scheme that makes no URL, at a raw quotation mark in a query, at a body that is not base64.
//! Here only what the functions use is read, each field by itself. A field that makes no sense counts as missing, and
//! an event that is not an HTTP request is [malformed](Event::malformed).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The kinds of API Gateway, which expect responses that are sent whole in different forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gateway {
    /// A REST API, which sends version 1 of the payload.
    #[default]
    Rest,
    /// An HTTP API, which sends version 2 of the payload.
    Http,
}

/// An HTTP request, as the gateway passed it on.
#[derive(Default)]
pub(super) struct Event {
    pub(super) gateway: Gateway,
    pub(super) method: Method,
    /// The path, as the client sent it; empty if the gateway passed on none.
    pub(super) path: String,
    /// The headers without those that no HTTP message can carry. Of a header that was sent twice, the last value.
    pub(super) headers: HeaderMap,
    /// The decoded parameters of the query.
    query: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The subject of the token that an authorizer of the gateway has checked.
    pub(super) authorizer_subject: Option<String>,
    /// Why this is no request that can be answered, as a public text; `None` if it is one.
    pub(super) malformed: Option<&'static str>,
}

type Raw<'a> = Option<&'a RawValue>;
type Object<'a> = BTreeMap<String, &'a RawValue>;

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let event = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self::read(event.get()))
    }
}

impl Event {
    fn read(event: &str) -> Self {
        let malformed = |reason| Self {
            malformed: Some(reason),
            ..Self::default()
        };
        let Ok(fields) = serde_json::from_str::<Object<'_>>(event) else {
            return malformed("the event is not an HTTP request");
        };
        let context = object(member(&fields, "requestContext")).unwrap_or_default();
        // `cargo lambda watch` sends version 2, with a `httpMethod` that is not the request's.
        let (gateway, method) = match object(member(&context, "http")) {
            Some(http) => (Gateway::Http, member(&http, "method")),
            None => (Gateway::Rest, member(&fields, "httpMethod")),
        };
        let method = text(method).and_then(|method| Method::from_bytes(method.as_bytes()).ok());
        let Some(method) = method else {
            return malformed("the request has no method");
        };
        let (body, malformed) = match body(&fields) {
            Ok(body) => (body, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        Self {
            gateway,
            method,
            path: text(member(&fields, "rawPath").or(member(&fields, "path"))).unwrap_or_default(),
            headers: headers(&fields),
            query: query(&fields),
            body,
            authorizer_subject: authorizer_subject(&context),
            malformed,
        }
    }

    /// Returns the last segment of the path.
    pub(super) fn resource(&self) -> &str {
        let path = self.path.trim_end_matches('/');
        path.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the values of a parameter of the query, in order.
    pub(super) fn parameters<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.query.iter().filter(move |(given, _)| given == name);
        named.map(|(_, value)| value.as_str())
    }
}

/// Returns the value of a field, or `None` if it is missing, null or something else.
fn parsed<'a, T: Deserialize<'a>>(field: Raw<'a>) -> Option<T> {
    serde_json::from_str(field?.get()).ok()
}

fn text(field: Raw<'_>) -> Option<String> {
    parsed(field)
}

fn object(field: Raw<'_>) -> Option<Object<'_>> {
    parsed(field)
}

/// Returns a member of an object, or `None` if it is missing or null.
fn member<'a>(object: &Object<'a>, name: &str) -> Raw<'a> {
    let value = object.get(name).copied();
    value.filter(|value| value.get() != "null")
}

/// Returns the names and values of a JSON object. A value is text, or a list of texts.
fn pairs(field: Raw<'_>) -> Vec<(String, String)> {
    let object = object(field).unwrap_or_default();
    let mut pairs = Vec::with_capacity(object.len());
    for (name, value) in object {
        if let Some(value) = text(Some(value)) {
            pairs.push((name, value));
        } else {
            let values: Vec<&RawValue> = parsed(Some(value)).unwrap_or_default();
            let values = values.into_iter().filter_map(|value| text(Some(value)));
            pairs.extend(values.map(|value| (name.clone(), value)));
        }
    }
    pairs
}

fn headers(fields: &Object<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // The single values are the last of each header, so they come second.
    for field in ["multiValueHeaders", "headers"] {
        for (name, value) in pairs(member(fields, field)) {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_bytes(value.as_bytes());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.insert(name, value);
            }
        }
    }
    headers
}

fn query(fields: &Object<'_>) -> Vec<(String, String)> {
    if let Some(query) = text(member(fields, "rawQueryString")) {
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        let decoded = parameters.map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (form_decoded(name), form_decoded(value))
        });
        return decoded.collect();
    }
    let several = pairs(member(fields, "multiValueQueryStringParameters"));
    if several.is_empty() {
        pairs(member(fields, "queryStringParameters"))
    } else {
        several
    }
}

/// Decodes a name or a value of a query (the format `application/x-www-form-urlencoded` of the URL standard).
fn form_decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

fn body(fields: &Object<'_>) -> Result<Vec<u8>, &'static str> {
    let Some(body) = member(fields, "body") else {
        return Ok(Vec::new());
    };
    let body = text(Some(body)).ok_or("the body is not text")?;
    if parsed(member(fields, "isBase64Encoded")).unwrap_or(false) {
        STANDARD
            .decode(body)
            .map_err(|_| "the body is not valid base64")
    } else {
        Ok(body.into_bytes())
    }
}

/// Returns the subject of the token that an authorizer checked: in `claims` from REST APIs with Cognito, in
/// `jwt.claims` from HTTP APIs, in `principalId` from Lambda authorizers.
fn authorizer_subject(context: &Object<'_>) -> Option<String> {
    let authorizer = object(member(context, "authorizer"))?;
    if let Some(jwt) = member(&authorizer, "jwt") {
        let claims = object(member(&object(Some(jwt))?, "claims"))?;
        return text(member(&claims, "sub"));
    }
    let subject = object(member(&authorizer, "claims")).and_then(|claims| member(&claims, "sub"));
    text(subject.or(member(&authorizer, "principalId")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use testkit::events::{self, Event as Sample};

    use super::*;

    fn read(event: &Value) -> Event {
        serde_json::from_str(&event.to_string()).expect("never fails")
    }

    fn samples() -> [Value; 2] {
        [events::Gateway::Rest, events::Gateway::Http].map(|gateway| {
            let sample = Sample::stream()
                .token("a-token")
                .query("character_id", "a b&c=d+é")
                .query("character_id", "twice")
                .header("x-forwarded-proto", "https")
                .authorizer_claims(json!({ "sub": "alice" }));
            sample.body("{}").build(gateway)
        })
    }

    #[test]
    fn an_event_is_read_from_either_gateway() {
        for (sample, gateway) in samples().iter().zip([Gateway::Rest, Gateway::Http]) {
            let event = read(sample);
            assert_eq!(event.malformed, None);
            assert_eq!(event.gateway, gateway);
            assert_eq!(event.method, "POST");
            assert_eq!(event.headers["authorization"], "Bearer a-token");
            let ids: Vec<_> = event.parameters("character_id").collect();
            assert_eq!(ids, ["a b&c=d+é", "twice"]);
            assert_eq!(event.parameters("character").next(), None);
            assert_eq!(event.body, b"{}");
            assert_eq!(event.authorizer_subject.as_deref(), Some("alice"));
        }
    }

    #[test]
    fn a_subject_is_found_where_authorizers_put_it_and_nowhere_else() {
        for (authorizer, subject) in [
            (json!({ "principalId": "alice" }), Some("alice")),
            (
                json!({ "claims": { "sub": "alice" }, "principalId": "bob" }),
                Some("alice"),
            ),
            (
                json!({ "jwt": { "claims": { "sub": "alice" } } }),
                Some("alice"),
            ),
            (
                json!({ "jwt": { "claims": {} }, "principalId": "bob" }),
                None,
            ),
            (json!({ "jwt": 1, "principalId": "bob" }), None),
            (
                json!({ "claims": { "sub": 1 }, "principalId": "bob" }),
                None,
            ),
            (json!({ "principalId": 1 }), None),
            (json!("alice"), None),
            (json!(null), None),
        ] {
            let event = Sample::session().authorizer(authorizer.clone()).rest();
            let found = read(&event).authorizer_subject;
            assert_eq!(found.as_deref(), subject, "{authorizer}");
        }
    }

    #[test]
    fn a_query_is_decoded_however_raw_it_is() {
        for (raw, value) in [
            ("character_id=luna", "luna"),
            ("&&character_id=a%20b+c&", "a b c"),
            ("character_id=\"<luna> #é\u{0}", "\"<luna> #é\u{0}"),
            ("character_id=%", "%"),
            ("character_id=%F0%28", "\u{FFFD}("),
            ("character_id", ""),
            ("%63haracter_id=a=b", "a=b"),
        ] {
            let mut event = Sample::session().http();
            event["rawQueryString"] = json!(raw);
            let event = read(&event);
            assert_eq!(event.parameters("character_id").next(), Some(value));
        }
    }

    #[test]
    fn what_is_no_request_is_malformed_and_a_field_that_makes_no_sense_is_missing() {
        for event in [json!(null), json!(1), json!([]), json!("x"), json!({})] {
            assert!(read(&event).malformed.is_some(), "{event}");
        }
        for mut sample in samples() {
            sample["isBase64Encoded"] = json!(true);
            let event = read(&sample);
            assert_eq!(event.malformed, Some("the body is not valid base64"));
            assert_eq!(event.headers["authorization"], "Bearer a-token");
            sample["body"] = json!({});
            assert_eq!(read(&sample).malformed, Some("the body is not text"));
            sample["body"] = json!("e30=");
            sample["headers"] = json!({ "a b": "c", "x": "\n", "y": 1, "z": "ok" });
            sample["multiValueHeaders"] = json!(7);
            let event = read(&sample);
            assert_eq!((event.malformed, event.body.as_slice()), (None, &b"{}"[..]));
            assert_eq!(event.headers.len(), 1);
            sample["requestContext"]["http"] = json!(0);
            sample["httpMethod"] = json!("P OST");
            assert_eq!(read(&sample).malformed, Some("the request has no method"));
            sample["requestContext"]["http"] = json!({ "method": "PATCH" });
            assert_eq!(read(&sample).method, "PATCH");
        }
    }

    /// Replaces the value number `at` of all values in `json`, counted from the outside.
    fn replace(json: &mut Value, at: &mut usize, with: &Value) {
        if *at == 0 {
            *json = with.clone();
        }
        *at = at.wrapping_sub(1);
        match json {
            Value::Object(members) => members
                .values_mut()
                .for_each(|json| replace(json, at, with)),
            Value::Array(elements) => elements.iter_mut().for_each(|json| replace(json, at, with)),
            _ => {}
        }
    }

    fn anything() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(Value::from),
            "[ -~]{0,20}".prop_map(Value::from),
            Just(json!(null)),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            any::<Vec<String>>().prop_map(Value::from),
            any::<std::collections::HashMap<String, String>>()
                .prop_map(|members| members.into_iter().collect()),
        ]
    }

    proptest! {
        #[test]
        fn no_value_of_any_field_makes_it_panic(
            gateway in 0..2_usize,
            places in prop::collection::vec((0..60_usize, anything()), 1..4),
        ) {
            let mut event = samples()[gateway].clone();
            for (mut at, with) in places {
                replace(&mut event, &mut at, &with);
            }
            let _ = read(&event);
        }

        #[test]
        fn no_text_makes_it_panic(event in any::<String>()) {
            let _ = Event::read(&event);
        }
    }
}
