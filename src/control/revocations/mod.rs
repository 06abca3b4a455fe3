//! Revocations as the control thread has them: asked for by operators, told to every reactor, kept in a file.
//!
//! One task carries out what is asked for, one after the other, so that reactors and the file get it in the same order. A thread of its
//! own writes the file, since it waits for the disk.

pub mod entry;
pub mod store;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, mpsc as threads},
    thread,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use tracing::{error, info};

use super::fleet::{self, Fleet};
use crate::{
    access::revocation::{Full, Kind, Revocation, Revocations, Subject, Terms},
    config::Config,
    reactor::Order,
};
use entry::Entry;
use store::Store;

/// How long static tokens are kept out by default, in seconds: they have no end of their own.
const STATIC_LIFE_S: u64 = 30 * 86_400;
/// Requests that wait for the one before; the admin listener serves fewer at once.
const ASKED_MAX: usize = 64;
/// How soon reactors that did not take an order are told again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Why a lock is not poisoned: whoever holds it does not panic.
const LOCK_HELD: &str = "nobody panics with revocations locked";

/// What is in force at the start, and where it is kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// What is in force.
    pub revocations: Arc<Revocations>,
    store: Option<Store>,
}

impl Kept {
    /// What the file at `path` says; without one nothing, and it is kept in memory alone.
    ///
    /// # Errors
    /// A sentence about what is wrong with the file.
    pub fn open(path: Option<&Path>) -> Result<Kept, String> {
        let Some(path) = path else { return Ok(Kept::default()) };
        let (store, revocations) = Store::open(path, now_s())?;
        Ok(Kept { revocations: Arc::new(revocations), store: Some(store) })
    }

    /// Whether [`Kept::open`] could read the file at `path`, which another broker may have.
    ///
    /// # Errors
    /// As [`Kept::open`].
    pub fn check(path: Option<&Path>) -> Result<(), String> {
        path.map_or(Ok(()), |path| Store::check(path, now_s()))
    }
}

/// What is asked for.
#[derive(Debug)]
pub enum Change {
    /// To keep somebody out.
    Revoke(Revocation),
    /// To let in again of whom there was a revocation.
    TakeBack(Vec<Subject>),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every reactor has it, and the file if there is one.
    Done,
    /// There is no room.
    Full,
    /// There is no such revocation.
    Unknown,
    /// The file did not take it. A revocation holds all the same, until the broker ends; none was taken back.
    NotKept(String),
    /// These reactors have not taken it yet, and are told again.
    Untold(Vec<usize>),
}

/// Where revocations are asked for, and read.
#[derive(Debug)]
pub struct Ledger {
    revocations: Mutex<Arc<Revocations>>,
    asked: mpsc::Sender<(Change, oneshot::Sender<Outcome>)>,
    is_kept: bool,
    config: Mutex<Arc<Config>>,
}

impl Ledger {
    /// Carries out what is asked for from now on, on the thread that calls.
    ///
    /// # Errors
    /// A want of threads.
    pub fn open<F: Fleet>(kept: Kept, config: Arc<Config>, fleet: &Arc<F>) -> io::Result<Arc<Ledger>> {
        let Kept { revocations, store } = kept;
        let (sender, asked) = mpsc::channel(ASKED_MAX);
        let writer = store.map(start_writing).transpose()?;
        let ledger = Arc::new(Ledger {
            revocations: Mutex::new(revocations),
            asked: sender,
            is_kept: writer.is_some(),
            config: Mutex::new(config),
        });
        let keeper = Keeper {
            ledger: Arc::clone(&ledger),
            fleet: Arc::clone(fleet),
            writer,
            superseded: Vec::new(),
            is_owed: false,
        };
        tokio_uring::spawn(keeper.run(asked));
        Ok(ledger)
    }

    /// Goes by this configuration from now on.
    pub fn set_config(&self, config: Arc<Config>) {
        *self.config.lock().expect(LOCK_HELD) = config;
    }

    /// What is in force.
    pub fn revocations(&self) -> Arc<Revocations> {
        Arc::clone(&self.revocations.lock().expect(LOCK_HELD))
    }

    /// Whether it outlives the broker.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// For how long somebody is kept out if nothing else is said, in seconds: as long as what it has may live.
    pub fn life_s(&self, kind: Kind, issuer: Option<&str>) -> u64 {
        life_s(&self.config.lock().expect(LOCK_HELD), kind, issuer)
    }

    /// Has something carried out.
    pub async fn ask(&self, change: Change) -> Outcome {
        let (answer, answered) = oneshot::channel();
        // Both fail only at the end of the runtime, with whoever waits.
        let _ = self.asked.send((change, answer)).await;
        answered.await.unwrap_or_else(|_| Outcome::NotKept("the broker ends".into()))
    }
}

fn life_s(config: &Config, kind: Kind, issuer: Option<&str>) -> u64 {
    let auth = &config.auth;
    let issuers = auth.issuers.iter().filter(|it| issuer.is_none_or(|issuer| it.iss == issuer));
    let of_issuers = issuers.map(|it| it.ttl_s_max.saturating_add(auth.leeway_s)).max();
    let is_static = auth.tokens_file.is_some() && issuer.is_none() && kind != Kind::Token;
    let of_static = is_static.then_some(STATIC_LIFE_S);
    of_issuers.max(of_static).unwrap_or(STATIC_LIFE_S)
}

/// Seconds since the Unix epoch.
pub fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// What the thread that writes is given.
struct Write {
    lines: Vec<String>,
    all: Arc<Revocations>,
    written: oneshot::Sender<io::Result<()>>,
}

fn start_writing(mut store: Store) -> io::Result<threads::Sender<Write>> {
    let (sender, writes) = threads::channel::<Write>();
    thread::Builder::new().name("revocations".into()).spawn(move || {
        for Write { lines, all, written } in writes {
            // Whoever asked may have gone.
            let _ = written.send(store.append(&lines, &all, now_s()));
        }
    })?;
    Ok(sender)
}

/// Carries out what is asked for.
struct Keeper<F> {
    ledger: Arc<Ledger>,
    fleet: Arc<F>,
    writer: Option<threads::Sender<Write>>,
    /// Tables that reactors may still have: whoever lets go of one last frees it, which takes long, and so is to be this thread.
    superseded: Vec<Arc<Revocations>>,
    /// Not every reactor has taken the last table.
    is_owed: bool,
}

impl<F: Fleet> Keeper<F> {
    async fn run(mut self, mut asked: mpsc::Receiver<(Change, oneshot::Sender<Outcome>)>) {
        loop {
            tokio::select! {
                next = asked.recv() => {
                    let Some((change, answer)) = next else { return };
                    let outcome = self.carry_out(change).await;
                    // Whoever asked may have gone.
                    let _ = answer.send(outcome);
                }
                () = time::sleep(RETRY_PAUSE), if self.is_owed => {
                    self.tell().await;
                }
            }
        }
    }

    async fn carry_out(&mut self, change: Change) -> Outcome {
        let now_s = now_s();
        let before = self.ledger.revocations();
        let mut all = (*before).clone();
        all.forget_over(now_s);
        match change {
            Change::Revoke(revocation) => {
                if all.insert(revocation.clone(), now_s) == Err(Full) {
                    return Outcome::Full;
                }
                let all = Arc::new(all);
                // The disk need not be waited for by whoever is to be closed.
                let written = self.write(&[revocation], &all);
                self.set(all);
                let untold = self.tell().await;
                match (kept(written).await, untold) {
                    (Err(error), _) => Outcome::NotKept(error.to_string()),
                    (Ok(()), untold) if untold.is_empty() => Outcome::Done,
                    (Ok(()), untold) => Outcome::Untold(untold),
                }
            }
            Change::TakeBack(subjects) => {
                let there = subjects.into_iter().filter(|subject| all.has(subject, now_s));
                let over = Terms { issued_before_s: 0, until_s: 0 };
                let over: Vec<Revocation> =
                    there.map(|subject| Revocation { subject, terms: over }).collect();
                if over.is_empty() {
                    return Outcome::Unknown;
                }
                for revocation in &over {
                    all.insert(revocation.clone(), now_s).expect("what is over takes no room");
                }
                let all = Arc::new(all);
                if let Err(error) = kept(self.write(&over, &all)).await {
                    return Outcome::NotKept(error.to_string());
                }
                self.set(all);
                match self.tell().await {
                    untold if untold.is_empty() => Outcome::Done,
                    untold => Outcome::Untold(untold),
                }
            }
        }
    }

    /// Has revocations written that are in `all`; none if nothing is kept.
    fn write(&self, new: &[Revocation], all: &Arc<Revocations>) -> Option<oneshot::Receiver<io::Result<()>>> {
        let writer = self.writer.as_ref()?;
        let lines = new.iter().map(|it| Entry::from(it.clone()).line()).collect();
        let (written, kept) = oneshot::channel();
        // The thread ends after this task.
        let _ = writer.send(Write { lines, all: Arc::clone(all), written });
        Some(kept)
    }

    fn set(&mut self, all: Arc<Revocations>) {
        let before = std::mem::replace(&mut *self.ledger.revocations.lock().expect(LOCK_HELD), all);
        self.superseded.push(before);
    }

    /// Tells every reactor the table; those that have not taken it.
    async fn tell(&mut self) -> Vec<usize> {
        let all = self.ledger.revocations();
        let order = || Order::Revoke(Arc::clone(&all));
        let untold = fleet::tell(&*self.fleet, fleet::ANSWER_TIMEOUT, order).await;
        if !untold.is_empty() && !self.is_owed {
            error!(reactors = ?untold, "reactors did not take revocations, and are told again");
        }
        if untold.is_empty() && self.is_owed {
            info!("every reactor has taken the revocations");
        }
        self.is_owed = !untold.is_empty();
        self.superseded.retain(|table| Arc::strong_count(table) > 1);
        untold
    }
}

/// Waits until it is written, if it is.
async fn kept(written: Option<oneshot::Receiver<io::Result<()>>>) -> io::Result<()> {
    match written {
        Some(written) => {
            written.await.unwrap_or_else(|_| Err(io::Error::other("the thread that writes has ended")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load_text};

    #[test]
    fn somebody_is_kept_out_for_as_long_as_what_it_has_may_live() {
        let issuer = |iss: &str, ttl_s_max: u64| {
            format!(
                "{{ iss = \"{iss}\", audience = [\"x\"], algorithms = [\"ES256\"], jwks_file = \"/k\", ttl_s_max = {ttl_s_max} }}"
            )
        };
        let config = |tokens: &str, issuers: &[String]| {
            let text = format!("[auth]\ntokens_file = \"{tokens}\"\nissuers = [{}]\n", issuers.join(", "));
            load_text("f", &text, &Sources::default()).unwrap()
        };
        let issuers = [issuer("a", 3_600), issuer("b", 7_200)];
        for (config, kind, issuer, expected) in [
            (config("", &[]), Kind::User, None, STATIC_LIFE_S),
            (config("", &issuers), Kind::User, None, 7_210),
            (config("", &issuers), Kind::User, Some("a"), 3_610),
            (config("", &issuers), Kind::User, Some("c"), STATIC_LIFE_S),
            (config("/t", &issuers), Kind::User, None, STATIC_LIFE_S),
            (config("/t", &issuers), Kind::Older, None, STATIC_LIFE_S),
            (config("/t", &issuers), Kind::User, Some("b"), 7_210),
            // No static token has a name.
            (config("/t", &issuers), Kind::Token, None, 7_210),
        ] {
            assert_eq!(life_s(&config, kind, issuer), expected, "{kind:?} {issuer:?}");
        }
    }
}
