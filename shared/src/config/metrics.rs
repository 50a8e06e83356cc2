//! Settings of metrics.

use super::read::{choice, text};
use super::{ConfigError, Lookup, Section};

/// The longest name that CloudWatch takes.
const MAX_NAMESPACE_CHARACTERS: usize = 255;

/// Metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `METRICS_NAMESPACE`: under which name CloudWatch keeps them; none if `METRICS` is `off`.
    pub namespace: Option<String>,
}

impl Section for MetricsConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        let on = choice(lookup, "METRICS", true, &[("emf", true), ("off", false)])?;
        let namespace =
            text(lookup, "METRICS_NAMESPACE").unwrap_or_else(|| "CompanionChat".to_owned());
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_/#: ".contains(c);
        let is_valid = namespace.chars().all(allowed)
            && namespace.len() <= MAX_NAMESPACE_CHARACTERS
            && !namespace.trim().is_empty()
            && !namespace.starts_with("AWS/");
        if !is_valid {
            return Err(ConfigError::new(
                "METRICS_NAMESPACE",
                "must be a name that CloudWatch takes: at most 255 of A-Z a-z 0-9 . - _ / # : and spaces, and not AWS/…",
            ));
        }
        Ok(Self {
            namespace: on.then_some(namespace),
        })
    }
}
