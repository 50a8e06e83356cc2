//! Published keys, fetched when they are needed and kept.
//!
//! Once there are keys, the publisher is asked again after a while, in the background, and at once when a token names a key
//! that is not known, but not more often than every half minute: anybody can send a token that names a key. While the
//! publisher is down, the keys that are known go on serving.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::time::timeout;

use super::Error;
use crate::clock::{age, is_within, lock};
use crate::outbound::{HttpClient, TlsSetupError};

/// Keys younger than this are used without a look at the publisher.
const FRESH: Duration = Duration::from_secs(600);
/// Keys older than this are used only after the publisher was asked: one that was withdrawn must not live on because no
/// look in the background ever ended before the process was frozen.
const OLD: Duration = Duration::from_secs(3_600);
/// The publisher is asked again at most this often.
const BETWEEN_FETCHES: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BYTES: usize = 256 * 1024;

/// The keys of one publisher.
pub(super) struct Jwks {
    inner: Arc<Inner>,
}

struct Inner {
    client: HttpClient,
    url: Uri,
    /// Held for a look-up or a replacement, never across an await.
    known: Mutex<Known>,
    /// Held while fetching, so that many requests at once fetch once.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: Option<Arc<JwkSet>>,
    fetched_at: Option<SystemTime>,
    /// The first keys are not asked for again, so a key that is published soon after a start is found at once.
    asked_again_at: Option<SystemTime>,
    /// How often asking the publisher has ended, well or not.
    attempts: u64,
}

impl Jwks {
    pub(super) fn new(url: &str) -> Result<Self, TlsSetupError> {
        Ok(Self {
            inner: Arc::new(Inner {
                client: HttpClient::new(CONNECT_TIMEOUT)?,
                // The settings have checked it; a URL that does not parse fails every fetch.
                url: url.parse().unwrap_or_default(),
                known: Mutex::default(),
                fetching: tokio::sync::Mutex::new(()),
            }),
        })
    }

    /// The keys that can have signed a token with this header. Empty if the publisher has none.
    pub(super) async fn keys(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<DecodingKey>, Error> {
        let now = SystemTime::now();
        let attempts = lock(&self.inner.known).attempts;
        if let Some((keys, age)) = self.inner.current(now) {
            let suitable = suitable(&keys, kid, algorithm);
            if !suitable.is_empty() && age < OLD {
                if age >= FRESH {
                    let inner = Arc::clone(&self.inner);
                    // Not awaited: the keys at hand are good, and this ends within the fetch's time limit.
                    tokio::spawn(async move { inner.refresh(now, attempts).await });
                }
                return Ok(suitable);
            }
        }
        self.inner.refresh(now, attempts).await;
        let (keys, _) = self.inner.current(now).ok_or(Error::KeysUnavailable)?;
        Ok(suitable(&keys, kid, algorithm))
    }
}

impl Inner {
    /// The keys that are known, and how old they are.
    fn current(&self, now: SystemTime) -> Option<(Arc<JwkSet>, Duration)> {
        let known = lock(&self.known);
        let keys = Arc::clone(known.keys.as_ref()?);
        // Keys from the future are new: the clock was set back, or they came while this request waited.
        let age = known
            .fetched_at
            .and_then(|at| age(at, now))
            .unwrap_or_default();
        Some((keys, age))
    }

    /// Asks the publisher, unless somebody has just done so. `attempts` is their number when the caller last looked.
    async fn refresh(&self, now: SystemTime, attempts: u64) {
        let _one_at_a_time = self.fetching.lock().await;
        {
            let mut known = lock(&self.known);
            // What came of an attempt counts for all who waited for it, or a silent publisher would hold them up in turn.
            if known.attempts != attempts {
                return;
            }
            // Without any keys there is nothing to go on with, so every request asks.
            if known.keys.is_some() {
                if known
                    .asked_again_at
                    .is_some_and(|at| is_within(at, now, BETWEEN_FETCHES))
                {
                    return;
                }
                known.asked_again_at = Some(now);
            }
        }
        let fetched = timeout(FETCH_TIMEOUT, self.fetch()).await.ok().flatten();
        let mut known = lock(&self.known);
        known.attempts += 1;
        match fetched {
            Some(keys) => {
                known.keys = Some(Arc::new(keys));
                known.fetched_at = Some(SystemTime::now());
            }
            None => tracing::warn!("the published keys could not be fetched"),
        }
    }

    async fn fetch(&self) -> Option<JwkSet> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = self.url.clone();
        let response = self.client.request(request).await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await
            .ok()?
            .to_bytes();
        serde_json::from_slice(&body).ok()
    }
}

/// By name where the token names a key, else all keys that fit the algorithm.
fn suitable(keys: &JwkSet, kid: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
    keys.keys
        .iter()
        .filter(|key| kid.is_none_or(|kid| key.common.key_id.as_deref() == Some(kid)))
        .filter(|key| fits(key, algorithm))
        .filter_map(|key| DecodingKey::from_jwk(key).ok())
        .collect()
}

fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let signs = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
    let (named, kind) = match algorithm {
        Algorithm::RS256 => (
            KeyAlgorithm::RS256,
            matches!(key.algorithm, AlgorithmParameters::RSA(_)),
        ),
        Algorithm::ES256 => (
            KeyAlgorithm::ES256,
            matches!(&key.algorithm, AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256),
        ),
        Algorithm::EdDSA => (
            KeyAlgorithm::EdDSA,
            matches!(&key.algorithm, AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519),
        ),
        _ => return false,
    };
    signs && kind && key.common.key_algorithm.is_none_or(|found| found == named)
}
