//! A redis-server that accepts TLS only, with a certificate authority of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::redis::Server;

/// A running redis-server and its certificate authority.
pub struct TlsServer {
    server: Server,
    port: u16,
    directory: TempDir,
}

impl TlsServer {
    /// Starts a server whose TCP port accepts TLS only.
    ///
    /// # Panics
    /// If no certificate can be made or the server does not start.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pki = Pki::new(directory.path());
        let port = crate::redis::free_port();
        let server = Server::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &pki.certificate,
            "--tls-key-file",
            &pki.key,
            "--tls-ca-cert-file",
            &pki.ca_file,
            "--tls-auth-clients",
            "no",
        ])
        .await;
        Self {
            server,
            port,
            directory,
        }
    }

    /// Returns the `rediss://` URL of the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}/0", self.port)
    }

    /// Returns the path of the certificate authority's certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Returns the server behind TLS.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }
}

/// Writes a certificate authority's certificate, and a certificate and key for this machine, to files.
pub(crate) struct Pki {
    pub(crate) ca_file: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pki {
    pub(crate) fn new(directory: &Path) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().expect("a key");
        let ca = authority
            .self_signed(&authority_key)
            .expect("a certificate")
            .pem();
        let authority = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)
            .expect("parameters")
            .signed_by(&key, &authority)
            .expect("a certificate");
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("written");
            path.to_str().expect("UTF-8").to_owned()
        };
        Self {
            ca_file: write("ca.pem", ca),
            certificate: write("server.pem", certificate.pem()),
            key: write("server.key", key.serialize_pem()),
        }
    }
}

/// Shows the certificate to clients.
pub(crate) fn acceptor(pki: &Pki) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(&pki.certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&pki.key).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    TlsAcceptor::from(Arc::new(config))
}
