//! What subscribing and its like can come to.

use std::sync::Arc;

use super::{
    home::TopicRefusal,
    message::{PageFrom, PendingId, TourStart},
};
use crate::protocol::{Encoding, topic::TopicName};

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

/// What a subscription begins with, of what was published before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Nothing is missing of what came after what the client had.
    pub is_recovered: bool,
    /// How many publications, up to where the subscription starts.
    pub count: u64,
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

/// A subscription to a topic, as a connection asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The topic.
    pub topic: TopicName<&'a str>,
    /// What the connection gets publications in.
    pub encoding: Encoding,
    /// What of the topic's past it begins with; else it starts at the head.
    pub past: Option<PageFrom>,
    /// The question to answer when it has started.
    pub pending: Option<PendingId>,
    /// Who answers for the topic if its home has to make it.
    pub creator: u32,
}

/// What a subscription to a filter begins with.
#[derive(Debug, Default)]
pub struct WantedTour {
    /// What the client has of which topics, and how many it wants of others.
    pub start: TourStart,
    /// As of which tick of each home it has all of what is not listed; none if it does not say, or that is of another broker.
    pub ticks: Option<Vec<u64>>,
    /// Nothing is known to be missing so far.
    pub is_recovered: bool,
}

/// A connection has all that was published before, to the topics that a filter matches.
#[derive(Debug, PartialEq, Eq)]
pub struct Toured {
    /// Its slot.
    pub connection: u32,
    /// The filter.
    pub filter: Arc<str>,
    /// How many publications came for that.
    pub count: u64,
    /// None is missing of what was asked for, or was published meanwhile.
    pub is_recovered: bool,
    /// As of which tick of each home that is.
    pub ticks: Vec<u64>,
}

/// A subscription that started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The question that can be answered.
    pub pending: Option<PendingId>,
    /// Where it starts; none for a filter.
    pub seq: Option<u64>,
    /// What it begins with, if that was asked.
    pub replayed: Option<Replayed>,
    /// Why it does not start.
    pub refusal: Option<TopicRefusal>,
}

impl Started {
    /// Where `pending` is answered: at `seq`, of a topic.
    pub fn at(pending: Option<PendingId>, seq: Option<u64>) -> Started {
        Started { pending, seq, replayed: None, refusal: None }
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

/// Why there is no subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeRefused {
    /// The connection has it already; or receives the topic whose past it asks for.
    Already,
    /// The past of a topic that both this and another one of the connection match is still being sent.
    Busy,
}

/// Why a subscription is not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The connection has no such one.
    NotSubscribed,
    /// The past of what another one of it begins with, and this one matches, is still being sent.
    Busy,
}
