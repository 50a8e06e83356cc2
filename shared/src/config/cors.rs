//! Which web pages may read the answers.

use http::{HeaderValue, Uri};

use super::read::text;
use super::{ConfigError, Lookup, Section};

const VARIABLE: &str = "CORS_ALLOWED_ORIGINS";
const FORM: &str = "must be *, or origins as browsers send them, separated by commas: scheme://host or scheme://host:port in small letters, without a path, a slash at the end or the scheme's own port";

/// `CORS_ALLOWED_ORIGINS`: the pages that browsers let read the answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CorsConfig {
    /// No answer says anything about it. `cargo lambda watch` says something of its own, which must not be doubled.
    #[default]
    Silent,
    /// Every page.
    Any,
    /// The pages of these origins.
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
            .ok_or_else(|| ConfigError::new(VARIABLE, FORM))
    }
}

/// An origin in another spelling than the browser's would never match, so only that one is taken.
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
