//! LiteLLM's proxy in front of scripted upstreams: each failure keeps its meaning behind LiteLLM's wording.

use serde_json::{Value, json};
use testkit::model_server::ModelServer;
use testkit::upstream::{Gate, Script, Step, Upstream, chunk};

use crate::{Stage, assert_done, assert_failed, wait_for_stored};

const KEY: &str = "sk-of-a-proxy";
const TOO_LONG: &str = "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens.";

/// The end of a turn.
enum Ends {
    /// With this reply and `finish_reason`.
    Well(&'static str, &'static str),
    /// With this code, after this text.
    Failed(&'static str, &'static str),
}

use Ends::{Failed, Well};

/// A model of the proxy, and one turn with it.
struct Case {
    name: &'static str,
    /// As LiteLLM spells models: the provider, and the provider's name of it.
    model: &'static str,
    /// The upstream's answers: the first to the first request, and so on; the last to all further ones.
    answers: Vec<Script>,
    ends: Ends,
    requests: usize,
    /// The kind of refusal that the log names.
    logged: Option<&'static str>,
}

fn case(name: &'static str, answers: Vec<Script>, ends: Ends, requests: usize) -> Case {
    Case {
        name,
        model: "openai/model-of-an-upstream",
        answers,
        ends,
        requests,
        logged: None,
    }
}

impl Case {
    fn logged(mut self, kind: &'static str) -> Self {
        self.logged = Some(kind);
        self
    }

    fn model(mut self, model: &'static str) -> Self {
        self.model = model;
        self
    }
}

fn good() -> Script {
    Script::reply(&["你", "好", "呀"])
}

fn refusal(status: u16, message: &str, code: &str) -> Script {
    let error =
        json!({ "message": message, "type": "invalid_request_error", "param": null, "code": code });
    Script::status(status, &json!({ "error": error }).to_string())
}

fn error_event() -> Step {
    let error = json!({ "message": "gone", "type": "server_error", "code": "internal" });
    Step::Bytes(chunk(&json!({ "error": error })))
}

fn thought(text: &str) -> Step {
    let delta = json!({ "reasoning_content": text });
    Step::Bytes(chunk(&json!({
        "id": "chatcmpl-test", "object": "chat.completion.chunk", "created": 1_732_430_000, "model": "m",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": null }],
    })))
}

fn ends(finish_reason: &str) -> Script {
    Script::deltas(&["好"])
        .finish(finish_reason)
        .usage(310, 1)
        .done()
}

fn cases(gate: &Gate) -> Vec<Case> {
    let begun = || Script::deltas(&["我", "在"]);
    vec![
        case("good", vec![good()], Well("你好呀", "stop"), 1),
        case(
            "thinks",
            vec![
                Script::raw(vec![thought("嗯")])
                    .then_delta("好")
                    .finish("stop")
                    .done(),
            ],
            Well("好", "stop"),
            1,
        ),
        case("length", vec![ends("length")], Well("好", "length"), 1),
        case(
            "filter",
            vec![ends("content_filter")],
            Well("好", "content_filter"),
            1,
        ),
        // Failures that pass.
        case(
            "limited",
            vec![
                refusal(429, "Rate limit reached", "rate_limit_exceeded"),
                good(),
            ],
            Well("你好呀", "stop"),
            2,
        ),
        case(
            "busy",
            vec![
                refusal(503, "busy", "overloaded"),
                refusal(500, "oops", "internal_error"),
                good(),
            ],
            Well("你好呀", "stop"),
            3,
        ),
        case(
            "cut at once",
            vec![Script::raw(Vec::new()).cut(), good()],
            Well("你好呀", "stop"),
            2,
        ),
        case(
            "cut before text",
            vec![Script::deltas(&[]).cut(), good()],
            Well("你好呀", "stop"),
            2,
        ),
        // Failures that do not pass.
        case(
            "down",
            vec![refusal(500, "oops", "internal_error")],
            Failed("upstream_unavailable", ""),
            3,
        ),
        case(
            "bad",
            vec![refusal(400, "bad", "bad")],
            Failed("upstream_rejected", ""),
            1,
        ),
        case(
            "no key",
            vec![refusal(401, "no such key", "invalid_api_key")],
            Failed("upstream_rejected", ""),
            1,
        )
        .logged("key"),
        case(
            "no model",
            vec![refusal(404, "no such model", "model_not_found")],
            Failed("upstream_rejected", ""),
            1,
        )
        .logged("not_found"),
        case(
            "filtered",
            vec![refusal(
                400,
                "The prompt triggered a content management policy",
                "content_filter",
            )],
            Failed("upstream_rejected", ""),
            1,
        )
        .logged("filtered"),
        case(
            "always too long",
            vec![refusal(400, TOO_LONG, "context_length_exceeded")],
            Failed("upstream_rejected", ""),
            1,
        )
        .logged("too_long"),
        // Replies that break off.
        case(
            "cut",
            vec![begun().cut()],
            Failed("upstream_interrupted", "我在"),
            1,
        ),
        case(
            "ends early",
            vec![begun()],
            Failed("upstream_interrupted", "我在"),
            1,
        ),
        case(
            "fails",
            vec![begun().then(error_event())],
            Failed("upstream_interrupted", "我在"),
            1,
        ),
        // Requests that LiteLLM itself refuses for a model, and those that its upstream refuses.
        case("o-series", vec![good()], Well("你好呀", "stop"), 1)
            .model("openai/o3-mini")
            .logged("temperature"),
        case(
            "no system role",
            vec![
                refusal(400, "System role not supported", "unsupported_value"),
                good(),
            ],
            Well("你好呀", "stop"),
            2,
        )
        .logged("system_role"),
        // Used below.
        case(
            "too long",
            [
                vec![good(); 4],
                vec![refusal(400, TOO_LONG, "context_length_exceeded"), good()],
            ]
            .concat(),
            Well("你好呀", "stop"),
            1,
        ),
        case(
            "held",
            vec![
                good(),
                Script::deltas(&["一"])
                    .then(Step::Wait(gate.clone()))
                    .then_delta("二")
                    .finish("stop")
                    .done(),
            ],
            Well("你好呀", "stop"),
            1,
        ),
    ]
}

async fn start(models: &[(Case, Upstream)]) -> ModelServer {
    let models = models.iter().map(|(case, upstream)| {
        let parameters = json!({ "model": case.model, "api_base": upstream.base_url(), "api_key": "sk-of-an-upstream" });
        json!({ "model_name": case.name, "litellm_params": parameters })
    });
    let config = json!({
        "model_list": models.collect::<Vec<_>>(),
        "general_settings": { "master_key": KEY },
        // All attempts are this service's.
        "litellm_settings": { "num_retries": 0 },
        "router_settings": { "disable_cooldowns": true },
    });
    ModelServer::start("litellm/bin/litellm", "/health/liveliness", |port, home| {
        let path = home.join("config.yaml");
        // JSON is YAML.
        std::fs::write(&path, config.to_string()).expect("written");
        let path = path.to_str().expect("UTF-8");
        [
            "--config",
            path,
            "--host",
            "127.0.0.1",
            "--port",
            &port.to_string(),
        ]
        .map(str::to_owned)
        .into()
    })
    .await
}

async fn stage(proxy: &ModelServer, key: &str, model: &str) -> Stage {
    let settings = [("LLM_API_KEY", key), ("LLM_MODEL", model)];
    let stage = Stage::before(&proxy.base_url(), &settings).await;
    let parameters = json!({ "temperature": 0.7, "top_p": 0.9, "max_tokens": 99 });
    stage.character(parameters).await;
    stage
}

/// One proxy serves all cases, each as a model of its own, because it takes many seconds to start.
#[tokio::test]
async fn what_an_upstream_does_means_the_same_behind_litellm() {
    let gate = Gate::new();
    let mut models = Vec::new();
    for case in cases(&gate) {
        let upstream = Upstream::start_sequence(case.answers.clone()).await;
        models.push((case, upstream));
    }
    let proxy = start(&models).await;
    for (case, upstream) in &models {
        holds(&proxy, case, upstream).await;
    }
    let upstream_of = |name: &str| {
        let found = models.iter().find(|(case, _)| case.name == name);
        &found.expect("a case").1
    };

    deltas_usage_and_history_come_through(&proxy, upstream_of("good")).await;
    what_litellm_refuses_is_left_out(upstream_of("o-series"));
    instructions_are_folded(upstream_of("no system role"));
    a_prompt_that_is_too_long_loses_history(&proxy, upstream_of("too long")).await;
    a_turn_outlives_its_client(&proxy, &gate).await;
    what_the_proxy_itself_refuses_is_named(&proxy).await;
}

async fn holds(proxy: &ModelServer, case: &Case, upstream: &Upstream) {
    let stage = stage(proxy, KEY, case.name).await;
    let answer = stage.say("晚上好呀").await;
    match case.ends {
        Well(reply, finish_reason) => assert_done(&answer, reply, finish_reason),
        Failed(code, shown) => assert_failed(&answer, code, shown),
    }
    assert_eq!(upstream.requests().len(), case.requests, "{}", case.name);
    if let Some(kind) = case.logged {
        // In a field where it was asked again, and in the text of the failure where not.
        let as_field = format!("\"kind\":\"{kind}\"");
        let log = stage.chat.printed("\"level\":\"WARN\"").await;
        assert!(
            log.contains(&as_field) || log.contains(&format!(": {kind}: ")),
            "{}: {log}",
            case.name
        );
    }
}

async fn deltas_usage_and_history_come_through(proxy: &ModelServer, upstream: &Upstream) {
    let stage = stage(proxy, KEY, "good").await;
    let first = stage.say("我叫小雨").await;
    let kinds: Vec<String> = first
        .events()
        .into_iter()
        .map(|event| event.event)
        .collect();
    assert_eq!(kinds, ["start", "message", "message", "message", "message"]);
    assert_eq!(
        first.last()["usage"],
        json!({ "prompt_tokens": 310, "completion_tokens": 3 })
    );
    assert_done(&stage.say("我叫什么？").await, "你好呀", "stop");
    let asked = upstream.requests().pop().expect("a request");
    let said: Vec<String> = asked
        .messages()
        .into_iter()
        .map(|(_, content)| content)
        .collect();
    assert_eq!(said, ["你是月亮。", "我叫小雨", "你好呀", "我叫什么？"]);
}

/// It takes one temperature for these models, no `top_p`, and the limit by its other name, which it knows itself.
fn what_litellm_refuses_is_left_out(upstream: &Upstream) {
    let asked = upstream.requests().pop().expect("a request").body;
    assert_eq!(
        (&asked["temperature"], &asked["top_p"]),
        (&Value::Null, &Value::Null),
        "{asked}"
    );
    assert_eq!(asked["max_completion_tokens"], 99, "{asked}");
}

fn instructions_are_folded(upstream: &Upstream) {
    let asked = upstream.requests().pop().expect("a request").messages();
    assert_eq!(
        asked,
        [("user".to_owned(), "你是月亮。\n\n晚上好呀".to_owned())]
    );
}

async fn a_prompt_that_is_too_long_loses_history(proxy: &ModelServer, upstream: &Upstream) {
    let stage = stage(proxy, KEY, "too long").await;
    for turn in 1..=4 {
        assert_done(&stage.say(&format!("第{turn}句")).await, "你好呀", "stop");
    }
    let said: Vec<usize> = upstream.requests()[1..]
        .iter()
        .map(|asked| {
            asked
                .messages()
                .iter()
                .filter(|(role, _)| role == "user")
                .count()
        })
        .collect();
    // The fourth of these turns is refused with a history of three.
    assert_eq!(said, [1, 2, 3, 4, 2]);
    stage.chat.printed("CONTEXT_MAX_TOKENS below 4097").await;
}

async fn a_turn_outlives_its_client(proxy: &ModelServer, gate: &Gate) {
    let stage = stage(proxy, KEY, "held").await;
    let mut answer = stage.say_streaming("数数").await;
    assert_eq!(answer.next_event().await.expect("start").event, "start");
    assert_eq!(
        answer.next_event().await.expect("a delta").data["content"],
        "一"
    );
    drop(answer);
    gate.open();
    let stored = wait_for_stored(&stage, 2).await;
    assert_eq!(stored[1].1, "一二");
}

/// Without a database LiteLLM answers 400 to a key that is not its own, and to a model that it does not have.
async fn what_the_proxy_itself_refuses_is_named(proxy: &ModelServer) {
    for (key, model, kind) in [
        ("sk-of-nobody", "good", "key"),
        (KEY, "nobody", "not_found"),
    ] {
        let stage = stage(proxy, key, model).await;
        assert_failed(&stage.say("晚上好呀").await, "upstream_rejected", "");
        stage.chat.printed(&format!(": {kind}: ")).await;
    }
}
