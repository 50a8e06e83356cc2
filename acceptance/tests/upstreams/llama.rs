//! llama.cpp: its own server and that of its Python binding, with a tiny model that recites one text.

use serde_json::json;
use tempfile::TempDir;
use testkit::model_server::ModelServer;

use crate::model::{self, RECITED, RECITED_TOKENS};
use crate::{Stage, assert_done, assert_failed, wait_for_stored};

const KEY: &str = "sk-of-a-llama";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `llama-server`.
    Own,
    /// `python -m llama_cpp.server`.
    Python,
}

use Kind::{Own, Python};

/// A server with the model, which takes prompts shorter than this many tokens.
struct Llama {
    server: ModelServer,
    _model: TempDir,
}

impl Llama {
    async fn start(kind: Kind, context_tokens: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("model.gguf");
        model::write(&path);
        let model = path.to_str().expect("UTF-8");
        let arguments = match kind {
            Own => format!(
                "--model {model} --host 127.0.0.1 --ctx-size {context_tokens} --parallel 1 --threads 1 \
                 --chat-template chatml --api-key {KEY} --no-warmup --offline"
            ),
            Python => format!(
                "-m llama_cpp.server --model {model} --host 127.0.0.1 --n_ctx {context_tokens} --n_threads 1 \
                 --chat_format chatml --interrupt_requests False --api_key {KEY}"
            ),
        };
        let (program, health) = match kind {
            Own => ("llama/server/llama-server", "/health"),
            // By default it ends a reply as soon as another request comes. The list of its models needs the key.
            Python => ("llama/bin/python3", "/openapi.json"),
        };
        let server = ModelServer::start(program, health, |port, _| {
            let arguments = format!("{arguments} --port {port}");
            arguments.split_whitespace().map(str::to_owned).collect()
        })
        .await;
        Self {
            server,
            _model: folder,
        }
    }

    async fn stage(&self, settings: &[(&str, &str)]) -> Stage {
        let mut all = vec![("LLM_API_KEY", KEY)];
        all.extend(settings);
        let stage = Stage::before(&self.server.base_url(), &all).await;
        stage.character(json!({})).await;
        stage
    }
}

#[tokio::test]
async fn a_turn_streams_and_ends_as_the_model_ended_it() {
    for kind in [Own, Python] {
        let llama = Llama::start(kind, 2_048).await;
        let stage = llama.stage(&[]).await;
        let answer = stage.say("晚上好呀").await;
        assert_done(&answer, RECITED, "stop");
        let deltas = answer.events().len() - 2;
        assert_eq!(
            deltas,
            RECITED.chars().count(),
            "{kind:?}: one for each character"
        );
        let usage = &answer.last()["usage"];
        if kind == Own {
            assert_eq!(usage["completion_tokens"], RECITED_TOKENS);
        }
        // The Python server sends none, so it is counted here.
        for count in ["prompt_tokens", "completion_tokens"] {
            assert!(usage[count].as_u64() > Some(10), "{kind:?}: {usage}");
        }
        let stored = stage.stored().await;
        let said: Vec<_> = stored
            .iter()
            .map(|(_, content, _)| content.as_str())
            .collect();
        assert_eq!(said, ["晚上好呀", RECITED], "{kind:?}");
    }
}

#[tokio::test]
async fn the_history_goes_with_the_second_turn() {
    let llama = Llama::start(Own, 2_048).await;
    let stage = llama.stage(&[]).await;
    let mut prompts = Vec::new();
    for history_messages in [0, 2] {
        let answer = stage.say("晚上好呀").await;
        assert_eq!(answer.start()["history_messages"], history_messages);
        assert_done(&answer, RECITED, "stop");
        prompts.push(
            answer.last()["usage"]["prompt_tokens"]
                .as_u64()
                .expect("a count"),
        );
    }
    // What was said both times, and the names of the roles.
    assert!(prompts[1] > prompts[0] + RECITED_TOKENS + 12, "{prompts:?}");
}

#[tokio::test]
async fn a_limit_of_the_reply_is_kept() {
    for kind in [Own, Python] {
        let llama = Llama::start(kind, 2_048).await;
        let stage = llama.stage(&[]).await;
        stage
            .character(json!({ "max_tokens": 5, "temperature": 0.3, "top_p": 0.9 }))
            .await;
        let answer = stage.say("晚上好呀").await;
        let five: String = RECITED.chars().take(5).collect();
        assert_done(&answer, &five, "length");
        let usage = &answer.last()["usage"];
        assert!(kind == Python || usage["completion_tokens"] == 5, "{usage}");
    }
}

/// llama.cpp's own server names the limit. The Python one ends the answer before its first byte.
#[tokio::test]
async fn a_prompt_that_is_too_long_is_asked_again_with_less_of_the_history() {
    for kind in [Own, Python] {
        let llama = Llama::start(kind, 1_024).await;
        let stage = llama.stage(&[("LLM_MAX_RETRIES", "0")]).await;
        for _ in 0..4 {
            let answer = stage.say(&"晚上好呀".repeat(25)).await;
            assert_done(&answer, RECITED, "stop");
        }
        let answer = stage.say(&"晚上好呀".repeat(100)).await;
        assert_done(&answer, RECITED, "stop");
        assert_eq!(answer.start()["history_messages"], 8, "{kind:?}");
        assert_eq!(
            stage.stored().await.len(),
            10,
            "{kind:?}: all is remembered"
        );
        let remedy = match kind {
            Own => "CONTEXT_MAX_TOKENS below 1024",
            Python => "CONTEXT_MAX_TOKENS below the model's context length",
        };
        let log = stage.chat.printed(remedy).await;
        assert!(log.contains("\"kind\":\"too_long\""), "{kind:?}: {log}");
    }
}

#[tokio::test]
async fn a_prompt_that_stays_too_long_fails() {
    for (kind, code) in [(Own, "upstream_rejected"), (Python, "upstream_unavailable")] {
        let llama = Llama::start(kind, 512).await;
        let stage = llama.stage(&[("LLM_MAX_RETRIES", "0")]).await;
        assert_done(&stage.say("晚上好呀").await, RECITED, "stop");
        assert_failed(&stage.say(&"晚上好呀".repeat(200)).await, code, "");
        assert_done(&stage.say("还在吗？").await, RECITED, "stop");
    }
}

#[tokio::test]
async fn a_wrong_key_is_rejected_and_named_in_the_log() {
    for kind in [Own, Python] {
        let llama = Llama::start(kind, 512).await;
        let stage = llama.stage(&[("LLM_API_KEY", "sk-of-nobody")]).await;
        assert_failed(&stage.say("晚上好呀").await, "upstream_rejected", "");
        let log = stage.chat.printed("set LLM_API_KEY").await;
        assert!(log.contains("key:"), "{kind:?}: {log}");
    }
}

/// Neither server looks at the name: each has one model.
#[tokio::test]
async fn any_name_of_a_model_is_taken() {
    for kind in [Own, Python] {
        let llama = Llama::start(kind, 512).await;
        let stage = llama.stage(&[("LLM_MODEL", "no-such-model")]).await;
        assert_done(&stage.say("晚上好呀").await, RECITED, "stop");
    }
}

#[tokio::test]
async fn a_turn_outlives_its_client() {
    for kind in [Own, Python] {
        let llama = Llama::start(kind, 2_048).await;
        let stage = llama.stage(&[]).await;
        let mut answer = stage.say_streaming("晚上好呀").await;
        assert_eq!(answer.next_event().await.expect("start").event, "start");
        drop(answer);
        // The next turn waits for the one model, and so for the end of the first.
        assert_done(&stage.say("还在吗？").await, RECITED, "stop");
        let stored = wait_for_stored(&stage, 4).await;
        let replies = stored.iter().filter(|(role, _, _)| role == "assistant");
        assert!(
            replies.clone().all(|(_, content, _)| content == RECITED),
            "{stored:?}"
        );
    }
}
