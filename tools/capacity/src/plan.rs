//! The arithmetic from the measured figures to the required memory and the cost. Every allowance is here, with its
//! reason.

use crate::options::Options;
use crate::text::QUESTION_SHARE;

const MIB: f64 = 1_048_576.0;
pub(crate) const DAY_SECONDS: f64 = 86_400.0;
pub(crate) const DAYS_A_MONTH: f64 = 30.0;

/// The load of the busiest day, divided by the load of an average day.
pub(crate) const BUSY_DAY: f64 = 1.25;

/// The load of the busiest hour, divided by the load of an average hour.
pub(crate) const BUSY_HOUR: f64 = 3.0;

/// The share that the allocator holds in addition to what it gave out (`allocator_resident` over
/// `allocator_allocated`). It settled at 10 to 13% after two million random pushes and deletions in 5,000 sessions of
/// 90 MB; this is rounded up.
pub(crate) const FRAGMENTATION: f64 = 0.15;

/// Bytes of a turn's record besides the text of the reply, as `make bench BENCH_ONLY=record` measures them, rounded up.
pub(crate) const RECORD_BYTES: f64 = 610.0;

/// Bytes that the server may buffer for one lagging replica for a minute before it disconnects it: the default soft
/// limit of `client-output-buffer-limit replica`.
pub(crate) const REPLICA_BUFFER: f64 = 64.0 * MIB;

/// The share of the memory that exists twice during a snapshot or an AOF rewrite: the pages written meanwhile.
pub(crate) const COPY_ON_WRITE: f64 = 0.25;

/// The memory at which Lambda provides a whole CPU, in MB.
pub(crate) const ONE_CPU_MB: f64 = 1_769.0;

/// Memory of Redis, in bytes.
#[derive(Debug)]
pub(crate) struct RedisPlan {
    pub(crate) sessions: f64,
    /// The data of an average day.
    pub(crate) data: f64,
    /// The data that the busiest day adds.
    pub(crate) busy_day: f64,
    /// The number of turns that are remembered in the busiest hour.
    pub(crate) records: f64,
    pub(crate) bytes_a_record: f64,
    pub(crate) records_bytes: f64,
    /// The number of processes that are connected in the busiest hour.
    pub(crate) processes: f64,
    pub(crate) connections: f64,
    /// The value for `maxmemory`: the sum of data, busiest day, records and connections.
    pub(crate) maxmemory: f64,
    pub(crate) fragmentation: f64,
    pub(crate) copy_on_write: f64,
    /// The memory that the server should have: the sum of all.
    pub(crate) server: f64,
}

impl RedisPlan {
    pub(crate) fn new(
        options: &Options,
        lambda: &LambdaPlan,
        bytes_a_session: f64,
        bytes_a_connection: f64,
    ) -> Self {
        let sessions = options.sessions();
        let data = sessions * bytes_a_session;
        let busy_day = data * (BUSY_DAY - 1.0);
        let remembered_seconds = match options.turn_ttl_seconds {
            0 => 0.0,
            seconds => seconds as f64 + options.reply_seconds,
        };
        let records = turns_a_busy_second(options) * remembered_seconds;
        let reply = 2.0 * options.bytes as f64 * (1.0 - 1.0 / QUESTION_SHARE as f64);
        let bytes_a_record = reply + RECORD_BYTES;
        let records_bytes = records * bytes_a_record;
        let processes = lambda.busy_concurrency;
        let connections = processes * bytes_a_connection;
        let maxmemory = data + busy_day + records_bytes + connections;
        let fragmentation = maxmemory * FRAGMENTATION;
        let copy_on_write = maxmemory * COPY_ON_WRITE;
        Self {
            sessions,
            data,
            busy_day,
            records,
            bytes_a_record,
            records_bytes,
            processes,
            connections,
            maxmemory,
            fragmentation,
            copy_on_write,
            server: maxmemory + fragmentation + copy_on_write + REPLICA_BUFFER,
        }
    }
}

/// The load and the cost of `chat-stream`.
#[derive(Debug)]
pub(crate) struct LambdaPlan {
    pub(crate) turns_per_day: f64,
    pub(crate) gb_seconds_a_turn: f64,
    /// The time in milliseconds that the CPU work of a turn takes with the share of a CPU that comes with the memory.
    pub(crate) cpu_ms_at_share: f64,
    /// The number of concurrent turns in the busiest hour of the busiest day.
    pub(crate) busy_concurrency: f64,
    pub(crate) turns_a_month: f64,
    pub(crate) duration_dollars: f64,
    pub(crate) request_dollars: f64,
}

impl LambdaPlan {
    pub(crate) fn new(options: &Options) -> Self {
        let turns_per_day = options.turns_per_day();
        let turns_a_month = turns_per_day * DAYS_A_MONTH;
        let gb_seconds_a_turn = cost::gb_seconds_a_turn(options.lambda_mb, options.reply_seconds);
        let share = (options.lambda_mb as f64 / ONE_CPU_MB).min(1.0);
        Self {
            turns_per_day,
            gb_seconds_a_turn,
            cpu_ms_at_share: options.cpu_ms / share,
            busy_concurrency: (turns_a_busy_second(options) * options.reply_seconds).ceil(),
            turns_a_month,
            duration_dollars: cost::duration_dollars(
                turns_a_month,
                gb_seconds_a_turn,
                options.dollars_per_gb_second,
            ),
            request_dollars: cost::request_dollars(
                turns_a_month,
                options.dollars_per_million_requests,
            ),
        }
    }
}

/// Returns what the duration of a turn costs on demand, with this memory in MB.
pub(crate) fn on_demand_dollars_a_turn(options: &Options, lambda_mb: u64) -> f64 {
    let gb_seconds = cost::gb_seconds_a_turn(lambda_mb, options.reply_seconds);
    cost::duration_dollars(1.0, gb_seconds, options.dollars_per_gb_second)
}

/// Returns the number of turns a second in the busiest hour of the busiest day.
fn turns_a_busy_second(options: &Options) -> f64 {
    options.turns_per_day() / DAY_SECONDS * BUSY_DAY * BUSY_HOUR
}
