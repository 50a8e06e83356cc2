//! Secrets in AWS Secrets Manager: fetched together at first use, rotated without a restart, and never waited for
//! longer than their time limit.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[path = "secrets/bounds.rs"]
mod bounds;
#[path = "secrets/iam.rs"]
mod iam;
#[path = "secrets/rotation.rs"]
mod rotation;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::secrets::{SECRET_ACCESS_KEY, SESSION_TOKEN, SdkTrap, SecretsServer};
use testkit::tokens::{Token, secret};
use testkit::upstream::{Script, Upstream};

const PASSWORD: &str = "password-from-aws";
const API_KEY: &str = "sk-from-aws";
const SIGNING: &str = "a signing secret from aws, long enough for its algorithm";
/// How long a test waits for what happens soon.
const PATIENCE: Duration = Duration::from_secs(20);

/// Redis and an upstream that take nothing but the secrets above.
struct House {
    redis: Server,
    upstream: Upstream,
}

/// The ARNs of the three.
struct Arns {
    password: String,
    api_key: String,
    signing: String,
}

impl House {
    async fn start() -> Self {
        let house = Self {
            redis: Server::start().await,
            upstream: Upstream::start(Script::reply(&["好"])).await,
        };
        house.change_password(PASSWORD).await;
        house.upstream.lock(API_KEY);
        house
    }

    /// The password of the user `chat` becomes this one, and whoever is connected is thrown out.
    async fn change_password(&self, password: &str) {
        change_password(&self.redis, password).await;
    }

    /// A chat that must fetch what it needs.
    fn chat(&self, aws: Vec<(String, String)>, arns: &Arns) -> FunctionBuilder {
        Function::builder("chat-stream")
            .env("REDIS_URL", self.redis.url())
            .env("REDIS_USERNAME", "chat")
            .env("REDIS_PASSWORD_SECRET_ARN", &arns.password)
            .env("REDIS_BREAKER_COOLDOWN_MS", "50")
            .envs(self.upstream.env())
            .without("LLM_API_KEY")
            .env(
                "LLM_API_KEY_SECRET_ARN",
                format!("{}#api_key", arns.api_key),
            )
            .env("JWT_SECRET_SECRET_ARN", &arns.signing)
            .envs(aws)
    }
}

/// The same values, said in the environment.
fn without_arns(chat: FunctionBuilder) -> FunctionBuilder {
    chat.without("REDIS_PASSWORD_SECRET_ARN")
        .env("REDIS_PASSWORD", PASSWORD)
        .without("LLM_API_KEY_SECRET_ARN")
        .env("LLM_API_KEY", API_KEY)
        .without("JWT_SECRET_SECRET_ARN")
        .env("JWT_SECRET", secret())
}

async fn change_password(redis: &Server, password: &str) {
    let password = format!(">{password}");
    let user = [
        "ACL",
        "SETUSER",
        "chat",
        "on",
        "resetpass",
        &password,
        "~*",
        "&*",
        "+@all",
    ];
    let _: () = redis.command(&user).await;
    let _: i64 = redis.command(&["CLIENT", "KILL", "USER", "chat"]).await;
}

/// All three in the stand-in.
fn arns(aws: &SecretsServer) -> Arns {
    Arns {
        password: aws.put("redis-a1B2c3", PASSWORD),
        api_key: aws.put("llm-a1B2c3", &llm_secret(API_KEY)),
        signing: aws.put("jwt-a1B2c3", SIGNING),
    }
}

/// A secret with several members, as the console makes them.
fn llm_secret(api_key: &str) -> String {
    json!({ "provider": "ark", "api_key": api_key, "port": 443 }).to_string()
}

fn alice() -> String {
    Token::new("alice").hs256(SIGNING)
}

/// A good token but for who signed it.
fn stranger() -> String {
    Token::new("alice").hs256("the secret of a stranger, long enough for its algorithm")
}

async fn say(chat: &Function, token: &str) -> Answer {
    chat.invoke(&events::chat(token, "luna", "你在吗？")).await
}

/// Talks until an answer is as it should be.
async fn say_until(chat: &Function, token: &str, is_right: impl Fn(&Answer) -> bool) -> Answer {
    let started = Instant::now();
    loop {
        let answer = say(chat, token).await;
        if is_right(&answer) {
            return answer;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{}\n{}",
            answer.text(),
            chat.output()
        );
    }
}

fn is_saved(answer: &Answer) -> bool {
    answer.status == 200 && answer.last()["saved"] == true
}

fn assert_saved(answer: &Answer, case: &str) {
    assert_eq!(answer.status, 200, "{case}: {}", answer.text());
    assert_eq!(answer.reply(), "好", "{case}: {}", answer.text());
    assert_eq!(answer.last()["saved"], true, "{case}: {}", answer.text());
}

fn assert_internal(answer: &Answer, case: &str) {
    assert_eq!(answer.status, 500, "{case}: {}", answer.text());
    assert_eq!(answer.json()["code"], "internal", "{case}");
}

/// Nothing of it in what was printed.
fn assert_unspoken(output: &str, secrets: &[&str]) {
    for secret in secrets.iter().chain(&[SECRET_ACCESS_KEY, SESSION_TOKEN]) {
        assert!(!output.contains(secret), "{secret:?} in\n{output}");
        let bytes = format!("{:?}", secret.as_bytes());
        assert!(!output.contains(&bytes), "{secret:?} in\n{output}");
    }
}

#[tokio::test]
async fn secrets_are_fetched_at_the_first_request_and_at_the_same_time() {
    let house = House::start().await;
    // It answers nobody before all three have been asked for.
    let aws = SecretsServer::start_together(3).await;
    let chat = house.chat(aws.env(), &arns(&aws)).start().await;
    assert_eq!(aws.fetches().len(), 0, "starting asks nobody");

    assert_saved(&say(&chat, &alice()).await, "the first turn");
    assert_saved(&say(&chat, &alice()).await, "the second turn");
    assert_eq!(aws.fetches().len(), 3, "{:?}", aws.fetches());
}

#[tokio::test]
async fn members_of_one_secret_are_fetched_together() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let all = json!({ "redis": PASSWORD, "api_key": API_KEY, "jwt": SIGNING }).to_string();
    let arn = aws.put("all-a1B2c3", &all);
    let arns = Arns {
        password: format!("{arn}#redis"),
        api_key: arn.clone(),
        signing: format!("{arn}#jwt"),
    };
    let chat = house.chat(aws.env(), &arns).start().await;
    assert_saved(&say(&chat, &alice()).await, "the first turn");
    assert_eq!(aws.fetches(), [arn]);
}

#[tokio::test]
async fn a_function_without_secrets_in_aws_asks_nobody() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let arns = arns(&aws);
    let chat = without_arns(house.chat(aws.env(), &arns)).start().await;
    assert_saved(
        &say(&chat, &testkit::tokens::token("alice")).await,
        "a turn",
    );
    house.upstream.lock("another");
    let refused = say(&chat, &testkit::tokens::token("alice")).await;
    assert_eq!(refused.last()["code"], "upstream_rejected");
    assert_eq!(say(&chat, &alice()).await.status, 401);
    assert_eq!(aws.fetches().len(), 0);
}

/// A turn, and how often somebody had to be let out of the trap for it.
async fn say_past(trap: &SdkTrap, chat: &Function, token: &str) -> (Answer, usize) {
    let mut caught = 0;
    let mut saying = std::pin::pin!(say(chat, token));
    loop {
        tokio::select! {
            answer = &mut saying => return (answer, caught + usize::from(trap.release())),
            // Asked again and again, because a FIFO tells nobody that it is opened.
            () = tokio::time::sleep(Duration::from_millis(1)) => caught += usize::from(trap.release()),
        }
    }
}

#[tokio::test]
async fn a_function_without_secrets_in_aws_never_enters_the_sdk() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let arns = arns(&aws);
    let trap = SdkTrap::set();

    let chat = without_arns(house.chat(aws.env(), &arns)).envs(trap.env());
    let chat = chat.start().await;
    let (answer, caught) = say_past(&trap, &chat, &testkit::tokens::token("alice")).await;
    assert_saved(&answer, "a turn");
    assert_eq!(caught, 0, "its settings name nothing in AWS");

    // The trap is one: with secrets to fetch the SDK walks into it, and by the first turn only.
    let chat = house.chat(aws.env(), &arns).envs(trap.env()).start().await;
    assert!(!trap.release(), "starting loads nothing");
    let (answer, caught) = say_past(&trap, &chat, &alice()).await;
    assert_saved(&answer, "a turn that the trap let go");
    assert_ne!(caught, 0, "nobody was in the trap");
    let (answer, caught) = say_past(&trap, &chat, &alice()).await;
    assert_saved(&answer, "the next turn");
    assert_eq!(caught, 0, "it is loaded once");
}

#[tokio::test]
async fn without_a_secret_what_it_opens_is_unavailable_and_comes_back_by_itself() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let arns = arns(&aws);
    let only = |kept: &str| {
        let mut function = house.chat(aws.env(), &arns);
        for (arn, variable, value) in [
            ("REDIS_PASSWORD_SECRET_ARN", "REDIS_PASSWORD", PASSWORD),
            ("LLM_API_KEY_SECRET_ARN", "LLM_API_KEY", API_KEY),
            ("JWT_SECRET_SECRET_ARN", "JWT_SECRET", SIGNING),
        ] {
            if arn != kept {
                function = function.without(arn).env(variable, value);
            }
        }
        function
    };
    let password = only("REDIS_PASSWORD_SECRET_ARN").start().await;
    let api_key = only("LLM_API_KEY_SECRET_ARN").start().await;
    let signing = only("JWT_SECRET_SECRET_ARN").start().await;
    aws.fail(true);

    // Redis never stops a chat, not by its password either.
    let answer = say(&password, &alice()).await;
    assert_eq!(answer.start()["memory"], "unavailable", "{}", answer.text());
    assert_eq!(
        (answer.reply().as_str(), &answer.last()["saved"]),
        ("好", &json!(false))
    );
    let answer = say(&api_key, &alice()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.last()["code"],
        "upstream_unavailable",
        "{}",
        answer.text()
    );
    assert_eq!(
        house.upstream.requests().len(),
        1,
        "nobody is asked without a key"
    );
    assert_internal(
        &say(&signing, &alice()).await,
        "a token that cannot be checked",
    );
    for (function, variable) in [
        (&password, "REDIS_PASSWORD_SECRET_ARN"),
        (&api_key, "LLM_API_KEY_SECRET_ARN"),
        (&signing, "JWT_SECRET_SECRET_ARN"),
    ] {
        function.printed(variable).await;
    }

    aws.fail(false);
    for function in [&password, &api_key, &signing] {
        say_until(function, &alice(), is_saved).await;
    }

    // What is known goes on serving.
    aws.fail(true);
    for function in [&password, &api_key, &signing] {
        assert_saved(&say(function, &alice()).await, "while AWS is down");
    }
}

#[tokio::test]
async fn a_secret_that_is_not_there_or_not_as_the_setting_says_is_named_in_the_log() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let good = arns(&aws);
    let gone = |name: &str| format!("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{name}");
    let cases = [
        (gone("nowhere"), "missing"),
        (format!("{}#no_such_key", good.signing), "malformed"),
        (format!("{}#no_such_key", good.api_key), "malformed"),
        (format!("{}#port", good.api_key), "malformed"),
    ];
    for (arn, reason) in &cases {
        let function = |variable| {
            house
                .chat(aws.env(), &good)
                .env("LOG_LEVEL", "trace")
                .env("RUST_LOG", "trace")
                .env(variable, arn)
        };
        let chat = function("JWT_SECRET_SECRET_ARN").start().await;
        assert_internal(&say(&chat, &alice()).await, arn);
        let said: Vec<Value> = chat
            .stop()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &Value| line["variable"] == "JWT_SECRET_SECRET_ARN")
            .collect();
        assert_eq!(said.first().expect("a line")["reason"], *reason, "{arn}");
        let chat = function("REDIS_PASSWORD_SECRET_ARN").start().await;
        let answer = say(&chat, &alice()).await;
        assert_eq!(answer.start()["memory"], "unavailable", "{arn}");
        assert_eq!(answer.reply(), "好", "{arn}");
        let chat = function("LLM_API_KEY_SECRET_ARN").start().await;
        let answer = say(&chat, &alice()).await;
        assert_eq!(answer.last()["code"], "upstream_unavailable", "{arn}");
        assert_unspoken(&chat.output(), &[PASSWORD, API_KEY, SIGNING]);
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_fetched_again_and_works_once_it_is_mended() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let good = arns(&aws);
    let arn = aws.put("mended-a1B2c3", r#"{"key":"value"}"#);
    let signing = house
        .chat(aws.env(), &good)
        .env("JWT_SECRET_SECRET_ARN", format!("{arn}#jwt"))
        .start()
        .await;
    assert_internal(&say(&signing, &alice()).await, "no such member");
    aws.put("mended-a1B2c3", &json!({ "jwt": SIGNING }).to_string());
    assert_saved(&say(&signing, &alice()).await, "a mended signing secret");

    let line_break = format!("{API_KEY}\n");
    for (broken, mended, key) in [
        (r#"{"key":"value"}"#, llm_secret(API_KEY), "#api_key"),
        // It slipped in, and no header can carry it.
        (&line_break, API_KEY.to_owned(), ""),
    ] {
        // The first request fetches all three, whatever becomes of it.
        let aws = SecretsServer::start_together(3).await;
        let good = arns(&aws);
        let arn = aws.put("mended-a1B2c3", broken);
        let start = async || {
            let chat = house.chat(aws.env(), &good);
            let chat = chat.env("LLM_API_KEY_SECRET_ARN", format!("{arn}{key}"));
            chat.start().await
        };
        let (chat, unmended) = (start().await, start().await);
        assert_eq!(say(&chat, &stranger()).await.status, 401);
        let answer = say(&unmended, &alice()).await;
        assert_eq!(answer.last()["code"], "upstream_unavailable", "{broken}");
        let before = aws.fetches().len();

        aws.put("mended-a1B2c3", &mended);
        // The very turn that finds out goes on.
        assert_saved(&say(&chat, &alice()).await, broken);
        assert_eq!(aws.fetches().len(), before + 1, "{broken}");
        for function in [&chat, &unmended] {
            assert_unspoken(&function.output(), &[API_KEY]);
        }
    }
}

#[tokio::test]
async fn of_two_settings_that_name_one_secret_the_log_names_the_one_that_is_wrong() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let arns = arns(&aws);
    let chat = house
        .chat(aws.env(), &arns)
        .env(
            "LLM_API_KEY_SECRET_ARN",
            format!("{}#no_such_key", arns.signing),
        )
        .start()
        .await;
    let answer = say(&chat, &alice()).await;
    assert_eq!(answer.last()["code"], "upstream_unavailable");
    // All of it: a line may be read after the answer.
    let output = chat.stop();
    let named: Vec<Value> = output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["reason"] == "malformed")
        .map(|line| line["variable"].clone())
        .collect();
    assert!(!named.is_empty(), "{output}");
    for variable in named {
        assert_eq!(variable, "LLM_API_KEY_SECRET_ARN");
    }
}
