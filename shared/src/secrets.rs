//! Where secret values come from: the environment, AWS Secrets Manager, or a token that is made on the spot.
//!
//! Nothing is fetched at start, and a process whose settings name no place in AWS never enters the SDK. The first use of any
//! secret fetches all of them at the same time. A value is kept until the thing that it opens refuses it, it turns out to be
//! unusable, or it is too old for its use: then it is fetched again, so neither a rotation nor a mended secret needs a deploy.
//! That is bounded for each use, because anybody can send a token with a bad signature; and while Secrets Manager is down, the
//! values that are known go on serving. No value is ever logged or put in an error.

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

/// One fetch, retries included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// AWS could not be asked, as when there are no credentials to ask it with, or did not answer in time.
    #[error("AWS could not be asked")]
    Unavailable,
    /// There is no such secret.
    #[error("there is no such secret")]
    Missing,
    /// The role may not read the secret; or it has no credentials to make a token of.
    #[error("access is denied")]
    Denied,
    /// The secret is not text, or does not have the key that is asked for.
    #[error("the secret is not text, or lacks the key")]
    Malformed,
    /// The SDK is not in this binary.
    #[error("built without the AWS SDK")]
    NotLinked,
}

impl Error {
    /// A word for logs.
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

/// A value. Cheap to clone; zeroed when the last clone is dropped.
pub type Value = Arc<SecretString>;

/// All secrets of this process. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub struct Secrets {
    store: Arc<Store>,
}

struct Store {
    /// One for each ARN, whatever keys of it are used. Held for a look or an addition, never across an await.
    entries: Mutex<Vec<Arc<Entry>>>,
    #[cfg(feature = "aws")]
    aws: Arc<aws::Aws>,
}

/// One secret in Secrets Manager.
struct Entry {
    arn: SecretArn,
    /// Held for a few instructions, never across an await.
    record: Mutex<Record>,
    /// How many fetches have ended, for those who wait for one.
    ended: watch::Sender<u64>,
    #[cfg(feature = "aws")]
    aws: Arc<aws::Aws>,
}

/// A secret: ask for its value each time that it is used, and say so if the value was refused.
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
    /// The variable that names this use, for logs: others may name the same secret.
    variable: &'static str,
    key: Option<String>,
    /// Held for a few instructions, never across an await, and taken before the record.
    window: Mutex<Window>,
    /// The last whole secret seen, and what it has under the key. Held while it is read.
    member: Mutex<Option<(Value, Result<Value, Error>)>>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self::new()
    }
}

impl Secrets {
    /// None yet. Touches nothing.
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

    /// The secret that a setting names. Touches no network.
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

    /// A token for ElastiCache, made anew at each use. Touches no network. `None` if the SDK is not in this binary.
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
    /// The value, if it can never be another.
    pub(crate) fn fixed(&self) -> Option<&Value> {
        match &self.source {
            Source::Fixed(value) => Some(value),
            Source::Stored(_) => None,
            #[cfg(feature = "aws")]
            Source::Token(_) => None,
        }
    }

    /// The value to use now.
    ///
    /// # Errors
    /// It is not known here, and could not be fetched or made.
    pub async fn current(&self) -> Result<Value, Error> {
        self.younger_than(None).await
    }

    /// The same, but a value that was fetched as long ago as `old` is fetched again first. If that fails, it goes on serving.
    ///
    /// # Errors
    /// As above.
    pub async fn renewed(&self, old: Duration) -> Result<Value, Error> {
        self.younger_than(Some(old)).await
    }

    async fn younger_than(&self, old: Option<Duration>) -> Result<Value, Error> {
        match &self.source {
            Source::Fixed(value) => Ok(Arc::clone(value)),
            Source::Stored(stored) => stored.current(SystemTime::now(), old).await,
            #[cfg(feature = "aws")]
            Source::Token(token) => token.mint(SystemTime::now()).await.map(Arc::new),
        }
    }

    /// Says that `value` was refused. Gives another value if there is one now: the caller may try that, once.
    pub async fn refused(&self, value: &Value) -> Option<Value> {
        match &self.source {
            Source::Fixed(_) => None,
            Source::Stored(stored) => stored.refused(value, SystemTime::now()).await,
            // Each use has a token of its own already.
            #[cfg(feature = "aws")]
            Source::Token(_) => None,
        }
    }
}

impl Stored {
    async fn current(&self, now: SystemTime, old: Option<Duration>) -> Result<Value, Error> {
        let ended = self.entry.ended.subscribe();
        let mut step = self.step(|record, window| record.want(now, old, window));
        if let Step::Have(whole) = &step {
            let found = self.member(whole);
            if found.is_ok() {
                return found;
            }
            // It may have been mended since.
            step = self.step(|record, window| record.again(now, window));
        }
        match step {
            Step::Have(whole) => return self.member(&whole),
            Step::Failed(error) => return Err(error),
            Step::Wait => {}
            Step::Fetch => {
                self.entry.fetch(self.variable, now);
                // Whoever needs one secret will need the others in a moment.
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

    /// What the whole secret has under the key, read once.
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
                "a secret cannot be used"
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
    /// Fetches in a task of its own, so that a caller who gives up does not end it for those who wait: it ends within its
    /// time limit, and tells them.
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
    #[expect(clippy::unused_async, reason = "the other one awaits")]
    async fn ask(&self) -> Result<SecretString, Error> {
        Err(Error::NotLinked)
    }

    /// What comes of the fetch that runs.
    async fn outcome(&self, mut ended: watch::Receiver<u64>) -> Result<Value, Error> {
        // The sender is in this entry, so this cannot fail.
        let _ = ended.changed().await;
        self.record().outcome()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

/// A fetch that runs. However it ends, those who wait learn of it.
struct Fetching {
    entry: Arc<Entry>,
    /// That of who asked.
    variable: &'static str,
    /// As the record knows it.
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
        // Whoever still waits for one that was lost, waits for its successor.
        if counts {
            self.entry.ended.send_modify(|ended| *ended += 1);
        }
    }
}

/// One member of a JSON object. The others are not copied.
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
