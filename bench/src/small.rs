//! A chat function with the CPU of 128 MB and of 256 MB, with TLS to Redis, to the model and to the publisher of keys: its
//! first texts, and how late its deltas are.

use std::time::Duration;

use serde_json::Value;
use testkit::answer::Answer;
use testkit::events;
use testkit::jwks::JwksServer;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tls::TlsServer;
use testkit::tokens::{KeyPair, Token};
use testkit::upstream::{Front, Script, Upstream};

use super::cgroup::{Held, can_hold};
use super::report::{Report, Series, heading};
use super::streams::deltas;
use super::{DELTAS, Effort, begun_at_once, chat_stream_by_tls, first_text, reply, store};

/// The time between deltas of a quick model.
const PACE: Duration = Duration::from_millis(20);
/// The number of warm turns in each process.
const WARM: usize = 3;

/// Measures cold and warm turns with the CPU of small functions.
pub(crate) async fn shares(report: &mut Report, effort: Effort) {
    heading("A small function, with TLS to Redis, to the model and to the publisher of keys");
    let services = Services::start().await;
    let uncounted = Model::new(begun_at_once(DELTAS, PACE, PACE).without_usage()).await;
    let (alone, burst) = (
        Model::new(begun_at_once(DELTAS, PACE, PACE)).await,
        Model::new(reply()).await,
    );
    for (name, share) in [("256 MB", 1.0 / 7.0), ("128 MB", 1.0 / 14.0)] {
        if !can_hold(name, share) {
            continue;
        }
        let [mut cold, mut warm, mut late, mut late_in_burst, mut done]: [Series; 5] =
            Default::default();
        for _ in 0..effort.starts.div_ceil(4) {
            for (model, late) in [(&alone, &mut late), (&burst, &mut late_in_burst)] {
                let held = Held::start(services.chat(model), share).await;
                cold.push_time(first_text(&services.turn(&held.function).await));
                for _ in 0..WARM {
                    let answer = services.turn(&held.function).await;
                    warm.push_time(first_text(&answer));
                    let request = model.upstream.requests().len() - 1;
                    for delta in deltas(&answer, &model.upstream, request) {
                        late.push_time(delta.took);
                    }
                }
            }
            let held = Held::start(services.chat(&uncounted), share).await;
            let answer = services.turn(&held.function).await;
            cold.push_time(first_text(&answer));
            done.push_time(after_last_delta(&answer));
        }
        for (what, series) in [
            ("cold process: first text", &cold),
            ("warm process: first text", &warm),
            ("a delta that comes alone", &late),
            ("a delta of a burst", &late_in_burst),
            ("first turn that counts: done after the last delta", &done),
        ] {
            report.measured("small", &format!("{name}: {what}"), "µs", series);
            let most = series.quantile(1.0);
            report.single("small", &format!("{name}: {what}, the latest"), "µs", most);
        }
    }
}

/// A model behind TLS, with an authority of its own.
struct Model {
    upstream: Upstream,
    front: Front,
}

impl Model {
    async fn new(script: Script) -> Self {
        let upstream = Upstream::start(script).await;
        upstream.note_sent();
        let front = Front::tls(upstream.port()).await;
        Self { upstream, front }
    }
}

/// Redis and the publisher of keys behind TLS, each with an authority of its own.
struct Services {
    redis: TlsServer,
    keys: Front,
    token: String,
    _jwks: JwksServer,
}

impl Services {
    async fn start() -> Self {
        let key = KeyPair::es256("k1");
        let jwks = JwksServer::start(vec![key.jwk()]).await;
        Self {
            redis: TlsServer::start().await,
            keys: Front::tls(jwks.port()).await,
            token: Token::new("u50").sign_with(&key),
            _jwks: jwks,
        }
    }

    fn chat(&self, model: &Model) -> FunctionBuilder {
        let address = self.keys.address();
        chat_stream_by_tls(&self.redis, &model.upstream, &model.front)
            .without("JWT_SECRET")
            .env(
                "JWT_JWKS_URL",
                format!("https://{address}/.well-known/jwks.json"),
            )
            .env(
                "JWT_JWKS_TLS_CA_FILE",
                self.keys.ca_file().display().to_string(),
            )
    }

    /// Runs a turn with 50 messages stored.
    async fn turn(&self, chat: &Function) -> Answer {
        store(self.redis.server(), "u50", 50).await;
        let event: Value = events::chat(&self.token, "luna", "你好");
        let answer = chat.invoke(&event).await;
        assert_eq!(answer.last()["saved"], true);
        chat.wait_idle().await;
        answer
    }
}

/// Returns the time from the last delta to the last event.
fn after_last_delta(answer: &Answer) -> Duration {
    let events = answer.events();
    let is_delta = |data: &Value| data["done"] == false;
    let last = events.iter().rfind(|event| is_delta(&event.data));
    let ended = events.last().expect("events").at;
    ended - last.expect("a delta").at
}
