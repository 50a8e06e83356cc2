//! Describes a failed request for logs: its kind as one word, and the text of the innermost error.

use std::error::Error;
use std::io;

use tokio::time::error::Elapsed;

/// A failed request, described for logs. It contains nothing of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Kind of the failure: `dns`, `refused`, `timeout`, `tls` or `connection`.
    pub(crate) kind: &'static str,
    /// Text of the innermost error, such as `invalid peer certificate: UnknownIssuer`.
    pub(crate) detail: String,
}

impl Failure {
    /// Returns the description of an error, from the chain of its sources.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut kind = "connection";
        let mut error = error;
        loop {
            kind = kind_of(error).unwrap_or(kind);
            match inner(error) {
                Some(inner) => error = inner,
                None => break,
            }
        }
        Self {
            kind,
            detail: error.to_string(),
        }
    }
}

/// Returns the cause of an error: its source, or the error that an `io::Error` wraps, which is not its source.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn kind_of(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if error.is::<rustls::Error>() {
        return Some("tls");
    }
    if error.is::<Elapsed>() {
        return Some("timeout");
    }
    let error = error.downcast_ref::<io::Error>()?;
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some("refused"),
        io::ErrorKind::TimedOut => Some("timeout"),
        // The standard library reports this only as text, without a kind of its own.
        _ if error.to_string().starts_with("failed to lookup address") => Some("dns"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::io::ErrorKind;

    use super::*;

    /// An error without a text of its own, like those of HTTP clients.
    #[derive(Debug)]
    struct Wrapped(Box<dyn Error + Send + Sync>);

    impl fmt::Display for Wrapped {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("client error (Connect)")
        }
    }

    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    fn kind(error: impl Into<Box<dyn Error + Send + Sync>>) -> &'static str {
        Failure::of(&Wrapped(Box::new(Wrapped(error.into())))).kind
    }

    #[test]
    fn the_innermost_error_that_is_known_names_the_kind() {
        let untrusted =
            || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(kind(untrusted()), "tls");
        assert_eq!(kind(io::Error::other(untrusted())), "tls");
        assert_eq!(
            kind(io::Error::from(ErrorKind::ConnectionRefused)),
            "refused"
        );
        assert_eq!(kind(io::Error::from(ErrorKind::TimedOut)), "timeout");
        assert_eq!(
            kind(io::Error::from(ErrorKind::ConnectionReset)),
            "connection"
        );
        let failure = Failure::of(&io::Error::other(Wrapped(Box::new(untrusted()))));
        assert_eq!(failure.detail, "invalid peer certificate: UnknownIssuer");
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_a_failure_of_dns() {
        let error = tokio::net::lookup_host("name.invalid:443")
            .await
            .err()
            .expect("no such name");
        assert_eq!(kind(error), "dns");
    }
}
