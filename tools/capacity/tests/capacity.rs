//! `make capacity`: the table adds up, grows with the options, and wrong options are refused.
#![expect(clippy::expect_used, reason = "a test")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Few sessions of few messages, because these tests check sums and not figures.
const SMALL: [&str; 3] = ["SAMPLE=50", "MESSAGES=10", "BYTES=300"];

fn capacity() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capacity"));
    // Variables of this test's own environment must not become options.
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// Runs the tool and returns what it printed, and its figures.
fn run(options: &[&str]) -> (String, Value) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("capacity.json");
    let output = capacity()
        .args(SMALL)
        .args(options)
        .env("CAPACITY_JSON", &path)
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{}", errors(&output));
    let json = std::fs::read(&path).expect("the figures are written");
    (
        String::from_utf8(output.stdout).expect("UTF-8"),
        serde_json::from_slice(&json).expect("JSON"),
    )
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn figure(figures: &Value, pointer: &str) -> f64 {
    let value = figures.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{pointer} is a number"))
}

fn assert_near(left: f64, right: f64, share: f64) {
    assert!(
        (left / right - 1.0).abs() <= share,
        "{left} and {right} differ by more than {share}"
    );
}

#[test]
fn the_table_adds_up() {
    let (text, figures) = run(&["USERS=1000", "ACTIVE_PERCENT=50", "CHARACTERS=1.5"]);
    let of = |pointer: &str| figure(&figures, pointer);

    let parts: f64 = [
        "content",
        "envelope",
        "list",
        "recent_turns",
        "meta",
        "index",
        "tables",
    ]
    .map(|part| of(&format!("/session/{part}_bytes")))
    .iter()
    .sum();
    assert_near(parts, of("/session/bytes"), 1e-9);
    assert_near(of("/session/content_bytes"), 3_000.0, 1e-9);
    // Ids, timestamps and field names take over 100 bytes a message.
    assert!(of("/session/envelope_bytes") > 1_000.0);
    assert_near(of("/session/recent_turns_bytes"), 5.0 * 48.0, 1e-9);
    for part in ["list", "meta"] {
        assert!(of(&format!("/session/{part}_bytes")) > 0.0, "{part}");
    }
    // The tables are what the other parts leave over, so they are right only if the others are. A session is two keys,
    // and its user's list is one, each in two tables, which take an entry of 24 bytes or 32 and a place or two of 8 for
    // it.
    let tables = of("/session/tables_bytes");
    assert!((96.0..=384.0).contains(&tables), "{tables}");

    assert_near(of("/redis/sessions"), 750.0, 1e-9);
    assert_near(of("/redis/data_bytes"), 750.0 * of("/session/bytes"), 1e-9);
    let maxmemory = ["data", "busy_day", "records", "connections"];
    let server = [
        "maxmemory",
        "fragmentation",
        "replica_buffer",
        "copy_on_write",
    ];
    for (parts, whole) in [(&maxmemory[..], "maxmemory"), (&server[..], "server")] {
        let sum: f64 = parts
            .iter()
            .map(|part| of(&format!("/redis/{part}_bytes")))
            .sum();
        assert_near(sum, of(&format!("/redis/{whole}_bytes")), 1e-9);
    }
    for row in [["MESSAGES", "10"], ["sessions", "750"]] {
        let is_there = text
            .lines()
            .any(|line| line.split_whitespace().take(2).eq(row));
        assert!(is_there, "{row:?}: {text}");
    }
}

#[test]
fn two_samples_of_different_sizes_agree() {
    let (text, figures) = run(&[]);
    let of = |pointer: &str| figure(&figures, pointer);
    assert_near(of("/session/sessions_written"), 50.0, 0.0);
    assert_near(of("/session/second_sample/sessions_written"), 12.0, 0.0);
    assert_near(
        of("/session/second_sample/bytes"),
        of("/session/bytes"),
        of("/session/margin"),
    );
    assert!(of("/session/margin") <= 0.02);
    assert!(
        text.contains("memory is proportional to the number of sessions"),
        "{text}"
    );
}

#[test]
fn twice_the_users_take_twice_the_memory_and_the_money() {
    let (_, once) = run(&["USERS=200000"]);
    let (_, twice) = run(&["USERS=400000"]);
    // Each run measures anew.
    for (pointer, share) in [
        ("/redis/data_bytes", 0.01),
        ("/redis/records_bytes", 1e-9),
        ("/lambda/turns_a_month", 1e-9),
        ("/lambda/duration_dollars_a_month", 1e-9),
        ("/lambda/request_dollars_a_month", 1e-9),
    ] {
        assert_near(figure(&twice, pointer), 2.0 * figure(&once, pointer), share);
    }
}

#[test]
fn turns_are_remembered_for_as_long_as_the_option_says() {
    let records = |option: &str| {
        let (_, figures) = run(&["TURNS_PER_DAY=864000", "REPLY_SECONDS=10", option]);
        figure(&figures, "/redis/records")
    };
    // Ten turns a second, 3.75 times as many in the busiest hour.
    assert_near(records("TURN_TTL_SECONDS=600"), 37.5 * 610.0, 1e-9);
    assert!(records("TURN_TTL_SECONDS=0") < 1e-9, "nothing is recorded");
}

#[test]
fn longer_and_more_messages_are_measured_and_not_assumed() {
    let (_, small) = run(&[]);
    let (_, long) = run(&["BYTES=1200", "LAYOUT=tagged"]);
    let (_, many) = run(&["MESSAGES=40"]);
    let of = |figures: &Value, part: &str| figure(figures, &format!("/session/{part}"));
    assert_near(of(&long, "content_bytes"), 12_000.0, 1e-9);
    assert_near(of(&many, "content_bytes"), 12_000.0, 1e-9);
    // The same content in more messages has more around it.
    assert!(of(&many, "bytes") > of(&long, "bytes") + 2_500.0);
    assert!(of(&long, "bytes") > of(&small, "bytes") + 9_000.0);
    assert_eq!(long["assumed"]["layout"], "tagged");
}

#[test]
fn the_bill_follows_from_the_options() {
    let (text, figures) = run(&[
        "TURNS_PER_DAY=1000000",
        "REPLY_SECONDS=10",
        "LAMBDA_MB=512",
        "CPU_MS=2",
        "DOLLARS_PER_GB_SECOND=0.00002",
        "DOLLARS_PER_MILLION_REQUESTS=0.5",
    ]);
    let of = |pointer: &str| figure(&figures, pointer);
    assert_near(of("/lambda/gb_seconds_a_turn"), 5.0, 1e-9);
    assert_near(of("/lambda/cpu_ms_at_share"), 2.0 * 1769.0 / 512.0, 1e-9);
    assert_near(of("/lambda/duration_dollars_a_month"), 3_000.0, 1e-9);
    assert_near(of("/lambda/request_dollars_a_month"), 15.0, 1e-9);
    assert!(text.contains("$3,000"), "{text}");
}

#[test]
fn managed_instances_are_compared_with_what_is_paid_on_demand() {
    // A sum that can be done by hand: an instance costs $0.1 × 720 h × 1.25 = $90, and two always run. On demand, a
    // turn costs 10 s × 0.125 GB × $0.00001 = $0.0000125 with 128 MB.
    let options = [
        "TURNS_PER_DAY=1000000",
        "REPLY_SECONDS=10",
        "LAMBDA_MB=512",
        "DOLLARS_PER_GB_SECOND=0.00001",
        "INSTANCE_DOLLARS_PER_HOUR=0.1",
        "MANAGED_FEE_PERCENT=25",
        "INSTANCE_VCPUS=2",
        "STREAMS_PER_VCPU=50",
        "MIN_INSTANCES=2",
        "PRICES_DATE=2030-01-02",
    ];
    let (text, figures) = run(&options);
    let of = |pointer: &str| figure(&figures, pointer);
    // 30 million turns a month are 115.7 at once. Twice as many must fit, 100 to an instance.
    assert_near(of("/managed/instances"), 2.0 * 1e7 / 86_400.0 / 100.0, 1e-9);
    assert_near(
        of("/managed/instance_dollars_a_month"),
        90.0 * of("/managed/instances"),
        1e-9,
    );
    for (at, mb, dollars, from) in [
        (0, 128.0, 375.0, 180.0 / 0.000_012_5),
        (1, 256.0, 750.0, 180.0 / 0.000_025),
        (2, 512.0, 1_500.0, 180.0 / 0.000_05),
    ] {
        let of = |name: &str| of(&format!("/managed/compared/{at}/{name}"));
        assert_near(of("lambda_mb"), mb, 0.0);
        assert_near(of("duration_dollars_a_month"), dollars, 1e-9);
        assert_near(of("cheaper_from_turns_a_month"), from, 1e-9);
    }
    assert!(text.contains("14,400,000"), "{text}");
    assert!(text.contains("PRICES_DATE=2030-01-02"), "{text}");
}

#[test]
fn the_guide_shows_what_the_default_memory_costs() {
    let (text, _) = run(&[]);
    let line = text.lines().find(|line| line.contains("GB-seconds a turn"));
    let guide = include_str!("../../../docs/capacity.md");
    assert!(guide.contains(line.expect("a line")), "{text}");
}

#[test]
fn the_bills_are_equal_at_the_number_of_turns_that_is_named() {
    let (_, figures) = run(&[]);
    let from = figure(&figures, "/managed/compared/1/cheaper_from_turns_a_month");
    // With the default prices: fifteen million turns a month.
    assert!((14e6..16e6).contains(&from), "{from}");
    let (_, there) = run(&[&format!("TURNS_PER_DAY={:.0}", from / 30.0)]);
    assert_near(
        figure(&there, "/managed/instance_dollars_a_month"),
        figure(&there, "/managed/compared/1/duration_dollars_a_month"),
        1e-4,
    );
}

#[test]
fn instances_that_cost_more_for_each_turn_never_win() {
    let (text, figures) = run(&["INSTANCE_DOLLARS_PER_HOUR=900"]);
    let from = figures.pointer("/managed/compared/0/cheaper_from_turns_a_month");
    assert_eq!(from, Some(&Value::Null));
    assert!(text.contains("never"), "{text}");
    // The CPU bounds the turns of an instance too: 4 seconds of it are half of a turn of 8.
    let (_, busy) = run(&["CPU_MS=4000"]);
    assert_near(figure(&busy, "/managed/turns_an_instance"), 4.0, 1e-9);
}

#[test]
fn an_empty_value_counts_as_none() {
    let (_, figures) = run(&["USERS="]);
    assert_near(figure(&figures, "/assumed/users"), 100_000.0, 0.0);
}

#[test]
fn a_bad_value_is_named_with_what_would_be_right() {
    for (option, expected) in [
        ("USERS=0", "must be a whole number from 1 to 10000000000"),
        ("USERS=many", "must be a whole number"),
        ("USERS=1.5", "must be a whole number"),
        ("ACTIVE_PERCENT=101", "must be a number from 0.001 to 100"),
        ("ACTIVE_PERCENT=NaN", "must be a number"),
        ("CHARACTERS=0.5", "must be a number from 1 to 1000"),
        ("MESSAGES=51", "must be an even number from 2 to 100"),
        ("MESSAGES=102", "must be an even number from 2 to 100"),
        ("BYTES=0", "must be a whole number from 10 to 20000"),
        ("LAYOUT=flat", "must be plain"),
        ("SAMPLE=5", "must be a whole number from 50 to 5000"),
        ("TURNS_PER_DAY=0", "must be a whole number from 1 to"),
        ("REPLY_SECONDS=inf", "must be a number from 0.1 to 900"),
        ("LAMBDA_MB=64", "must be a whole number from 128 to 10240"),
        ("CPU_MS=-1", "must be a number"),
        ("DOLLARS_PER_GB_SECOND=x", "must be a number"),
        (
            "STREAMS_PER_VCPU=0",
            "must be a whole number from 1 to 1600",
        ),
        ("MANAGED_FEE_PERCENT=-1", "must be a number from 0 to 1000"),
        (
            "CAPACITY_JSON=no/such/directory/x",
            "must be the path of a file",
        ),
    ] {
        let (name, value) = option.split_once('=').expect("a name and a value");
        let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
        let expected = format!("invalid value '{value}' for '{flag} <{name}>': {expected}");
        for command in [
            capacity().arg(option),
            capacity().arg(format!("{flag}={value}")),
            capacity().env(name, value),
        ] {
            assert_refused(command, &expected);
        }
    }
}

#[test]
fn an_option_that_does_not_exist_is_refused_by_name() {
    for (option, expected) in [
        ("MESAGES=10", "unexpected argument '--mesages' found"),
        ("MESAGES=", "unexpected argument '--mesages' found"),
        ("--mesages=10", "unexpected argument '--mesages' found"),
        ("RULE_SESSIONS=10", "'--rule-sessions'"),
        ("USERS", "unexpected argument 'USERS' found"),
    ] {
        assert_refused(capacity().arg(option), expected);
    }
}

#[test]
fn help_names_every_option() {
    let output = capacity().arg("--help").output().expect("it can be run");
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    for name in ["users", "bytes", "layout", "cpu-ms", "capacity-json"] {
        assert!(help.contains(&format!("--{name} <")), "{name}: {help}");
    }
}

fn assert_refused(command: &mut Command, expected: &str) {
    let output = command.output().expect("it can be run");
    assert_eq!(output.status.code(), Some(2), "{expected}");
    let errors = errors(&output);
    assert!(errors.contains(expected), "{expected}: {errors}");
    assert!(output.stdout.is_empty(), "{expected}: nothing was measured");
}

#[test]
fn make_passes_every_variable_of_its_command_line() {
    let output = Command::new("make")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        // A make that runs this test has variables of its own.
        .env_remove("MAKEFLAGS")
        .args(["--dry-run", "--no-print-directory", "capacity"])
        .args(["USERS=7", "MESAGES=8"])
        .output()
        .expect("make can be run");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (_, passed) = text.split_once(" -- ").expect("arguments");
    let mut options: Vec<&str> = passed.split_whitespace().collect();
    options.sort_unstable();
    assert_eq!(options, ["MESAGES=8", "USERS=7"]);
}
