//! Metrics: the variables that start with `METRICS`.

use super::read::{choice, text};
use super::{ConfigError, Lookup, Section};

/// The longest namespace that CloudWatch accepts.
const MAX_NAMESPACE_CHARACTERS: usize = 255;

/// The recording of metrics: whether they are recorded, and in which CloudWatch namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// CloudWatch namespace of the metrics; `None` records none. Read from `METRICS_NAMESPACE`, which defaults to
    /// `CompanionChat`, and from `METRICS` (`emf` or `off`), which defaults to `emf`.
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
                "must be a valid CloudWatch namespace: 1 to 255 of A-Z a-z 0-9 . - _ / # : and spaces, not blank, and not starting with AWS/",
            ));
        }
        Ok(Self {
            namespace: on.then_some(namespace),
        })
    }
}
