//! ElastiCache with IAM: a real redis-server behind TLS receives a token that AWS would accept, and a new one for each
//! connection.

use std::process::Command;
use std::time::{Duration, Instant};

use testkit::doorkeeper::Doorkeeper;
use testkit::runtime::Function;
use testkit::secrets::{
    ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, SESSION_TOKEN, SecretsServer, python,
};
use testkit::sigv4::Presigned;
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

use super::{PATIENCE, assert_saved, assert_unspoken, is_saved, say, say_until};

const USER: &str = "chat-stream.user@a";
const CACHE: &str = "Companion-Chat";

/// botocore, which is AWS's own, makes the same token for the same moment.
const BOTOCORE: &str = r#"
import datetime, sys
import botocore.auth, botocore.awsrequest, botocore.credentials
key, secret, session, region, url, moment = sys.argv[1:]
now = datetime.datetime.strptime(moment, "%Y%m%dT%H%M%SZ")
botocore.auth.get_current_datetime = lambda remove_tzinfo=True: now
request = botocore.awsrequest.AWSRequest(method="GET", url=url)
credentials = botocore.credentials.Credentials(key, secret, session)
botocore.auth.SigV4QueryAuth(credentials, "elasticache", region, expires=900).add_auth(request)
print(request.url.removeprefix("http://"))
"#;

fn by_botocore(serverless: bool, moment: &str) -> String {
    let kind = if serverless {
        "&ResourceType=ServerlessCache"
    } else {
        ""
    };
    let user = "chat-stream.user%40a";
    let url = format!("http://companion-chat/?Action=connect&User={user}{kind}");
    let output = Command::new(python())
        .args([
            "-c",
            BOTOCORE,
            ACCESS_KEY_ID,
            SECRET_ACCESS_KEY,
            SESSION_TOKEN,
            REGION,
        ])
        .args([&url, moment])
        .output()
        .expect("botocore is installed with moto");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Parameters in any order are the same token.
fn sorted(token: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = token.split(['?', '&']).collect();
    parts.sort_unstable();
    parts
}

fn assert_token(name: &str, token: &str, serverless: bool) -> String {
    assert_eq!(name, USER);
    let presigned = Presigned::verify(token, SECRET_ACCESS_KEY);
    assert_eq!(presigned.host, "companion-chat");
    assert_eq!(presigned.parameter("Action"), Some("connect"));
    assert_eq!(presigned.parameter("User"), Some("chat-stream.user%40a"));
    assert_eq!(
        presigned.parameter("ResourceType"),
        serverless.then_some("ServerlessCache")
    );
    assert_eq!(presigned.parameter("X-Amz-Expires"), Some("900"));
    let credential = presigned.parameter("X-Amz-Credential").expect("set");
    assert!(
        credential.starts_with(&format!("{ACCESS_KEY_ID}%2F")),
        "{token}"
    );
    assert!(
        credential.ends_with("%2Feu-west-1%2Felasticache%2Faws4_request"),
        "{token}"
    );
    assert_eq!(
        presigned.parameter("X-Amz-Security-Token"),
        Some("session%2F%2Ftoken%2Bof%2Ba%2Btest%3D%3D")
    );
    let moment = presigned.parameter("X-Amz-Date").expect("set").to_owned();
    assert_eq!(sorted(token), sorted(&by_botocore(serverless, &moment)));
    moment
}

async fn by_iam(cluster: bool, serverless: bool) {
    let door = Doorkeeper::start(USER, cluster).await;
    // Nobody asks for a secret here; its environment has the role's credentials.
    let aws = SecretsServer::start().await;
    let upstream = Upstream::start(Script::reply(&["好"])).await;
    let chat = Function::builder("chat-stream")
        .env("REDIS_URL", door.url())
        .env("REDIS_MODE", if cluster { "cluster" } else { "standalone" })
        .env("REDIS_TLS_CA_FILE", door.ca_file().to_string_lossy())
        .env("REDIS_USERNAME", USER)
        .env("REDIS_AUTH", "iam")
        .env("REDIS_IAM_CACHE_NAME", CACHE)
        .env("REDIS_IAM_SERVERLESS", serverless.to_string())
        .env("REDIS_BREAKER_COOLDOWN_MS", "50")
        .env("JWT_SECRET", secret())
        .env("LOG_LEVEL", "trace")
        .env("RUST_LOG", "trace")
        .envs(upstream.env())
        .envs(aws.env())
        .start()
        .await;
    assert_saved(&say(&chat, &token("alice")).await, "the first connection");
    let first = door.logins();
    let moments: Vec<String> = first
        .iter()
        .map(|(name, token)| assert_token(name, token, serverless))
        .collect();
    let last = moments.last().expect("somebody was let in");

    // Within one second two tokens are the same, so they are told apart from the next second on.
    let started = Instant::now();
    let (name, renewed) = loop {
        door.cut();
        say_until(&chat, &token("alice"), is_saved).await;
        let newest = door.logins().pop().expect("logins");
        if newest.1 != first.last().expect("a login").1 {
            break newest;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "each connection has the same token"
        );
    };
    let moment = assert_token(&name, &renewed, serverless);
    assert!(moment > *last, "{moment} after {last}");
    assert!(started.elapsed() < Duration::from_secs(20));

    let stored: i64 = door.server().command(&["DBSIZE"]).await;
    assert_ne!(stored, 0, "it is the real server that keeps the turns");
    let signature = |token: &str| token.rsplit('=').next().unwrap_or_default().to_owned();
    assert_unspoken(&chat.output(), &[&signature(&renewed), &renewed]);
    assert_eq!(aws.fetches().len(), 0);
}

#[tokio::test]
async fn a_serverless_cache_lets_the_role_in_and_each_connection_has_its_own_token() {
    by_iam(true, true).await;
}

#[tokio::test]
async fn a_cache_of_one_server_lets_the_role_in_and_each_connection_has_its_own_token() {
    by_iam(false, false).await;
}
