//! The event of an invocation as metrics, in CloudWatch's embedded metric format (EMF): names, dimensions and units.
//!
//! CloudWatch reads the value of a dimension from the root of a line, so figures with different values go to different
//! lines; the library splits them. Figures are written as measured and never averaged first, so that percentiles are
//! exact. No dimension holds a user, a character or a session, because CloudWatch bills each set of values as a metric.

use std::io::{self, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use metrique_writer_core::config::AllowSplitEntries;
use metrique_writer_core::format::Format as _;
use metrique_writer_core::stream::IoStreamError;
use metrique_writer_core::unit::NegativeScale;
use metrique_writer_core::{
    Entry, EntryWriter, MetricFlags, Observation, Unit, Value, ValueWriter,
};
use metrique_writer_format_emf::Emf;

use super::{CommitResult, Figures, LOG_TARGET, Operation, Status};
use crate::clock::lock;

const SECONDS: Unit = Unit::Second(NegativeScale::One);

/// Writes events as metrics to standard output.
pub(super) struct Metrics {
    namespace: String,
    /// Built for the first event, so that the start does not pay for it. Locked while an event is formatted, not while
    /// it is written.
    format: Mutex<Option<Emf>>,
}

impl Metrics {
    pub(super) fn new(namespace: String) -> Self {
        Self {
            namespace,
            format: Mutex::new(None),
        }
    }

    /// Writes all lines of an event to standard output in one piece.
    pub(super) fn write(&self, figures: &Figures) {
        let mut lines = Vec::with_capacity(4_096);
        if let Err(error) = self.format(figures, &mut lines) {
            tracing::error!(target: LOG_TARGET, %error, "the metrics of a request could not be formatted");
            return;
        }
        let mut output = io::stdout().lock();
        // If standard output is closed, there is nowhere left to report the error.
        let _ = output.write_all(&lines).and_then(|()| output.flush());
    }

    fn format(&self, figures: &Figures, lines: &mut Vec<u8>) -> Result<(), IoStreamError> {
        let mut format = lock(&self.format);
        let format = format.get_or_insert_with(|| {
            // Debug builds validate every event.
            Emf::builder(self.namespace.clone(), vec![vec![]]).build()
        });
        format.format(&EmfEvent(figures), lines)
    }
}

/// Adapts the figures of an event to the EMF library.
struct EmfEvent<'a>(&'a Figures);

impl Entry for EmfEvent<'_> {
    fn write<'a>(&'a self, writer: &mut impl EntryWriter<'a>) {
        let Self(figures) = self;
        writer.config(const { &AllowSplitEntries::new() });
        requests(figures, writer);
        memory(figures, writer);
        turn(figures, writer);
    }
}

fn requests<'a>(figures: &Figures, writer: &mut impl EntryWriter<'a>) {
    let function = ("function", figures.function);
    if figures.cold_start {
        writer.value("cold_starts_total", &once(&[function]));
    }
    if let Some(status) = figures.status {
        let status = status.to_string();
        writer.value("requests_total", &once(&[function, ("status", &status)]));
    }
}

fn memory<'a>(figures: &Figures, writer: &mut impl EntryWriter<'a>) {
    for operation in Operation::ALL {
        let all = || {
            let all = figures.operations.iter();
            all.filter(move |done| done.operation == operation)
        };
        let operation = ("operation", operation.as_str());
        for status in Status::ALL {
            let times = all().filter(|done| done.status == status).count();
            if times > 0 {
                let dimensions = [operation, ("status", status.as_str())];
                writer.value(
                    "short_memory_operations_total",
                    &count(times as u64, &dimensions),
                );
            }
        }
        let durations: Vec<Duration> = all().map(|done| done.duration).collect();
        if !durations.is_empty() {
            writer.value(
                "short_memory_latency_seconds",
                &seconds(&durations, &[operation]),
            );
        }
    }
    if let Some(messages) = figures.stored_messages {
        writer.value("short_memory_messages", &count(messages, &[]));
    }
    if let Some(open) = figures.breaker_open {
        writer.value("short_memory_breaker_open", &count(open.into(), &[]));
    }
    if let Some(reason) = figures.degradation {
        writer.value("short_memory_degradation_total", &once(&[]));
        writer.value(
            "short_memory_degradation_total",
            &once(&[("reason", reason)]),
        );
    }
    if let Some(result) = figures.commit.map(CommitResult::as_str) {
        writer.value("commits_total", &once(&[("result", result)]));
    }
}

fn turn<'a>(figures: &Figures, writer: &mut impl EntryWriter<'a>) {
    let Some(turn) = &figures.turn else {
        return;
    };
    writer.value("turns_total", &once(&[]));
    if let Some(first_delta) = turn.first_delta {
        writer.value("first_delta_seconds", &seconds(&[first_delta], &[]));
    }
    if let Some(reply) = turn.reply {
        writer.value("reply_seconds", &seconds(&[reply], &[]));
    }
    if let Some(code) = turn.upstream_error {
        writer.value("upstream_errors_total", &once(&[]));
        writer.value("upstream_errors_total", &once(&[("code", code)]));
    }
    if let Some(tokens) = turn.tokens {
        writer.value("prompt_tokens", &count(tokens.prompt, &[]));
        writer.value("completion_tokens", &count(tokens.completion, &[]));
    }
}

/// The observations of one metric under one set of dimensions.
struct Figure<'a> {
    observed: Vec<Observation>,
    unit: Unit,
    dimensions: &'a [(&'a str, &'a str)],
}

impl Value for Figure<'_> {
    fn write(&self, writer: impl ValueWriter) {
        writer.metric(
            self.observed.iter().copied(),
            self.unit,
            self.dimensions.iter().copied(),
            MetricFlags::empty(),
        );
    }
}

fn once<'a>(dimensions: &'a [(&'a str, &'a str)]) -> Figure<'a> {
    count(1, dimensions)
}

fn count<'a>(count: u64, dimensions: &'a [(&'a str, &'a str)]) -> Figure<'a> {
    Figure {
        observed: vec![Observation::Unsigned(count)],
        unit: Unit::Count,
        dimensions,
    }
}

fn seconds<'a>(durations: &[Duration], dimensions: &'a [(&'a str, &'a str)]) -> Figure<'a> {
    let observed = durations.iter().map(Duration::as_secs_f64);
    Figure {
        observed: observed.map(Observation::Floating).collect(),
        unit: SECONDS,
        dimensions,
    }
}
