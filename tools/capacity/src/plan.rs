//! From what was measured to what is needed: pure arithmetic. Every allowance is here, with its reason.

use crate::options::Options;

const MIB: f64 = 1_048_576.0;
const DAY_SECONDS: f64 = 86_400.0;
const DAYS_A_MONTH: f64 = 30.0;

/// The busiest day over the average one.
pub(crate) const BUSY_DAY: f64 = 1.25;

/// The busiest hour over the average one.
pub(crate) const BUSY_HOUR: f64 = 3.0;

/// What the allocator holds beyond what it gave out (`allocator_resident` over `allocator_allocated`): 10 to 13% after two million
/// pushes and deletions at random over 5,000 sessions in 90 MB, where it stayed; rounded up.
pub(crate) const FRAGMENTATION: f64 = 0.15;

/// What one replica that lags may make the server hold for a minute before it is cut off: the soft limit of
/// `client-output-buffer-limit replica` as Redis ships.
pub(crate) const REPLICA_BUFFER: f64 = 64.0 * MIB;

/// Pages written while a snapshot or an AOF rewrite runs exist twice.
pub(crate) const COPY_ON_WRITE: f64 = 0.25;

/// Memory at which Lambda gives a whole CPU, in MB.
pub(crate) const ONE_CPU_MB: f64 = 1_769.0;

/// Memory of Redis, in bytes.
#[derive(Debug)]
pub(crate) struct RedisPlan {
    pub(crate) sessions: f64,
    /// Of an average day.
    pub(crate) data: f64,
    /// What the busiest day adds.
    pub(crate) busy_day: f64,
    /// Processes that are connected in the busiest hour.
    pub(crate) processes: f64,
    pub(crate) connections: f64,
    /// What `maxmemory` should be: the three before.
    pub(crate) maxmemory: f64,
    pub(crate) fragmentation: f64,
    pub(crate) copy_on_write: f64,
    /// What the server should have: all of it.
    pub(crate) server: f64,
}

impl RedisPlan {
    pub(crate) fn new(options: &Options, bytes_a_session: f64, bytes_a_connection: f64) -> Self {
        let sessions = options.sessions();
        let data = sessions * bytes_a_session;
        let busy_day = data * (BUSY_DAY - 1.0);
        let processes = LambdaPlan::new(options).busy_concurrency;
        let connections = processes * bytes_a_connection;
        let maxmemory = data + busy_day + connections;
        let fragmentation = maxmemory * FRAGMENTATION;
        let copy_on_write = maxmemory * COPY_ON_WRITE;
        Self {
            sessions,
            data,
            busy_day,
            processes,
            connections,
            maxmemory,
            fragmentation,
            copy_on_write,
            server: maxmemory + fragmentation + copy_on_write + REPLICA_BUFFER,
        }
    }
}

/// What drives the bill of `chat-stream`.
#[derive(Debug)]
pub(crate) struct LambdaPlan {
    pub(crate) turns_per_day: f64,
    pub(crate) gb_seconds_a_turn: f64,
    /// Time that a turn's CPU work takes on this much memory's share of a CPU.
    pub(crate) cpu_ms_at_share: f64,
    /// Turns that run at the same time in the busiest hour, of the busiest day.
    pub(crate) busy_concurrency: f64,
    pub(crate) turns_a_month: f64,
    pub(crate) duration_dollars: f64,
    pub(crate) request_dollars: f64,
}

impl LambdaPlan {
    pub(crate) fn new(options: &Options) -> Self {
        let turns_per_day = options.turns_per_day();
        let turns_a_month = turns_per_day * DAYS_A_MONTH;
        let gb_seconds_a_turn = options.lambda_mb as f64 / 1_024.0 * options.reply_seconds;
        let share = (options.lambda_mb as f64 / ONE_CPU_MB).min(1.0);
        let turns_a_second = turns_per_day / DAY_SECONDS * BUSY_DAY * BUSY_HOUR;
        Self {
            turns_per_day,
            gb_seconds_a_turn,
            cpu_ms_at_share: options.cpu_ms / share,
            busy_concurrency: (turns_a_second * options.reply_seconds).ceil(),
            turns_a_month,
            duration_dollars: turns_a_month * gb_seconds_a_turn * options.dollars_per_gb_second,
            request_dollars: turns_a_month / 1e6 * options.dollars_per_million_requests,
        }
    }
}
