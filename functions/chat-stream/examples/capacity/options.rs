//! The assumptions, from `NAME=value`: arguments, or else the environment. A name that is not an option is refused, so that a
//! misspelt one does not pass for its default.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use shared::config::KeyLayout;

/// What is assumed.
#[derive(Debug)]
pub(crate) struct Options {
    /// Users in all.
    pub(crate) users: u64,
    /// Of these, how many sent a message within 24 hours. The others have no session: theirs has expired.
    pub(crate) active_percent: f64,
    /// Characters that one of them talks to within 24 hours. Each is a session.
    pub(crate) characters: f64,
    /// Messages in a session's list.
    pub(crate) messages: u64,
    /// UTF-8 bytes of a message's content, on average.
    pub(crate) bytes: u64,
    pub(crate) layout: KeyLayout,
    /// Sessions that are written and measured; a quarter as many make the second sample.
    pub(crate) sample: u64,
    /// Sessions that are written to check the rule of thumb.
    pub(crate) rule_sessions: u64,
    /// Turns a day; `None` for as many as fill the sessions once.
    pub(crate) turns_per_day: Option<u64>,
    pub(crate) reply_seconds: f64,
    /// Memory of the function `chat-stream`, in MB as Lambda counts them (1,024 are a GB).
    pub(crate) lambda_mb: u64,
    /// CPU time of a turn, in milliseconds.
    pub(crate) cpu_ms: f64,
    pub(crate) dollars_per_gb_second: f64,
    pub(crate) dollars_per_million_requests: f64,
    /// Where all figures go as JSON.
    pub(crate) json: Option<PathBuf>,
}

/// An option that cannot be used.
#[derive(Debug)]
pub(crate) struct BadOption {
    name: String,
    problem: String,
}

impl fmt::Display for BadOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.problem)
    }
}

/// Where values come from.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

const NAMES: [&str; 15] = [
    "USERS",
    "ACTIVE_PERCENT",
    "CHARACTERS",
    "MESSAGES",
    "BYTES",
    "LAYOUT",
    "SAMPLE",
    "RULE_SESSIONS",
    "TURNS_PER_DAY",
    "REPLY_SECONDS",
    "LAMBDA_MB",
    "CPU_MS",
    "DOLLARS_PER_GB_SECOND",
    "DOLLARS_PER_MILLION_REQUESTS",
    "CAPACITY_JSON",
];

impl Options {
    /// Reads them from arguments over the environment. An empty value counts as none.
    pub(crate) fn read(arguments: &[String], environment: Lookup<'_>) -> Result<Self, BadOption> {
        let mut given = Vec::new();
        for argument in arguments {
            let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
            if !NAMES.contains(&name) || !argument.contains('=') {
                let problem = format!(
                    "no such option; there are {} (NAME=value)",
                    NAMES.join(", ")
                );
                return Err(bad(name, problem));
            }
            given.push((name, value));
        }
        let lookup = |name: &str| {
            given
                .iter()
                .rev()
                .find(|(given, _)| *given == name)
                .map(|(_, value)| (*value).to_owned())
                .or_else(|| environment(name))
                .filter(|value| !value.is_empty())
        };
        Self::from_lookup(&lookup)
    }

    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, BadOption> {
        let turns_per_day = lookup("TURNS_PER_DAY")
            .map(|_| whole(lookup, "TURNS_PER_DAY", 0, 1, 1_000_000_000_000))
            .transpose()?;
        Ok(Self {
            users: whole(lookup, "USERS", 100_000, 1, 10_000_000_000)?,
            active_percent: decimal(lookup, "ACTIVE_PERCENT", 20.0, 0.001, 100.0)?,
            characters: decimal(lookup, "CHARACTERS", 2.0, 1.0, 1_000.0)?,
            messages: messages(lookup)?,
            bytes: whole(lookup, "BYTES", 500, 10, 20_000)?,
            layout: layout(lookup)?,
            sample: whole(lookup, "SAMPLE", 500, 50, 5_000)?,
            rule_sessions: whole(lookup, "RULE_SESSIONS", 5_000, 10, 5_000)?,
            turns_per_day,
            reply_seconds: decimal(lookup, "REPLY_SECONDS", 8.0, 0.1, 900.0)?,
            lambda_mb: whole(lookup, "LAMBDA_MB", 256, 128, 10_240)?,
            cpu_ms: decimal(lookup, "CPU_MS", 4.0, 0.001, 900_000.0)?,
            dollars_per_gb_second: decimal(
                lookup,
                "DOLLARS_PER_GB_SECOND",
                0.000_013_333_4,
                0.0,
                1.0,
            )?,
            dollars_per_million_requests: decimal(
                lookup,
                "DOLLARS_PER_MILLION_REQUESTS",
                0.20,
                0.0,
                1_000.0,
            )?,
            json: json(lookup)?,
        })
    }

    /// Sessions that exist at the same time.
    pub(crate) fn sessions(&self) -> f64 {
        self.users as f64 * self.active_percent / 100.0 * self.characters
    }

    /// As given, or as many as fill every session once.
    pub(crate) fn turns_per_day(&self) -> f64 {
        self.turns_per_day.map_or_else(
            || self.sessions() * self.messages as f64 / 2.0,
            |turns| turns as f64,
        )
    }
}

fn bad(name: &str, problem: impl Into<String>) -> BadOption {
    BadOption {
        name: name.to_owned(),
        problem: problem.into(),
    }
}

fn whole(
    lookup: Lookup<'_>,
    name: &str,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, BadOption> {
    number(lookup, name, "a whole number", default, min..=max)
}

fn decimal(
    lookup: Lookup<'_>,
    name: &str,
    default: f64,
    min: f64,
    max: f64,
) -> Result<f64, BadOption> {
    // No range contains what is not a number.
    number(lookup, name, "a number", default, min..=max)
}

fn number<T: FromStr + PartialOrd + fmt::Display>(
    lookup: Lookup<'_>,
    name: &str,
    what: &str,
    default: T,
    range: RangeInclusive<T>,
) -> Result<T, BadOption> {
    let Some(value) = lookup(name) else {
        return Ok(default);
    };
    value
        .parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let (min, max) = (range.start(), range.end());
            bad(
                name,
                format!("must be {what} from {min} to {max}, not `{value}`"),
            )
        })
}

fn messages(lookup: Lookup<'_>) -> Result<u64, BadOption> {
    match whole(lookup, "MESSAGES", 50, 2, 100) {
        Ok(number) if number % 2 == 0 => Ok(number),
        _ => Err(bad(
            "MESSAGES",
            "must be an even number from 2 to 100: a session keeps whole turns, and 100 messages at most",
        )),
    }
}

fn layout(lookup: Lookup<'_>) -> Result<KeyLayout, BadOption> {
    match lookup("LAYOUT").as_deref() {
        None | Some("plain") => Ok(KeyLayout::Plain),
        Some("tagged") => Ok(KeyLayout::Tagged),
        Some(other) => Err(bad(
            "LAYOUT",
            format!("must be plain (one server, Sentinel) or tagged (cluster), not `{other}`"),
        )),
    }
}

/// Found out before the measuring and not after it.
fn json(lookup: Lookup<'_>) -> Result<Option<PathBuf>, BadOption> {
    let Some(path) = lookup("CAPACITY_JSON").map(PathBuf::from) else {
        return Ok(None);
    };
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() || directory.is_some_and(|directory| !directory.is_dir()) {
        return Err(bad(
            "CAPACITY_JSON",
            "must be the path of a file in a directory that exists",
        ));
    }
    Ok(Some(path))
}
