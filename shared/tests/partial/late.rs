//! What arrives late: each change happens once, and never after it was given up.

use std::time::Duration;

use shared::memory::Commit;
use shared::session::State;
use testkit::proxy::Proxy;
use testkit::redis::Server;
use tokio::time::sleep;

use crate::subject::Subject;

/// By this much the first attempt of a change is late. The second is made before that.
const DELAY: Duration = Duration::from_millis(700);
/// When the first attempt has arrived, counted from before it was sent.
const ARRIVED: Duration = Duration::from_millis(1_200);

#[tokio::test]
async fn a_clear_whose_first_attempt_is_late_deletes_no_turn_that_came_after_it() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let subject = Subject::new(&[("REDIS_URL", &proxy.url())]);
    let other = Subject::new(&[("REDIS_URL", &server.url())]);
    for clears_between in [0, 1] {
        subject.say("old").await;
        proxy.delay_existing(DELAY);
        let arrived = tokio::spawn(sleep(ARRIVED));
        subject.clear().await;
        // Another clear leaves its own mark, and the late one is still known.
        for _ in 0..clears_between {
            other.clear().await;
        }
        assert_eq!(other.say("new").await, Commit::Saved);
        arrived.await.expect("no panic");
        assert_eq!(other.contents().await, ["new", "re: new"]);
    }
}

#[tokio::test]
async fn a_change_of_state_whose_first_attempt_is_late_is_made_once() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let subject = Subject::new(&[("REDIS_URL", &proxy.url())]);
    let other = Subject::new(&[("REDIS_URL", &server.url())]);
    subject.say("one").await;
    proxy.delay_existing(DELAY);
    let arrived = tokio::spawn(sleep(ARRIVED));
    let ended = subject.set_state(State::Ended).await.expect("Redis is up");
    assert_eq!(ended.expect("a session").state, State::Ended);
    other.say("two").await;
    arrived.await.expect("no panic");
    let session = other.session().await.expect("a session");
    assert_eq!(session.state, State::Active, "a turn came after the change");
}

#[tokio::test]
async fn a_change_of_state_whose_first_attempt_is_late_spares_the_session_after_a_clear() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let subject = Subject::new(&[("REDIS_URL", &proxy.url())]);
    let other = Subject::new(&[("REDIS_URL", &server.url())]);
    for clears in [1, 2] {
        subject.say("one").await;
        proxy.delay_existing(DELAY);
        let arrived = tokio::spawn(sleep(ARRIVED));
        let ended = subject.set_state(State::Ended).await.expect("Redis is up");
        assert_eq!(ended.expect("a session").state, State::Ended);
        for _ in 0..clears {
            other.clear().await;
        }
        other.say("two").await;
        arrived.await.expect("no panic");
        let session = other.session().await.expect("a session");
        assert_eq!(session.state, State::Active, "it is another session");
    }
}

#[tokio::test]
async fn an_abandoned_change_of_state_does_not_take_effect_later() {
    let server = Server::start().await;
    let subject = Subject::new(&[
        ("REDIS_URL", &server.url()),
        ("REDIS_BREAKER_COOLDOWN_MS", "100"),
    ]);
    subject.say("one").await;
    // The server knows the script now, so the change below would take effect as soon as the server goes on.
    let active = subject.set_state(State::Active).await;
    active.expect("Redis is up").expect("a session");
    server.pause();
    assert!(subject.set_state(State::Ended).await.is_err());
    server.resume();
    subject.load_when_back().await;
    let session = subject.session().await.expect("a session");
    assert_eq!(session.state, State::Active);
}

#[tokio::test]
async fn a_clear_wins_whatever_the_clock_of_the_server_says() {
    const CLEARED: &str = "chat:alice:luna:cleared";
    let server = Server::start().await;
    let subject = Subject::new(&[("REDIS_URL", &server.url())]);
    subject.say("old").await;
    // After a failover the clock may be behind, so that a clear seems earlier than a turn that began before it.
    let turn = subject.turn("began before").await;
    subject.clear().await;
    let mark: String = server.command(&["GET", CLEARED]).await;
    let (micros, ids) = mark.split_once('.').expect("a time and ids");
    let micros: u64 = micros.parse().expect("a time");
    let behind = format!("{}.{ids}", micros - 3_000_000);
    server.command::<String>(&["SET", CLEARED, &behind]).await;
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);

    // And the clock may be ahead: a turn that has read the mark began after that clear.
    let ahead = format!("{}.{ids}", micros + 3_000_000);
    server.command::<String>(&["SET", CLEARED, &ahead]).await;
    let turn = subject.turn("began after").await;
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    // The mark of the next clear is another one, although the clock has not reached this one yet.
    let turn = subject.turn("began between").await;
    subject.clear().await;
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);
}

#[tokio::test]
async fn a_mark_of_an_earlier_version_still_counts() {
    let server = Server::start().await;
    let subject = Subject::new(&[("REDIS_URL", &server.url())]);
    let turn = subject.turn("began before").await;
    let time: (u64, u64) = server.command(&["TIME"]).await;
    let mark = (time.0 * 1_000_000 + time.1).to_string();
    server
        .command::<String>(&["SET", "chat:alice:luna:cleared", &mark])
        .await;
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);
    assert_eq!(subject.say("began after").await, Commit::Saved);
}
