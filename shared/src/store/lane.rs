//! One connection to one server: opened at first use, reused, and replaced when it fails.
//!
//! An idle connection may be dead without a sign of it: closed by the server, dropped by a network gateway, or lost
//! while the process was frozen. A [`Link`] therefore knows how long its connection has been silent.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use redis::{Cmd, Value};
use tokio::time::{Instant, timeout_at};

use super::call::{Call, redis_time};
use super::dial::{ConnectError, Connection};
use super::failure::{Failure, breaks_connection};
use crate::clock::{lock, unix_micros, unix_millis};

/// Idle time after which a connection may be dead.
const IDLE_SUSPECT: Duration = Duration::from_secs(5);
/// The part of the remaining time that a connection gets which may be dead, before it is replaced.
const SUSPECT_SHARE: f32 = 0.4;
/// The part of the remaining time that a write gives to a connection that was used lately. It leaves enough for a new
/// connection, and is long enough for a server that is slow but answers.
const WRITE_SHARE: f32 = 0.65;
/// The server's clock has not been read on this connection.
const UNKNOWN: i64 = i64::MIN;

/// A place for one connection, shared by the operations that use it.
#[derive(Default)]
pub(super) struct Lane {
    /// Locked for a few instructions and never across an await, so that dropping a connection never waits.
    live: Mutex<Option<Live>>,
    /// Locked while connecting, so that concurrent operations open one connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Live {
    connection: Connection,
    facts: Arc<Facts>,
}

/// What is known about an open connection. Its address identifies the connection.
struct Facts {
    /// Time of the last reply, in Unix milliseconds. On the wall clock, because a monotonic clock may stand still while
    /// the process is frozen.
    answered_at: AtomicU64,
    /// What the server's clock is ahead of the local one, in microseconds; [`UNKNOWN`] until a reply has shown it.
    clock_ahead: AtomicI64,
}

/// The connection of a lane, as one attempt uses it.
pub(super) struct Link<'a> {
    lane: &'a Lane,
    live: Live,
    /// Whether an earlier attempt opened the connection.
    reused: bool,
}

impl Lane {
    /// Returns the connection in use, or opens one. Concurrent callers wait for one attempt to connect.
    ///
    /// `open` returns a boxed future, because connecting is rare and its future is large.
    pub(super) async fn link<'a>(
        &'a self,
        deadline: Instant,
        open: impl FnOnce() -> BoxFuture<'a, Result<Connection, ConnectError>>,
    ) -> Result<Link<'a>, Failure> {
        if let Some(link) = self.link_in_use() {
            return Ok(link);
        }
        let opened = async {
            let _one_at_a_time = self.connecting.lock().await;
            // Another operation may have connected while this one waited for the lock.
            if let Some(link) = self.link_in_use() {
                return Ok(link);
            }
            let live = Live {
                connection: open().await.map_err(Failure::Connect)?,
                facts: Arc::new(Facts {
                    answered_at: AtomicU64::new(unix_millis(SystemTime::now())),
                    clock_ahead: AtomicI64::new(UNKNOWN),
                }),
            };
            *lock(&self.live) = Some(live.clone());
            Ok(Link {
                lane: self,
                live,
                reused: false,
            })
        };
        timeout_at(deadline, opened)
            .await
            .map_err(|_| Failure::Timeout { reused: false })?
    }

    /// Returns whether a connection is open. It may be dead.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.live).is_some()
    }

    fn link_in_use(&self) -> Option<Link<'_>> {
        let live = lock(&self.live).clone()?;
        Some(Link {
            lane: self,
            live,
            reused: true,
        })
    }
}

impl Link<'_> {
    /// Sends `call` and returns the reply, until `deadline`. A connection that has been idle for long gets only a part
    /// of the time. After a failure that says so, the lane drops the connection.
    pub(super) async fn read(
        &mut self,
        call: &Call,
        asking: bool,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let limit = if self.may_be_dead() {
            part_until(deadline, SUSPECT_SHARE)
        } else {
            deadline
        };
        self.send(call, asking, limit).await
    }

    /// Sends the call that `build` returns for a deadline in Unix microseconds on the server's clock, until `deadline`.
    ///
    /// A reused connection gets only a part of the time, so that enough is left to send the call again on another one.
    /// The server's clock is read first if it is unknown. A `late:` reply corrects it, and the call is sent once more.
    pub(super) async fn write(
        &mut self,
        build: &(dyn Fn(u64) -> Call + Sync),
        asking: bool,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let limit = match (self.reused, self.may_be_dead()) {
            (_, true) => part_until(deadline, SUSPECT_SHARE),
            (true, false) => part_until(deadline, WRITE_SHARE),
            (false, false) => deadline,
        };
        if self.server_now().is_none() {
            let time = self.send(&Call::time(), false, limit).await?;
            self.learn_clock(redis_time(&time));
        }
        for _ in 0..2 {
            let left = deadline.saturating_duration_since(Instant::now());
            let until = self.server_now().unwrap_or_default()
                + u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
            let answer = self.send(&build(until), asking, limit).await?;
            let Some(now) = late(&answer) else {
                return Ok(answer);
            };
            self.learn_clock(Some(now));
        }
        Err(Failure::Timeout { reused: false })
    }

    /// Sends one command and returns the reply, until `deadline`.
    pub(super) async fn command(
        &mut self,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let reply = timeout_at(deadline, self.live.connection.command(command)).await;
        self.judge(reply)
    }

    fn may_be_dead(&self) -> bool {
        self.reused && self.idle() > IDLE_SUSPECT
    }

    async fn send(&mut self, call: &Call, asking: bool, limit: Instant) -> Result<Value, Failure> {
        let reply = timeout_at(limit, call.send(&mut self.live.connection, asking)).await;
        let reply = self.judge(reply)?;
        if call.tells_time() {
            self.learn_clock(redis_time(&reply));
        }
        Ok(reply)
    }

    /// Records that the server replied, or drops the connection if it is of no use any more.
    fn judge(
        &self,
        reply: Result<redis::RedisResult<Value>, tokio::time::error::Elapsed>,
    ) -> Result<Value, Failure> {
        let failure = match reply {
            Ok(Ok(value)) => {
                self.answered();
                return Ok(value);
            }
            Ok(Err(error)) if !breaks_connection(&error) => {
                self.answered();
                return Err(Failure::Command {
                    error,
                    reused: self.reused,
                });
            }
            Ok(Err(error)) => Failure::Command {
                error,
                reused: self.reused,
            },
            Err(_) => Failure::Timeout {
                reused: self.reused,
            },
        };
        // Unless it has been replaced already.
        let mut live = lock(&self.lane.live);
        if live
            .as_ref()
            .is_some_and(|live| Arc::ptr_eq(&live.facts, &self.live.facts))
        {
            *live = None;
        }
        Err(failure)
    }

    fn answered(&self) {
        self.live
            .facts
            .answered_at
            .store(unix_millis(SystemTime::now()), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        let answered_at = self.live.facts.answered_at.load(Ordering::Relaxed);
        Duration::from_millis(unix_millis(SystemTime::now()).saturating_sub(answered_at))
    }

    /// Returns the server's time in Unix microseconds, or `None` if it is unknown.
    fn server_now(&self) -> Option<u64> {
        let ahead = self.live.facts.clock_ahead.load(Ordering::Relaxed);
        (ahead != UNKNOWN).then(|| unix_micros(SystemTime::now()).saturating_add_signed(ahead))
    }

    /// Records the server's time, which a reply of this moment contained.
    fn learn_clock(&self, server_now: Option<u64>) {
        let Some(server_now) = server_now.and_then(|now| i64::try_from(now).ok()) else {
            return;
        };
        let here = i64::try_from(unix_micros(SystemTime::now())).unwrap_or(i64::MAX);
        self.live
            .facts
            .clock_ahead
            .store(server_now.saturating_sub(here), Ordering::Relaxed);
    }
}

fn part_until(deadline: Instant, share: f32) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now).mul_f32(share)
}

/// Returns the server's time from the reply of a script that has refused a call as too late.
fn late(reply: &Value) -> Option<u64> {
    let text = match reply {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    text.strip_prefix("late:")?.parse().ok()
}
