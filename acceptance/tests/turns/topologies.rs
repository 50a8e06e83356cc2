//! Behind sentinels and in a cluster: a turn is found from every process, also after its master is gone.

use futures_util::future::join_all;
use serde_json::json;
use testkit::cluster::Cluster;
use testkit::runtime::Streaming;
use testkit::sentinel::Sentinels;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script};

use crate::{PIECES, ask, gated, last_block, resume, stop, text, turn_id};

/// A key of the user's, by which a cluster finds the shard.
const KEY: &str = "chat:{alice}:luna:messages";

/// Starts a stage whose functions use the servers of `env` and not the Redis of the stage.
async fn stage(env: Vec<(String, String)>, scripts: Vec<Script>) -> Stage {
    let builder = Stage::builder().upstream_scripts(scripts);
    let builder = env
        .iter()
        .fold(builder, |builder, (name, value)| builder.env(name, value));
    builder.start().await
}

#[tokio::test]
async fn a_turn_is_one_from_every_process_behind_sentinels() {
    let sentinels = Sentinels::start().await;
    a_turn_is_one_from_every_process(sentinels.env()).await;
}

#[tokio::test]
async fn a_turn_is_one_from_every_process_in_a_cluster() {
    let cluster = Cluster::start().await;
    a_turn_is_one_from_every_process(cluster.env()).await;
}

async fn a_turn_is_one_from_every_process(env: Vec<(String, String)>) {
    let gates = [Gate::new(), Gate::new()];
    let stage = stage(env, vec![gated(&gates[0]), gated(&gates[1])]).await;
    let other = stage.function("chat-stream").concurrency(4).start().await;
    let stopper = stage.function("stop-stream").start().await;

    // Two requests with one key, and a reader.
    let event = ask(&stage, "晚上好呀")
        .header("idempotency-key", "k")
        .http();
    let mut own = stage.chat.invoke_streaming(&event).await;
    let turn = text(&own.next_event().await.expect("start").data["turn_id"]);
    let others = [event, resume(&stage, &turn).http()];
    let others = join_all(others.iter().map(|event| other.invoke_streaming(event))).await;
    gates[0].open();
    let own = own.finish().await;
    assert_eq!(own.last()["saved"], true);
    for answer in join_all(others.into_iter().map(Streaming::finish)).await {
        assert_eq!(answer.reply(), PIECES.concat());
        assert_eq!(last_block(&answer), last_block(&own));
    }
    assert_eq!(stage.upstream.requests().len(), 1);

    // A stop through a third process.
    let mut running = stage.say_streaming("还在吗？").await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    for _ in 1..PIECES.len() {
        running.next_event().await.expect("a delta");
    }
    let answer = stopper.invoke(&stop(&stage).http()).await;
    assert_eq!(
        answer.json(),
        json!({ "turn_id": turn, "state": "stopping" })
    );
    let stopped = running.finish().await;
    assert_eq!(stopped.last()["finish_reason"], "stopped");
    let again = other.invoke(&resume(&stage, &turn).http()).await;
    assert_eq!(last_block(&again), last_block(&stopped));
}

#[tokio::test]
async fn a_reader_follows_across_a_failover() {
    let sentinels = Sentinels::start().await;
    let gate = Gate::new();
    let stage = stage(sentinels.env(), vec![gated(&gate)]).await;
    let running = Running::begin(&stage).await;
    sentinels.replicated().await;
    let old = sentinels.master_port().await;
    sentinels.failover().await;
    sentinels.wait_for_new_master(old).await;
    gate.open();
    running.ends_alike().await;
}

#[tokio::test]
async fn a_reader_follows_when_its_shard_changes_the_master() {
    let mut cluster = Cluster::start().await;
    let gate = Gate::new();
    let stage = stage(cluster.env(), vec![gated(&gate)]).await;
    let running = Running::begin(&stage).await;
    let old = cluster.master_of(KEY).await;
    cluster.node(old).replicated(1).await;
    cluster.kill(old).await;
    cluster.wait_for_new_master(KEY, old).await;
    gate.open();
    running.ends_alike().await;
}

/// A turn that waits at a gate, and its reader in another process, which has seen all that came so far.
struct Running {
    own: Streaming,
    reader: Streaming,
    /// Kept so that the reader's process runs.
    _other: testkit::runtime::Function,
}

impl Running {
    async fn begin(stage: &Stage) -> Self {
        let other = stage.function("chat-stream").start().await;
        let mut own = stage.say_streaming("晚上好呀").await;
        let turn = text(&own.next_event().await.expect("start").data["turn_id"]);
        let mut reader = other.invoke_streaming(&resume(stage, &turn).http()).await;
        reader.next_event().await.expect("start");
        let mut seen = String::new();
        while seen != PIECES[..PIECES.len() - 1].concat() {
            let event = reader.next_event().await.expect("a delta");
            seen += event.data["content"].as_str().expect("text");
        }
        Self {
            own,
            reader,
            _other: other,
        }
    }

    /// Asserts that both see the whole reply and the same end.
    async fn ends_alike(self) {
        let (own, reader) = (self.own.finish().await, self.reader.finish().await);
        assert_eq!(own.reply(), PIECES.concat());
        assert_eq!(own.last()["saved"], true);
        assert_eq!(reader.reply(), own.reply());
        assert_eq!(turn_id(&reader), turn_id(&own));
        assert_eq!(last_block(&reader), last_block(&own));
    }
}
