//! What a connection is subscribed to, for whoever looks at all of it again.

use std::sync::Arc;

use super::{Fanout, subscriber::Subscriber};
use crate::{protocol::topic, work::price};

impl Fanout {
    /// The topics and filters that the connection has subscribed to and not taken back, whether or not that has started; its
    /// tours first, which stand in the way of taking back others.
    pub fn list_subscriptions(&mut self, connection: u32) -> Vec<Arc<str>> {
        let Some(subscriber) = self.subscribers.get(connection as usize) else { return Vec::new() };
        if subscriber.is_leaving() {
            return Vec::new();
        }
        let mut texts = Vec::with_capacity(subscriber.asked_count as usize);
        if let Some(replaying) = Subscriber::replaying(subscriber) {
            texts.extend(replaying.tours.iter().map(|place| self.tours[*place as usize].filter.clone()));
        }
        if let Some(rare) = &subscriber.rare {
            let held = rare.filters.iter().filter(|held| rare.unsubscribing != Some(held.key));
            texts.extend(held.map(|held| self.filters.entries[held.key.index()].text.clone()));
        }
        let by_name = subscriber.subscriptions().iter().filter(|held| held.is_by_name() && !held.is_ending());
        texts.extend(by_name.map(|held| self.views[held.view as usize].name.clone()));
        // All that filters match is looked at too.
        self.work += (subscriber.subscriptions().len() + texts.len()) as u64 * price::VISIT;
        texts
    }

    /// The filter of a tour of the connection's, of other topics than just `text`, while which `text` cannot be taken back.
    pub fn find_tour_in_the_way(&mut self, connection: u32, text: &str) -> Option<Arc<str>> {
        let replaying = self.subscribers.get(connection as usize).and_then(Subscriber::replaying)?;
        self.work += replaying.tours.len() as u64 * price::MATCH;
        let mut filters = replaying.tours.iter().map(|place| &self.tours[*place as usize].filter);
        filters.find(|filter| ***filter != *text && topic::overlap(filter, text)).cloned()
    }
}
