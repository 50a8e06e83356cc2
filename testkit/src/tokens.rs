//! Bearer tokens, valid and invalid. Secrets and keys are generated at run time, so none is in the source.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Map, Value, json};

/// Returns the shared secret of this test process.
#[must_use]
pub fn secret() -> &'static str {
    static SECRET: LazyLock<String> =
        LazyLock::new(|| format!("{}{}", uuid::Uuid::now_v7(), uuid::Uuid::now_v7()));
    &SECRET
}

/// Returns a token of a user that is valid for an hour.
#[must_use]
pub fn token(sub: &str) -> String {
    Token::new(sub).hs256(secret())
}

/// Builds a token.
#[derive(Clone)]
pub struct Token {
    claims: Map<String, Value>,
    header: Map<String, Value>,
}

impl Token {
    /// Begins a token of a user that is valid for an hour.
    #[must_use]
    pub fn new(sub: &str) -> Self {
        Self {
            claims: Map::new(),
            header: Map::new(),
        }
        .claim("sub", json!(sub))
        .expires_in(3_600)
    }

    /// Sets or replaces a claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: Value) -> Self {
        self.claims.insert(name.to_owned(), value);
        self
    }

    /// Removes a claim.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets `exp` to this many seconds from now; negative for the past.
    #[must_use]
    pub fn expires_in(self, seconds: i64) -> Self {
        let exp = now() + seconds;
        self.claim("exp", json!(exp))
    }

    /// Removes `exp`.
    #[must_use]
    pub fn no_expiry(self) -> Self {
        self.without("exp")
    }

    /// Sets `iss`.
    #[must_use]
    pub fn issuer(self, issuer: &str) -> Self {
        self.claim("iss", json!(issuer))
    }

    /// Sets `aud`.
    #[must_use]
    pub fn audience(self, audience: &str) -> Self {
        self.claim("aud", json!(audience))
    }

    /// Sets a field of the header and overrides what signing sets, even `alg`, which may then be false.
    #[must_use]
    pub fn header_field(mut self, name: &str, value: Value) -> Self {
        self.header.insert(name.to_owned(), value);
        self
    }

    /// Sets the id of the key (`kid`) in the header.
    #[must_use]
    pub fn kid(self, kid: &str) -> Self {
        self.header_field("kid", json!(kid))
    }

    /// Signs with a shared secret.
    #[must_use]
    pub fn hs256(&self, secret: &str) -> String {
        self.sign(
            Algorithm::HS256,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
    }

    /// Signs with any bytes as the shared secret, for example with a public key.
    #[must_use]
    pub fn hs256_bytes(&self, secret: &[u8]) -> String {
        self.sign(Algorithm::HS256, &EncodingKey::from_secret(secret))
    }

    /// Signs with a shared secret and SHA-512.
    #[must_use]
    pub fn hs512(&self, secret: &str) -> String {
        self.sign(
            Algorithm::HS512,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
    }

    /// Signs with a private key and sets its `kid`, unless another is set.
    #[must_use]
    pub fn sign_with(&self, key: &KeyPair) -> String {
        let mut token = self.clone();
        token.header.entry("kid").or_insert_with(|| json!(key.kid));
        token.sign(key.algorithm, &key.signing)
    }

    /// Signs with a private key and sets no `kid`.
    #[must_use]
    pub fn sign_namelessly_with(&self, key: &KeyPair) -> String {
        self.sign(key.algorithm, &key.signing)
    }

    /// Returns an unsigned token with `alg: none`.
    #[must_use]
    pub fn unsigned(&self) -> String {
        format!("{}.", self.message(&json!("none")))
    }

    /// Returns a token with a header and claims as they are given, which need not be JSON, signed with a shared secret.
    ///
    /// # Panics
    /// Never: any secret signs.
    #[must_use]
    pub fn of_parts(header: &[u8], claims: &[u8], secret: &str) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{claims}");
        let key = EncodingKey::from_secret(secret.as_bytes());
        let signature =
            crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a signature");
        format!("{message}.{signature}")
    }

    /// Signs with any algorithm.
    ///
    /// # Panics
    /// If the key does not fit the algorithm.
    #[must_use]
    pub fn sign(&self, algorithm: Algorithm, key: &EncodingKey) -> String {
        let message = self.message(&json!(algorithm));
        let signature =
            crypto::sign(message.as_bytes(), key, algorithm).expect("a key of that algorithm");
        format!("{message}.{signature}")
    }

    /// Returns the signed part: the header and the claims.
    fn message(&self, algorithm: &Value) -> String {
        let mut header = Map::from_iter([
            ("typ".to_owned(), json!("JWT")),
            ("alg".to_owned(), algorithm.clone()),
        ]);
        header.extend(self.header.clone());
        let part = |value: &Map<String, Value>| URL_SAFE_NO_PAD.encode(json!(value).to_string());
        format!("{}.{}", part(&header), part(&self.claims))
    }
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the end of time")
}

/// A private key and the published form of its public key.
pub struct KeyPair {
    algorithm: Algorithm,
    signing: EncodingKey,
    kid: String,
    jwk: Value,
    public_der: Vec<u8>,
}

impl KeyPair {
    /// Generates an RS256 key of 2,048 bits.
    ///
    /// # Panics
    /// If the key cannot be generated.
    #[must_use]
    pub fn rs256(kid: &str) -> Self {
        let key = rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let document: Pkcs8V1Der<'_> = key.as_der().expect("a document");
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a document");
        // The signer wants the key without its PKCS #8 wrapping, a header of the same length for every key of 2048
        // bits.
        let signing = EncodingKey::from_rsa_der(&document.as_ref()[26..]);
        Self::new(Algorithm::RS256, signing, kid, public.as_ref())
    }

    /// Generates an ES256 key.
    ///
    /// # Panics
    /// If the key cannot be generated.
    #[must_use]
    pub fn es256(kid: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let document = key.to_pkcs8v1().expect("a document");
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a document");
        Self::new(
            Algorithm::ES256,
            EncodingKey::from_ec_der(document.as_ref()),
            kid,
            public.as_ref(),
        )
    }

    /// Generates an EdDSA key on Ed25519.
    ///
    /// # Panics
    /// If the key cannot be generated.
    #[must_use]
    pub fn ed25519(kid: &str) -> Self {
        let key = Ed25519KeyPair::generate().expect("a key");
        let document = key.to_pkcs8v1().expect("a document");
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a document");
        Self::new(
            Algorithm::EdDSA,
            EncodingKey::from_ed_der(document.as_ref()),
            kid,
            public.as_ref(),
        )
    }

    fn new(algorithm: Algorithm, signing: EncodingKey, kid: &str, public_der: &[u8]) -> Self {
        let mut jwk = Jwk::from_encoding_key(&signing, algorithm).expect("the public half");
        jwk.common.key_id = Some(kid.to_owned());
        let jwk = serde_json::to_value(&jwk).expect("JSON");
        Self {
            algorithm,
            signing,
            kid: kid.to_owned(),
            jwk,
            public_der: public_der.to_owned(),
        }
    }

    /// The key for signing.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the public key as DER, as in a `PUBLIC KEY` file.
    #[must_use]
    pub fn public_der(&self) -> &[u8] {
        &self.public_der
    }

    /// Returns the public key as a member of a JWK set.
    #[must_use]
    pub fn jwk(&self) -> Value {
        self.jwk.clone()
    }
}
