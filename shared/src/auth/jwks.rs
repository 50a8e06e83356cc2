//! Published keys: fetched when they are needed, and cached.
//!
//! Cached keys are fetched again after ten minutes, in the background. They are fetched at once if none of them has
//! signed a token, because the token may be signed with a new key: one with a new name, without a name, or with the
//! name of its predecessor. That happens at most every 30 s, because anybody can send a token with any signature. While
//! the publisher is down, the cached keys remain in use.
//!
//! After a failure, no attempt is made for one second. The next attempt is a probe, which delays a request only
//! briefly. A request that needs keys within that second fails at once.

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

/// The age up to which cached keys are used without asking the publisher.
const FRESH: Duration = Duration::from_secs(600);
/// The age from which cached keys are used only after an attempt to fetch new ones. Otherwise a withdrawn key would be
/// accepted for as long as the process is frozen before each attempt in the background has ended.
const OLD: Duration = Duration::from_secs(3_600);
/// The minimum time between two fetches while keys are cached.
const BETWEEN_FETCHES: Duration = Duration::from_secs(30);
/// The pause after a failed attempt.
const COOLDOWN: Duration = Duration::from_secs(1);
/// The time that a request waits for a probe, from the start of the attempt.
const PROBE_WAIT: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BYTES: usize = 256 * 1024;

/// The published keys of one publisher, and the state of fetching them.
pub(super) struct Jwks {
    inner: Arc<Inner>,
}

struct Inner {
    client: HttpClient,
    url: Uri,
    /// Cached keys. Locked for a look-up or a replacement, never across an await.
    known: Mutex<Known>,
    /// Number of attempts to fetch the keys that have ended, with or without success. Changed while `known` is locked.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    fetched_at: Option<SystemTime>,
    /// Time of the last attempt to replace cached keys. The first fetch does not count, so a key that is published soon
    /// after a start is found at once.
    asked_again_at: Option<SystemTime>,
    /// Time at which the last attempt failed; `None` if it succeeded.
    failed_at: Option<SystemTime>,
    /// Start of the attempt that is running; `None` if none is.
    running_since: Option<SystemTime>,
}

/// A running attempt to fetch the keys. Dropping it ends the attempt, so a panic ends it too.
struct Attempt {
    inner: Arc<Inner>,
    fetched: Option<KeySet>,
}

/// The reason why the keys could not be fetched.
enum FetchError {
    Request(Failure),
    Status(StatusCode),
    TooLarge,
    NotAKeySet,
    Timeout,
}

impl Jwks {
    /// Returns the publisher that the settings name, without fetching its keys, or `None` if they name none.
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
    /// No keys are cached, and they cannot be fetched at the moment.
    pub(super) async fn has_signed(&self, token: &Token<'_>) -> Result<bool, Error> {
        let now = SystemTime::now();
        let ended = *self.inner.ended.borrow();
        let tried = self.inner.current(now).filter(|(_, age)| *age < OLD);
        if let Some((keys, age)) = &tried
            && keys.has_signed(token)
        {
            if *age >= FRESH {
                // Not awaited: the cached keys can be used, and the attempt has a time limit.
                self.inner.begin(now, ended);
            }
            return Ok(true);
        }
        if let Some(limit) = self.inner.begin(now, ended) {
            let mut changes = self.inner.ended.subscribe();
            // Whether or not the attempt succeeds, the keys that are cached then decide.
            let _ = timeout(limit, changes.wait_for(|count| *count != ended)).await;
        }
        let (keys, _) = self.inner.current(now).ok_or(Error::KeysUnavailable)?;
        let is_same = tried.is_some_and(|(tried, _)| Arc::ptr_eq(&tried, &keys));
        Ok(!is_same && keys.has_signed(token))
    }
}

impl Inner {
    /// Returns the cached keys and their age.
    fn current(&self, now: SystemTime) -> Option<(Arc<KeySet>, Duration)> {
        let known = lock(&self.known);
        let keys = Arc::clone(known.keys.as_ref()?);
        // Keys from the future count as new: the clock was set back, or they arrived while this request waited.
        let age = known
            .fetched_at
            .and_then(|at| age(at, now))
            .unwrap_or_default();
        Some((keys, age))
    }

    /// Starts an attempt to fetch the keys, unless one is running or it is too early. Returns how long the caller may
    /// wait for the running attempt, or `None` if none is running. `ended` is the number of ended attempts that the
    /// caller has seen: a caller that has not seen the last one uses its outcome instead of starting another.
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
                // Not awaited here: it has a time limit, and no caller waits longer than that.
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

    /// Makes the cached keys older.
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

        // Older than `OLD`: the cached keys are no longer used before an attempt to fetch new ones.
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
