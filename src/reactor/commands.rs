//! What commands do, and what becomes of them at homes.
//!
//! It is [`Desk`]'s, and no type: a command asks home and fan-out, and what these say closes and answers connections, which asks
//! them again. A type for it would borrow all that there is.

mod inner;
mod past;
mod publish;

use std::{borrow::Cow, sync::Arc};

use publish::{Author, Publish};

use super::{
    connection::{Pause, Phase},
    desk::Desk,
    pending::{HeldId, HeldTopic, Pending, PendingKind},
};
use crate::{
    metrics::{GapReason, Trouble},
    protocol::{
        Encoding,
        close::CloseReason,
        command::{Command, CommandError, ErrorCode, RequestId, Since, Start},
        reply::{self, Begin, Reply},
        tenant,
        topic::{self, Filter, TopicName},
    },
    pubsub::{
        home::{Placed, PublishRefusal},
        message::{Delivery, PageFrom, PendingId, PendingPublish, PublishRequest, Request},
        subscription::{
            ConnectionId, Gap, Refused, Replayed, Started, SubscribeRefused, Subscribed, Unsubscribed, Wanted,
        },
    },
    work::price,
};

const ALREADY_SUBSCRIBED: &str =
    "this connection has this subscription already, or receives the topic whose past it asks for";
const BUSY: &str = "some of the past that this matches is still being sent to this connection: it is allowed when that is over";

impl Desk {
    /// Carries out a command, or tells why not.
    pub(super) fn handle_command(&mut self, slot: u32, command: Result<Command<'_>, CommandError<'_>>) {
        let phase = self.connections[slot].phase;
        if !phase.is_served() {
            return;
        }
        if !self.meters.take_command(slot, self.now_ns) {
            return self.close_for_rate(slot, "gives", "commands");
        }
        self.stats.commands_total += 1;
        self.meter.spend(price::COMMAND);
        if phase != Phase::Open
            && let Err(error) = self.check_stranger(&command)
        {
            return self.refuse_command(slot, &error);
        }
        let result = match &command {
            Ok(Command::Publish { id, topic, payload, kind, receivers, retain, key }) => {
                let publish = Publish {
                    id: *id,
                    topic: *topic,
                    payload,
                    kind: *kind,
                    receivers: *receivers,
                    key: *key,
                    retain: *retain,
                };
                self.handle_publish(slot, publish)
            }
            Ok(Command::Subscribe { id, filter, start }) => {
                self.handle_subscribe(slot, *id, filter.borrowed(), *start)
            }
            Ok(Command::SubscribeTour { id, filter, last, resume }) => {
                self.handle_subscribe_tour(slot, *id, filter.borrowed(), *last, resume.as_deref())
            }
            Ok(Command::History { id, topic, limit, anchor }) => {
                self.handle_history(slot, *id, topic.borrowed(), *limit, *anchor)
            }
            Ok(Command::Unsubscribe { id, filter }) => self.handle_unsubscribe(slot, *id, filter),
            Ok(Command::Ping { id }) => {
                self.write_reply(slot, &Reply::Pong { id: *id });
                Ok(())
            }
            Ok(Command::Auth { id, token }) => self.handle_auth(slot, *id, token.0),
            Err(error) => {
                if error.op == Some("auth") {
                    self.gate.note_shown();
                }
                return self.refuse_command(slot, error);
            }
        };
        if let Err(error) = result {
            self.refuse_command(slot, &error);
        }
    }

    /// The connection has sent what is no command: more of it than it may closes it.
    pub(super) fn meter_other(&mut self, slot: u32) {
        if self.connections[slot].phase.is_served() && !self.meters.take_other(slot, self.now_ns) {
            self.close_for_rate(slot, "sends", "pings or messages without commands");
        }
    }

    fn close_for_rate(&mut self, slot: u32, sends: &str, what: &str) {
        let rate = self.shared.config.limits.commands_per_s_max;
        let text = format!("a connection {sends} at most {rate} {what}/s (limits.commands_per_s_max)");
        self.shared.troubles.note(Trouble::CommandRate);
        self.close(slot, CloseReason::RateLimited, &text);
    }

    pub(super) fn refuse_command(&mut self, slot: u32, error: &CommandError<'_>) {
        self.stats.command_errors_total += 1;
        self.write_reply(slot, &Reply::Error(error));
    }

    /// Takes at once what this home has to say to this reactor.
    fn take_own(&mut self) {
        while let Some(delivery) = self.exchange.take_own() {
            self.handle_delivery(delivery);
        }
    }

    fn handle_subscribe<'a>(
        &mut self,
        slot: u32,
        id: Option<RequestId<'a>>,
        filter: Filter<&'a str>,
        start: Start,
    ) -> Result<(), CommandError<'a>> {
        let text = filter.as_str();
        let refused = |code, message| refusal("subscribe", id, text, code, message);
        self.check_may_subscribe(slot, id, text)?;
        let asks = start.since.is_some() || start.last.is_some_and(|last| last > 0);
        let may_have_past = self.check_past(slot, "subscribe", id, text, asks)?;
        self.check_limits(slot, id, filter)?;
        let filter = self.inner_filter(slot, filter);
        let (connection, encoding) = (self.connections.id_of(slot), self.encoding(slot));
        // Held without an id as well: a refusal is told in any case.
        let held = HeldTopic::Shared(Arc::from(&*filter));
        let pending = self.hold(slot, id, held, PendingKind::Subscribe(start));
        let past = match filter.as_topic() {
            Some(topic) if start.is_plain() => {
                (may_have_past && self.home.may_have_value(&topic)).then_some(PageFrom::Value)
            }
            _ => (!start.is_plain()).then(|| PageFrom::Start {
                since: start.since.filter(|since| self.is_of_this_start(since)).map(|since| since.seq),
                last: start.last,
            }),
        };
        let creator = self.creator(slot);
        let (fanout, outcome, asked) = (&mut self.fanout, &mut self.outcome, Some(pending));
        let subscribed = match filter.as_topic() {
            Some(topic) => fanout.handle_subscribe_topic(
                connection,
                Wanted { topic, encoding, past, pending: asked, creator },
                outcome,
            ),
            None => fanout.handle_subscribe_filter(connection, encoding, filter.borrowed(), asked, outcome),
        };
        // Whoever need not wait was not waiting: the answer is written here.
        if !matches!(subscribed, Ok(Subscribed::Later)) {
            self.pending.remove(pending);
        }
        self.work_off();
        match subscribed {
            Ok(Subscribed::Later) => {}
            Ok(Subscribed::Now(seq)) if id.is_some() => {
                let (begin, hint) = (self.begin(start, seq, None), topic::hint(text));
                self.write_reply(
                    slot,
                    &Reply::Ok { id, topic: text, seq, begin, receivers: None, is_duplicate: false, hint },
                );
            }
            Ok(Subscribed::Now(_)) => {}
            Err(SubscribeRefused::Already) => {
                return Err(refused(ErrorCode::AlreadySubscribed, ALREADY_SUBSCRIBED.into()));
            }
            Err(SubscribeRefused::Busy) => return Err(refused(ErrorCode::Busy, BUSY.into())),
        }
        Ok(())
    }

    /// Whether the connection may have one more subscription, to `filter`.
    fn check_limits<'a>(
        &self,
        slot: u32,
        id: Option<RequestId<'a>>,
        filter: Filter<&'a str>,
    ) -> Result<(), CommandError<'a>> {
        let text = filter.as_str();
        let refused = |code, message| refusal("subscribe", id, text, code, message);
        let limits = &self.shared.config.limits;
        let (has_wildcards, levels) = (filter.as_topic().is_none(), filter.level_count());
        let plus_levels_max = limits.plus_levels_max;
        if levels > plus_levels_max && filter.has_plus() {
            let message = format!(
                "a filter with + has at most {plus_levels_max} levels, this one has {levels} (limits.plus_levels_max)"
            );
            return Err(refused(ErrorCode::LimitReached, message.into()));
        }
        let (filters_max, levels_max) = (limits.filters_max, limits.filter_levels_max);
        let (filter_count, level_count) = self.fanout.filters_of(slot);
        if has_wildcards && filter_count >= filters_max {
            let message = format!("a connection has at most {filters_max} filters (limits.filters_max)");
            return Err(refused(ErrorCode::LimitReached, message.into()));
        }
        if has_wildcards && level_count + levels > levels_max {
            let message = format!(
                "this filter has {levels} levels, and this connection's filters {level_count}: all together have \
                 at most {levels_max} (limits.filter_levels_max)"
            );
            return Err(refused(ErrorCode::LimitReached, message.into()));
        }
        let subscriptions_max = limits.subscriptions_max;
        if self.fanout.subscriptions_of(slot) >= subscriptions_max {
            let message = format!("a connection has at most {subscriptions_max} subscriptions");
            return Err(refused(ErrorCode::LimitReached, message.into()));
        }
        Ok(())
    }

    fn handle_unsubscribe<'a>(
        &mut self,
        slot: u32,
        id: Option<RequestId<'a>>,
        filter: &'a str,
    ) -> Result<(), CommandError<'a>> {
        let refused = |code, message| refusal("unsubscribe", id, filter, code, message);
        // After the ok it would be about a topic that the client left, and might be widened by what is
        // missed once it has come back.
        self.write_gaps(slot);
        let encoding = self.encoding(slot);
        let inner = self.inner_text(slot, filter);
        // As many may wait as the connection leaves topics: their names are what views have anyway.
        let held = self.fanout.shared_text(encoding, &inner).unwrap_or_else(|| Arc::from(&*inner));
        let pending = self.hold(slot, id, HeldTopic::Shared(held), PendingKind::Unsubscribe);
        let is_first = self.exchange.own_count() == 0;
        let outcome = &mut self.outcome;
        let unsubscribed = self.fanout.handle_unsubscribe(slot, encoding, &inner, pending, outcome);
        if unsubscribed != Ok(Unsubscribed::Later) {
            self.pending.remove(pending);
        }
        self.work_off();
        if is_first {
            self.take_own();
        }
        match unsubscribed {
            Ok(Unsubscribed::Now) if id.is_some() => {
                self.write_reply(
                    slot,
                    &Reply::Ok {
                        id,
                        topic: filter,
                        seq: None,
                        begin: Begin::default(),
                        receivers: None,
                        is_duplicate: false,
                        hint: None,
                    },
                );
            }
            Ok(_) => {}
            Err(Refused::Busy) => return Err(refused(ErrorCode::Busy, BUSY.into())),
            Err(Refused::NotSubscribed) => {
                let message = "this connection has no such subscription";
                return Err(refused(ErrorCode::NotSubscribed, message.into()));
            }
        }
        Ok(())
    }

    /// What there is to tell of a subscription to a topic, which starts at `seq`.
    fn begin(&self, start: Start, seq: Option<u64>, replayed: Option<Replayed>) -> Begin {
        Begin {
            epoch: seq.map(|_| self.shared.epoch),
            recovered: start.since.and(replayed).map(|replayed| replayed.is_recovered),
            replayed: replayed.map(|replayed| replayed.count),
        }
    }

    /// Whether a place in a topic's order is of this broker's numbering.
    fn is_of_this_start(&self, since: &Since) -> bool {
        since.epoch == Some(self.shared.epoch)
    }

    /// Carries out a request to this home.
    pub(super) fn handle_request(&mut self, from: usize, request: Request) {
        self.meter.spend(price::EXCHANGE);
        match request {
            Request::Publish(publish) => {
                self.meter.spend(price::PUBLICATION + publish.bytes.len() as u64 * price::PUBLISHED_BYTE);
                let carried = publish.carried();
                let (topic, author) = (carried.topic, Author::Elsewhere(carried.draft.user));
                let placed = match self.publish_here(carried, author, publish.creator) {
                    Ok(placed) => placed,
                    Err(refusal) => {
                        return self.exchange.say(from, Delivery::Refused(publish, refusal));
                    }
                };
                if let Some(PendingPublish { id: pending, receivers }) = publish.pending {
                    let counts = match receivers && !placed.is_duplicate {
                        true => {
                            self.home.handle_count(&topic, from as u32, pending, self.exchange.outboxes())
                        }
                        false => 0,
                    };
                    self.exchange.say(from, Delivery::Published { pending, placed, counts });
                }
            }
            Request::Subscribe { topic, encoding, creator } => {
                let topic = TopicName::checked(&*topic);
                self.home.handle_subscribe(from, topic, encoding, creator, self.exchange.outboxes())
            }
            Request::Unsubscribe { topic, encoding } => {
                self.home.handle_unsubscribe(from, &topic, encoding, self.exchange.outboxes());
            }
            Request::Mark { topic, encoding, connection, pending } => {
                self.home.handle_mark(&topic, self.exchange.outboxes());
                let mark = Delivery::Marked { topic, encoding, connection, pending };
                self.exchange.say(from, mark);
            }
            Request::Page(page) => self.home.handle_page(from, *page, self.exchange.outboxes()),
            Request::Tour(tour) => {
                let home = self.exchange.index();
                self.home.handle_tour(home, from, &tour, self.exchange.outboxes());
            }
            Request::Past(past) => self.home.handle_past(from, &past, self.exchange.outboxes()),
            Request::AddFilter { filter, encoding, registration } => {
                self.home.handle_add_filter(from, &filter, encoding, registration, self.exchange.outboxes());
            }
            Request::RemoveFilter { filter, encoding } => {
                self.home.handle_remove_filter(from, &filter, encoding, self.exchange.outboxes());
            }
        }
    }

    /// Carries out a delivery of some home to this reactor.
    pub(super) fn handle_delivery(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Batch(batch) => self.fanout.handle_batch(batch, self.now_ns, self.pacing.delay_ns()),
            Delivery::Subscribed { topic, encoding, seq } => {
                self.fanout.handle_subscribed(&topic, encoding, seq, &mut self.outcome);
                self.work_off();
            }
            Delivery::Marked { topic, encoding, connection, pending } => {
                self.fanout.handle_marked(&topic, encoding, connection, pending, &mut self.outcome);
                self.work_off();
            }
            Delivery::Page(page) => {
                self.fanout.handle_page(*page, &mut self.outcome);
                self.work_off();
            }
            Delivery::Past(answer) => self.answer_history(*answer),
            Delivery::Toured(page) => {
                self.fanout.handle_toured(*page, &mut self.outcome);
                self.work_off();
            }
            Delivery::FilterAdded { registration } => {
                self.fanout.handle_filter_added(registration, &mut self.outcome);
                self.work_off();
            }
            Delivery::Published { pending, placed, counts } => self.handle_published(pending, placed, counts),
            Delivery::Refused(publish, refusal) => self.handle_refused(&publish, refusal),
            Delivery::Count { topic, asker, pending } => {
                let receivers = self.fanout.receiver_count(&topic);
                self.exchange.say(asker as usize, Delivery::Counted { pending, receivers });
            }
            Delivery::Counted { pending, receivers } => self.handle_counted(pending, receivers),
            Delivery::Overrun => unreachable!("a home waits for reactors"),
        }
    }

    /// Works off what the fan-out asks for: requests to homes, answers that can be given, and verdicts.
    pub(super) fn work_off(&mut self) {
        // Closing a connection asks for more.
        while !self.outcome.is_empty() {
            let mut outcome = std::mem::take(&mut self.outcome);
            for (home, request) in outcome.requests.drain(..) {
                self.send_request(home, request);
            }
            // What ends with one is answered behind it.
            for (slot, gap) in outcome.past_gaps.drain(..) {
                self.tell_gap(slot, &gap, GapReason::Retention);
                self.note_buffered(slot);
            }
            for started in outcome.started.drain(..) {
                self.answer_started(started);
            }
            for toured in outcome.toured.drain(..) {
                self.tell_replayed(toured);
            }
            for pending in outcome.again_refused.drain(..) {
                self.refuse_again(pending);
            }
            for slot in outcome.owed.drain(..) {
                self.note_buffered(slot);
                self.list_if_owed(slot);
            }
            for slot in outcome.released.drain(..) {
                self.let_go_on(slot, Pause::Task);
                self.review.note_left(slot);
            }
            for (slot, verdict) in outcome.judged.drain(..) {
                self.carry_out(slot, verdict);
            }
            self.queues.departed.append(&mut outcome.departed);
            // Its memory serves again, unless what it was used for has used the new one.
            if self.outcome.is_empty() {
                self.outcome = outcome;
            }
        }
    }

    fn send_request(&mut self, home: usize, request: Request) {
        if home == self.exchange.index() {
            return match request {
                Request::Tour(_) => self.exchange.ask_own(request),
                request => self.handle_request(home, request),
            };
        }
        self.exchange.request(home, request);
    }

    fn answer_started(&mut self, started: Started) {
        let Some(pending) = started.pending else { return };
        let Pending { connection, id, topic, kind } = self.pending.remove(pending);
        let Some(connection) = self.open_slot(connection) else { return };
        // Of what an unsubscribe ends nothing is told behind its `ok`.
        self.write_gaps(connection);
        if let (PendingKind::Subscribe(Start { since: Some(_), .. }), Some(replayed)) =
            (&kind, started.replayed)
        {
            self.stats.resumes_total[usize::from(replayed.is_recovered)] += 1;
        }
        let (id, topic) = (id.as_ref().map(HeldId::get), topic.get());
        if let PendingKind::TakeBack(reason) = kind {
            return self.tell_taken_back(connection, topic, reason);
        }
        if let Some(refused) = started.refusal {
            let error = refusal("subscribe", id, topic, ErrorCode::LimitReached, refused.to_string().into());
            self.refuse_command(connection, &error);
        } else if id.is_some() {
            let seq = started.seq;
            let (begin, hint) = match kind {
                PendingKind::Subscribe(start) => {
                    (self.begin(start, seq, started.replayed), topic::hint(topic))
                }
                _ => (Begin::default(), None),
            };
            self.write_reply(
                connection,
                &Reply::Ok { id, topic, seq, begin, receivers: None, is_duplicate: false, hint },
            );
        }
    }

    /// A subscribe that waited asks for the past of what the connection receives.
    fn refuse_again(&mut self, pending: Option<PendingId>) {
        let Some(Pending { connection, id, topic, .. }) = pending.map(|pending| self.pending.remove(pending))
        else {
            return;
        };
        if let Some(slot) = self.open_slot(connection) {
            let (id, topic) = (id.as_ref().map(HeldId::get), topic.get());
            let error =
                refusal("subscribe", id, topic, ErrorCode::AlreadySubscribed, ALREADY_SUBSCRIBED.into());
            self.refuse_command(slot, &error);
        }
    }

    fn handle_published(&mut self, id: PendingId, placed: Placed, counts: u32) {
        self.pending.placing(id).note_published(placed, counts);
        self.answer_publish(id);
    }

    fn handle_refused(&mut self, publish: &PublishRequest, refused: PublishRefusal) {
        let held = publish.pending.and_then(|pending| self.pending.remove(pending.id).id);
        let Some(connection) = self.open_slot(publish.connection) else { return };
        let topic = HeldTopic::Carried(publish.bytes.clone(), publish.shape.topic_len());
        let (id, topic) = (held.as_ref().map(HeldId::get), topic.get());
        self.refuse_command(connection, &publish_refusal(id, topic, refused));
    }

    fn handle_counted(&mut self, id: PendingId, counted: u64) {
        self.pending.placing(id).note_counted(counted);
        self.answer_publish(id);
    }

    /// Answers a publication once its `seq` is known and every count is in.
    fn answer_publish(&mut self, id: PendingId) {
        let Some((placed, receivers)) = self.pending.placing(id).placed() else { return };
        let Pending { connection, id, topic, .. } = self.pending.remove(id);
        if let Some(connection) = self.open_slot(connection) {
            let (id, topic) = (id.as_ref().map(HeldId::get), topic.get());
            self.write_reply(connection, &placed_ok(id, topic, placed, receivers));
        }
    }

    /// Turns gaps that the connection must be told into replies.
    pub fn write_gaps(&mut self, slot: u32) {
        const REASON: GapReason = GapReason::SlowConsumer;
        let Some((gaps, resync)) = self.fanout.take_gaps(slot) else { return };
        for gap in &gaps {
            self.tell_gap(slot, gap, REASON);
        }
        if let Some(filter) = &resync {
            self.stats.gaps_total[REASON.index()] += 1;
            let format = self.connections[slot].format();
            let filter = tenant::outer(filter);
            reply::write(format, &Reply::GapMany { filter, reason: REASON.as_str() }, self.replies(slot));
        }
    }

    /// Tells the connection what it will not get.
    pub(super) fn tell_gap(&mut self, slot: u32, gap: &Gap, reason: GapReason) {
        self.stats.gaps_total[reason.index()] += 1;
        let format = self.connections[slot].format();
        let topic = tenant::outer(&gap.topic);
        let gap = Reply::Gap { topic, from: gap.from, to: gap.to, reason: reason.as_str() };
        reply::write(format, &gap, self.replies(slot));
    }

    fn hold(
        &mut self,
        slot: u32,
        id: Option<RequestId<'_>>,
        topic: HeldTopic,
        kind: PendingKind,
    ) -> PendingId {
        let connection = self.connections.id_of(slot);
        self.pending.insert(Pending { connection, id: id.map(HeldId::new), topic, kind })
    }

    /// The slot of a connection that still takes answers.
    fn open_slot(&self, ConnectionId { slot, generation }: ConnectionId) -> Option<u32> {
        let connection = &self.connections[slot];
        (connection.phase == Phase::Open && connection.generation == generation).then_some(slot)
    }

    /// Who answers for the topics that the connection brings into being: a number that hardly any other connection
    /// has, of this or another reactor.
    fn creator(&self, slot: u32) -> u32 {
        if self.shared.config.limits.names_per_connection_max == 0 {
            return 0;
        }
        let generation = self.connections[slot].generation;
        let life = (self.exchange.index() as u64) << 32 | u64::from(generation);
        (self.shared.homes.spread(slot, life) as u32).max(1)
    }

    /// In which encoding the connection gets publications.
    pub(super) fn encoding(&self, slot: u32) -> Encoding {
        let connection = &self.connections[slot];
        let is_deflated = connection.agreement.is_some_and(|agreement| self.deflater.suits(agreement));
        Encoding::new(connection.format(), is_deflated)
    }

    pub(super) fn write_reply(&mut self, slot: u32, reply: &Reply<'_>) {
        let format = self.connections[slot].format();
        reply::write(format, reply, self.replies(slot));
    }
}

/// The `ok` of a publication.
fn placed_ok<'a>(
    id: Option<RequestId<'a>>,
    topic: &'a str,
    placed: Placed,
    receivers: Option<u64>,
) -> Reply<'a> {
    let Placed { seq, is_duplicate } = placed;
    Reply::Ok { id, topic, seq: Some(seq), begin: Begin::default(), receivers, is_duplicate, hint: None }
}

fn publish_refusal<'a>(
    id: Option<RequestId<'a>>,
    topic: &'a str,
    refused: PublishRefusal,
) -> CommandError<'a> {
    let code = match refused {
        PublishRefusal::Topic(_) => ErrorCode::LimitReached,
        PublishRefusal::NoKeys | PublishRefusal::NotRetained => ErrorCode::Unsupported,
    };
    refusal("publish", id, topic, code, refused.to_string().into())
}

fn refusal<'a>(
    op: &'static str,
    id: Option<RequestId<'a>>,
    topic: &'a str,
    code: ErrorCode,
    message: Cow<'static, str>,
) -> CommandError<'a> {
    CommandError { op: Some(op), id, topic: Some(Cow::Borrowed(topic)), code, message, retry_after_ms: None }
}
