//! What homes and views call what connections name: a [tenant](crate::protocol::tenant)'s topics have other names inside.

use std::borrow::Cow;

use crate::{
    protocol::topic::{Filter, TopicName},
    reactor::desk::Desk,
};

impl Desk {
    /// What homes and views call what the connection calls `topic`.
    #[inline]
    pub(super) fn inner_topic<'a>(&self, slot: u32, topic: TopicName<&'a str>) -> TopicName<Cow<'a, str>> {
        TopicName::checked(self.inner_text(slot, topic.into_text()))
    }

    /// Likewise of a filter.
    pub(super) fn inner_filter<'a>(&self, slot: u32, filter: Filter<&'a str>) -> Filter<Cow<'a, str>> {
        filter.with_text(self.inner_text(slot, filter.as_str()))
    }

    #[inline]
    pub(super) fn inner_text<'a>(&self, slot: u32, text: &'a str) -> Cow<'a, str> {
        match self.gate.tenant(slot) {
            None => Cow::Borrowed(text),
            Some(tenant) => Cow::Owned(tenant.inner(text)),
        }
    }
}
