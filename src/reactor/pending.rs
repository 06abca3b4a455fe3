//! Commands whose answer waits for a home.

use std::sync::Arc;

use crate::{
    protocol::{
        command::{RequestId, Start},
        tenant,
        topic::TopicName,
    },
    pubsub::{home::Placed, log::Range, message::PendingId, subscription::ConnectionId},
};

/// Questions that wait, by the id that went along with the request.
#[derive(Debug, Default)]
pub struct PendingTable {
    entries: slab::Slab<Pending>,
}

/// One question.
#[derive(Debug)]
pub struct Pending {
    /// Who asked.
    pub connection: ConnectionId,
    /// The command's id; without one only a refusal is told.
    pub id: Option<HeldId>,
    /// The topic or filter that the answer names.
    pub topic: HeldTopic,
    /// What was asked.
    pub kind: PendingKind,
}

/// What was asked.
#[derive(Debug)]
pub enum PendingKind {
    /// To subscribe.
    Subscribe(Start),
    /// To be told some of a topic's past.
    History,
    /// To unsubscribe.
    Unsubscribe,
    /// Nothing by the client: the broker takes a subscription back, for this reason.
    TakeBack(&'static str),
    /// To publish.
    Publish(Placing),
}

/// A publication that waits for its place, and to have its receivers counted.
#[derive(Debug)]
pub struct Placing {
    /// Where it is, once that is known.
    placed: Option<Placed>,
    /// Subscribers counted so far, if that was asked.
    receivers: Option<u64>,
    /// Counts to come, as far as known; counts may come before the `seq` and the number of them.
    missing: i64,
}

/// A request id that outlives its message.
#[derive(Debug)]
pub enum HeldId {
    /// A number.
    Number(u64),
    /// JSON text, quotes included.
    Text(Box<str>),
}

/// A topic's name that outlives its message, without a copy.
#[derive(Debug)]
pub enum HeldTopic {
    /// Shared with a view or a filter.
    Shared(Arc<str>),
    /// The first bytes of a publication under way.
    Carried(Range, u16),
}

impl PendingTable {
    /// Keeps `pending` until its answer comes.
    pub fn insert(&mut self, pending: Pending) -> PendingId {
        PendingId(self.entries.insert(pending) as u32)
    }

    /// What the publication waits for that asked under `id`.
    pub fn placing(&mut self, id: PendingId) -> &mut Placing {
        match &mut self.entries[id.0 as usize].kind {
            PendingKind::Publish(placing) => placing,
            kind => unreachable!("a publication's answer comes to {kind:?}"),
        }
    }

    /// Whether `connection` asked what `id` names.
    pub fn is_of(&self, id: PendingId, connection: ConnectionId) -> bool {
        self.entries[id.0 as usize].connection == connection
    }

    /// Takes the question that `id` names.
    pub fn remove(&mut self, id: PendingId) -> Pending {
        self.entries.remove(id.0 as usize)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Placing {
    /// One that has no place yet, and whose receivers are counted if `counts` says so.
    pub fn new(counts: bool) -> Placing {
        Placing { placed: None, receivers: counts.then_some(0), missing: 0 }
    }

    /// It has its place, and so many counts come.
    pub fn note_published(&mut self, placed: Placed, counts: u32) {
        self.placed = Some(placed);
        self.missing += i64::from(counts);
        if placed.is_duplicate {
            // Whoever has it to come is not known any more.
            self.receivers = None;
        }
    }

    /// One of the counts came.
    pub fn note_counted(&mut self, counted: u64) {
        let receivers = self.receivers.as_mut().expect("a count goes to a publication that asked for it");
        *receivers += counted;
        self.missing -= 1;
    }

    /// Its place and its receivers, when nothing is missing.
    pub fn placed(&self) -> Option<(Placed, Option<u64>)> {
        self.placed.filter(|_| self.missing == 0).map(|placed| (placed, self.receivers))
    }
}

impl HeldId {
    /// Keeps `id`.
    pub fn new(id: RequestId<'_>) -> HeldId {
        match id {
            RequestId::Number(number) => HeldId::Number(number),
            RequestId::Text(text) => HeldId::Text(text.into()),
        }
    }

    /// The id as it was.
    pub fn get(&self) -> RequestId<'_> {
        match self {
            HeldId::Number(number) => RequestId::Number(*number),
            HeldId::Text(text) => RequestId::Text(text),
        }
    }
}

impl HeldTopic {
    /// What its clients call it.
    pub fn get(&self) -> &str {
        tenant::outer(match self {
            HeldTopic::Shared(name) => name,
            HeldTopic::Carried(range, len) => {
                TopicName::checked_bytes(&range.bytes()[..usize::from(*len)]).as_str()
            }
        })
    }
}
