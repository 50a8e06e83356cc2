//! Checks presigned URLs against the published rules of AWS Signature Version 4, without the code of the SDK that
//! signed them.

use aws_lc_rs::{digest, hmac};

/// A presigned `GET` request whose signature is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presigned {
    /// The host for which the request is signed.
    pub host: String,
    /// The query without the signature, sorted, escaped as it was received.
    pub query: Vec<(String, String)>,
}

impl Presigned {
    /// Returns the value of a query parameter, still escaped.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Parses a URL without its scheme and checks its signature.
    ///
    /// # Panics
    /// If the signature is not valid, or a required part is missing.
    #[must_use]
    pub fn verify(url: &str, secret_access_key: &str) -> Self {
        let (host, query) = url.split_once("/?").expect("a host, the root and a query");
        let mut query: Vec<(String, String)> = query
            .split('&')
            .map(|pair| pair.split_once('=').expect("name=value"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let at = query.iter().position(|(name, _)| name == "X-Amz-Signature");
        let (_, signature) = query.remove(at.expect("a signature"));
        query.sort();
        let presigned = Self {
            host: host.to_owned(),
            query,
        };
        let parameter = |name| presigned.parameter(name).expect(name);
        assert_eq!(parameter("X-Amz-Algorithm"), "AWS4-HMAC-SHA256");
        assert_eq!(parameter("X-Amz-SignedHeaders"), "host");
        let date = parameter("X-Amz-Date");
        let (_, scope) = parameter("X-Amz-Credential")
            .split_once("%2F")
            .expect("a key and its scope");
        let scope = scope.replace("%2F", "/");
        // Signature Version 4, "create a canonical request" …
        let canonical_query: Vec<String> = presigned
            .query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let canonical = format!(
            "GET\n/\n{}\nhost:{host}\n\nhost\n{}",
            canonical_query.join("&"),
            hex(digest::digest(&digest::SHA256, b"").as_ref())
        );
        // … "create a string to sign" …
        let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
        // … and "calculate the signature": the key is derived from the scope, part by part.
        let key = scope.split('/').fold(
            format!("AWS4{secret_access_key}").into_bytes(),
            |key, part| mac(&key, part.as_bytes()),
        );
        assert_eq!(signature, hex(&mac(&key, to_sign.as_bytes())), "{url}");
        assert!(date.starts_with(scope.split('/').next().expect("a day")));
        presigned
    }
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, data).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
