//! `docs/settings.md`, held to the code: the variables, their defaults and their ranges.
//!
//! The page is the list of what to try. Each choice that it documents is set in each context below, so a branch that
//! only a documented choice opens is taken, and a choice that the code has and the page has not fails on its own.

#![expect(clippy::expect_used, reason = "a test")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use secrecy::ExposeSecret;
use shared::config::{
    AuthConfig, ConfigError, ContextConfig, CorsConfig, LimitsConfig, LlmConfig, LogConfig,
    MemoryConfig, MetricsConfig, RedisConfig, Section,
};

const PAGE: &str = include_str!("../../docs/settings.md");
const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:chat-AbCdEf";

/// What the page calls the form of a proxy's variable.
const PROXY_FORM: &str = "URL of a proxy";

type Environment = BTreeMap<String, String>;

/// Environments with which a function starts. Together they satisfy every requirement that one setting has of others.
fn contexts() -> Vec<Environment> {
    let openai = [
        ("LLM_BASE_URL", "https://model.example/v1"),
        ("LLM_API_KEY", "key"),
        ("LLM_MODEL", "model"),
        ("JWT_JWKS_URL", "https://issuer.example/keys"),
    ];
    let arns = [
        ("LLM_BASE_URL", "https://model.example/v1"),
        ("LLM_API_KEY_SECRET_ARN", ARN),
        ("LLM_MODEL", "model"),
        ("JWT_SECRET_SECRET_ARN", ARN),
        ("REDIS_PASSWORD_SECRET_ARN", ARN),
    ];
    let iam = [
        ("LLM_PROVIDER", "echo"),
        ("JWT_SECRET", "secret"),
        ("REDIS_AUTH", "iam"),
        ("REDIS_URL", "rediss://cache.example:6379"),
        ("REDIS_USERNAME", "chat"),
        ("REDIS_IAM_CACHE_NAME", "cache"),
        ("AWS_REGION", "eu-west-1"),
    ];
    [
        &[("LLM_PROVIDER", "echo"), ("JWT_SECRET", "secret")][..],
        &[("LLM_PROVIDER", "echo"), ("AUTH_TRUST_AUTHORIZER", "true")],
        &openai,
        &arns,
        &iam,
    ]
    .iter()
    .map(|pairs| {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    })
    .collect()
}

// --- the code -----------------------------------------------------------------------------------------------------

/// Reads sections from one environment, and records which variables they ask for.
struct Reader<'a> {
    environment: &'a Environment,
    asked: RefCell<BTreeSet<String>>,
    refusals: RefCell<Vec<ConfigError>>,
    sections: RefCell<BTreeMap<&'static str, String>>,
}

impl Reader<'_> {
    fn section<T: Section + Debug>(&self, name: &'static str) -> Option<T> {
        let read = T::from_lookup(&|variable| {
            self.asked.borrow_mut().insert(variable.to_owned());
            self.environment.get(variable).cloned()
        });
        match read {
            Ok(section) => {
                let text = format!("{section:?}");
                self.sections.borrow_mut().insert(name, text);
                Some(section)
            }
            Err(refusal) => {
                self.refusals.borrow_mut().push(refusal);
                None
            }
        }
    }
}

/// What all sections make of an environment.
struct Outcome {
    asked: BTreeSet<String>,
    refusals: Vec<ConfigError>,
    /// The `Debug` form of each section by its type's name; what `Debug` redacts is beside it where it is no secret.
    sections: BTreeMap<&'static str, String>,
}

impl Outcome {
    fn of(environment: &Environment) -> Self {
        let reader = Reader {
            environment,
            asked: RefCell::default(),
            refusals: RefCell::default(),
            sections: RefCell::default(),
        };
        reader.section::<AuthConfig>("AuthConfig");
        reader.section::<ContextConfig>("ContextConfig");
        reader.section::<CorsConfig>("CorsConfig");
        reader.section::<LimitsConfig>("LimitsConfig");
        reader.section::<LlmConfig>("LlmConfig");
        reader.section::<LogConfig>("LogConfig");
        reader.section::<MemoryConfig>("MemoryConfig");
        reader.section::<MetricsConfig>("MetricsConfig");
        if let Some(redis) = reader.section::<RedisConfig>("RedisConfig") {
            let urls: Vec<&str> = redis.urls.iter().map(ExposeSecret::expose_secret).collect();
            let text = format!("{urls:?}");
            reader.sections.borrow_mut().insert("its URLs", text);
        }
        Self {
            asked: reader.asked.into_inner(),
            refusals: reader.refusals.into_inner(),
            sections: reader.sections.into_inner(),
        }
    }

    fn refusal_of(&self, variable: &str) -> Option<&ConfigError> {
        self.refusals
            .iter()
            .find(|refusal| refusal.variable == variable)
    }
}

fn with(context: &Environment, variable: &str, value: &str) -> Environment {
    let mut environment = context.clone();
    environment.insert(variable.to_owned(), value.to_owned());
    environment
}

fn without(context: &Environment, variable: &str) -> Environment {
    let mut environment = context.clone();
    environment.remove(variable);
    environment
}

/// Whether a function starts with the value in at least one of the contexts that ask for the variable.
fn is_accepted(variable: &str, value: &str) -> bool {
    contexts().iter().any(|context| {
        let outcome = Outcome::of(&with(context, variable, value));
        outcome.asked.contains(variable) && outcome.refusals.is_empty()
    })
}

/// Whether each context that asks for the variable refuses the value by the variable's name.
fn is_refused(variable: &str, value: &str) -> bool {
    let outcomes: Vec<Outcome> = contexts()
        .iter()
        .map(|context| Outcome::of(&with(context, variable, value)))
        .filter(|outcome| outcome.asked.contains(variable))
        .collect();
    !outcomes.is_empty()
        && outcomes
            .iter()
            .all(|outcome| outcome.refusal_of(variable).is_some())
}

// --- the page -----------------------------------------------------------------------------------------------------

/// A row of the page: `| variable | default | range | meaning |`.
struct Row {
    variable: String,
    default: Default,
    range: Range,
}

impl Row {
    /// The names under which the code looks the variable up. Those of proxies are common in both cases.
    fn spellings(&self) -> Vec<String> {
        let mut names = vec![self.variable.clone()];
        if matches!(&self.range, Range::Form(form) if form == PROXY_FORM) {
            names.push(self.variable.to_lowercase());
        }
        names
    }
}

enum Default {
    Value(String),
    None,
    /// The start fails without it, in the context that needs it.
    Required,
}

#[derive(Debug)]
enum Range {
    Numbers(u64, u64),
    Choices(BTreeSet<String>),
    /// What the page calls a value of another form.
    Form(String),
}

fn rows() -> Vec<Row> {
    let rows: Vec<Row> = PAGE
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [variable, default, range, meaning] = cells[..] else {
                panic!("a row has four cells: {line}");
            };
            assert!(!meaning.is_empty(), "{line}");
            Row {
                variable: quoted(variable).pop().expect("a variable"),
                default: match default {
                    "none" => Default::None,
                    "required" => Default::Required,
                    value => Default::Value(quoted(value).pop().expect("a default in backticks")),
                },
                range: parse_range(range),
            }
        })
        .collect();
    let names: BTreeSet<&str> = rows.iter().map(|row| row.variable.as_str()).collect();
    assert_eq!(names.len(), rows.len(), "a variable has one row");
    rows
}

fn parse_range(text: &str) -> Range {
    if let Some((min, max)) = text.split_once(" to ") {
        return Range::Numbers(
            min.parse().expect("a number"),
            max.parse().expect("a number"),
        );
    }
    match quoted(text) {
        choices if choices.is_empty() => Range::Form(text.to_owned()),
        choices => Range::Choices(choices.into_iter().collect()),
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

// --- the tests ----------------------------------------------------------------------------------------------------

#[test]
fn the_page_lists_the_variables_that_the_sections_look_up() {
    let mut asked = BTreeSet::new();
    for context in contexts() {
        let outcome = Outcome::of(&context);
        assert!(outcome.refusals.is_empty(), "{:?}", outcome.refusals);
        asked.extend(outcome.asked);
        for row in rows() {
            if let Range::Choices(choices) = row.range {
                for choice in choices {
                    asked.extend(Outcome::of(&with(&context, &row.variable, &choice)).asked);
                }
            }
        }
    }
    let listed: BTreeSet<String> = rows().iter().flat_map(Row::spellings).collect();
    assert_eq!(listed, asked);
}

#[test]
fn every_section_of_the_code_is_compared() {
    let mut implemented = BTreeSet::new();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config");
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        let code = std::fs::read_to_string(path).expect("readable");
        for after in code.split("impl Section for ").skip(1) {
            let name: String = after.chars().take_while(|c| c.is_alphanumeric()).collect();
            implemented.insert(name);
        }
    }
    let contexts = contexts();
    let compared: BTreeSet<String> = Outcome::of(&contexts[0])
        .sections
        .into_keys()
        .filter(|name| name.ends_with("Config"))
        .map(str::to_owned)
        .collect();
    assert_eq!(compared, implemented);
}

#[test]
fn a_documented_default_is_what_holds_without_the_variable() {
    for row in rows() {
        let mut compared = 0;
        for context in contexts() {
            let unset = Outcome::of(&without(&context, &row.variable));
            if !unset.asked.contains(&row.variable) || unset.refusal_of("REDIS_URL").is_some() {
                // Without a URL of its own, a context for IAM has one without TLS, which is refused.
                continue;
            }
            let needed = unset.refusal_of(&row.variable).is_some();
            match &row.default {
                Default::Value(value) => {
                    let set = Outcome::of(&with(&context, &row.variable, value));
                    assert_eq!(set.sections, unset.sections, "{} = {value}", row.variable);
                    assert_eq!(set.refusals, unset.refusals, "{} = {value}", row.variable);
                    compared += 1;
                }
                Default::Required => compared += usize::from(needed),
                Default::None => {
                    // Only a variable that another one can replace is missed by its name, as JWT_SECRET is.
                    let replaceable = is_accepted_without(&row.variable);
                    assert!(!needed || replaceable, "{} is required", row.variable);
                    compared += usize::from(!needed);
                    assert!(is_absent(&row.variable), "{} has a default", row.variable);
                }
            }
        }
        assert!(compared > 0, "no context compares {}", row.variable);
    }
}

/// Whether a context that asks for the variable starts without it.
fn is_accepted_without(variable: &str) -> bool {
    contexts().iter().any(|context| {
        let outcome = Outcome::of(&without(context, variable));
        outcome.asked.contains(variable) && outcome.refusals.is_empty()
    })
}

/// Whether the sections of a bare environment hold nothing in the variable's place.
fn is_absent(variable: &str) -> bool {
    let field = match variable {
        "REDIS_USERNAME" => " username: None",
        "REDIS_PASSWORD" | "REDIS_PASSWORD_SECRET_ARN" => "login: Password(None)",
        "REDIS_SENTINEL_USERNAME" => "sentinel_username: None",
        "REDIS_SENTINEL_PASSWORD" => "sentinel_password: None",
        "REDIS_TLS_CA_FILE" => "sentinel_password: None, tls_ca_file: None",
        "LLM_TLS_CA_FILE" => "starts_thinking: false, tls_ca_file: None",
        "JWT_SECRET" | "JWT_SECRET_SECRET_ARN" => "secret: None",
        "JWT_JWKS_URL" => "jwks_url: None",
        "JWT_JWKS_TLS_CA_FILE" => "jwks_tls_ca_file: None",
        "JWT_ISSUER" => "issuer: None",
        "JWT_AUDIENCE" => "audience: None",
        "CORS_ALLOWED_ORIGINS" => "Silent",
        // Nothing can stand in its place: there is no key then, and that is an error unless the other variable has it.
        "LLM_API_KEY_SECRET_ARN" => return true,
        // The HTTP client reads proxies from the environment; a section only refuses one that cannot be used.
        "HTTPS_PROXY" | "HTTP_PROXY" | "ALL_PROXY" => return true,
        other => panic!("say here how a section shows that {other} is not set"),
    };
    contexts().iter().any(|context| {
        Outcome::of(&without(context, variable))
            .sections
            .values()
            .any(|section| section.contains(field))
    })
}

#[test]
fn a_documented_range_ends_where_the_code_ends_it() {
    for row in rows() {
        let Row {
            variable, range, ..
        } = &row;
        let (accepted, refused): (Vec<String>, Vec<String>) = match range {
            Range::Numbers(min, max) => {
                let below = min
                    .checked_sub(1)
                    .map_or("-1".to_owned(), |n| n.to_string());
                let above = (max + 1).to_string();
                let fraction = format!("{max}.0");
                let ends = vec![min.to_string(), max.to_string()];
                (ends, vec![below, above, fraction])
            }
            Range::Choices(choices) => {
                assert_eq!(choices, &choices_of(variable), "{variable}");
                (choices.iter().cloned().collect(), vec!["other".to_owned()])
            }
            Range::Form(form) => {
                let (accepted, refused): (&[&str], &[&str]) = match form.as_str() {
                    "text" | "path of a file" | "secret" => (&["words"], &[]),
                    "secret for a header" => (&["words"], &["line\nbreak"]),
                    "http or https URL" => (&["http://a", "https://a/b?c=d"], &["a", "ftp://a"]),
                    PROXY_FORM => (
                        &["http://a:3128", "https://user:word@a", "a:3128"],
                        &["socks5://a:1080", "ftp://a", "/a", "http://", "a b"],
                    ),
                    "ARN of a secret" => (&[ARN], &["words", "arn:aws:s3:::bucket"]),
                    "Redis URLs" => (
                        &[
                            "redis://a",
                            "rediss://a:1/0",
                            "unix:///a",
                            "redis+unix:///a",
                        ],
                        &["a", "http://a"],
                    ),
                    "letters, digits, hyphens" => (&["my-Cache-1"], &["a.b", "a/b"]),
                    "origins" => (
                        &["*", "https://a.example,http://[::1]:3000"],
                        &["a.example", "https://A.example", "https://a.example/"],
                    ),
                    "CloudWatch name" => (&["Prod/Chat 1"], &["AWS/Lambda", "中"]),
                    other => panic!("say here what {other} is, for {variable}"),
                };
                let owned = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
                (owned(accepted), owned(refused))
            }
        };
        for name in row.spellings() {
            for value in &accepted {
                assert!(is_accepted(&name, value), "{name} = {value:?}");
            }
            for value in &refused {
                assert!(is_refused(&name, value), "{name} = {value:?}");
            }
        }
    }
}

/// The choices that the code names when it refuses another one.
fn choices_of(variable: &str) -> BTreeSet<String> {
    contexts()
        .iter()
        .find_map(|context| {
            let outcome = Outcome::of(&with(context, variable, "other"));
            let problem = &outcome.refusal_of(variable)?.problem;
            let (_, choices) = problem.split_once("must be one of ")?;
            Some(choices.split(", ").map(str::to_owned).collect())
        })
        .unwrap_or_default()
}
