//! API Gateway events: the JSON into which a gateway turns an HTTP request for a function.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// A kind of API Gateway, which decides the form of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// A REST API, which sends version 1 of the payload. Production uses it.
    Rest,
    /// An HTTP API, which sends version 2 of the payload, as `cargo lambda watch` does.
    Http,
}

/// Builds the event of an HTTP request.
///
/// # Example
/// ```
/// use testkit::events::{Event, Gateway};
///
/// let event = Event::session().token("a-token").query("character_id", "luna").build(Gateway::Http);
/// assert_eq!(event["rawQueryString"], "character_id=luna");
/// ```
#[derive(Debug, Clone)]
pub struct Event {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Option<String>,
    is_base64: bool,
    authorizer: Option<Authorizer>,
}

#[derive(Debug, Clone)]
enum Authorizer {
    /// JSON that is sent as it is.
    Found(Value),
    /// The claims of a token, nested as the event's gateway nests them.
    Claims(Value),
}

impl Event {
    /// Begins a request with any method.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: Vec::new(),
            headers: vec![("host".into(), "chat.example.com".into())],
            body: None,
            is_base64: false,
            authorizer: None,
        }
    }

    /// Begins a `POST` request.
    #[must_use]
    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// Begins a `GET` request.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// Begins a `PATCH` request.
    #[must_use]
    pub fn patch(path: &str) -> Self {
        Self::new("PATCH", path)
    }

    /// Begins a `DELETE` request.
    #[must_use]
    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path)
    }

    /// Begins `POST /api/v1/chat/stream`.
    #[must_use]
    pub fn stream() -> Self {
        Self::post("/api/v1/chat/stream")
    }

    /// Begins `GET /api/v1/chat/stream`.
    #[must_use]
    pub fn resume() -> Self {
        Self::get("/api/v1/chat/stream")
    }

    /// Begins `DELETE /api/v1/chat/stream`.
    #[must_use]
    pub fn stop() -> Self {
        Self::delete("/api/v1/chat/stream")
    }

    /// Begins `DELETE /api/v1/chat/history`.
    #[must_use]
    pub fn clear() -> Self {
        Self::delete("/api/v1/chat/history")
    }

    /// Begins `GET /api/v1/chat/session`.
    #[must_use]
    pub fn session() -> Self {
        Self::get("/api/v1/chat/session")
    }

    /// Begins `PATCH /api/v1/chat/session`.
    #[must_use]
    pub fn set_state() -> Self {
        Self::patch("/api/v1/chat/session")
    }

    /// Adds a query parameter. The value is passed unencoded and encoded here where the gateway's form needs it.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a header and replaces one of the same spelling.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(present, _)| present != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header, in any spelling.
    #[must_use]
    pub fn without_header(mut self, name: &str) -> Self {
        self.headers
            .retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        self
    }

    /// Sets the `authorization` header to a bearer token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sets the body to JSON and declares it as such.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(&body.to_string())
    }

    /// Sets the body to this text.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    /// Sets the body to these bytes, which are sent as base64.
    #[must_use]
    pub fn bytes(mut self, body: &[u8]) -> Self {
        self.body = Some(STANDARD.encode(body));
        self.is_base64 = true;
        self
    }

    /// Sets the result of the gateway's authorizer to this JSON, as it is.
    #[must_use]
    pub fn authorizer(mut self, found: Value) -> Self {
        self.authorizer = Some(Authorizer::Found(found));
        self
    }

    /// Sets the claims that the gateway's authorizer found, in the form of Cognito on a REST API and of a JWT on an
    /// HTTP API.
    #[must_use]
    pub fn authorizer_claims(mut self, claims: Value) -> Self {
        self.authorizer = Some(Authorizer::Claims(claims));
        self
    }

    fn authorizer_of(&self, gateway: Gateway) -> Option<Value> {
        Some(match (self.authorizer.as_ref()?, gateway) {
            (Authorizer::Found(found), _) => found.clone(),
            (Authorizer::Claims(claims), Gateway::Rest) => json!({ "claims": claims }),
            (Authorizer::Claims(claims), Gateway::Http) => {
                json!({ "jwt": { "claims": claims, "scopes": null } })
            }
        })
    }

    /// Returns the event as this gateway sends it.
    #[must_use]
    pub fn build(&self, gateway: Gateway) -> Value {
        match gateway {
            Gateway::Rest => self.rest(),
            Gateway::Http => self.http(),
        }
    }

    /// Returns the event as a REST API sends it.
    #[must_use]
    pub fn rest(&self) -> Value {
        json!({
            "resource": self.path,
            "path": self.path,
            "httpMethod": self.method,
            "headers": single(&self.headers),
            "multiValueHeaders": multiple(&self.headers),
            "queryStringParameters": single(&self.query),
            "multiValueQueryStringParameters": multiple(&self.query),
            "pathParameters": null,
            "stageVariables": null,
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "rest",
                "stage": "prod",
                "protocol": "HTTP/1.1",
                "httpMethod": self.method,
                "path": format!("/prod{}", self.path),
                "resourcePath": self.path,
                "requestId": "rest-request",
                "requestTimeEpoch": 1_732_430_000_000_i64,
                "identity": { "sourceIp": "203.0.113.1" },
                "authorizer": self.authorizer_of(Gateway::Rest),
            },
            "body": self.body,
            "isBase64Encoded": self.is_base64,
        })
    }

    /// Returns the event as an HTTP API sends it.
    #[must_use]
    pub fn http(&self) -> Value {
        let mut event = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": self.path,
            "rawQueryString": self
                .query
                .iter()
                .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
                .collect::<Vec<_>>()
                .join("&"),
            "headers": single(&self.headers),
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "http",
                "domainName": "chat.example.com",
                "stage": "$default",
                "requestId": "http-request",
                "timeEpoch": 1_732_430_000_000_i64,
                "http": {
                    "method": self.method,
                    "path": self.path,
                    "protocol": "HTTP/1.1",
                    "sourceIp": "203.0.113.1",
                    "userAgent": "test",
                },
            },
            "body": self.body,
            "isBase64Encoded": self.is_base64,
        });
        if let Some(authorizer) = self.authorizer_of(Gateway::Http) {
            event["requestContext"]["authorizer"] = authorizer;
        }
        event
    }
}

/// Returns the event of a message to a character, from an HTTP API.
#[must_use]
pub fn chat(token: &str, character: &str, message: &str) -> Value {
    let body = json!({ "character_id": character, "message": message });
    Event::stream().token(token).json(&body).http()
}

/// Returns the event that clears a session, from an HTTP API.
#[must_use]
pub fn clear(token: &str, character: &str) -> Value {
    Event::clear()
        .token(token)
        .query("character_id", character)
        .http()
}

/// Returns the event that reads a session, from an HTTP API.
#[must_use]
pub fn session(token: &str, character: &str) -> Value {
    Event::session()
        .token(token)
        .query("character_id", character)
        .http()
}

/// Returns the event that sets a session's state, from an HTTP API.
#[must_use]
pub fn set_state(token: &str, character: &str, state: &str) -> Value {
    let body = json!({ "character_id": character, "state": state });
    Event::set_state().token(token).json(&body).http()
}

fn single(pairs: &[(String, String)]) -> Value {
    let map: Map<String, Value> = pairs
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    if map.is_empty() {
        Value::Null
    } else {
        Value::Object(map)
    }
}

fn multiple(pairs: &[(String, String)]) -> Value {
    let mut map = Map::new();
    for (name, value) in pairs {
        let values = map.entry(name.clone()).or_insert_with(|| json!([]));
        values
            .as_array_mut()
            .expect("made as one")
            .push(json!(value));
    }
    if map.is_empty() {
        Value::Null
    } else {
        Value::Object(map)
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
