//! Commands that are about the past of topics, and what they come to: histories, and subscriptions to filters that begin with it.
//!
//! As in [`super`] it is [`Desk`]'s, and no type.

use std::sync::Arc;

use super::{ALREADY_SUBSCRIBED, BUSY, refusal};
use crate::{
    protocol::{
        command::{Anchor, At, CommandError, ErrorCode, RequestId, Resume},
        record::Records,
        reply::{self, Begin, History, Reply},
        tenant,
        topic::{self, Filter, TopicName},
    },
    pubsub::{
        message::{PastAnswer, PastContent, PastFrom, PastRequest, Request, TourStart},
        subscription::{SubscribeRefused, Toured, WantedTour},
    },
    reactor::{
        desk::Desk,
        pending::{HeldId, HeldTopic, Pending, PendingKind},
    },
    work::price,
};

impl Desk {
    /// Subscribes to a filter, beginning with the past of its topics.
    pub(super) fn handle_subscribe_tour<'a>(
        &mut self,
        slot: u32,
        id: Option<RequestId<'a>>,
        filter: Filter<&'a str>,
        last: Option<u32>,
        resume: Option<&Resume>,
    ) -> Result<(), CommandError<'a>> {
        let text = filter.as_str();
        let refused = |code, message| refusal("subscribe", id, text, code, message);
        self.check_may_subscribe(slot, id, text)?;
        let asks = last.is_some_and(|last| last > 0) || resume.is_some_and(|resume| resume.has_since);
        if asks {
            self.check_past(slot, "subscribe", id, text, asks)?;
        }
        self.check_limits(slot, id, filter)?;
        let (connection, encoding) = (self.connections.id_of(slot), self.encoding(slot));
        let wanted = self.wanted_tour(slot, text, last, resume);
        let filter = self.inner_filter(slot, filter);
        let begun = self.fanout.handle_subscribe_tour(
            connection,
            filter.borrowed(),
            encoding,
            wanted,
            &mut self.outcome,
        );
        // The answer goes first: what comes of it at once belongs behind it.
        let answered = match begun {
            Ok(()) if id.is_some() => {
                let begin = Begin::default();
                self.write_reply(
                    slot,
                    &Reply::Ok {
                        id,
                        topic: text,
                        seq: None,
                        begin,
                        receivers: None,
                        is_duplicate: false,
                        hint: None,
                    },
                );
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(SubscribeRefused::Already) => {
                Err(refused(ErrorCode::AlreadySubscribed, ALREADY_SUBSCRIBED.into()))
            }
            Err(SubscribeRefused::Busy) => Err(refused(ErrorCode::Busy, BUSY.into())),
        };
        self.work_off();
        answered
    }

    /// What a subscription to `filter` begins with by which the client comes back, or asks for the newest.
    fn wanted_tour(
        &mut self,
        slot: u32,
        filter: &str,
        last: Option<u32>,
        resume: Option<&Resume>,
    ) -> WantedTour {
        let epoch = self.shared.epoch;
        let last = last.unwrap_or(0);
        let Some(resume) = resume.filter(|resume| resume.has_since) else {
            return WantedTour {
                start: TourStart { listed: Vec::new(), last },
                ticks: None,
                is_recovered: true,
            };
        };
        let home_count = self.shared.homes.count();
        let at = resume.at.as_ref().filter(|at| at.epoch == epoch && at.ticks.len() == home_count);
        let listed =
            resume.epochs.iter().filter(|(its, _)| *its == Some(epoch)).flat_map(|(_, listed)| listed);
        let mut listed: Vec<(Box<str>, u64)> = listed
            .filter(|(topic, _)| topic::matches(filter, topic))
            .map(|(topic, seq)| (self.inner_text(slot, topic).into(), *seq))
            .collect();
        listed.sort_unstable();
        let is_foreign = |(its, listed): &(Option<u64>, Vec<_>)| *its != Some(epoch) && !listed.is_empty();
        let (keeps_all, looked_at) = self.home.keeping().keeps_all(filter);
        self.meter.spend((listed.len() + looked_at) as u64 * 2 * price::MATCH);
        let is_recovered = at.is_some() && keeps_all && !resume.epochs.iter().any(is_foreign);
        WantedTour { start: TourStart { listed, last }, ticks: at.map(|at| at.ticks.to_vec()), is_recovered }
    }

    /// The connection has all that was before of the topics that its filter matches.
    pub(super) fn tell_replayed(
        &mut self,
        Toured { connection, filter, count, is_recovered, ticks }: Toured,
    ) {
        let at = At { epoch: self.shared.epoch, ticks: ticks.into() };
        let filter = tenant::outer(&filter);
        self.write_reply(connection, &Reply::Replayed { filter, count, recovered: is_recovered, at: &at });
    }

    pub(super) fn handle_history<'a>(
        &mut self,
        slot: u32,
        id: RequestId<'a>,
        topic: TopicName<&'a str>,
        limit: u32,
        anchor: Option<Anchor>,
    ) -> Result<(), CommandError<'a>> {
        let refused = |code, message| refusal("history", Some(id), topic.as_str(), code, message);
        self.check_past(slot, "history", Some(id), topic.into_text(), true)?;
        let (from, limit) = match anchor {
            None => (PastFrom::Newest, limit),
            // There is nothing next to a place of another numbering; the answer's epoch tells.
            Some(Anchor::Before(since) | Anchor::After(since)) if !self.is_of_this_start(&since) => {
                (PastFrom::Newest, 0)
            }
            Some(Anchor::Before(since)) => (PastFrom::Before(since.seq), limit),
            Some(Anchor::After(since)) => (PastFrom::After(since.seq), limit),
        };
        if !self.meters.begin_asking(slot) {
            let message = "another history of this connection is not answered yet: one at a time is allowed";
            return Err(refused(ErrorCode::Busy, message.into()));
        }
        let topic = self.inner_topic(slot, topic);
        let home = self.shared.homes.of(topic.borrowed());
        let topic: Arc<str> = topic.into_text().into();
        let pending = self.hold(slot, Some(id), HeldTopic::Shared(topic.clone()), PendingKind::History);
        let request = PastRequest { topic, from, limit, pending };
        self.send_request(home, Request::Past(Box::new(request)));
        Ok(())
    }

    pub(super) fn answer_history(&mut self, answer: PastAnswer) {
        let Pending { connection, id, topic, .. } = self.pending.remove(answer.pending);
        let Some(slot) = self.open_slot(connection) else { return };
        self.meters.end_asking(slot);
        let Some(PastContent { spans, format, head, lowest, has_more }) = answer.content else {
            let message = "this topic keeps nothing of its past: a history of one for which a [[topic]] sets history_count, \
                           history_bytes or history_ms, or which has a value, is allowed";
            let id = id.as_ref().map(HeldId::get);
            let error = refusal("history", id, topic.get(), ErrorCode::Unsupported, message.into());
            return self.refuse_command(slot, &error);
        };
        let to = self.connections[slot].format();
        let bytes: usize = spans.spans.iter().map(|span| span.range.len()).sum();
        self.meter.spend(bytes as u64 * price::PUBLISHED_BYTE);
        let history = History {
            id: id.as_ref().map(HeldId::get).expect("a history has an id"),
            topic: topic.get(),
            epoch: self.shared.epoch,
            seq: head,
            from: lowest,
            more: has_more,
            messages: spans.spans.iter().flat_map(|span| Records::new(format, span.range.bytes())),
        };
        reply::write_history(to, history, self.replies(slot));
        // It may be far more than what asked for it.
        self.note_buffered(slot);
    }
}
