//! What a connection is subscribed to, for whoever looks at all of it again.

use std::sync::Arc;

use super::{Fanout, subscriber::Subscriber};
use crate::{
    protocol::{Encoding, topic},
    pubsub::message::PendingId,
    work::price,
};

impl Fanout {
    /// The filters with wildcards that the connection has subscribed to and not taken back, whether or not that has started; its
    /// tours first, which stand in the way of taking back others.
    pub fn list_filters(&mut self, connection: u32) -> Vec<Arc<str>> {
        let subscriber = self.subscribers.get(connection as usize);
        let Some(subscriber) = subscriber.filter(|subscriber| !subscriber.is_leaving()) else {
            return Vec::new();
        };
        let mut texts = Vec::new();
        if let Some(replaying) = subscriber.replaying() {
            texts.extend(replaying.tours.iter().map(|place| self.tours[*place as usize].filter.clone()));
        }
        if let Some(rare) = &subscriber.rare {
            let held = rare.filters.iter().filter(|held| rare.unsubscribing != Some(held.key));
            texts.extend(held.map(|held| self.filters.entries[held.key.index()].text.clone()));
        }
        self.work += texts.len() as u64 * price::VISIT;
        texts
    }

    /// The topics that the connection has subscribed to by name and not taken back, or taken back and subscribed to again, of those
    /// of its subscriptions that stand before `below`: of the last `count` of them. Tells before which the next ones stand, 0 if
    /// there are none.
    ///
    /// Nobody is passed over who goes on from there, whatever happens in between: what leaves is replaced by what stood further
    /// on, and what comes stands behind all others.
    pub fn list_names(&mut self, connection: u32, below: u32, count: u32) -> (Vec<Arc<str>>, u32) {
        let subscriber = self.subscribers.get(connection as usize);
        let Some(subscriber) = subscriber.filter(|subscriber| !subscriber.is_leaving()) else {
            return (Vec::new(), 0);
        };
        let end = below.min(subscriber.subscriptions().len() as u32);
        let start = end.saturating_sub(count);
        let places = &subscriber.subscriptions()[start as usize..end as usize];
        self.work += places.len() as u64 * price::VISIT;
        let endings = subscriber.rare.as_ref().and_then(|rare| rare.endings.as_ref());
        let is_again = |view| endings.is_some_and(|endings| endings.is_again(view));
        let by_name =
            places.iter().filter(|held| held.is_by_name() && (!held.is_ending() || is_again(held.view)));
        (by_name.map(|held| self.views[held.view as usize].name.clone()).collect(), start)
    }

    /// Takes one of those out that are to be told when a filter starts, of which `is_its` tells that it is the right one.
    pub fn take_waiting(
        &mut self,
        encoding: Encoding,
        filter: &str,
        is_its: impl Fn(PendingId) -> bool,
    ) -> Option<PendingId> {
        let key = self.filters.by_text[encoding.index()].get(filter)?;
        let waiting = &mut self.filters.entries[key.index()].waiting;
        self.work += waiting.len() as u64 * price::VISIT;
        let place = waiting.iter().position(|pending| is_its(*pending))?;
        Some(waiting.swap_remove(place))
    }

    /// The filter of a tour of the connection's, of other topics than just `text`, while which `text` cannot be taken back.
    pub fn find_tour_in_the_way(&mut self, connection: u32, text: &str) -> Option<Arc<str>> {
        let replaying = self.subscribers.get(connection as usize).and_then(Subscriber::replaying)?;
        self.work += replaying.tours.len() as u64 * price::MATCH;
        let mut filters = replaying.tours.iter().map(|place| &self.tours[*place as usize].filter);
        filters.find(|filter| ***filter != *text && topic::overlap(filter, text)).cloned()
    }
}
