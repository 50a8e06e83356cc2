//! Cross-origin access (CORS): which web pages may read responses.

use http::{HeaderValue, Uri};

use super::read::text;
use super::{ConfigError, Lookup, Section};

const VARIABLE: &str = "CORS_ALLOWED_ORIGINS";
const EXPECTED: &str = "must be *, or a comma-separated list of origins as browsers send them: scheme://host or scheme://host:port in lower case, without a path, a trailing slash or the scheme's default port";

/// Origins whose pages may read responses. Read from `CORS_ALLOWED_ORIGINS`; without it, no CORS headers are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CorsConfig {
    /// No response carries CORS headers. Suits `cargo lambda watch`, which adds its own; they must not appear twice.
    #[default]
    Silent,
    /// Pages of every origin may read responses (`*`).
    Any,
    /// Pages of these origins may read responses. Each is spelled as browsers send it in `Origin`.
    Listed(Vec<HeaderValue>),
}

impl Section for CorsConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        let Some(value) = text(lookup, VARIABLE) else {
            return Ok(Self::Silent);
        };
        if value == "*" {
            return Ok(Self::Any);
        }
        value
            .split(',')
            .map(|origin| parse(origin.trim()))
            .collect::<Option<_>>()
            .map(Self::Listed)
            .ok_or_else(|| ConfigError::new(VARIABLE, EXPECTED))
    }
}

/// Accepts only the spelling that browsers use, because any other spelling of an origin would never match.
fn parse(origin: &str) -> Option<HeaderValue> {
    let uri: Uri = origin.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.host()?);
    let port = match (scheme, uri.port_u16()) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let as_sent = format!("{scheme}://{host}{port}").to_ascii_lowercase();
    if host.is_empty() || host.contains('*') || as_sent != origin {
        return None;
    }
    HeaderValue::try_from(as_sent).ok()
}
