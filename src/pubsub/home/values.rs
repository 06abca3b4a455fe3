//! Topics' values: which publications are kept as such, what that takes, and which topics may have one.

use super::{Draft, Home, PublishRefusal, TopicRefusal, place};
use crate::{
    protocol::{command::PayloadKind, deflate::Deflater, publication::LastValue, topic::TopicName},
    pubsub::message::Outboxes,
    work::price,
};

impl Home {
    /// Whether new subscribers of a topic of this name may be to be sent a value first.
    pub fn may_have_value(&mut self, topic: &str) -> bool {
        if !self.keeping.keeps_values() {
            return false;
        }
        let (keys, visited) = self.keeping.keys_of(topic);
        self.work += u64::from(visited) * price::NODE;
        keys.keep().is_some_and(|keep| keep.has_values())
    }

    /// How many topics have a value.
    pub fn value_count(&self) -> usize {
        self.value_count
    }

    /// Publishes as [`Home::handle_publish`] does, and keeps the publication as the topic's value; or no value any more, if it
    /// is a null.
    ///
    /// # Errors
    /// [`PublishRefusal`]: nothing was published.
    pub fn handle_retain(
        &mut self,
        topic: TopicName<&str>,
        draft: Draft<'_>,
        creator: u32,
        deflater: &mut Deflater,
        outboxes: &mut Outboxes,
    ) -> Result<u64, PublishRefusal> {
        let key = match self.by_name.get(topic.as_str()) {
            Some(key) => key,
            // No topic has to make room for what is refused.
            None if !self.may_have_value(&topic) => return Err(PublishRefusal::NotRetained),
            None => {
                self.admit_new(&topic, draft, true)?;
                self.create(&topic, creator)?
            }
        };
        self.follow_keeping(key);
        let past = self.topics[key].past.as_ref().filter(|past| past.takes_retained());
        let past = past.ok_or(PublishRefusal::NotRetained)?;
        if past.may_retain() && !draft.is_null() {
            self.admit_record(key, draft, None)?;
        }
        let seq = self.handle_publish(topic, draft, creator, deflater, outboxes)?;
        self.retain(key, draft);
        Ok(seq)
    }

    /// Whether there is room to keep the publication as a value of a topic that is not there yet, if it is to be one: for what is
    /// refused no topic is made, and none makes room.
    pub(super) fn admit_new(
        &mut self,
        topic: &str,
        draft: Draft<'_>,
        is_retained: bool,
    ) -> Result<(), TopicRefusal> {
        let is_full = self.keeping.keeps_values() && self.pool.budget().is_full_of_values();
        if !is_full || draft.is_null() {
            return Ok(());
        }
        let (keys, visited) = self.keeping.keys_of(topic);
        self.work += u64::from(visited) * price::NODE;
        let Some(keep) = keys.keep() else { return Ok(()) };
        let is_value = match &keep.last_value {
            LastValue::Nothing => is_retained && keep.retain,
            LastValue::Newest => true,
            LastValue::PerKey(pointer) => {
                self.work += draft.payload.len() as u64 * price::READ_BYTE;
                draft.kind == PayloadKind::Json && pointer.find(draft.payload).is_some()
            }
        };
        if is_value { Err(TopicRefusal::ValuesMax) } else { Ok(()) }
    }

    /// Whether there is room to keep the publication if it is to be the topic's value since it is the newest, or the newest of its
    /// key: which is told.
    pub(super) fn admit_value(&mut self, key: usize, draft: Draft<'_>) -> Result<Option<u64>, TopicRefusal> {
        let past = self.topics[key].past.as_ref().expect("it keeps one");
        if past.keeps_newest() && !draft.is_null() {
            self.admit_record(key, draft, None)?;
        }
        let (value_key, looked_through) = past.key_of(draft.payload, draft.kind);
        self.work += looked_through as u64 * price::READ_BYTE;
        if value_key.is_some() {
            self.admit_record(key, draft, value_key)?;
        }
        Ok(value_key)
    }

    /// Whether there is room to keep the publication as the topic's value, or that of a key. Where values are all that may be kept,
    /// each may still be replaced by what takes no more.
    fn admit_record(&self, key: usize, draft: Draft<'_>, value_key: Option<u64>) -> Result<(), TopicRefusal> {
        if !self.pool.budget().is_full_of_values() {
            return Ok(());
        }
        let topic = &self.topics[key];
        let past = topic.past.as_ref().expect("it keeps one");
        let publication = topic.publication(topic.seq + 1, draft, self.wall_ms);
        let len = publication.encoded_len(past.encoding().format());
        let more_bytes = match (value_key, past.keyed()) {
            (Some(value_key), Some(keyed)) => keyed.more_bytes(value_key, len),
            _ => past.more_bytes(len),
        };
        if more_bytes > 0 { Err(TopicRefusal::ValuesMax) } else { Ok(()) }
    }

    /// The topic's newest publication is its value if publishers say which one is: this one's has.
    fn retain(&mut self, key: usize, draft: Draft<'_>) {
        let topic = &mut self.topics[key];
        let Some(past) = &mut topic.past else { return };
        if past.may_clear_keyed() && draft.is_null() {
            let gone = past.part_with_keyed();
            self.leave(gone);
            return self.note_value(key);
        }
        let Some(past) = topic.past.as_mut().filter(|past| past.may_retain()) else { return };
        if draft.is_null() {
            past.let_go_of_retained(&mut self.pool);
            return self.note_value(key);
        }
        let publication = place(&topic.name, topic.flags, topic.seq, draft, self.wall_ms);
        let format = past.encoding().format();
        let len = publication.encoded_len(format);
        past.retain((topic.seq, self.tick), len, &mut self.pool, |room| publication.encode(format, room));
        let bytes = past.held().bytes;
        self.work += price::PUBLICATION + len as u64 * price::PUBLISHED_BYTE;
        self.note_value(key);
        self.make_up_for(bytes);
    }

    /// What the topic's value keeps may have changed: the block that it is in does not go, and the one that it was in may.
    pub(super) fn note_value(&mut self, key: usize) {
        let past = self.topics[key].past.as_mut().expect("it keeps one");
        let now = past.held();
        let before = std::mem::replace(&mut past.noted, now);
        if now == before {
            return;
        }
        if let Some(clock) = before.block.filter(|clock| past.has_block(*clock)) {
            self.blocks.insert(clock, key);
        }
        if let Some(clock) = now.block {
            self.blocks.remove(&clock);
        }
        self.pool.note_value(now.bytes, before.bytes);
        self.value_count = self.value_count + usize::from(now.bytes > 0) - usize::from(before.bytes > 0);
        self.expect_expiry(key);
    }
}

#[cfg(test)]
pub(super) mod tests;
