//! What the threads of a run tell each other and the one that watches them.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
};

use super::{
    plan::{Publisher, Subscriber, Times, Topic},
    series::Seconds,
};
use crate::{clock, verify::Order};

/// Set by ^C: whoever runs finishes with what there is.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What the workers share.
pub struct Shared {
    /// By topic.
    pub topics: Vec<SharedTopic>,
    /// What the workers saw, until the monitor takes it.
    pub seconds: Seconds,
    /// Publishers that have not sent everything.
    pub publishing: AtomicUsize,
    /// Workers whose subscribers have everything.
    pub complete: AtomicUsize,
    /// Of so many.
    pub worker_count: usize,
    /// Workers that have not come to their end.
    pub running: AtomicUsize,
    /// Connections that have not ended by themselves.
    pub open: AtomicUsize,
    /// Connections that have.
    pub broken: AtomicU64,
    /// When the run was over before its time; 0: it was not.
    pub ended_early_ns: AtomicU64,
    /// A worker could not go on.
    pub failed: AtomicBool,
}

/// What the workers share of a topic.
pub struct SharedTopic {
    /// Publications whose send completed.
    pub published: AtomicU64,
    /// The bytes that a verified subscriber has that got everything; 0 as long as there is none.
    pub bytes: AtomicU64,
    /// What everybody must see.
    pub order: Mutex<Order>,
    /// By publisher, how many of its publications the topic's pacing subscriber has; only in a closed
    /// loop.
    pub arrived: Vec<AtomicU64>,
}

impl Shared {
    /// For a run that has not begun.
    pub fn new(
        topics: &[Topic],
        times: Times,
        subscribers: &[Subscriber],
        publishers: &[Publisher],
        worker_count: usize,
    ) -> Shared {
        let shared_topic = |topic: &Topic| SharedTopic {
            published: AtomicU64::new(match topic.publishers {
                0 => topic.schedule.total(times.end_ns - times.start_ns),
                _ => 0,
            }),
            bytes: AtomicU64::new(0),
            order: Mutex::new(Order::default()),
            arrived: (0..topic.publishers).map(|_| AtomicU64::new(0)).collect(),
        };
        Shared {
            topics: topics.iter().map(shared_topic).collect(),
            seconds: Seconds::default(),
            publishing: AtomicUsize::new(publishers.len()),
            complete: AtomicUsize::new(0),
            worker_count,
            running: AtomicUsize::new(worker_count),
            open: AtomicUsize::new(subscribers.len() + publishers.len()),
            broken: AtomicU64::new(0),
            ended_early_ns: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// A connection ended by itself.
    pub fn on_broken(&self) {
        self.broken.fetch_add(1, SeqCst);
        self.open.fetch_sub(1, SeqCst);
    }

    /// Whether nobody is left to wait for, or somebody wants to wait no longer.
    pub fn is_cut_short(&self) -> bool {
        let is_cut_short =
            self.failed.load(SeqCst) || self.open.load(SeqCst) == 0 || INTERRUPTED.load(SeqCst);
        if is_cut_short {
            let _ = self.ended_early_ns.compare_exchange(0, clock::now_ns(), SeqCst, SeqCst);
        }
        is_cut_short
    }
}
