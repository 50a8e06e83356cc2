//! Published keys, fetched when they are needed and kept.
//!
//! A publisher whose keys are known is asked again after a while, in the background. It is asked at once when none of the keys
//! has signed a token, because that may be the token of a new key: one with a new name, with no name, or with the name of its
//! predecessor. That happens at most every half minute, because anybody can send a token with any signature. While the
//! publisher is down, the keys that are known continue to serve.
//!
//! A publisher that has failed is left alone for a moment, and the next attempt is a probe: it holds up a request only briefly,
//! and a request that comes while the publisher is left alone fails at once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::Error;
use super::key_set::KeySet;
use super::token::Token;
use crate::clock::{age, is_within, lock};
use crate::config::JwtRules;
use crate::outbound::{Failure, HttpClient, TlsSetupError, Trust};

/// Keys younger than this are used without asking the publisher.
const FRESH: Duration = Duration::from_secs(600);
/// Keys older than this are used only after the publisher was asked. Otherwise a withdrawn key would be accepted for as long as
/// the process is frozen before each attempt in the background has ended.
const OLD: Duration = Duration::from_secs(3_600);
/// A publisher whose keys are known is asked at most this often.
const BETWEEN_FETCHES: Duration = Duration::from_secs(30);
/// A publisher that has failed is left alone for this long.
const COOLDOWN: Duration = Duration::from_secs(1);
/// A request waits this long for a publisher that has failed last time, from the beginning of the attempt.
const PROBE_WAIT: Duration = Duration::from_millis(250);
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
    /// How many attempts to fetch the keys have ended, with or without success. Changed while `known` is locked.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    fetched_at: Option<SystemTime>,
    /// When keys that were known were last asked for again. The first fetch does not count, so a key that is published soon
    /// after a start is found at once.
    asked_again_at: Option<SystemTime>,
    /// When the last attempt failed; `None` if it succeeded.
    failed_at: Option<SystemTime>,
    /// When the attempt that is running began.
    running_since: Option<SystemTime>,
}

/// An attempt to fetch the keys. It ends when it is dropped, so a panic ends it too.
struct Attempt {
    inner: Arc<Inner>,
    fetched: Option<KeySet>,
}

/// Why the keys could not be fetched.
enum FetchError {
    Request(Failure),
    Status(StatusCode),
    TooLarge,
    NotAKeySet,
    Timeout,
}

impl Jwks {
    /// Returns the keys of the publisher that the settings name, without fetching them, or `None` if they name none.
    ///
    /// # Errors
    /// TLS cannot be set up, or the file of a private certificate authority cannot be used.
    pub(super) fn of(rules: &JwtRules) -> Result<Option<Self>, TlsSetupError> {
        let Some(url) = &rules.jwks_url else {
            return Ok(None);
        };
        let ca_file = rules.jwks_tls_ca_file.as_deref();
        let trust = Trust::from_setting("JWT_JWKS_TLS_CA_FILE", ca_file)?;
        Ok(Some(Self {
            inner: Arc::new(Inner {
                client: HttpClient::trusting(trust, CONNECT_TIMEOUT)?,
                url: url.clone(),
                known: Mutex::default(),
                ended: watch::Sender::new(0),
            }),
        }))
    }

    /// Returns whether a published key has signed the token.
    ///
    /// # Errors
    /// No keys are known, and they cannot be fetched at the moment.
    pub(super) async fn has_signed(&self, token: &Token<'_>) -> Result<bool, Error> {
        let now = SystemTime::now();
        let ended = *self.inner.ended.borrow();
        let tried = self.inner.current(now).filter(|(_, age)| *age < OLD);
        if let Some((keys, age)) = &tried
            && keys.has_signed(token)
        {
            if *age >= FRESH {
                // Not awaited: the keys at hand are good, and the attempt ends within its time limit.
                self.inner.begin(now, ended);
            }
            return Ok(true);
        }
        if let Some(limit) = self.inner.begin(now, ended) {
            let mut changes = self.inner.ended.subscribe();
            // Whatever comes of it, what is known then decides.
            let _ = timeout(limit, changes.wait_for(|count| *count != ended)).await;
        }
        let (keys, _) = self.inner.current(now).ok_or(Error::KeysUnavailable)?;
        let is_same = tried.is_some_and(|(tried, _)| Arc::ptr_eq(&tried, &keys));
        Ok(!is_same && keys.has_signed(token))
    }
}

impl Inner {
    /// Returns the keys that are known, and their age.
    fn current(&self, now: SystemTime) -> Option<(Arc<KeySet>, Duration)> {
        let known = lock(&self.known);
        let keys = Arc::clone(known.keys.as_ref()?);
        // Keys from the future are new: the clock was set back, or they came while this request waited.
        let age = known
            .fetched_at
            .and_then(|at| age(at, now))
            .unwrap_or_default();
        Some((keys, age))
    }

    /// Begins an attempt to fetch the keys, unless one is running or it is too early. Returns how long the caller waits for the
    /// attempt that is running then, or `None` if none is. `ended` is the number of ended attempts that the caller has seen:
    /// the outcome of a later one is for that caller too.
    fn begin(self: &Arc<Self>, now: SystemTime, ended: u64) -> Option<Duration> {
        let mut known = lock(&self.known);
        if *self.ended.borrow() != ended {
            return None;
        }
        let since = match known.running_since {
            Some(since) => since,
            None => {
                if !known.is_due(now) {
                    return None;
                }
                known.asked_again_at = known.keys.is_some().then_some(now);
                known.running_since = Some(now);
                let attempt = Attempt {
                    inner: Arc::clone(self),
                    fetched: None,
                };
                // It ends within its time limit, and every caller waits for it no longer than for that.
                tokio::spawn(attempt.run().in_current_span());
                now
            }
        };
        Some(match known.failed_at {
            Some(_) => PROBE_WAIT.saturating_sub(age(since, now).unwrap_or_default()),
            None => FETCH_TIMEOUT,
        })
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = self.url.clone();
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| FetchError::Request(Failure::of(&error)))?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect();
        let body = body.await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge
            } else {
                FetchError::Request(Failure::of(&*error))
            }
        })?;
        KeySet::parse(&body.to_bytes()).ok_or(FetchError::NotAKeySet)
    }
}

impl Known {
    fn is_due(&self, now: SystemTime) -> bool {
        let is_too_early =
            |at: Option<SystemTime>, pause| at.is_some_and(|at| is_within(at, now, pause));
        let was_just_asked =
            self.keys.is_some() && is_too_early(self.asked_again_at, BETWEEN_FETCHES);
        !was_just_asked && !is_too_early(self.failed_at, COOLDOWN)
    }
}

impl Attempt {
    async fn run(mut self) {
        let fetched = timeout(FETCH_TIMEOUT, self.inner.fetch()).await;
        match fetched.unwrap_or(Err(FetchError::Timeout)) {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::warn!(
                        "the key set at JWT_JWKS_URL has no key that can verify a token"
                    );
                }
                self.fetched = Some(keys);
            }
            Err(error) => error.log(),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = SystemTime::now();
        let mut known = lock(&self.inner.known);
        known.running_since = None;
        if let Some(keys) = self.fetched.take() {
            known.keys = Some(Arc::new(keys));
            known.fetched_at = Some(now);
            known.failed_at = None;
        } else {
            known.failed_at = Some(now);
        }
        self.inner.ended.send_modify(|count| *count += 1);
    }
}

impl FetchError {
    fn log(&self) {
        let (failure, detail) = match self {
            Self::Request(failure) => (failure.kind, failure.detail.as_str()),
            Self::Status(status) => ("http_status", status.as_str()),
            Self::TooLarge => ("too_large", "more than 256 KiB"),
            Self::NotAKeySet => ("not_a_key_set", "no JSON object with an array \"keys\""),
            Self::Timeout => ("timeout", "no answer within 3 s"),
        };
        tracing::warn!(failure, detail, "failed to fetch the keys at JWT_JWKS_URL");
    }
}

#[cfg(test)]
mod tests {
    use testkit::jwks::JwksServer;
    use testkit::tokens::KeyPair;

    use super::*;

    fn of(publisher: &JwksServer) -> Jwks {
        let rules = JwtRules {
            secret: None,
            jwks_url: Some(publisher.url().parse().expect("a URL")),
            jwks_tls_ca_file: None,
            issuer: None,
            audience: None,
        };
        Jwks::of(&rules).expect("TLS").expect("a publisher")
    }

    async fn has_signed(jwks: &Jwks, key: &KeyPair) -> Result<bool, Error> {
        let token = testkit::tokens::Token::new("alice").sign_with(key);
        jwks.has_signed(&Token::parse(&token).expect("a token"))
            .await
    }

    /// Makes the keys that are known older.
    fn make_older(jwks: &Jwks, by: Duration) {
        let mut known = lock(&jwks.inner.known);
        known.fetched_at = known.fetched_at.map(|at| at - by);
        known.asked_again_at = known.asked_again_at.map(|at| at - by);
    }

    #[tokio::test]
    async fn keys_are_asked_for_again_in_the_background_and_before_use_once_they_are_old() {
        let key = KeyPair::ed25519("key");
        let publisher = JwksServer::start(vec![key.jwk()]).await;
        let jwks = of(&publisher);
        assert_eq!(has_signed(&jwks, &key).await, Ok(true));
        assert_eq!(has_signed(&jwks, &key).await, Ok(true));
        assert_eq!(publisher.fetches(), 1);

        make_older(&jwks, FRESH);
        let mut ended = jwks.inner.ended.subscribe();
        assert_eq!(has_signed(&jwks, &key).await, Ok(true));
        ended.changed().await.expect("an attempt");
        assert_eq!(publisher.fetches(), 2);

        // Withdrawn: what is known does not serve without a question any longer.
        publisher.set_keys(Vec::new());
        make_older(&jwks, OLD);
        assert_eq!(has_signed(&jwks, &key).await, Ok(false));
        assert_eq!(publisher.fetches(), 3);
    }

    #[tokio::test]
    async fn old_keys_serve_while_the_publisher_is_down() {
        let key = KeyPair::ed25519("key");
        let publisher = JwksServer::start(vec![key.jwk()]).await;
        let jwks = of(&publisher);
        assert_eq!(has_signed(&jwks, &key).await, Ok(true));
        publisher.fail(true);
        make_older(&jwks, OLD);
        for _ in 0..3 {
            assert_eq!(has_signed(&jwks, &key).await, Ok(true));
        }
        assert_eq!(publisher.fetches(), 2);
    }

    #[test]
    fn a_publisher_is_left_alone_for_a_while_and_a_clock_that_was_set_back_does_not_make_it_longer()
    {
        let now = SystemTime::now();
        let failed = |at| Known {
            failed_at: Some(at),
            ..Known::default()
        };
        assert!(Known::default().is_due(now));
        assert!(!failed(now).is_due(now));
        assert!(failed(now - COOLDOWN).is_due(now));
        assert!(failed(now + COOLDOWN).is_due(now));
        let asked = |at| Known {
            keys: KeySet::parse(b"[]").map(Arc::new),
            asked_again_at: Some(at),
            ..Known::default()
        };
        assert!(!asked(now).is_due(now));
        assert!(asked(now - BETWEEN_FETCHES).is_due(now));
        assert!(asked(now + BETWEEN_FETCHES).is_due(now));
    }
}
