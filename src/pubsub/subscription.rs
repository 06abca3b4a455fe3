//! What a connection is subscribed to, as its own list has it, and what subscribing can come to.

use std::sync::Arc;

use super::message::PendingId;

/// A view's key in the fan-out.
pub type ViewKey = u32;

/// No member: the subscription waits for its `seq`.
pub(super) const NOT_A_MEMBER: u32 = u32::MAX;
/// So many pending gaps a connection has at most; then it is told to resynchronise.
pub(super) const GAPS_MAX: usize = 64;

/// A connection that subscribes to something.
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    pub(super) generation: u32,
    /// What it subscribed to, by name and by filter, whether or not that has started.
    pub(super) asked_count: u32,
    pub(super) subscriptions: Vec<Subscription>,
    /// How much more it may be owed until all of it is summed up: at most so much has room in its bound.
    pub(super) slack_bytes: u64,
    /// Subscriptions that were visited while a send was in flight.
    pub(super) owing: Vec<u32>,
    /// What few connections have, out of the way of the others.
    pub(super) rare: Option<Box<Rare>>,
}

/// The parts of a subscriber that most do without.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The filters with wildcards that it subscribed.
    pub(super) filters: Vec<HeldFilter>,
    pub(super) gaps: Option<Gaps>,
}

/// A connection's subscription to a filter; the filter's list has the connection at `place`.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldFilter {
    pub(super) key: u32,
    pub(super) place: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) view: ViewKey,
    /// Its slot among the view's members, or `NOT_A_MEMBER`.
    pub(super) member: u32,
    pub(super) is_exact: bool,
    pub(super) is_waiting: bool,
    pub(super) is_owing: bool,
}

/// What a connection must be told that it will not get.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    pub(super) by_topic: Vec<Gap>,
    /// Past the most gaps: the filter whose topics have more, `#` if they are of several.
    pub(super) resync: Option<Arc<str>>,
}

/// Publications that a subscriber will not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The topic.
    pub topic: Arc<str>,
    /// The first `seq`.
    pub from: u64,
    /// The last `seq`.
    pub to: u64,
}

/// A subscription that started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The question that can be answered.
    pub pending: Option<PendingId>,
    /// Where it starts; none for a filter.
    pub seq: Option<u64>,
    /// The home has as many topics as it may: it does not start.
    pub is_refused: bool,
}

impl Subscriber {
    /// What it is owed was summed up to `total_bytes`. The sum is not taken anew for less than a sixteenth of
    /// the bound, so much it may be exceeded.
    pub(super) fn set_slack(&mut self, total_bytes: u64, owed_bytes_max: u64) {
        self.slack_bytes = owed_bytes_max.saturating_sub(total_bytes).max(owed_bytes_max / 16);
    }
}

impl Started {
    pub(super) fn at(pending: Option<PendingId>, seq: Option<u64>) -> Started {
        Started { pending, seq, is_refused: false }
    }
}

/// What came of an unsubscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubscribed {
    /// It is over.
    Now,
    /// It waits for the answer to its own subscribe; then it comes out as [`Started`].
    Later,
}

/// What came of a subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// It has started, from this `seq` (none for a filter).
    Now(Option<u64>),
    /// It starts when the home answers; then it comes out as [`Started`].
    Later,
}

/// The connection has this subscription already, or has it not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;
