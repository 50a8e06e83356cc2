//! The assumptions: arguments such as `USERS=100000`, as `make capacity` passes them, or `--users=100000`; or else
//! variables of the environment with the same names.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Arg, CommandFactory, Parser};
use shared::config::KeyLayout;

/// Estimates how much memory Redis needs and what Lambda costs, from sessions that are really written and measured.
///
/// Each option can also be given as `NAME=value` and by a variable of the environment: `USERS=1000` for `--users=1000`.
#[derive(Debug, Parser)]
#[command(name = "capacity", args_override_self = true)]
pub(crate) struct Options {
    /// Users in all.
    #[arg(long, default_value_t = 100_000, value_parser = whole(1..=10_000_000_000))]
    pub(crate) users: u64,

    /// Percentage of the users who send a message within 24 hours. The sessions of the others have expired.
    #[arg(long, default_value_t = 20.0, value_parser = decimal(0.001..=100.0))]
    pub(crate) active_percent: f64,

    /// Characters that each of these users talks to within 24 hours. Each is a session.
    #[arg(long, default_value_t = 2.0, value_parser = decimal(1.0..=1_000.0))]
    pub(crate) characters: f64,

    /// Messages in a session's list: an even number, because a session keeps whole turns.
    #[arg(long, default_value_t = 50, value_parser = messages)]
    pub(crate) messages: u64,

    /// UTF-8 bytes of a message's content, on average.
    #[arg(long, default_value_t = 500, value_parser = whole(10..=20_000))]
    pub(crate) bytes: u64,

    /// How keys are spelt: plain (one server, Sentinel) or tagged (cluster).
    #[arg(long, default_value = "plain", value_parser = layout)]
    pub(crate) layout: KeyLayout,

    /// Sessions that are written and measured. A quarter as many make the second sample.
    #[arg(long, default_value_t = 500, value_parser = whole(50..=5_000))]
    pub(crate) sample: u64,

    /// Turns a day. Without it: as many as fill every session once.
    #[arg(long, value_parser = whole(1..=1_000_000_000_000))]
    pub(crate) turns_per_day: Option<u64>,

    /// Seconds for which a turn is remembered after its end, as the setting of the same name. 0: turns are not recorded.
    #[arg(long, default_value_t = 3_600, value_parser = whole(0..=604_800))]
    pub(crate) turn_ttl_seconds: u64,

    /// Seconds from the request to the last delta of a reply.
    #[arg(long, default_value_t = cost::REPLY_SECONDS, value_parser = decimal(0.1..=900.0))]
    pub(crate) reply_seconds: f64,

    /// Memory of the function chat-stream, in MB as Lambda counts them (1,024 are a GB).
    #[arg(long, default_value_t = 128, value_parser = whole(128..=10_240))]
    pub(crate) lambda_mb: u64,

    /// CPU time of a turn, in milliseconds.
    #[arg(long, default_value_t = 4.0, value_parser = decimal(0.001..=900_000.0))]
    pub(crate) cpu_ms: f64,

    /// Price of a GB-second.
    #[arg(long, default_value_t = cost::DOLLARS_PER_GB_SECOND, value_parser = decimal(0.0..=1.0))]
    pub(crate) dollars_per_gb_second: f64,

    /// Price of a million requests.
    #[arg(long, default_value_t = cost::DOLLARS_PER_MILLION_REQUESTS, value_parser = decimal(0.0..=1_000.0))]
    pub(crate) dollars_per_million_requests: f64,

    /// Turns at once for each virtual CPU of a managed instance. Lambda is reported to refuse more than 64.
    #[arg(long, default_value_t = 64, value_parser = whole(1..=1_600))]
    pub(crate) streams_per_vcpu: u64,

    /// Virtual CPUs of a managed instance.
    #[arg(long, default_value_t = 4, value_parser = whole(1..=1_024))]
    pub(crate) instance_vcpus: u64,

    /// Managed instances that always run.
    #[arg(long, default_value_t = 3, value_parser = whole(1..=15_000))]
    pub(crate) min_instances: u64,

    /// Price of an hour of a managed instance, without Lambda's fee: the list price of a c8g.xlarge in us-east-1.
    #[arg(long, default_value_t = 0.159_52, value_parser = decimal(0.0..=1_000.0))]
    pub(crate) instance_dollars_per_hour: f64,

    /// Lambda's fee, in percent of the instance's list price.
    #[arg(long, default_value_t = 15.0, value_parser = decimal(0.0..=1_000.0))]
    pub(crate) managed_fee_percent: f64,

    /// Date of the prices, which is printed with them.
    #[arg(long, default_value = "2026-09")]
    pub(crate) prices_date: String,

    /// File to which all figures are written as JSON.
    #[arg(long, value_parser = json)]
    pub(crate) capacity_json: Option<PathBuf>,
}

impl Options {
    /// Reads the options from arguments and, for those that are not among the arguments, from the environment. An empty
    /// value counts as none.
    ///
    /// # Errors
    /// If an argument names no option, or a value cannot be used. `--help` comes back as an error too, as clap has it.
    pub(crate) fn read(
        arguments: impl Iterator<Item = OsString>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, clap::Error> {
        let command = Self::command();
        let names: Vec<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
        let mut all = vec![command.get_name().to_owned()];
        for name in &names {
            let variable = name.to_uppercase().replace('-', "_");
            if let Some(value) = environment(&variable).filter(|value| !value.is_empty()) {
                all.push(format!("--{name}={}", value.to_string_lossy()));
            }
        }
        // Later ones override earlier ones.
        all.extend(arguments.filter_map(|argument| option(&argument.to_string_lossy(), &names)));
        Self::try_parse_from(all)
    }

    /// Returns the number of sessions that exist at the same time.
    pub(crate) fn sessions(&self) -> f64 {
        self.users as f64 * self.active_percent / 100.0 * self.characters
    }

    /// Returns the turns a day: as given, or as many as fill every session once.
    pub(crate) fn turns_per_day(&self) -> f64 {
        self.turns_per_day.map_or_else(
            || self.sessions() * self.messages as f64 / 2.0,
            |turns| turns as f64,
        )
    }
}

/// Returns an argument as clap reads it: `NAME=value` becomes `--name=value`. An option with an empty value becomes
/// nothing.
fn option(argument: &str, names: &[&str]) -> Option<String> {
    match argument.split_once('=') {
        Some((name, value)) if !name.starts_with('-') => {
            let name = name.to_lowercase().replace('_', "-");
            let is_default = value.is_empty() && names.contains(&name.as_str());
            (!is_default).then(|| format!("--{name}={value}"))
        }
        _ => Some(argument.to_owned()),
    }
}

type Parsed<T> = Result<T, String>;

fn whole(range: RangeInclusive<u64>) -> impl Fn(&str) -> Parsed<u64> + Clone {
    move |value| number(value, "a whole number", &range)
}

/// No range contains NaN.
fn decimal(range: RangeInclusive<f64>) -> impl Fn(&str) -> Parsed<f64> + Clone {
    move |value| number(value, "a number", &range)
}

fn number<T: FromStr + PartialOrd + Display>(
    value: &str,
    what: &str,
    range: &RangeInclusive<T>,
) -> Parsed<T> {
    let (min, max) = (range.start(), range.end());
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be {what} from {min} to {max}"))
}

fn messages(value: &str) -> Parsed<u64> {
    let number = whole(2..=100)(value).ok().filter(|number| number % 2 == 0);
    number.ok_or_else(|| {
        "must be an even number from 2 to 100: a session keeps whole turns, and 100 messages at most"
            .to_owned()
    })
}

fn layout(value: &str) -> Parsed<KeyLayout> {
    match value {
        "plain" => Ok(KeyLayout::Plain),
        "tagged" => Ok(KeyLayout::Tagged),
        _ => Err("must be plain (one server, Sentinel) or tagged (cluster)".to_owned()),
    }
}

/// Checked before the measurement, which takes a while.
fn json(value: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(value);
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() || directory.is_some_and(|directory| !directory.is_dir()) {
        return Err("must be the path of a file in a directory that exists".to_owned());
    }
    Ok(path)
}
