//! The contract of the settings: names, defaults, ranges, and errors that name the variable.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;

fn read<T: Section>(pairs: &[(&str, &str)]) -> Result<T, ConfigError> {
    T::from_lookup(&|name| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

fn refused<T: Section + std::fmt::Debug>(pairs: &[(&str, &str)]) -> String {
    read::<T>(pairs).expect_err("refused").to_string()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let redis: RedisConfig = read(&[]).expect("valid");
    assert_eq!(redis.mode, RedisMode::Standalone);
    assert_eq!(redis.urls[0].expose_secret(), "redis://127.0.0.1:6379/0");
    assert_eq!(redis.sentinel_master, "mymaster");
    assert_eq!(redis.key_layout, KeyLayout::Plain);
    let memory: MemoryConfig = read(&[]).expect("valid");
    assert_eq!((memory.max_messages, memory.ttl_seconds), (100, 86_400));
    assert_eq!(memory.read_timeout, Duration::from_secs(1));
    assert_eq!(memory.write_timeout, Duration::from_secs(1));
    assert_eq!(
        (memory.breaker_failures, memory.breaker_cooldown),
        (1, Duration::from_millis(500))
    );
    assert_eq!(redis.wait_replicas, 0);
    let context: ContextConfig = read(&[]).expect("valid");
    assert_eq!((context.max_messages, context.max_tokens), (50, 20_000));
    let llm: LlmConfig = read(&[("LLM_PROVIDER", "echo")]).expect("valid");
    assert_eq!(llm.connect_timeout, Duration::from_secs(2));
    assert_eq!(llm.first_token_timeout, Duration::from_secs(30));
    assert_eq!(llm.idle_timeout, Duration::from_secs(30));
    assert_eq!(llm.max_retries, 2);
    let log: LogConfig = read(&[]).expect("valid");
    assert_eq!((log.level, log.format), (LogLevel::Info, LogFormat::Json));
    let metrics: MetricsConfig = read(&[]).expect("valid");
    assert_eq!(metrics.namespace.as_deref(), Some("CompanionChat"));
}

#[test]
fn metrics_are_off_or_have_a_name_that_cloudwatch_accepts() {
    let off: MetricsConfig = read(&[("METRICS", "off")]).expect("valid");
    assert_eq!(off.namespace, None);
    let named: MetricsConfig =
        read(&[("METRICS_NAMESPACE", "Prod/Companion Chat")]).expect("valid");
    assert_eq!(named.namespace.as_deref(), Some("Prod/Companion Chat"));
    assert!(refused::<MetricsConfig>(&[("METRICS", "on")]).starts_with("METRICS: "));
    for name in ["AWS/Lambda", " ", "中", &"x".repeat(256)] {
        let refusal = refused::<MetricsConfig>(&[("METRICS_NAMESPACE", name)]);
        assert!(refusal.starts_with("METRICS_NAMESPACE: "), "{refusal}");
    }
}

#[test]
fn an_upstream_needs_its_three_variables_and_the_error_names_the_missing_one() {
    let all = [
        ("LLM_BASE_URL", "https://host/v3/"),
        ("LLM_API_KEY", "k"),
        ("LLM_MODEL", "m"),
    ];
    match read::<LlmConfig>(&all).expect("valid").provider {
        Provider::OpenAi(config) => {
            assert_eq!(config.endpoint, "https://host/v3/chat/completions");
        }
        Provider::Echo => panic!("openai is the default"),
    }
    for (name, _) in all {
        let others: Vec<_> = all
            .into_iter()
            .filter(|(other, _)| *other != name)
            .collect();
        assert!(refused::<LlmConfig>(&others).starts_with(name));
        let mut emptied = others.clone();
        emptied.push((name, ""));
        assert!(refused::<LlmConfig>(&emptied).starts_with(name));
        let mut blank = others.clone();
        blank.push((name, " \t"));
        assert!(refused::<LlmConfig>(&blank).starts_with(name));
    }
    assert!(refused::<LlmConfig>(&[("LLM_PROVIDER", "oracle")]).contains("openai, echo"));
}

#[test]
fn without_a_way_to_check_a_caller_the_start_fails() {
    assert!(refused::<AuthConfig>(&[]).starts_with("JWT_SECRET"));
    assert!(
        refused::<AuthConfig>(&[("AUTH_TRUST_AUTHORIZER", "yes")])
            .starts_with("AUTH_TRUST_AUTHORIZER")
    );
    assert!(refused::<AuthConfig>(&[("JWT_JWKS_URL", "ftp://x")]).starts_with("JWT_JWKS_URL"));
    assert!(matches!(
        read(&[("AUTH_TRUST_AUTHORIZER", "true")]),
        Ok(AuthConfig::Authorizer)
    ));
    assert!(matches!(
        read(&[("JWT_SECRET", "s")]),
        Ok(AuthConfig::Token(_))
    ));
}

#[test]
fn settings_of_tokens_that_cannot_work_are_refused_by_name() {
    for (name, value) in [
        ("JWT_SECRET", " "),
        ("JWT_SECRET", "\t\n"),
        ("JWT_SECRET", "\u{3000}"),
        ("JWT_ISSUER", " "),
        ("JWT_AUDIENCE", "\n"),
        ("JWT_JWKS_TLS_CA_FILE", " "),
        ("JWT_JWKS_URL", " "),
        ("JWT_JWKS_URL", "keys.example"),
        ("JWT_JWKS_URL", "/jwks.json"),
        ("JWT_JWKS_URL", "file:///jwks.json"),
        ("JWT_JWKS_URL", "https:///jwks.json"),
        ("JWT_JWKS_URL", "https://keys.example/jwks.json#hunter2"),
        ("JWT_JWKS_URL", "https://keys.example#"),
        (
            "JWT_JWKS_URL",
            "https://user:hunter2@keys.example/jwks.json",
        ),
        ("JWT_JWKS_URL", "https://user@keys.example/jwks.json"),
        ("JWT_JWKS_URL", "https://keys.example:99999/jwks.json"),
        ("JWT_JWKS_URL", "https://keys.example:0/jwks.json"),
        ("JWT_JWKS_URL", "https://keys.example:/jwks.json"),
        ("JWT_JWKS_URL", "https://keys.example/jwks json"),
        ("JWT_JWKS_URL", " https://keys.example/jwks.json"),
    ] {
        let others = [
            ("JWT_SECRET", "s"),
            ("JWT_JWKS_URL", "https://keys.example"),
        ];
        let mut settings: Vec<_> = others
            .into_iter()
            .filter(|(other, _)| *other != name)
            .collect();
        settings.push((name, value));
        let problem = refused::<AuthConfig>(&settings);
        assert!(problem.starts_with(name), "{name}={value:?}: {problem}");
        assert!(!problem.contains("hunter2"));
    }
    for url in [
        "https://keys.example/.well-known/jwks.json",
        "http://127.0.0.1:8080/?format=jwks",
        "http://[::1]:8080/jwks.json",
        "https://keys.example/@team/jwks.json",
    ] {
        let Ok(AuthConfig::Token(rules)) = read(&[("JWT_JWKS_URL", url)]) else {
            panic!("{url} is refused");
        };
        assert_eq!(rules.jwks_url.expect("set").to_string(), url);
    }
}

#[test]
fn a_bad_value_is_named_and_not_repeated() {
    let secret = "redis//user:hunter2@host";
    let problem = refused::<RedisConfig>(&[("REDIS_URL", secret)]);
    assert!(problem.starts_with("REDIS_URL") && !problem.contains("hunter2"));
    let problem = refused::<LlmConfig>(&[
        ("LLM_BASE_URL", "http://h"),
        ("LLM_API_KEY", "hunter2\n"),
        ("LLM_MODEL", "m"),
    ]);
    assert!(problem.starts_with("LLM_API_KEY") && !problem.contains("hunter2"));
    for value in ["0", "-1", "1.5", "ten", "900001", " 5"] {
        assert!(
            refused::<MemoryConfig>(&[("MEMORY_READ_TIMEOUT_MS", value)])
                .starts_with("MEMORY_READ_TIMEOUT_MS")
        );
    }
    assert!(
        refused::<MemoryConfig>(&[("MEMORY_MAX_MESSAGES", "1")]).starts_with("MEMORY_MAX_MESSAGES")
    );
    assert!(refused::<LogConfig>(&[("LOG_LEVEL", "loud")]).starts_with("LOG_LEVEL"));
}

#[test]
fn a_cluster_has_tagged_keys() {
    let cluster: RedisConfig = read(&[
        ("REDIS_MODE", "cluster"),
        ("REDIS_URL", "redis://a:1, redis://b:2"),
    ])
    .expect("valid");
    assert_eq!(
        (cluster.key_layout, cluster.urls.len()),
        (KeyLayout::Tagged, 2)
    );
    assert!(
        refused::<RedisConfig>(&[("REDIS_MODE", "cluster"), ("REDIS_KEY_LAYOUT", "plain")])
            .starts_with("REDIS_KEY_LAYOUT")
    );
    assert!(
        refused::<RedisConfig>(&[("REDIS_URL", "redis://a,redis://b")]).starts_with("REDIS_URL")
    );
}

#[test]
fn only_the_spelling_of_browsers_is_accepted_as_an_origin() {
    let origins = |value| read::<CorsConfig>(&[("CORS_ALLOWED_ORIGINS", value)]);
    assert_eq!(read::<CorsConfig>(&[]), Ok(CorsConfig::Silent));
    assert_eq!(origins(""), Ok(CorsConfig::Silent));
    assert_eq!(origins("*"), Ok(CorsConfig::Any));
    let good = [
        "https://app.example.com",
        "http://localhost:5173",
        "http://127.0.0.1",
        "http://[::1]:3000",
        "http://a.example:443",
        "capacitor://localhost",
    ];
    let Ok(CorsConfig::Listed(listed)) = origins(&good.join(" , ")) else {
        panic!("good origins");
    };
    assert_eq!(listed, good);
    for bad in [
        "https://app.example.com/",
        "https://app.example.com/chat",
        "https://app.example.com?x",
        "https://App.example.com",
        "HTTPS://app.example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://app.example.com:",
        "https://app.example.com:0443",
        "https://app.example.com:99999",
        "https://me@app.example.com",
        "https://*.example.com",
        "https://",
        "https://雨.example",
        "app.example.com",
        "//app.example.com",
        "null",
        "https://a.example,",
        ",",
        "*,https://a.example",
        "https://a.example https://b.example",
    ] {
        let problem = refused::<CorsConfig>(&[("CORS_ALLOWED_ORIGINS", bad)]);
        assert!(
            problem.starts_with("CORS_ALLOWED_ORIGINS: must be"),
            "{bad}"
        );
    }
}

#[test]
fn secrets_do_not_print_themselves() {
    let auth: AuthConfig = read(&[("JWT_SECRET", "hunter2")]).expect("valid");
    let redis: RedisConfig = read(&[
        ("REDIS_URL", "redis://:hunter2@h"),
        ("REDIS_PASSWORD", "hunter2"),
    ])
    .expect("valid");
    assert!(!format!("{auth:?} {redis:?}").contains("hunter2"));
}

const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/chat-a1B2c3";

#[cfg(not(feature = "aws"))]
#[test]
fn without_the_sdk_in_the_binary_what_needs_it_is_refused() {
    for problem in [
        refused::<AuthConfig>(&[("JWT_SECRET_SECRET_ARN", ARN)]),
        refused::<RedisConfig>(&[("REDIS_PASSWORD_SECRET_ARN", ARN)]),
        refused::<RedisConfig>(&[("REDIS_AUTH", "iam")]),
    ] {
        assert!(problem.contains("built without the feature `aws`"));
    }
}

#[cfg(feature = "aws")]
#[test]
fn a_secret_is_a_value_or_an_arn_and_not_both() {
    let with_key = format!("{ARN}#api_key");
    let llm = [
        ("LLM_BASE_URL", "http://h"),
        ("LLM_API_KEY_SECRET_ARN", &with_key),
        ("LLM_MODEL", "m"),
    ];
    let Provider::OpenAi(config) = read::<LlmConfig>(&llm).expect("valid").provider else {
        panic!("openai is the default");
    };
    let SecretSource::Arn(arn) = config.api_key else {
        panic!("an ARN");
    };
    assert_eq!((arn.id.as_str(), arn.region.as_str()), (ARN, "eu-west-1"));
    assert_eq!(arn.key.as_deref(), Some("api_key"));
    let china = ARN
        .replace("aws:", "aws-cn:")
        .replace("eu-west-1", "cn-north-1");
    assert!(read::<AuthConfig>(&[("JWT_SECRET_SECRET_ARN", &china)]).is_ok());

    let both = |name, arn_name| [(name, "hunter2"), (arn_name, ARN)];
    for problem in [
        refused::<AuthConfig>(&both("JWT_SECRET", "JWT_SECRET_SECRET_ARN")),
        refused::<RedisConfig>(&both("REDIS_PASSWORD", "REDIS_PASSWORD_SECRET_ARN")),
    ] {
        assert!(problem.contains("_SECRET_ARN: conflicts with ") && !problem.contains("hunter2"));
    }
    for malformed in [
        "hunter2",
        "arn:aws:s3:::bucket",
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:",
        "arn:aws:secretsmanager:eu-west-1:12345:secret:name",
        "arn:aws:secretsmanager::123456789012:secret:name",
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:name:AWSCURRENT",
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:name#",
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:na me",
    ] {
        let problem = refused::<AuthConfig>(&[("JWT_SECRET_SECRET_ARN", malformed)]);
        assert!(
            problem.starts_with("JWT_SECRET_SECRET_ARN: must be arn:"),
            "{malformed}"
        );
    }
}

#[cfg(feature = "aws")]
#[test]
fn iam_needs_a_cache_a_user_a_region_and_tls_and_the_error_names_the_missing_one() {
    let all = [
        ("REDIS_AUTH", "iam"),
        ("REDIS_URL", "rediss://cache:6379"),
        ("REDIS_USERNAME", "chat"),
        ("REDIS_IAM_CACHE_NAME", "Companion-Chat"),
        ("AWS_REGION", "eu-west-1"),
    ];
    let RedisLogin::Iam(iam) = read::<RedisConfig>(&all).expect("valid").login else {
        panic!("by IAM");
    };
    let expected = IamLogin {
        cache: "companion-chat".to_owned(),
        serverless: true,
        user: "chat".to_owned(),
        region: "eu-west-1".to_owned(),
    };
    assert_eq!(iam, expected);
    for (name, _) in &all[1..] {
        let others: Vec<_> = all.into_iter().filter(|(other, _)| other != name).collect();
        assert!(refused::<RedisConfig>(&others).starts_with(name), "{name}");
    }
    let with = |name, value| {
        let mut more = vec![(name, value)];
        more.extend(all);
        refused::<RedisConfig>(&more)
    };
    assert!(with("REDIS_URL", "redis://cache:6379").starts_with("REDIS_URL"));
    assert!(with("REDIS_PASSWORD", "hunter2").starts_with("REDIS_AUTH"));
    assert!(with("REDIS_AUTH", "kerberos").starts_with("REDIS_AUTH"));
    assert!(with("REDIS_IAM_CACHE_NAME", "cache/?a=b").starts_with("REDIS_IAM_CACHE_NAME"));
    assert!(with("REDIS_IAM_SERVERLESS", "perhaps").starts_with("REDIS_IAM_SERVERLESS"));
}
