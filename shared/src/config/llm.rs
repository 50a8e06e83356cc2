//! The upstream: the variables that start with `LLM_`, and those of HTTP proxies.

use std::time::Duration;

use http::Uri;

use super::read::{choice, header_safe, http_url, milliseconds, small, text};
use super::{ConfigError, Lookup, SecretSource, Section};

/// The kind of upstream that generates replies.
#[derive(Debug, Clone)]
pub enum Provider {
    /// An endpoint with OpenAI's streaming chat completions.
    OpenAi(Box<OpenAiConfig>),
    /// The built-in echo, which works offline; for development.
    Echo,
}

/// An OpenAI-compatible endpoint, and how to connect to it.
#[derive(Debug, Clone)]
pub struct OpenAiConfig {
    /// URL to which requests are sent. Read from `LLM_BASE_URL`, with `/chat/completions` added to its path.
    pub endpoint: Uri,
    /// API key. Read from `LLM_API_KEY` or `LLM_API_KEY_SECRET_ARN`.
    pub api_key: SecretSource,
    /// Model to use unless a character names another. Read from `LLM_MODEL`.
    pub model: String,
    /// Whether a reply begins with reasoning, because the model's template opens `<think>`. Read from
    /// `LLM_STARTS_THINKING`; defaults to `false`.
    pub starts_thinking: bool,
    /// PEM file with the certificate authorities to trust. Read from `LLM_TLS_CA_FILE`; defaults to those that are
    /// compiled in.
    pub tls_ca_file: Option<String>,
}

/// The upstream and its time limits.
#[derive(Debug, Clone)]
pub struct LlmConfig {
    /// Kind of upstream, with its connection. Read from `LLM_PROVIDER`; defaults to `openai`.
    pub provider: Provider,
    /// Time for one attempt to connect, including TLS. Read from `LLM_CONNECT_TIMEOUT_MS`; defaults to 2,000 ms.
    pub connect_timeout: Duration,
    /// Time from the first attempt to the first delta, including retries. Read from `LLM_FIRST_TOKEN_TIMEOUT_MS`;
    /// defaults to 30,000 ms.
    pub first_token_timeout: Duration,
    /// Time between two deltas. Read from `LLM_IDLE_TIMEOUT_MS`; defaults to 30,000 ms.
    pub idle_timeout: Duration,
    /// Number of retries, all before the first delta. Read from `LLM_MAX_RETRIES`; defaults to 2.
    pub max_retries: u32,
}

impl Section for LlmConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        let echo = choice(
            lookup,
            "LLM_PROVIDER",
            false,
            &[("openai", false), ("echo", true)],
        )?;
        let provider = if echo {
            Provider::Echo
        } else {
            Provider::OpenAi(Box::new(open_ai(lookup)?))
        };
        Ok(Self {
            provider,
            connect_timeout: milliseconds(lookup, "LLM_CONNECT_TIMEOUT_MS", 2_000)?,
            first_token_timeout: milliseconds(lookup, "LLM_FIRST_TOKEN_TIMEOUT_MS", 30_000)?,
            idle_timeout: milliseconds(lookup, "LLM_IDLE_TIMEOUT_MS", 30_000)?,
            max_retries: small(lookup, "LLM_MAX_RETRIES", 2, 0, 10)?,
        })
    }
}

fn open_ai(lookup: Lookup<'_>) -> Result<OpenAiConfig, ConfigError> {
    let missing = |name| ConfigError::new(name, "must be set while LLM_PROVIDER is openai");
    let words = |name| text(lookup, name).map(|value| value.trim().to_owned());
    let base_url = words("LLM_BASE_URL").ok_or_else(|| missing("LLM_BASE_URL"))?;
    if words("LLM_API_KEY").is_some_and(|key| key.is_empty()) {
        return Err(ConfigError::new("LLM_API_KEY", "must not be blank"));
    }
    check_proxies(lookup)?;
    Ok(OpenAiConfig {
        endpoint: endpoint(&base_url)
            .map_err(|problem| ConfigError::new("LLM_BASE_URL", problem))?,
        api_key: SecretSource::or_arn(
            lookup,
            "LLM_API_KEY",
            header_safe(lookup, "LLM_API_KEY")?,
            "LLM_API_KEY_SECRET_ARN",
        )?
        .ok_or_else(|| missing("LLM_API_KEY"))?,
        model: words("LLM_MODEL")
            .filter(|model| !model.is_empty())
            .ok_or_else(|| missing("LLM_MODEL"))?,
        starts_thinking: choice(
            lookup,
            "LLM_STARTS_THINKING",
            false,
            &[("false", false), ("true", true)],
        )?,
        tls_ca_file: text(lookup, "LLM_TLS_CA_FILE"),
    })
}

/// Returns the URL to which requests are sent. The base URL may be the whole endpoint already; its query is kept.
fn endpoint(base_url: &str) -> Result<Uri, &'static str> {
    const PATH: &str = "/chat/completions";
    const NOT_A_PATH: &str = "must have a path that a URL can have";
    let base = http_url(base_url)?;
    let segments = base.path().split('/').filter(|segment| !segment.is_empty());
    let mut path: String = segments.flat_map(|segment| ["/", segment]).collect();
    if !path.ends_with(PATH) {
        path.push_str(PATH);
    }
    if let Some(query) = base.query().filter(|query| !query.is_empty()) {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = base.into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| NOT_A_PATH)?);
    Uri::from_parts(parts).map_err(|_| NOT_A_PATH)
}

/// Returns an error for a proxy that no request could use. The HTTP client reads these variables itself and would
/// ignore it.
fn check_proxies(lookup: Lookup<'_>) -> Result<(), ConfigError> {
    for name in [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        let Some(value) = text(lookup, name) else {
            continue;
        };
        let usable = value.parse::<Uri>().is_ok_and(|uri| {
            uri.authority().is_some() && matches!(uri.scheme_str(), None | Some("http" | "https"))
        });
        if !usable {
            return Err(ConfigError::new(
                name,
                "must be the http:// or https:// URL of a proxy",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_given_the_one_right_url_is_asked() {
        for (base_url, expected) in [
            ("https://h/v1", "https://h/v1/chat/completions"),
            ("https://h/v1/", "https://h/v1/chat/completions"),
            ("https://h//v1///", "https://h/v1/chat/completions"),
            ("https://h", "https://h/chat/completions"),
            ("https://h/api/v3", "https://h/api/v3/chat/completions"),
            (
                "http://h:8080/v1/chat/completions",
                "http://h:8080/v1/chat/completions",
            ),
            (
                "http://h/v1/chat/completions//",
                "http://h/v1/chat/completions",
            ),
            (
                "https://h/openai/deployments/d?api-version=2024-10-21",
                "https://h/openai/deployments/d/chat/completions?api-version=2024-10-21",
            ),
            (
                "https://h/chat/completions?a=/",
                "https://h/chat/completions?a=/",
            ),
            ("https://h/v1?", "https://h/v1/chat/completions"),
            (
                "http://[::1]:8000/v1",
                "http://[::1]:8000/v1/chat/completions",
            ),
        ] {
            assert_eq!(endpoint(base_url).expect(base_url).to_string(), expected);
        }
    }

    #[test]
    fn a_url_that_cannot_work_is_refused() {
        for base_url in [
            "https://h/v1#x",
            "https://h#",
            "https://user@h/v1",
            "https://user:secret@h/v1",
            "https://h:99999/v1",
            "https://h:0/v1",
            "https://h:/v1",
            "https:///v1",
            "https://h/v 1",
            "h/v1",
            "/v1",
            "ftp://h/v1",
            "",
        ] {
            let problem = endpoint(base_url).expect_err(base_url);
            assert!(!problem.contains("secret"));
        }
    }
}
