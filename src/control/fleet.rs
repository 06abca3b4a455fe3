//! The reactors as the control thread sees them: whether they answer, and what they count.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::{keys::KeyRing, revocations::Ledger, superseded::Superseded};
use crate::{
    config::Config,
    metrics::{ReactorStats, Troubles},
    reactor::{Order, Reactors, audit::Audit},
};

/// A reactor that has not answered within this time is not well.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a round of answers is good for: what bounds the questions that admin requests cause.
const ROUND_LIFE: Duration = Duration::from_millis(100);
/// How often answers are looked for. A reactor answers within a turn, microseconds to milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Reactors, or in tests what stands in for them.
pub trait Fleet: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> usize;
    /// Asks one; false when its control queue is full or it has ended.
    fn ask(&self, index: usize, request: Order) -> bool;
    /// Whether its thread has ended.
    fn has_ended(&self, index: usize) -> bool;
    /// Duplicates of the listeners for another process, none when they are closed.
    ///
    /// # Errors
    /// A want of descriptors.
    fn listeners(&self) -> io::Result<Vec<OwnedFd>>;
    /// Whether this may be the configuration, by who reaches the listeners.
    ///
    /// # Errors
    /// A sentence about one that others than this machine reach, if nobody is asked who they are.
    fn check_reach(&self, config: &Config) -> Result<(), String>;
    /// Leaves what the listeners have in the file system to a successor, which has them.
    fn leave_listeners(&self);
    /// Closes the listeners but for those that reactors still accept from.
    fn close_listeners(&self);
    /// What the operator is to be told.
    fn troubles(&self) -> &Troubles;
    /// What whoever audits the broker is to be told.
    fn audit(&self) -> &Audit;

    /// How many addresses are banned now.
    fn ban_count(&self) -> usize;
}

impl Fleet for Reactors {
    fn count(&self) -> usize {
        Reactors::count(self)
    }

    fn ask(&self, index: usize, request: Order) -> bool {
        Reactors::ask(self, index, request)
    }

    fn has_ended(&self, index: usize) -> bool {
        Reactors::has_ended(self, index)
    }

    fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        Reactors::listeners(self)
    }

    fn check_reach(&self, config: &Config) -> Result<(), String> {
        Reactors::check_reach(self, config)
    }

    fn leave_listeners(&self) {
        Reactors::leave_listeners(self);
    }

    fn close_listeners(&self) {
        Reactors::close_listeners(self);
    }

    fn troubles(&self) -> &Troubles {
        Reactors::troubles(self)
    }

    fn audit(&self) -> &Audit {
        Reactors::audit(self)
    }

    fn ban_count(&self) -> usize {
        Reactors::ban_count(self)
    }
}

/// Where the broker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The reactors do not all accept yet.
    Starting = 0,
    /// They accept.
    Ready = 1,
    /// They close their connections.
    Draining = 2,
    /// They could accept, and wait until the broker whose place they take has closed its connections.
    Waiting = 3,
}

/// How often a new configuration was asked for.
#[derive(Default)]
struct Reloads {
    applied: AtomicU64,
    refused: AtomicU64,
}

/// What one reactor answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Its counters.
    Stats(Box<ReactorStats>),
    /// Its thread has ended.
    Ended,
    /// Nothing within [`ANSWER_TIMEOUT`].
    Silent,
}

/// The broker's phase and its reactors, shared by the tasks of the control thread.
pub struct Watch<F> {
    is_insecure: AtomicBool,
    phase: AtomicU8,
    fleet: OnceLock<Arc<F>>,
    started: Instant,
    reloads: Reloads,
    /// Set when the reactors are there.
    ledger: OnceLock<Arc<Ledger>>,
    keys: KeyRing,
    superseded: Superseded,
    /// The last round of answers. Its lock is held while a round is under way, so that there is one.
    round: Mutex<Option<(Instant, Arc<[Answer]>)>>,
}

impl<F: Fleet> Watch<F> {
    /// A broker that starts now; `is_insecure` if others than this machine may reach it, whoever they are.
    pub fn new(is_insecure: bool) -> Self {
        Watch {
            is_insecure: AtomicBool::new(is_insecure),
            phase: AtomicU8::new(Phase::Starting as u8),
            fleet: OnceLock::new(),
            started: Instant::now(),
            reloads: Reloads::default(),
            ledger: OnceLock::new(),
            keys: KeyRing::default(),
            superseded: Superseded::default(),
            round: Mutex::new(None),
        }
    }

    /// Whether others than this machine may reach it, whoever they are.
    pub fn is_insecure(&self) -> bool {
        self.is_insecure.load(Ordering::Relaxed)
    }

    /// It is from now on, or is not any more.
    pub fn set_insecure(&self, is_insecure: bool) {
        self.is_insecure.store(is_insecure, Ordering::Relaxed);
    }

    /// Since when the broker runs.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        const PHASES: [Phase; 4] = [Phase::Starting, Phase::Ready, Phase::Draining, Phase::Waiting];
        PHASES[self.phase.load(Ordering::Acquire) as usize]
    }

    /// It has come to `phase`.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// A reload is over.
    pub fn count_reload(&self, is_applied: bool) {
        let Reloads { applied, refused } = &self.reloads;
        let counter = if is_applied { applied } else { refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reloads that were applied, and those that were refused.
    pub fn reloads(&self) -> (u64, u64) {
        let Reloads { applied, refused } = &self.reloads;
        (applied.load(Ordering::Relaxed), refused.load(Ordering::Relaxed))
    }

    /// The reactors accept. Called once.
    pub fn set_ready(&self, fleet: Arc<F>) {
        assert!(self.fleet.set(fleet).is_ok(), "the reactors start once");
        self.set_phase(Phase::Ready);
    }

    /// Revocations are asked for here from now on. Called once.
    pub fn set_ledger(&self, ledger: Arc<Ledger>) {
        assert!(self.ledger.set(ledger).is_ok(), "revocations are opened once");
    }

    /// Where revocations are asked for; none while the broker starts.
    pub fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.ledger.get()
    }

    /// The reactors; none while the broker starts.
    pub fn fleet(&self) -> Option<&Arc<F>> {
        self.fleet.get()
    }

    /// What reactors may still have of configurations before.
    pub fn superseded(&self) -> &Superseded {
        &self.superseded
    }

    /// The keys that are fetched.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// How many addresses are banned now.
    pub fn ban_count(&self) -> usize {
        self.fleet.get().map_or(0, |fleet| fleet.ban_count())
    }

    /// What each reactor answers, by its index; empty while the broker starts.
    pub async fn answers(&self) -> Arc<[Answer]> {
        let Some(fleet) = self.fleet.get() else { return Arc::new([]) };
        let mut round = self.round.lock().await;
        if let Some((at, answers)) = &*round
            && at.elapsed() < ROUND_LIFE
        {
            return Arc::clone(answers);
        }
        let answers: Arc<[Answer]> = ask_all(&**fleet).await.into();
        *round = Some((Instant::now(), Arc::clone(&answers)));
        answers
    }

    /// Why the broker is not well, if it is not: a reactor that does not answer, or one that ended
    /// without being asked to.
    pub async fn first_unwell(&self) -> Option<String> {
        let is_draining = self.phase() == Phase::Draining;
        self.answers().await.iter().enumerate().find_map(|(index, answer)| match answer {
            Answer::Stats(_) => None,
            Answer::Ended if is_draining => None,
            Answer::Ended => Some(format!("reactor {index} has ended")),
            Answer::Silent => {
                Some(format!("reactor {index} has not answered for {} ms", ANSWER_TIMEOUT.as_millis()))
            }
        })
    }
}

/// Tries `attempt` with every reactor, again and again until it succeeds or the reactor has ended; the indices of
/// those with which neither came within `limit`. A control queue that is full may have room at the next try.
pub async fn try_each<F: Fleet>(
    fleet: &F,
    limit: Duration,
    mut attempt: impl FnMut(usize) -> bool,
) -> Vec<usize> {
    let deadline = Instant::now() + limit;
    let mut left: Vec<usize> = (0..fleet.count()).collect();
    loop {
        left.retain(|index| !attempt(*index) && !fleet.has_ended(*index));
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Tells every reactor what `order` makes, once its control queue has room; the indices of those that have not
/// taken it within `limit`.
pub async fn tell<F: Fleet>(fleet: &F, limit: Duration, order: impl Fn() -> Order) -> Vec<usize> {
    try_each(fleet, limit, |index| fleet.ask(index, order())).await
}

/// Tells every reactor what `order` makes, and waits until each has said that it did it; false if one has not
/// within `limit`, or has ended.
pub async fn carry_out<F: Fleet>(
    fleet: &F,
    limit: Duration,
    order: impl Fn(mpsc::Sender<()>) -> Order,
) -> bool {
    gather(fleet, limit, order).await.iter().all(Option::is_some)
}

/// Asks every reactor for its counters at once.
async fn ask_all<F: Fleet>(fleet: &F) -> Vec<Answer> {
    let stats = gather(fleet, ANSWER_TIMEOUT, Order::Stats).await;
    let answer = |(index, stats): (usize, Option<ReactorStats>)| match stats {
        Some(stats) => Answer::Stats(Box::new(stats)),
        None if fleet.has_ended(index) => Answer::Ended,
        None => Answer::Silent,
    };
    stats.into_iter().enumerate().map(answer).collect()
}

/// What each reactor sends for what `order` makes, by its index; none of one that does not within `limit`, or ends
/// before.
async fn gather<F: Fleet, T>(
    fleet: &F,
    limit: Duration,
    order: impl Fn(mpsc::Sender<T>) -> Order,
) -> Vec<Option<T>> {
    let mut receivers: Vec<Option<mpsc::Receiver<T>>> = (0..fleet.count()).map(|_| None).collect();
    let mut answers: Vec<Option<T>> = (0..fleet.count()).map(|_| None).collect();
    try_each(fleet, limit, |index| {
        let receiver = &mut receivers[index];
        if receiver.is_none() {
            let (sender, new_receiver) = mpsc::channel();
            *receiver = fleet.ask(index, order(sender)).then_some(new_receiver);
        }
        answers[index] = receiver.as_ref().and_then(|receiver| receiver.try_recv().ok());
        answers[index].is_some()
    })
    .await;
    answers
}
