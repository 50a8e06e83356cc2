//! API Gateway events: what a gateway makes of an HTTP request before a function sees it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Which gateway makes the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// A REST API: version 1 of the payload. This is production.
    Rest,
    /// An HTTP API: version 2. This is what `cargo lambda watch` sends.
    Http,
}

/// A request on its way to an event.
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
    /// In the form of any gateway.
    Found(Value),
    /// In the form that the event's gateway gives to a token's claims.
    Claims(Value),
}

impl Event {
    /// Any method.
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

    /// `POST`
    #[must_use]
    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// `GET`
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// `PATCH`
    #[must_use]
    pub fn patch(path: &str) -> Self {
        Self::new("PATCH", path)
    }

    /// `DELETE`
    #[must_use]
    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path)
    }

    /// `POST /api/v1/chat/stream`
    #[must_use]
    pub fn stream() -> Self {
        Self::post("/api/v1/chat/stream")
    }

    /// `DELETE /api/v1/chat/history`
    #[must_use]
    pub fn clear() -> Self {
        Self::delete("/api/v1/chat/history")
    }

    /// `GET /api/v1/chat/session`
    #[must_use]
    pub fn session() -> Self {
        Self::get("/api/v1/chat/session")
    }

    /// `PATCH /api/v1/chat/session`
    #[must_use]
    pub fn set_state() -> Self {
        Self::patch("/api/v1/chat/session")
    }

    /// Adds a parameter, not encoded.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(present, _)| present != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a header out.
    #[must_use]
    pub fn without_header(mut self, name: &str) -> Self {
        self.headers
            .retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        self
    }

    /// Brings a bearer token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Brings JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(&body.to_string())
    }

    /// Brings text as it is.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    /// Brings bytes.
    #[must_use]
    pub fn bytes(mut self, body: &[u8]) -> Self {
        self.body = Some(STANDARD.encode(body));
        self.is_base64 = true;
        self
    }

    /// What the gateway's authorizer found, as it is.
    #[must_use]
    pub fn authorizer(mut self, found: Value) -> Self {
        self.authorizer = Some(Authorizer::Found(found));
        self
    }

    /// The claims that the gateway's authorizer found: Cognito's on a REST API, a token's on an HTTP API.
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

    /// The event of one gateway.
    #[must_use]
    pub fn build(&self, gateway: Gateway) -> Value {
        match gateway {
            Gateway::Rest => self.rest(),
            Gateway::Http => self.http(),
        }
    }

    /// The event of a REST API.
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

    /// The event of an HTTP API.
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

/// A message to a character.
#[must_use]
pub fn chat(token: &str, character: &str, message: &str) -> Value {
    let body = json!({ "character_id": character, "message": message });
    Event::stream().token(token).json(&body).http()
}

/// Forgets a session.
#[must_use]
pub fn clear(token: &str, character: &str) -> Value {
    Event::clear()
        .token(token)
        .query("character_id", character)
        .http()
}

/// Reads a session.
#[must_use]
pub fn session(token: &str, character: &str) -> Value {
    Event::session()
        .token(token)
        .query("character_id", character)
        .http()
}

/// Sets a session's state.
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
