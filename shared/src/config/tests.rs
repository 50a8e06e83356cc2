//! The settings' contract: names, defaults, ranges, and errors that name the variable.

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
fn metrics_are_off_or_have_a_name_that_cloudwatch_takes() {
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
fn an_upstream_needs_its_three_variables_and_says_which_is_missing() {
    let all = [
        ("LLM_BASE_URL", "https://host/v3/"),
        ("LLM_API_KEY", "k"),
        ("LLM_MODEL", "m"),
    ];
    match read::<LlmConfig>(&all).expect("valid").provider {
        Provider::OpenAi { base_url, .. } => assert_eq!(base_url, "https://host/v3"),
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
fn secrets_do_not_print_themselves() {
    let auth: AuthConfig = read(&[("JWT_SECRET", "hunter2")]).expect("valid");
    let redis: RedisConfig = read(&[
        ("REDIS_URL", "redis://:hunter2@h"),
        ("REDIS_PASSWORD", "hunter2"),
    ])
    .expect("valid");
    assert!(!format!("{auth:?} {redis:?}").contains("hunter2"));
}
