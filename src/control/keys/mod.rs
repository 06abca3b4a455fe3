//! Keys of issuers that are fetched: when and from where, and how reactors come by them.
//!
//! A set that is there is used until another one has come, or until it is too old; nothing waits for a fetch. Reactors get the
//! access that they have with other keys in it, so that nobody's rights have to be looked at again.

pub mod fetch;
mod schedule;

use std::{
    hash::{BuildHasher, RandomState},
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::fleet::{self, Fleet, Watch};
use crate::{
    access::{
        Access,
        keys::{KeySet, Loaded, PassedOver, Refetch, Source},
    },
    config::Config,
    reactor::Order,
};
use fetch::{FetchError, Fetched, KeyUrl, fetch};
use schedule::{Schedule, Spans};

/// How often it is looked whether keys are due, or asked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// So many fetches may be over and not taken; there is one per issuer at most.
const FETCHED_MAX: usize = 16;
/// So many keys that are passed over are told of a set.
const TOLD_MAX: usize = 8;
/// Why a lock is not poisoned: whoever holds it does not panic.
const LOCK_HELD: &str = "nobody panics with the keys locked";

/// What became of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchResult {
    /// It brought other keys.
    Taken,
    /// It brought what is there already.
    Unchanged,
    /// It brought none.
    Failed,
}

impl FetchResult {
    /// Every result, in order of its index.
    pub const ALL: [FetchResult; 3] = [FetchResult::Taken, FetchResult::Unchanged, FetchResult::Failed];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            FetchResult::Taken => "taken",
            FetchResult::Unchanged => "unchanged",
            FetchResult::Failed => "failed",
        }
    }
}

/// What is told of the keys that are fetched.
#[derive(Clone, Debug, Default)]
pub struct KeyStatus {
    /// By the issuer's name, how old its keys are; nothing of one that has none.
    pub ages: Vec<(String, Duration)>,
    /// How many fetches had each of [`FetchResult::ALL`].
    pub fetches: [u64; FetchResult::ALL.len()],
    /// The issuers that have none.
    pub without: Vec<String>,
    /// Nobody can be let in, since all come by such issuers.
    pub is_shut: bool,
}

/// The keys of all issuers whose keys are fetched.
#[derive(Debug, Default)]
pub struct KeyRing(Mutex<Keeper>);

/// What is known of them.
#[derive(Debug, Default)]
struct Keeper {
    /// What reactors are to have.
    access: Option<Arc<Access>>,
    entries: Vec<Entry>,
    spans: Option<Spans>,
    /// Others come in without these issuers.
    has_others: bool,
    fetches: [u64; FetchResult::ALL.len()],
    next_id: u64,
    /// Reactors have not all been told of the access as it is.
    is_owed: bool,
    /// They are being told of it.
    is_telling: bool,
    /// They are being told of another configuration, with keys as of its beginning.
    is_adopting: bool,
}

/// One issuer's.
#[derive(Debug)]
struct Entry {
    /// No other has had it.
    id: u64,
    url: Arc<KeyUrl>,
    refetch: Arc<Refetch>,
    schedule: Schedule,
    keys: Option<Arc<KeySet>>,
    /// Of what they were read from.
    digest: Option<[u8; 32]>,
    passed_over: Vec<PassedOver>,
    /// Why the last fetch failed, if it did.
    failure: Option<String>,
}

impl KeyRing {
    /// Goes by another configuration, of which `access` is without keys that are fetched: from these. Gives what reactors are to have
    /// until they are told of others; [`KeyRing::note_adopted`] says that they do.
    pub fn adopt(
        &self,
        access: Option<Arc<Access>>,
        urls: Vec<KeyUrl>,
        config: &Config,
    ) -> Option<Arc<Access>> {
        self.lock().adopt(access, urls, config, Instant::now())
    }

    /// Every reactor has been told of the configuration that was adopted last.
    pub fn note_adopted(&self) {
        self.lock().is_adopting = false;
    }

    /// What reactors are to have.
    pub fn access(&self) -> Option<Arc<Access>> {
        self.lock().access.clone()
    }

    /// How it stands.
    pub fn status(&self) -> KeyStatus {
        self.lock().status(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Keeper> {
        self.0.lock().expect(LOCK_HELD)
    }

    /// Tells reactors, if there is anything to tell them.
    pub(super) async fn tell<F: Fleet>(&self, fleet: &F) {
        let Some(access) = self.lock().take_owed() else { return };
        let order = || Order::Keys(Arc::clone(&access));
        let untold = fleet::tell(fleet, fleet::ANSWER_TIMEOUT, order).await;
        if !untold.is_empty() {
            error!(reactors = ?untold, "reactors did not take keys, and are told again");
        }
        self.lock().note_told(untold.is_empty(), Instant::now());
    }
}

/// Fetches keys whenever they are due, for as long as the runtime lives.
pub async fn run<F: Fleet>(watch: Arc<Watch<F>>) {
    let ring = watch.keys();
    let (sender, mut fetched) = mpsc::channel(FETCHED_MAX);
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            Some((id, result)) = fetched.recv() => {
                ring.lock().take(id, result, RandomState::new().hash_one(0u8), Instant::now());
            }
        }
        let due = ring.lock().look(Instant::now());
        for (id, url) in due {
            let sender = sender.clone();
            tokio_uring::spawn(async move {
                let result = fetch(&url, fetch::LIMIT).await;
                // Nobody listens at the end of the runtime.
                let _ = sender.send((id, result)).await;
            });
        }
        if let Some(fleet) = watch.fleet() {
            ring.tell(&**fleet).await;
        }
    }
}

impl Keeper {
    fn adopt(
        &mut self,
        access: Option<Arc<Access>>,
        urls: Vec<KeyUrl>,
        config: &Config,
        now: Instant,
    ) -> Option<Arc<Access>> {
        let auth = &config.auth;
        let spans = Spans {
            refetch_min: Duration::from_secs(auth.jwks_refetch_s_min),
            stale_max: Duration::from_secs(auth.jwks_stale_s_max),
        };
        self.spans = Some(spans);
        self.has_others =
            auth.tokens_file.is_some() || !auth.anonymous_roles.is_empty() || auth.issuers.len() > urls.len();
        let mut before = mem::take(&mut self.entries);
        for url in urls {
            let refetch = access.as_ref().and_then(|access| access.refetch(&url.iss)).cloned();
            let refetch = refetch.expect("access knows the issuers of its configuration");
            let same = before.iter().position(|entry| *entry.url == url);
            let mut entry = match same {
                Some(place) => before.swap_remove(place),
                None => self.new_entry(url),
            };
            entry.refetch = refetch;
            self.entries.push(entry);
        }
        (self.access, self.is_adopting, self.is_owed) = (access, true, false);
        self.put_in();
        self.tell_freshness(now);
        self.access.clone()
    }

    fn new_entry(&mut self, url: KeyUrl) -> Entry {
        self.next_id += 1;
        Entry {
            id: self.next_id,
            url: Arc::new(url),
            refetch: Arc::default(),
            schedule: Schedule::default(),
            keys: None,
            digest: None,
            passed_over: Vec::new(),
            failure: None,
        }
    }

    /// Puts the keys as they are into what reactors are to have.
    fn put_in(&mut self) {
        let entries = &self.entries;
        let keys_of = |iss: &str| entries.iter().find(|entry| *entry.url.iss == *iss)?.keys.clone();
        if let (Some(access), false) = (&mut self.access, entries.is_empty()) {
            *access = Arc::new(access.with_keys(keys_of));
        }
    }

    /// What reactors are to be told, once.
    fn take_owed(&mut self) -> Option<Arc<Access>> {
        if self.is_adopting || !mem::take(&mut self.is_owed) {
            return None;
        }
        self.is_telling = self.access.is_some();
        self.access.clone()
    }

    /// Reactors were told, all or some of them. Not before is a set fresh: what is not in the one before may be in it.
    fn note_told(&mut self, are_all: bool, now: Instant) {
        (self.is_telling, self.is_owed) = (false, self.is_owed || !are_all);
        self.tell_freshness(now);
    }

    /// Lets go of keys that are too old; what is to be fetched now, each by its number.
    fn look(&mut self, now: Instant) -> Vec<(u64, Arc<KeyUrl>)> {
        let Some(spans) = self.spans else { return Vec::new() };
        let (mut due, mut has_dropped) = (Vec::new(), false);
        for entry in &mut self.entries {
            if entry.schedule.is_stale(spans, now) {
                error!(issuer = %entry.url.iss, "keys are not used any more, and tokens are not accepted: {} was not reached for {} s", entry.url, spans.stale_max.as_secs());
                entry.schedule.note_dropped();
                (entry.keys, entry.digest, has_dropped) = (None, None, true);
            }
            if entry.schedule.is_due(entry.refetch.is_asked(), spans, now) {
                entry.schedule.begin(now);
                entry.refetch.note_heard();
                due.push((entry.id, Arc::clone(&entry.url)));
            }
        }
        if has_dropped {
            self.put_in();
            self.is_owed = true;
        }
        self.tell_freshness(now);
        due
    }

    /// A fetch is over; of an issuer that is not there any more, it was for nothing.
    fn take(&mut self, id: u64, result: Result<Fetched, FetchError>, random: u64, now: Instant) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else { return };
        let result = match result {
            Ok(Fetched { body, life }) => entry.read(&body).map(|result| (result, life)),
            Err(error) => Err(error.to_string()),
        };
        let result = match result {
            Ok((result, life)) => {
                if entry.failure.take().is_some() {
                    info!(issuer = %entry.url.iss, "keys are fetched again");
                }
                entry.schedule.note_fetched(life, now);
                result
            }
            Err(why) => {
                entry.schedule.note_failed(random, now);
                entry.note_failure(why);
                FetchResult::Failed
            }
        };
        self.fetches[result as usize] += 1;
        if result == FetchResult::Taken {
            self.put_in();
            self.is_owed = true;
        }
        self.tell_freshness(now);
    }

    /// Says which sets are fresh, of those that reactors have: what is not in an older one may be in theirs soon.
    fn tell_freshness(&self, now: Instant) {
        let Some(spans) = self.spans else { return };
        for entry in &self.entries {
            entry.refetch.set_fresh(!self.is_owed && !self.is_telling && entry.schedule.is_fresh(spans, now));
        }
    }

    fn status(&self, now: Instant) -> KeyStatus {
        let of_age = |entry: &Entry| Some((entry.url.iss.to_string(), entry.schedule.age(now)?));
        let without = self.entries.iter().filter(|entry| entry.keys.is_none());
        let without: Vec<String> = without.map(|entry| entry.url.iss.to_string()).collect();
        KeyStatus {
            ages: self.entries.iter().filter_map(of_age).collect(),
            fetches: self.fetches,
            is_shut: !self.has_others && !without.is_empty() && without.len() == self.entries.len(),
            without,
        }
    }
}

impl Entry {
    /// Takes the keys of a body that came.
    fn read(&mut self, body: &[u8]) -> Result<FetchResult, String> {
        let digest = Sha256::digest(body).into();
        if self.digest == Some(digest) {
            return Ok(FetchResult::Unchanged);
        }
        let loaded = KeySet::from_jwks(body, &self.url.algorithms, Source::Url);
        let Loaded { keys, passed_over } = loaded.map_err(|error| error.to_string())?;
        if !passed_over.is_empty() && passed_over != self.passed_over {
            warn!(issuer = %self.url.iss, "keys are passed over: {}", listed(&passed_over));
        }
        info!(target: "fanfare::audit", issuer = %self.url.iss, url = %self.url, keys = keys.keys().len(), "keys taken");
        (self.keys, self.digest, self.passed_over) = (Some(Arc::new(keys)), Some(digest), passed_over);
        Ok(FetchResult::Taken)
    }

    /// Says why there are none, once for as long as that is the same.
    fn note_failure(&mut self, why: String) {
        if self.failure.as_ref() != Some(&why) {
            let what = match self.keys {
                Some(_) => "those of before are used",
                None => "its tokens are not accepted until they are",
            };
            warn!(issuer = %self.url.iss, "keys were not fetched, {what}: {}: {why}", self.url);
        }
        self.failure = Some(why);
    }
}

fn listed(passed_over: &[PassedOver]) -> String {
    let told = passed_over.iter().take(TOLD_MAX).map(PassedOver::to_string).collect::<Vec<_>>().join("; ");
    match passed_over.len().saturating_sub(TOLD_MAX) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

#[cfg(test)]
mod tests;
