//! The certificate authorities that a client trusts.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::ConfigError;

/// A set of trusted certificate authorities: those that are compiled in, or only those of a file.
#[derive(Clone)]
pub(crate) struct Trust(RootCertStore);

impl Default for Trust {
    /// Returns Mozilla's list, which is compiled in: reading the system's bundle costs milliseconds of every cold
    /// start.
    fn default() -> Self {
        Self(RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        })
    }
}

impl Trust {
    /// Returns the authorities of the PEM file at `path`, or the default if there is no path. `variable` is the name of
    /// the setting, for errors.
    ///
    /// # Errors
    /// The file cannot be read, or contains no certificate of an authority.
    pub(crate) fn from_setting(
        variable: &'static str,
        path: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let problem = |text: String| ConfigError::new(variable, text);
        let pem =
            std::fs::read(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate
                .map_err(|_| problem("holds a certificate that is not valid PEM".to_owned()))?;
            roots
                .add(certificate)
                .map_err(|_| problem("holds a certificate that cannot be trusted".to_owned()))?;
        }
        if roots.is_empty() {
            return Err(problem("holds no certificate in PEM form".to_owned()));
        }
        Ok(Self(roots))
    }

    /// Returns the configuration of a TLS client that trusts these authorities.
    ///
    /// # Errors
    /// The compiled-in algorithms do not fit together.
    pub(crate) fn into_client_config(self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.0)
            .with_no_client_auth())
    }
}
