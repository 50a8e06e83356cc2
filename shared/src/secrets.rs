//! The values of secrets: from the environment, from AWS Secrets Manager, or signed on demand (ElastiCache tokens).
//!
//! Nothing is fetched at start, and a process whose settings name no AWS secret never initialises the SDK. The first
//! use of any secret fetches all of them concurrently. A value is cached until a server rejects it, it turns out to be
//! unusable, or it is too old for its use. It is then fetched again, so neither a rotation nor a corrected secret needs
//! a deployment. Each use refetches at most every 30 s, because anyone can send a token with a bad signature. While
//! Secrets Manager is down, cached values stay in use. No value is ever logged or put in an error.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "aws")]
mod elasticache;
mod record;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument as _;

use self::record::{Record, Step, Window};
use crate::clock::lock;
use crate::config::{IamLogin, SecretArn, SecretSource};

/// Time allowed for one fetch, including retries.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// The reason why a secret has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// AWS could not be reached or did not answer in time, or there are no credentials to call it with.
    #[error("could not reach AWS")]
    Unavailable,
    /// Secrets Manager has no secret with this ARN.
    #[error("the secret does not exist")]
    Missing,
    /// The role may not read the secret or use its KMS key, or has no credentials to sign a token with.
    #[error("access denied")]
    Denied,
    /// The secret is binary or empty, or has no text under the requested key; or a token could not be signed.
    #[error("the secret is not text or lacks the requested key")]
    Malformed,
    /// This binary was built without the AWS SDK (feature `aws`).
    #[error("built without the AWS SDK")]
    NotLinked,
}

impl Error {
    /// Returns a fixed word for logs, such as `denied`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Missing => "missing",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::NotLinked => "not_linked",
        }
    }
}

/// The value of a secret. Cheap to clone; its memory is zeroed when the last clone is dropped.
pub type Value = Arc<SecretString>;

/// The secrets of this process. Cheap to clone; clones share one cache.
#[derive(Clone)]
pub struct Secrets {
    store: Arc<Store>,
}

struct Store {
    /// One entry per ARN, whichever of its keys are used. Locked for a search or an insertion, never across an await.
    entries: Mutex<Vec<Arc<Entry>>>,
    #[cfg(feature = "aws")]
    aws: Arc<aws::Aws>,
}

/// One secret in Secrets Manager.
struct Entry {
    arn: SecretArn,
    /// Locked for a few instructions, never across an await.
    record: Mutex<Record>,
    /// Number of fetches that have ended. Tasks that wait for a fetch wait for it to change.
    ended: watch::Sender<u64>,
    #[cfg(feature = "aws")]
    aws: Arc<aws::Aws>,
}

/// A handle to one secret. Call [`Secret::current`] for each use, and [`Secret::refused`] if a server rejects the
/// value.
#[derive(Clone)]
pub struct Secret {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Fixed(Value),
    Stored(Arc<Stored>),
    #[cfg(feature = "aws")]
    Token(Arc<elasticache::CacheToken>),
}

struct Stored {
    store: Arc<Store>,
    entry: Arc<Entry>,
    /// Environment variable that names this use, for logs. Other variables may name the same secret.
    variable: &'static str,
    key: Option<String>,
    /// Locked for a few instructions, never across an await, and always before the entry's record.
    window: Mutex<Window>,
    /// The last whole secret that was parsed, and the outcome under the key. Locked while the secret is parsed.
    member: Mutex<Option<(Value, Result<Value, Error>)>>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self::new()
    }
}

impl Secrets {
    /// Returns an empty cache. Does no I/O.
    #[must_use]
    pub fn new() -> Self {
        Self {
            store: Arc::new(Store {
                entries: Mutex::default(),
                #[cfg(feature = "aws")]
                aws: Arc::default(),
            }),
        }
    }

    /// Returns a handle to the secret that a setting names. Does no I/O; two handles to one ARN share its cached value.
    #[must_use]
    pub fn open(&self, source: &SecretSource) -> Secret {
        let source = match source {
            SecretSource::Value(value) => Source::Fixed(Arc::new(value.clone())),
            SecretSource::Arn(arn) => Source::Stored(Arc::new(Stored {
                entry: self.store.entry(arn),
                store: Arc::clone(&self.store),
                variable: arn.variable,
                key: arn.key.clone(),
                window: Mutex::default(),
                member: Mutex::default(),
            })),
        };
        Secret { source }
    }

    /// Returns a handle whose value is an ElastiCache IAM token, signed anew for each use. Does no I/O.
    ///
    /// Returns `None` if this binary was built without the AWS SDK (feature `aws`).
    #[must_use]
    pub fn cache_token(&self, login: &IamLogin) -> Option<Secret> {
        #[cfg(feature = "aws")]
        {
            let token = elasticache::CacheToken::new(Arc::clone(&self.store.aws), login.clone());
            Some(Secret {
                source: Source::Token(Arc::new(token)),
            })
        }
        #[cfg(not(feature = "aws"))]
        {
            let _ = login;
            None
        }
    }
}

impl Secret {
    /// Returns the value to use now: the cached one, or else a newly fetched or signed one.
    ///
    /// # Errors
    /// Returns [`Error`] if no value is cached and none could be fetched or signed. A fetch takes at most 3 s.
    pub async fn current(&self) -> Result<Value, Error> {
        self.younger_than(None).await
    }

    /// Returns the value to use now, and first fetches it again if the cached one is `max_age` old or older.
    ///
    /// If that fetch fails, the cached value is returned and stays in use.
    ///
    /// # Errors
    /// Returns [`Error`] if no value is cached and none could be fetched or signed. A fetch takes at most 3 s.
    pub async fn renewed(&self, max_age: Duration) -> Result<Value, Error> {
        self.younger_than(Some(max_age)).await
    }

    async fn younger_than(&self, max_age: Option<Duration>) -> Result<Value, Error> {
        match &self.source {
            Source::Fixed(value) => Ok(Arc::clone(value)),
            Source::Stored(stored) => stored.current(SystemTime::now(), max_age).await,
            #[cfg(feature = "aws")]
            Source::Token(token) => token.mint(SystemTime::now()).await.map(Arc::new),
        }
    }

    /// Reports that a server rejected `value`, and returns a different value if there is one now.
    ///
    /// The caller may retry once with the returned value. A stored secret is fetched again first, at most every 30 s.
    pub async fn refused(&self, value: &Value) -> Option<Value> {
        match &self.source {
            Source::Fixed(_) => None,
            Source::Stored(stored) => stored.refused(value, SystemTime::now()).await,
            // Each use already has a token of its own.
            #[cfg(feature = "aws")]
            Source::Token(_) => None,
        }
    }
}

impl Stored {
    async fn current(&self, now: SystemTime, max_age: Option<Duration>) -> Result<Value, Error> {
        let ended = self.entry.ended.subscribe();
        let mut step = self.step(|record, window| record.want(now, max_age, window));
        if let Step::Have(whole) = &step {
            let found = self.member(whole);
            if found.is_ok() {
                return found;
            }
            // The secret may have been corrected since.
            step = self.step(|record, window| record.again(now, window));
        }
        match step {
            Step::Have(whole) => return self.member(&whole),
            Step::Failed(error) => return Err(error),
            Step::Wait => {}
            Step::Fetch => {
                self.entry.fetch(self.variable, now);
                // A caller that needs one secret will soon need the others.
                self.store.fetch_untried(now);
            }
        }
        let whole = self.entry.outcome(ended).await?;
        self.member(&whole)
    }

    async fn refused(&self, value: &Value, now: SystemTime) -> Option<Value> {
        let another = |whole: &Value| {
            self.member(whole)
                .ok()
                .filter(|found| found.expose_secret() != value.expose_secret())
        };
        let ended = self.entry.ended.subscribe();
        let known = self.entry.record().known();
        if let Some(found) = known.as_ref().and_then(another) {
            return Some(found);
        }
        match self.step(|record, window| record.again(now, window)) {
            Step::Have(_) | Step::Failed(_) => return None,
            Step::Wait => {}
            Step::Fetch => self.entry.fetch(self.variable, now),
        }
        let whole = self.entry.outcome(ended).await.ok()?;
        another(&whole)
    }

    fn step(&self, decide: impl FnOnce(&mut Record, &mut Window) -> Step) -> Step {
        let mut window = lock(&self.window);
        decide(&mut self.entry.record(), &mut window)
    }

    /// Returns the value under the key of the whole secret, which is parsed once.
    fn member(&self, whole: &Value) -> Result<Value, Error> {
        let Some(key) = &self.key else {
            return Ok(Arc::clone(whole));
        };
        let mut member = lock(&self.member);
        if let Some((of, found)) = &*member
            && Arc::ptr_eq(of, whole)
        {
            return found.clone();
        }
        let found = read_member(whole, key).map(Arc::new);
        if let Err(error) = found {
            tracing::error!(
                variable = self.variable,
                reason = error.reason(),
                "a secret is unusable"
            );
        }
        *member = Some((Arc::clone(whole), found.clone()));
        found
    }
}

impl Store {
    fn entry(&self, arn: &SecretArn) -> Arc<Entry> {
        let mut entries = self.entries();
        if let Some(entry) = entries.iter().find(|entry| entry.arn.id == arn.id) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry {
            arn: arn.clone(),
            record: Mutex::default(),
            ended: watch::Sender::new(0),
            #[cfg(feature = "aws")]
            aws: Arc::clone(&self.aws),
        });
        entries.push(Arc::clone(&entry));
        entry
    }

    fn fetch_untried(&self, now: SystemTime) {
        for entry in self.entries().iter() {
            let is_due = entry.record().first(now);
            if is_due {
                entry.fetch(entry.arn.variable, now);
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        lock(&self.entries)
    }
}

impl Entry {
    /// Fetches in a task of its own, so that a caller that gives up does not cancel the fetch for the others. The task
    /// ends within [`FETCH_TIMEOUT`] and wakes all that wait.
    fn fetch(self: &Arc<Self>, variable: &'static str, now: SystemTime) {
        let fetching = Fetching {
            entry: Arc::clone(self),
            variable,
            began: now,
            outcome: Err(Error::Unavailable),
        };
        let task = async move {
            let fetched = timeout(FETCH_TIMEOUT, fetching.entry.ask()).await;
            fetching.end(fetched.unwrap_or(Err(Error::Unavailable)));
        };
        tokio::spawn(task.in_current_span());
    }

    #[cfg(feature = "aws")]
    async fn ask(&self) -> Result<SecretString, Error> {
        self.aws.secret(&self.arn).await
    }

    #[cfg(not(feature = "aws"))]
    #[expect(clippy::unused_async, reason = "the version with the SDK awaits")]
    async fn ask(&self) -> Result<SecretString, Error> {
        Err(Error::NotLinked)
    }

    /// Waits for the running fetch to end and returns its outcome.
    async fn outcome(&self, mut ended: watch::Receiver<u64>) -> Result<Value, Error> {
        // The sender is a field of this entry, so this cannot fail.
        let _ = ended.changed().await;
        self.record().outcome()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

/// A running fetch. Dropping it records the outcome and wakes all that wait, also after a panic.
struct Fetching {
    entry: Arc<Entry>,
    /// Environment variable of the use that started the fetch, for logs.
    variable: &'static str,
    /// Time at which the fetch began, by which the record identifies it.
    began: SystemTime,
    outcome: Result<SecretString, Error>,
}

impl Fetching {
    fn end(mut self, outcome: Result<SecretString, Error>) {
        self.outcome = outcome;
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Err(Error::Unavailable));
        if let Err(error) = outcome {
            tracing::warn!(
                variable = self.variable,
                reason = error.reason(),
                "a secret could not be fetched"
            );
        }
        let now = SystemTime::now();
        let counts = self.entry.record().ended(self.began, now, outcome);
        // Tasks that still wait for a fetch that was given up wait for its successor instead.
        if counts {
            self.entry.ended.send_modify(|ended| *ended += 1);
        }
    }
}

/// Returns one member of a JSON object, which must be non-empty text. The other members are not copied.
fn read_member(whole: &Value, key: &str) -> Result<SecretString, Error> {
    let members: HashMap<String, &RawValue> =
        serde_json::from_str(whole.expose_secret()).map_err(|_| Error::Malformed)?;
    let member = members.get(key).ok_or(Error::Malformed)?;
    let text: String = serde_json::from_str(member.get()).map_err(|_| Error::Malformed)?;
    if text.is_empty() {
        return Err(Error::Malformed);
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(whole: &str, key: &str) -> Option<String> {
        read_member(&Arc::new(SecretString::from(whole.to_owned())), key)
            .ok()
            .map(|text| text.expose_secret().to_owned())
    }

    #[test]
    fn a_member_is_text_under_its_key() {
        let whole = r#"{"user":"u","api_key":"s\"k","port":6379,"none":null,"empty":"","in":{"api_key":"no"}}"#;
        assert_eq!(member(whole, "api_key").as_deref(), Some("s\"k"));
        for key in ["port", "none", "empty", "in", "API_KEY", "absent"] {
            assert_eq!(member(whole, key), None, "{key}");
        }
        for whole in ["plain", "", "[\"api_key\"]", "{\"api_key\":\"cut"] {
            assert_eq!(member(whole, "api_key"), None, "{whole}");
        }
    }
}
