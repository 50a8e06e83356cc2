//! Sends deltas from the turn to its client without waiting for the client.
//!
//! The channel is bounded. When a client reads more slowly than the upstream sends, deltas that do not fit are
//! collected here and sent as one as soon as there is room; the longest reply bounds their size. When the client has
//! disconnected, nothing waits for it and the turn goes on.

use tokio::sync::mpsc;

use super::Frame;

/// Number of frames that can wait in the channel. For a client that keeps up, at most one waits.
const CAPACITY: usize = 64;

pub(super) struct Relay {
    frames: mpsc::Sender<Frame>,
    backlog: String,
}

impl Relay {
    /// Returns a relay and its receiver.
    pub(super) fn new() -> (Self, mpsc::Receiver<Frame>) {
        let (frames, receiver) = mpsc::channel(CAPACITY);
        let relay = Self {
            frames,
            backlog: String::new(),
        };
        (relay, receiver)
    }

    /// Sends the first frame, before any delta.
    pub(super) fn start(&self, start: Frame) {
        // There is room for it. It fails only if the client has disconnected.
        let _ = self.frames.try_send(start);
    }

    /// Sends a delta at once, or keeps it until there is room. Never waits.
    pub(super) fn send(&mut self, delta: String) {
        if self.backlog.is_empty() {
            self.backlog = delta;
        } else {
            self.backlog.push_str(&delta);
        }
        match self.frames.try_reserve() {
            Ok(permit) => permit.send(Frame::Delta(std::mem::take(&mut self.backlog))),
            Err(mpsc::error::TrySendError::Full(())) => {}
            Err(mpsc::error::TrySendError::Closed(())) => self.backlog.clear(),
        }
    }

    /// Waits for room and sends the kept deltas; waits forever if none are kept. Cancel-safe: no text is lost.
    pub(super) async fn catch_up(&mut self) {
        if self.backlog.is_empty() {
            return std::future::pending().await;
        }
        let permit = self.frames.reserve().await;
        let delta = std::mem::take(&mut self.backlog);
        if let Ok(permit) = permit {
            permit.send(Frame::Delta(delta));
        }
    }

    /// Sends the kept deltas and the last frame. Waits for the client as long as it is connected.
    pub(super) async fn finish(mut self, last: Frame) {
        if !self.backlog.is_empty() {
            self.catch_up().await;
        }
        // `send` fails only if the client has disconnected; the frame can be dropped.
        let _ = self.frames.send(last).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{FailureCode, MemoryStatus};

    const START: Frame = Frame::Start {
        memory: MemoryStatus::Empty,
        history_messages: 0,
        resumable: false,
    };
    const LAST: Frame = Frame::Failed {
        code: FailureCode::Internal,
        saved: false,
    };

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_nothing_up_and_misses_nothing() {
        let (mut relay, mut frames) = Relay::new();
        relay.start(START);
        let deltas: Vec<String> = (0..1_000).map(|n| format!("{n},")).collect();
        for delta in &deltas {
            relay.send(delta.clone());
        }
        let finish = tokio::spawn(relay.finish(LAST));
        let mut text = String::new();
        let mut count = 0;
        while let Some(frame) = frames.recv().await {
            if let Frame::Delta(delta) = &frame {
                text.push_str(delta);
            }
            count += 1;
        }
        finish.await.expect("no panic");
        assert_eq!(text, deltas.concat());
        assert_eq!(count, CAPACITY + 2);
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_not_waited_for() {
        let (mut relay, frames) = Relay::new();
        relay.start(START);
        drop(frames);
        for _ in 0..1_000 {
            relay.send("x".into());
        }
        relay.finish(LAST).await;
    }

    #[tokio::test]
    async fn it_catches_up_as_soon_as_there_is_room() {
        let (mut relay, mut frames) = Relay::new();
        relay.start(START);
        for _ in 0..CAPACITY + 1 {
            relay.send("x".into());
        }
        assert_eq!(relay.backlog, "xx");
        assert!(frames.recv().await.is_some());
        relay.catch_up().await;
        assert_eq!(relay.backlog, "");
    }
}
