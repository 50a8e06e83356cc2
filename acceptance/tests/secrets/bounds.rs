//! Anybody can send a token with a bad signature, and the work that this causes is bounded.

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::secrets::SecretsServer;

use super::{
    API_KEY, House, SIGNING, alice, arns, assert_internal, assert_unspoken, say, stranger,
};

#[tokio::test]
async fn a_flood_of_bad_tokens_has_the_secret_fetched_once_more_and_lets_the_good_ones_in() {
    /// What a fetch makes of an error.
    const ATTEMPTS: usize = 3;
    let redis = Server::start().await;
    let aws = SecretsServer::start().await;
    let session = Function::builder("session-meta")
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET_SECRET_ARN", aws.put("jwt-a1B2c3", SIGNING))
        .envs(aws.env())
        .env("LOG_LEVEL", "trace")
        .env("RUST_LOG", "trace")
        .concurrency(16)
        .start()
        .await;
    let (bad, good) = (
        events::session(&stranger(), "luna"),
        events::session(&alice(), "luna"),
    );
    let began = Instant::now();
    // Half minutes that are over.
    let windows = || usize::try_from(began.elapsed().as_secs() / 30).expect("a test is short");
    for _ in 0..10 {
        let answers = join_all(
            (0..16).map(|number| session.invoke(if number % 4 == 0 { &good } else { &bad })),
        );
        for (number, answer) in answers.await.iter().enumerate() {
            let expected = if number % 4 == 0 { 404 } else { 401 };
            assert_eq!(answer.status, expected, "{}", answer.text());
        }
    }
    let fetches = aws.fetches().len();
    assert!((2..=2 + windows()).contains(&fetches), "{fetches}");

    // Nor while there is nothing to fetch.
    aws.fail(true);
    for _ in 0..10 {
        let answers = join_all((0..16).map(|_| session.invoke(&bad)));
        assert!(answers.await.iter().all(|answer| answer.status == 401));
    }
    let more = aws.fetches().len() - fetches;
    assert!(more <= ATTEMPTS * windows(), "{more}");
    assert_unspoken(&session.output(), &[SIGNING]);
}

#[tokio::test]
async fn an_aws_that_never_answers_is_waited_for_within_the_budgets() {
    const SLACK: Duration = Duration::from_millis(700);
    let house = House::start().await;
    let aws = SecretsServer::start_together(usize::MAX).await;
    let arns = arns(&aws);
    let password = house
        .chat(aws.env(), &arns)
        .without("LLM_API_KEY_SECRET_ARN")
        .env("LLM_API_KEY", API_KEY)
        .without("JWT_SECRET_SECRET_ARN")
        .env("JWT_SECRET", SIGNING)
        .start()
        .await;
    let answer = say(&password, &alice()).await;
    assert_eq!(answer.start()["memory"], "unavailable");
    assert_eq!(answer.reply(), "好");
    let first = answer.events().first().expect("a start").at - answer.handed_over;
    assert!(first < Duration::from_secs(1) + SLACK, "{first:?}");

    // All who wait, wait for the same answer.
    let signing = house.chat(aws.env(), &arns).concurrency(4).start().await;
    let began = Instant::now();
    let token = alice();
    let answers = join_all((0..4).map(|_| say(&signing, &token))).await;
    for answer in &answers {
        assert_internal(answer, "a token that cannot be checked");
    }
    assert!(
        began.elapsed() < Duration::from_secs(3) + SLACK,
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn without_the_feature_no_sdk_is_linked() {
    let linked = |arguments: &[&str]| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let tree = Command::new(cargo)
            .args([
                "tree",
                "--locked",
                "--offline",
                "--edges",
                "normal",
                "--prefix",
                "none",
            ])
            .args(["--package", "chat-stream"])
            .args(arguments)
            .output()
            .expect("cargo can be run");
        assert!(tree.status.success(), "{tree:?}");
        let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
        let sdk = [
            "aws-config ",
            "aws-sdk-",
            "aws-smithy-",
            "aws-sigv4 ",
            "aws-runtime ",
        ];
        let is_sdk = |line: &&str| sdk.iter().any(|name| line.starts_with(name));
        tree.lines().filter(is_sdk).count()
    };
    assert_eq!(linked(&["--no-default-features"]), 0);
    assert_ne!(linked(&[]), 0);
}
