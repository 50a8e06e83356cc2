//! The owner of a turn dies, or seems to.

use testkit::runtime::Function;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script, Step, delta};

use crate::{
    PIECES, ask, gated, last_block, record, resume, stage, stored, text, turn_id, wait_for,
};

async fn two(scripts: Vec<Script>) -> (Stage, Function, Function) {
    let stage = stage(scripts).await;
    let owner = stage.function("chat-stream").start().await;
    let other = stage.function("chat-stream").start().await;
    (stage, owner, other)
}

#[tokio::test]
async fn an_owner_that_died_is_reported_and_the_same_key_runs_again() {
    for pieces in [0, 3] {
        let mut steps: Vec<Step> = PIECES[..pieces]
            .iter()
            .map(|text| Step::Bytes(delta(text)))
            .collect();
        steps.push(Step::Silence);
        let (stage, owner, other) = two(vec![Script::raw(steps), Script::reply(&PIECES)]).await;
        let event = ask(&stage, "晚上好呀")
            .header("idempotency-key", "k")
            .http();
        let mut running = owner.invoke_streaming(&event).await;
        let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
        let said = PIECES[..pieces].concat();
        let recorded = record(&turn) + ":text";
        wait_for(&stage.redis, &["GET", &recorded], |text| {
            text.as_deref().unwrap_or_default() == said
        })
        .await;
        wait_for(
            &stage.redis,
            &["HGET", &record(&turn), "start"],
            Option::is_some,
        )
        .await;
        let _ = owner.stop();
        drop(running);

        // The reader gets what was recorded, and learns within the lease that no more comes.
        let lost = other.invoke(&resume(&stage, &turn).http()).await;
        assert_eq!(lost.reply(), said);
        assert_eq!(lost.last()["code"], "turn_lost");
        assert_eq!(lost.last()["saved"], false);
        assert!(stored(&stage.redis).await.is_empty());
        // The same request is another turn now.
        let answer = other.invoke(&event).await;
        assert_eq!(answer.reply(), PIECES.concat());
        assert_ne!(turn_id(&answer), turn);
        assert_eq!(stored(&stage.redis).await, ["晚上好呀", &PIECES.concat()]);
        // The lost one stays lost.
        let again = other.invoke(&resume(&stage, &turn).http()).await;
        assert_eq!(last_block(&again), last_block(&lost));
    }
}

#[tokio::test]
async fn an_owner_that_died_after_the_commit_is_not_missed() {
    let (stage, owner, other) = two(vec![Script::reply(&PIECES)]).await;
    let event = ask(&stage, "晚上好呀")
        .header("idempotency-key", "k")
        .http();
    let mut running = owner.invoke_streaming(&event).await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    running.drop_connection();
    wait_for(
        &stage.redis,
        &["HGET", &record(&turn), "end"],
        Option::is_some,
    )
    .await;
    let _ = owner.stop();
    let answer = other.invoke(&event).await;
    assert_eq!((turn_id(&answer), answer.reply()), (turn, PIECES.concat()));
    assert_eq!(answer.last()["saved"], true);
    assert_eq!(stage.upstream.requests().len(), 1);
}

#[tokio::test]
async fn the_late_commit_of_an_owner_that_was_taken_for_dead_is_refused() {
    let gate = Gate::new();
    let (stage, owner, other) = two(vec![gated(&gate), Script::reply(&["新"])]).await;
    let event = ask(&stage, "晚上好呀")
        .header("idempotency-key", "k")
        .http();
    let mut running = owner.invoke_streaming(&event).await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    wait_for(
        &stage.redis,
        &["HGET", &record(&turn), "start"],
        Option::is_some,
    )
    .await;
    owner.pause();
    let lost = other.invoke(&resume(&stage, &turn).http()).await;
    assert_eq!(lost.last()["code"], "turn_lost");
    let answer = other.invoke(&event).await;
    assert_eq!(answer.reply(), "新");
    owner.resume();
    gate.open();
    let late = running.finish().await;
    assert_eq!(last_block(&late), last_block(&lost));
    assert_eq!(stored(&stage.redis).await, ["晚上好呀", "新"]);
}
