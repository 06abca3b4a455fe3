//! What a publish does: whether it may, and at which home.

use super::{placed_ok, publish_refusal, refusal};
use crate::{
    access::{grants::Action, principal::Named},
    metrics::Trouble,
    protocol::{
        command::{CommandError, ErrorCode, PayloadKind, RequestId},
        topic::TopicName,
    },
    pubsub::{
        home::{Draft, Placed, PublishRefusal},
        keyed::Key,
        message::{Carried, PendingPublish, PublishRequest, Request, Shape},
    },
    reactor::{
        desk::Desk,
        gate::quotas::Whose,
        pending::{HeldTopic, PendingKind, Placing},
    },
    work::price,
};

/// The fields of a publish.
#[derive(Clone, Copy)]
pub(super) struct Publish<'a> {
    pub id: Option<RequestId<'a>>,
    pub topic: TopicName<&'a str>,
    pub payload: &'a [u8],
    pub kind: PayloadKind,
    pub receivers: bool,
    pub key: Option<&'a [u8]>,
    pub retain: bool,
}

/// Who a publication is of.
#[derive(Clone, Copy)]
pub(super) enum Author<'a> {
    /// A connection here.
    Connection(u32),
    /// Somebody elsewhere, of this name where that is of use to the topic.
    Elsewhere(Option<&'a str>),
}

impl Desk {
    pub(super) fn handle_publish<'a>(
        &mut self,
        slot: u32,
        publish: Publish<'a>,
    ) -> Result<(), CommandError<'a>> {
        let Publish { id, topic, payload, kind, receivers, .. } = publish;
        if !self.is_allowed(slot, Action::Publish, topic.as_str()) {
            return Err(self.forbid(slot, "publish", id, Action::Publish, topic.into_text()));
        }
        if self.home.keeping().refuses_anonymous() && !self.may_have_author(slot, topic.as_str()) {
            return Err(self.forbid(slot, "publish", id, Action::Publish, topic.into_text()));
        }
        if self.gate.counts_publishes() {
            self.count_publish(slot, id, topic, payload.len())?;
        }
        self.meter.spend(price::PUBLICATION + payload.len() as u64 * price::PUBLISHED_BYTE);
        let inner = self.inner_topic(slot, topic);
        let inner = inner.borrowed();
        let home = self.shared.homes.of(inner);
        if home != self.exchange.index() || (receivers && id.is_some()) {
            self.send_publish(slot, home, Publish { topic: inner, ..publish });
            return Ok(());
        }
        let creator = self.creator(slot);
        let key = publish.key.map(|bytes| self.key_of(slot, bytes));
        let carried =
            Carried { topic: inner, draft: Draft::anonymous(payload, kind), key, retain: publish.retain };
        match self.publish_here(carried, Author::Connection(slot), creator) {
            Ok(placed) if id.is_some() => {
                let topic = topic.as_str();
                self.write_reply(slot, &placed_ok(id, topic, placed, None));
            }
            Ok(_) => {}
            Err(refused) => return Err(publish_refusal(id, topic.as_str(), refused)),
        }
        Ok(())
    }

    /// Publishes at this reactor's home. What that hands over at once this reactor takes at once, so that whoever names
    /// a topic that nobody knew has spent what it costs to find out who receives it.
    pub(super) fn publish_here(
        &mut self,
        carried: Carried<'_>,
        author: Author<'_>,
        creator: u32,
    ) -> Result<Placed, PublishRefusal> {
        let Carried { topic, mut draft, key, retain } = carried;
        // Else what waits goes first.
        let waiting_count = self.exchange.own_count();
        let is_first = waiting_count == 0;
        let (outboxes, deflater) = (self.exchange.outboxes(), &mut self.deflater);
        let home = &mut self.home;
        draft.user = match author {
            Author::Connection(slot) if home.keeping().stamps_users() => self.gate.user(slot),
            Author::Connection(_) => None,
            Author::Elsewhere(user) => user,
        };
        let placed = match (key, retain) {
            (None, false) => {
                let seq = home.handle_publish(topic, draft, creator, deflater, outboxes)?;
                Placed { seq, is_duplicate: false }
            }
            (None, true) => {
                let seq = home.handle_retain(topic, draft, creator, deflater, outboxes)?;
                Placed { seq, is_duplicate: false }
            }
            (Some(key), _) => {
                home.handle_publish_once(topic, key, retain, draft, creator, deflater, outboxes)?
            }
        };
        if is_first {
            self.take_own();
        }
        self.exchange.note_own_beyond(waiting_count);
        Ok(placed)
    }

    /// Counts a publication of so many bytes as one of the connection's user, if that may have one more.
    fn count_publish<'a>(
        &mut self,
        slot: u32,
        id: Option<RequestId<'a>>,
        topic: TopicName<&'a str>,
        len: usize,
    ) -> Result<(), CommandError<'a>> {
        self.meter.spend(price::LOOK);
        let Err((whose, retry_after_ms)) = self.gate.take_publish(slot, len) else { return Ok(()) };
        self.stats.rate_limited_total += 1;
        self.shared.troubles.note(Trouble::QuotaRate);
        let who = match whose {
            Whose::User => {
                "this user publishes as much as limits.publishes_per_s_per_user_max and limits.bytes_per_s_per_user_max allow"
            }
            Whose::Tenant => {
                "this tenant publishes as much as its publishes_per_s_max and bytes_per_s_max allow"
            }
        };
        let message = format!("{who}; this is allowed in {retry_after_ms} ms");
        Err(CommandError {
            retry_after_ms: Some(retry_after_ms),
            ..refusal("publish", id, topic.into_text(), ErrorCode::RateLimited, message.into())
        })
    }

    /// Whether the topic takes publications of whoever this is.
    fn may_have_author(&mut self, slot: u32, topic: &str) -> bool {
        if self.gate.user(slot).is_some() {
            return true;
        }
        let (keys, visited) = self.home.keeping().keys_of(topic);
        self.meter.spend(u64::from(visited) * price::NODE);
        keys.takes_anonymous()
    }

    /// The key that the connection gave, as one of whoever it is.
    fn key_of<'a>(&self, slot: u32, bytes: &'a [u8]) -> Key<'a> {
        let named = self.gate.named(slot);
        let scope = named.map(|Named { issuer, user, .. }| self.shared.scopes.of(issuer, user));
        Key { scope, bytes }
    }

    /// Sends a publication to its home, which may be this reactor's, by way of a request.
    fn send_publish(&mut self, slot: u32, home: usize, publish: Publish<'_>) {
        let Publish { id, topic, payload, kind, receivers, retain, key } = publish;
        let key = key.map(|bytes| self.key_of(slot, bytes));
        let user = if self.home.keeping().stamps_users() { self.gate.user(slot) } else { None };
        let carried = Carried { topic, draft: Draft { payload, kind, user }, key, retain };
        let bytes = self.carrier.carry(carried.parts());
        let shape = Shape::of(&carried);
        let pending = id.map(|id| {
            let kind = PendingKind::Publish(Placing::new(receivers));
            let topic = HeldTopic::Carried(bytes.clone(), shape.topic_len());
            PendingPublish { id: self.hold(slot, Some(id), topic, kind), receivers }
        });
        let connection = self.connections.id_of(slot);
        self.send_request(
            home,
            Request::Publish(PublishRequest {
                bytes,
                shape,
                connection,
                pending,
                creator: self.creator(slot),
            }),
        );
    }
}
