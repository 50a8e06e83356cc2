//! Prints all figures as a table and returns them as JSON.

use cost::count;
use serde_json::{Value, json};
use shared::config::KeyLayout;

use crate::managed::{self, ManagedPlan};
use crate::measure::Anatomy;
use crate::options::Options;
use crate::plan::{
    BUSY_DAY, BUSY_HOUR, COPY_ON_WRITE, FRAGMENTATION, LambdaPlan, ONE_CPU_MB, RECORD_BYTES,
    REPLICA_BUFFER, RedisPlan,
};

/// The largest relative difference between the two samples that is accepted.
pub(crate) const MARGIN: f64 = 0.02;

/// All measured figures.
pub(crate) struct Measured {
    pub(crate) redis_version: String,
    pub(crate) sample: u64,
    pub(crate) bytes_a_session: f64,
    pub(crate) anatomy: Anatomy,
    pub(crate) second_sample: u64,
    pub(crate) second_bytes_a_session: f64,
    pub(crate) bytes_a_connection: f64,
}

impl Measured {
    /// Returns the relative difference of the second sample from the first.
    pub(crate) fn difference(&self) -> f64 {
        self.second_bytes_a_session / self.bytes_a_session - 1.0
    }

    pub(crate) fn is_linear(&self) -> bool {
        self.difference().abs() <= MARGIN
    }
}

/// What the load needs and costs.
pub(crate) struct Plans {
    redis: RedisPlan,
    lambda: LambdaPlan,
    managed: ManagedPlan,
}

impl Plans {
    pub(crate) fn new(options: &Options, measured: &Measured) -> Self {
        let lambda = LambdaPlan::new(options);
        let (session, connection) = (measured.bytes_a_session, measured.bytes_a_connection);
        Self {
            redis: RedisPlan::new(options, &lambda, session, connection),
            managed: ManagedPlan::new(options, &lambda),
            lambda,
        }
    }
}

/// Prints all sections.
pub(crate) fn print(options: &Options, measured: &Measured, plans: &Plans) {
    assumptions(options);
    session(measured);
    memory(measured, &plans.redis);
    lambda(options, &plans.lambda);
    managed::print(options, &plans.lambda, &plans.managed);
}

/// Returns all figures, in bytes, seconds and dollars.
pub(crate) fn json(options: &Options, measured: &Measured, plans: &Plans) -> Value {
    let Plans {
        redis,
        lambda,
        managed,
    } = plans;
    let anatomy = &measured.anatomy;
    json!({
        "assumed": {
            "users": options.users, "active_percent": options.active_percent, "characters": options.characters,
            "messages": options.messages, "bytes": options.bytes, "layout": layout(options),
            "turns_per_day": lambda.turns_per_day, "turn_ttl_seconds": options.turn_ttl_seconds,
            "reply_seconds": options.reply_seconds,
            "lambda_mb": options.lambda_mb, "cpu_ms": options.cpu_ms,
            "dollars_per_gb_second": options.dollars_per_gb_second,
            "dollars_per_million_requests": options.dollars_per_million_requests,
            "streams_per_vcpu": options.streams_per_vcpu, "instance_vcpus": options.instance_vcpus,
            "min_instances": options.min_instances,
            "instance_dollars_per_hour": options.instance_dollars_per_hour,
            "managed_fee_percent": options.managed_fee_percent, "prices_date": options.prices_date,
        },
        "session": {
            "redis_version": measured.redis_version,
            "sessions_written": measured.sample,
            "content_bytes": anatomy.content, "envelope_bytes": anatomy.envelope, "list_bytes": anatomy.list,
            "recent_turns_bytes": anatomy.recent_turns, "meta_bytes": anatomy.meta,
            "index_bytes": anatomy.index, "tables_bytes": anatomy.tables,
            "bytes": measured.bytes_a_session,
            "second_sample": { "sessions_written": measured.second_sample, "bytes": measured.second_bytes_a_session },
            "difference": measured.difference(), "margin": MARGIN,
        },
        "redis": {
            "sessions": redis.sessions, "data_bytes": redis.data, "busy_day_bytes": redis.busy_day,
            "records": redis.records, "record_bytes": redis.bytes_a_record, "records_bytes": redis.records_bytes,
            "processes": redis.processes, "connection_bytes": measured.bytes_a_connection,
            "connections_bytes": redis.connections, "maxmemory_bytes": redis.maxmemory,
            "fragmentation_bytes": redis.fragmentation,
            "replica_buffer_bytes": REPLICA_BUFFER, "copy_on_write_bytes": redis.copy_on_write,
            "server_bytes": redis.server,
        },
        "lambda": {
            "gb_seconds_a_turn": lambda.gb_seconds_a_turn, "cpu_ms_at_share": lambda.cpu_ms_at_share,
            "busy_concurrency": lambda.busy_concurrency, "turns_a_month": lambda.turns_a_month,
            "duration_dollars_a_month": lambda.duration_dollars, "request_dollars_a_month": lambda.request_dollars,
        },
        "managed": managed::json(options, lambda, managed),
    })
}

fn layout(options: &Options) -> &'static str {
    match options.layout {
        KeyLayout::Plain => "plain",
        KeyLayout::Tagged => "tagged",
    }
}

fn assumptions(options: &Options) {
    heading("Assumed; NAME=value changes it. MB and GB are powers of ten, except Lambda's");
    let users = count(options.users as f64);
    line("USERS", &users, "");
    line(
        "ACTIVE_PERCENT",
        &format!("{} %", options.active_percent),
        "talk within 24 h; the sessions of the others have expired",
    );
    line(
        "CHARACTERS",
        &options.characters.to_string(),
        "that each of these talks to within 24 h",
    );
    line(
        "MESSAGES",
        &options.messages.to_string(),
        "in a session, at most 100",
    );
    line(
        "BYTES",
        &bytes(options.bytes as f64),
        "of UTF-8 a message, Chinese text; replies are 4 times as long as questions",
    );
    line("LAYOUT", layout(options), "");
    line(
        "TURN_TTL_SECONDS",
        &format!("{} s", count(options.turn_ttl_seconds as f64)),
        "for which a turn is remembered after its end, to be resumed or repeated",
    );
}

fn session(measured: &Measured) {
    let anatomy = &measured.anatomy;
    heading(&format!(
        "One session: the average of {} that the product's own commit wrote to redis-server {}",
        measured.sample, measured.redis_version
    ));
    line("content", &bytes(anatomy.content), "the text");
    line(
        "JSON around it",
        &bytes(anatomy.envelope),
        "field names, ids, timestamps, counts",
    );
    line(
        "list",
        &bytes(anatomy.list),
        "key, nodes, lengths, rounding by the allocator",
    );
    line(
        "ids of recent turns",
        &bytes(anatomy.recent_turns),
        "the most there can be: within ten minutes every turn counts as recent",
    );
    line(
        "hash",
        &bytes(anatomy.meta),
        "key, field names, numbers, table",
    );
    line(
        "list of sessions",
        &bytes(anatomy.index),
        "of the user: the first session takes the most of it",
    );
    line(
        "tables",
        &bytes(anatomy.tables),
        "of keys and of expiries (used_memory less MEMORY USAGE); 32 B more just after they doubled",
    );
    line(
        "= a session",
        &bytes(measured.bytes_a_session),
        &format!(
            "of used_memory, {:.2} times the content",
            measured.bytes_a_session / anatomy.content
        ),
    );
    let verdict = if measured.is_linear() {
        "so memory is proportional to the number of sessions"
    } else {
        "so memory IS NOT PROPORTIONAL to the number of sessions"
    };
    line(
        "second sample",
        &bytes(measured.second_bytes_a_session),
        &format!(
            "a session, of {} sessions: {:+.2}% ({:.0}% allowed), {verdict}",
            measured.second_sample,
            measured.difference() * 100.0,
            MARGIN * 100.0
        ),
    );
}

fn memory(measured: &Measured, plan: &RedisPlan) {
    heading("Redis");
    line(
        "sessions",
        &count(plan.sessions),
        "at the same time: USERS × ACTIVE_PERCENT × CHARACTERS",
    );
    line(
        "data",
        &megabytes(plan.data),
        "sessions × a session as measured",
    );
    line(
        "+ busiest day",
        &megabytes(plan.busy_day),
        &format!(
            "{:.0}%: a session lives for a day, so a day's peak adds up and an hour's does not",
            (BUSY_DAY - 1.0) * 100.0
        ),
    );
    line(
        "+ records of turns",
        &megabytes(plan.records_bytes),
        &format!(
            "{} turns remembered in the busiest hour × {}: the reply and {RECORD_BYTES:.0} B",
            count(plan.records),
            bytes(plan.bytes_a_record)
        ),
    );
    line(
        "+ connections",
        &megabytes(plan.connections),
        &format!(
            "{} processes in the busiest hour × {} as measured, reading a session",
            count(plan.processes),
            bytes(measured.bytes_a_connection)
        ),
    );
    line(
        "= maxmemory",
        &megabytes(plan.maxmemory),
        &format!(
            "`maxmemory {:.0}m` for Redis, to which m is a million and mb is not",
            (plan.maxmemory / 1e6).ceil()
        ),
    );
    line(
        "+ fragmentation",
        &megabytes(plan.fragmentation),
        &format!(
            "{:.0}%: lists grow and expire at random; it settled at 10 to 13% in a trial with 5,000 sessions",
            FRAGMENTATION * 100.0
        ),
    );
    line(
        "+ replica's buffer",
        &megabytes(REPLICA_BUFFER),
        "64 MiB: the buffer of one lagging replica (Redis's default soft limit); not part of maxmemory",
    );
    line(
        "+ copy-on-write",
        &megabytes(plan.copy_on_write),
        &format!(
            "{:.0}%: pages written during a snapshot exist twice; 100% at worst, which transparent huge pages bring near",
            COPY_ON_WRITE * 100.0
        ),
    );
    line(
        "= memory of the server",
        &megabytes(plan.server),
        &format!(
            "maxmemory is {:.0}% of it (ElastiCache's nodes keep 25% back by default); of a cluster, all shards together",
            plan.maxmemory / plan.server * 100.0
        ),
    );
}

fn lambda(options: &Options, plan: &LambdaPlan) {
    let billed_ms = options.reply_seconds * 1_000.0;
    heading("Lambda: chat-stream mostly waits for the model, and waiting is billed");
    line(
        "TURNS_PER_DAY",
        &count(plan.turns_per_day),
        if options.turns_per_day.is_some() {
            ""
        } else {
            "as many as fill every session once"
        },
    );
    line(
        "REPLY_SECONDS",
        &format!("{} s", options.reply_seconds),
        "from the request to the last delta: the model's time",
    );
    line("LAMBDA_MB", &format!("{} MB", options.lambda_mb), "");
    line(
        "CPU_MS",
        &format!("{} ms", options.cpu_ms),
        &format!(
            "a turn whose deltas come one by one, by `make bench`; {:.1} ms on {:.2} CPU: {:.2}% of the {} ms that are billed",
            plan.cpu_ms_at_share,
            options.cpu_ms / plan.cpu_ms_at_share,
            plan.cpu_ms_at_share / billed_ms * 100.0,
            count(billed_ms)
        ),
    );
    line(
        "GB-seconds a turn",
        &format!("{:.3}", plan.gb_seconds_a_turn),
        &format!("LAMBDA_MB / 1024 × REPLY_SECONDS; a whole CPU is {ONE_CPU_MB:.0} MB"),
    );
    line(
        "turns at once",
        &count(plan.busy_concurrency),
        &format!(
            "in the busiest hour ({BUSY_HOUR} × the average) of the busiest day: the concurrency that is needed"
        ),
    );
    line(
        "duration",
        &dollars(plan.duration_dollars),
        &format!(
            "a month of 30 days: {} GB-s at ${}",
            count(plan.turns_a_month * plan.gb_seconds_a_turn),
            options.dollars_per_gb_second
        ),
    );
    line(
        "requests",
        &dollars(plan.request_dollars),
        &format!(
            "a month: {} at ${} a million",
            count(plan.turns_a_month),
            options.dollars_per_million_requests
        ),
    );
    note(
        "The default prices are list prices of us-east-1, arm64, first tier (PRICES_DATE). They depend on the region and change; set yours with",
    );
    note(
        "DOLLARS_PER_GB_SECOND and DOLLARS_PER_MILLION_REQUESTS. The free tier is not subtracted.",
    );
    note(
        "Not included: the model, API Gateway, Redis, logs, traffic, the other functions (milliseconds a request).",
    );
}

fn bytes(number: f64) -> String {
    format!("{} B", count(number))
}

fn megabytes(bytes: f64) -> String {
    format!("{} MB", tenths(bytes / 1e6))
}

pub(crate) fn dollars(amount: f64) -> String {
    format!("${}", tenths(amount))
}

/// Formats a number, below 1,000 with one decimal.
fn tenths(number: f64) -> String {
    if number.abs() < 1_000.0 {
        format!("{number:.1}")
    } else {
        count(number)
    }
}

#[expect(clippy::print_stdout, reason = "a tool that prints")]
pub(crate) fn heading(text: &str) {
    println!("\n{text}");
}

#[expect(clippy::print_stdout, reason = "a tool that prints")]
pub(crate) fn line(name: &str, value: &str, reason: &str) {
    println!(
        "{}",
        format!("  {name:<22} {value:>12}  {reason}").trim_end()
    );
}

/// Prints a row of a table: a name, and cells below one another in each column.
#[expect(clippy::print_stdout, reason = "a tool that prints")]
pub(crate) fn columns(name: &str, cells: &[String]) {
    let cells: String = cells.iter().map(|cell| format!(" {cell:>14}")).collect();
    println!("{}", format!("  {name:<20}{cells}").trim_end());
}

#[expect(clippy::print_stdout, reason = "a tool that prints")]
pub(crate) fn note(text: &str) {
    println!("  {text}");
}
