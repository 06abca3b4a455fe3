//! What subscribing and its like can come to.

use std::sync::Arc;

use super::{home::TopicRefusal, message::PendingId};

/// A connection, for as long as it lasts: its slot may be another's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    /// Its slot.
    pub slot: u32,
    /// Which life of the slot.
    pub generation: u32,
}

/// A view's key in the fan-out.
pub type ViewKey = u32;

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
    /// Why it does not start.
    pub refusal: Option<TopicRefusal>,
}

impl Started {
    pub(super) fn at(pending: Option<PendingId>, seq: Option<u64>) -> Started {
        Started { pending, seq, refusal: None }
    }
}

/// What came of an unsubscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubscribed {
    /// It is over.
    Now,
    /// It waits for the answer to its own subscribe, or until the connection has left all that the filter
    /// matched; then it comes out as [`Started`].
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
