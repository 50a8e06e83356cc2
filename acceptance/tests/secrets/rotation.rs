//! A secret is rotated, and the process continues with the new one.

use serde_json::json;
use testkit::cluster::Cluster;
use testkit::events;
use testkit::runtime::Function;
use testkit::secrets::{Moto, SecretsServer};
use testkit::sentinel::Sentinels;
use testkit::tokens::{Token, token};
use testkit::upstream::{Script, Upstream};

use super::{
    API_KEY, Arns, House, PASSWORD, SIGNING, alice, arns, assert_saved, assert_unspoken,
    change_password, is_saved, llm_secret, say, say_until, stranger,
};

#[tokio::test]
async fn each_secret_is_rotated_without_a_restart_and_none_is_printed() {
    let house = House::start().await;
    let aws = Moto::start().await;
    let arns = Arns {
        password: aws.create("redis", PASSWORD).await,
        api_key: aws.create("llm", &llm_secret(API_KEY)).await,
        signing: aws.create("jwt", SIGNING).await,
    };
    let chat = house
        .chat(aws.env(), &arns)
        .env("LOG_LEVEL", "trace")
        .env("RUST_LOG", "trace")
        .start()
        .await;
    assert_saved(&say(&chat, &alice()).await, "before");
    let pid = chat.pid();

    aws.put(&arns.api_key, &llm_secret("sk-of-tomorrow")).await;
    house.upstream.lock("sk-of-tomorrow");
    // The very turn that finds out goes on.
    assert_saved(&say(&chat, &alice()).await, "a new API key");

    aws.put(&arns.password, "password-of-tomorrow").await;
    house.change_password("password-of-tomorrow").await;
    let answer = say(&chat, &alice()).await;
    assert_saved(&answer, "a new password");
    assert_eq!(answer.start()["memory"], "ok");

    let signing = "a signing secret of tomorrow, long enough for its algorithm";
    let tomorrow = Token::new("alice").hs256(signing);
    aws.put(&arns.signing, signing).await;
    // The first token by the new secret is what has it fetched.
    assert_saved(&say(&chat, &tomorrow).await, "a new signing secret");
    assert_eq!(say(&chat, &alice()).await.status, 401, "two at a time");

    assert_eq!(chat.pid(), pid);
    let spoken = [
        PASSWORD,
        "password-of-tomorrow",
        API_KEY,
        "sk-of-tomorrow",
        SIGNING,
        signing,
    ];
    assert_unspoken(&chat.output(), &spoken);
}

#[tokio::test]
async fn a_token_by_a_new_signing_secret_is_let_in_and_one_by_the_old_no_longer() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let arns = arns(&aws);
    let chat = house.chat(aws.env(), &arns).start().await;
    assert_saved(&say(&chat, &alice()).await, "before");
    let signing = "a signing secret of tomorrow, long enough for its algorithm";
    aws.put("jwt-a1B2c3", signing);
    let tomorrow = Token::new("alice").hs256(signing);
    assert_saved(&say(&chat, &tomorrow).await, "after");
    assert_eq!(say(&chat, &alice()).await.status, 401);
}

#[tokio::test]
async fn after_a_strangers_token_a_new_signing_secret_waits_and_the_old_one_goes_on() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let arns = arns(&aws);
    let chat = house.chat(aws.env(), &arns).start().await;
    assert_saved(&say(&chat, &alice()).await, "before");
    assert_eq!(say(&chat, &stranger()).await.status, 401);
    let signing = "a signing secret of tomorrow, long enough for its algorithm";
    aws.put("jwt-a1B2c3", signing);
    let tomorrow = Token::new("alice").hs256(signing);
    // The stranger's token has used up this half minute.
    assert_eq!(say(&chat, &tomorrow).await.status, 401);
    assert_saved(&say(&chat, &alice()).await, "the old token");
    let fresh = house.chat(aws.env(), &arns).start().await;
    assert_saved(&say(&fresh, &tomorrow).await, "a new process");
}

#[tokio::test]
async fn a_strangers_token_does_not_keep_the_other_members_of_the_secret_from_being_rotated() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let all = |password: &str, api_key: &str| {
        let all = json!({ "redis": password, "api_key": api_key, "jwt": SIGNING });
        aws.put("all-a1B2c3", &all.to_string())
    };
    let arn = all(PASSWORD, API_KEY);
    let arns = Arns {
        password: format!("{arn}#redis"),
        api_key: arn.clone(),
        signing: format!("{arn}#jwt"),
    };
    let chat = house.chat(aws.env(), &arns).start().await;
    assert_saved(&say(&chat, &alice()).await, "before");
    assert_eq!(say(&chat, &stranger()).await.status, 401);

    all(PASSWORD, "sk-of-tomorrow");
    house.upstream.lock("sk-of-tomorrow");
    assert_saved(&say(&chat, &alice()).await, "a new API key");

    all("password-of-tomorrow", "sk-of-tomorrow");
    house.change_password("password-of-tomorrow").await;
    let answer = say(&chat, &alice()).await;
    assert_saved(&answer, "a new password");
    assert_eq!(answer.start()["memory"], "ok");
    assert_eq!(aws.fetches().len(), 4, "one, and one for each use of it");
}

#[tokio::test]
async fn a_key_that_stays_refused_is_rejected_after_one_more_look() {
    let house = House::start().await;
    let aws = SecretsServer::start().await;
    let arns = arns(&aws);
    let chat = house.chat(aws.env(), &arns).start().await;
    house.upstream.lock("a key that nobody knows");
    for turn in 1..=3 {
        let answer = say(&chat, &alice()).await;
        assert_eq!(answer.last()["code"], "upstream_rejected");
        assert_eq!(
            house.upstream.requests().len(),
            turn,
            "it is not sent again"
        );
    }
    let fetches = aws.fetches();
    let of_key = fetches.iter().filter(|arn| **arn == arns.api_key);
    assert_eq!(of_key.count(), 2, "{fetches:?}");
}

#[tokio::test]
async fn a_password_is_rotated_behind_sentinels_too() {
    let sentinels = Sentinels::start().await;
    let aws = SecretsServer::start().await;
    let arn = aws.put("redis-a1B2c3", PASSWORD);
    let upstream = Upstream::start(Script::reply(&["好"])).await;
    let change = async |password: &str| {
        let password = format!(">{password}");
        let user = ["ACL", "SETUSER", "chat", "on", "resetpass", &password];
        let rights = ["~*", "&*", "+@all"];
        let _: () = sentinels.command(&[&user[..], &rights].concat()).await;
        let _: i64 = sentinels.command(&["CLIENT", "KILL", "USER", "chat"]).await;
    };
    change(PASSWORD).await;
    let chat = Function::builder("chat-stream")
        .envs(sentinels.env())
        .env("REDIS_USERNAME", "chat")
        .env("REDIS_PASSWORD_SECRET_ARN", &arn)
        .env("JWT_SECRET", testkit::tokens::secret())
        .envs(upstream.env())
        .envs(aws.env())
        .start()
        .await;
    assert_saved(&say(&chat, &token("alice")).await, "before");

    aws.put("redis-a1B2c3", "password-of-tomorrow");
    change("password-of-tomorrow").await;
    let answer = say(&chat, &token("alice")).await;
    assert_saved(&answer, "after");
    assert_eq!(answer.start()["memory"], "ok");
    assert_eq!(aws.fetches().len(), 2);
}

#[tokio::test]
async fn a_password_is_rotated_in_a_cluster_too() {
    let cluster = Cluster::start().await;
    let aws = SecretsServer::start().await;
    let arn = aws.put("redis-a1B2c3", PASSWORD);
    let upstream = Upstream::start(Script::reply(&["好"])).await;
    for port in cluster.masters().await {
        change_password(cluster.node(port), PASSWORD).await;
    }
    let chat = Function::builder("chat-stream")
        .envs(cluster.env())
        .env("REDIS_USERNAME", "chat")
        .env("REDIS_PASSWORD_SECRET_ARN", &arn)
        .env("REDIS_BREAKER_COOLDOWN_MS", "50")
        .env("JWT_SECRET", testkit::tokens::secret())
        .envs(upstream.env())
        .envs(aws.env())
        .start()
        .await;
    assert_saved(&say(&chat, &token("alice")).await, "before");

    aws.put("redis-a1B2c3", "password-of-tomorrow");
    for port in cluster.masters().await {
        change_password(cluster.node(port), "password-of-tomorrow").await;
    }
    // All users, so all nodes.
    for user in ["alice", "bob", "carol", "dave", "erin", "frank"] {
        say_until(&chat, &token(user), is_saved).await;
    }
    let answer = chat
        .invoke(&events::chat(&token("alice"), "luna", "你在吗？"))
        .await;
    assert_eq!(answer.start()["memory"], "ok");
    assert_eq!(aws.fetches().len(), 2);
}
