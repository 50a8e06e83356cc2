//! A turn that cannot be lost: a client comes back to it, repeats its request, or stops it, and reaches any process.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod death;
mod gone;
mod keys;
mod outage;
mod resume;
mod stop;
mod topologies;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events::Event;
use testkit::redis::Server;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script, Step};

/// Pieces of a reply, with characters of one to four bytes.
const PIECES: [&str; 5] = ["你", "好呀 é", "!", "🙂", "再见"];

/// The time that a test waits for something that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns a reply in pieces that stops before the last one until the gate is open.
fn gated(gate: &Gate) -> Script {
    let (last, first) = PIECES.split_last().expect("pieces");
    Script::deltas(first)
        .then(Step::Wait(gate.clone()))
        .then_delta(last)
        .finish("stop")
        .usage(310, PIECES.len())
        .done()
}

/// Starts a stage whose upstream answers by these scripts.
async fn stage(scripts: Vec<Script>) -> Stage {
    Stage::builder().upstream_scripts(scripts).start().await
}

/// Returns a request by the user of the stage.
fn ask(stage: &Stage, message: &str) -> Event {
    let body = json!({ "character_id": Stage::CHARACTER, "message": message });
    Event::stream().token(&stage.token).json(&body)
}

fn resume(stage: &Stage, turn: &str) -> Event {
    Event::resume()
        .token(&stage.token)
        .query("character_id", Stage::CHARACTER)
        .query("turn_id", turn)
}

fn stop(stage: &Stage) -> Event {
    Event::stop()
        .token(&stage.token)
        .query("character_id", Stage::CHARACTER)
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn turn_id(answer: &Answer) -> String {
    text(&answer.last()["turn_id"])
}

/// Returns the last event of a stream, to the byte.
fn last_block(answer: &Answer) -> String {
    let text = answer.text();
    let block = text.trim_end_matches('\n').rsplit("\n\n").next();
    block.expect("an event").to_owned()
}

/// Returns the contents of the stored messages, oldest first.
async fn stored(redis: &Server) -> Vec<String> {
    let elements: Vec<String> = redis.command(&["LRANGE", &messages(), "0", "-1"]).await;
    elements
        .iter()
        .rev()
        .map(|element| text(&serde_json::from_str::<Value>(element).expect("JSON")["content"]))
        .collect()
}

/// Returns the name of the list of messages.
fn messages() -> String {
    format!("chat:{}:{}:messages", Stage::USER, Stage::CHARACTER)
}

/// Returns the name of the record of a turn.
fn record(turn: &str) -> String {
    format!("chat:{}:{}:turn:{turn}", Stage::USER, Stage::CHARACTER)
}

/// Waits until Redis has a value that `wanted` accepts.
async fn wait_for(redis: &Server, command: &[&str], wanted: impl Fn(&Option<String>) -> bool) {
    let began = Instant::now();
    loop {
        let value: Option<String> = redis.command(command).await;
        if wanted(&value) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{command:?} stays {value:?}");
        tokio::task::yield_now().await;
    }
}
