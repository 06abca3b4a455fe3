//! What the broker promises of what it stamps messages with.

use super::{Oracle, policy::Policy};
use crate::{
    reactor::simulation::{MS, START_NS, client::Told},
    uring::sim::EPOCH_NS,
};

impl Oracle {
    /// A publication has a time where some configuration says so, one from when it was on its way, and the same for
    /// everybody, however it came.
    pub(super) fn check_time(&mut self, number: usize, topic: &str, told: &Told) {
        let publication = &mut self.publications[number];
        let Told { seq, time_ms, .. } = *told;
        let first = *publication.time_ms.get_or_insert(time_ms);
        assert_eq!(time_ms, first, "{topic} {seq} is of one time");
        let is_said = |policy: &Policy| policy.stamps_time(topic) == time_ms.is_some();
        assert!(self.policies.iter().any(is_said), "{topic} {seq} is of {time_ms:?}, and nobody said so");
        let wall_ms = |moment_ms| (EPOCH_NS + START_NS) / MS + moment_ms;
        let possible_ms = wall_ms(publication.sent_ms)..=wall_ms(self.now_ms);
        assert!(
            time_ms.is_none_or(|time_ms| possible_ms.contains(&time_ms)),
            "{topic} {seq} is of {time_ms:?}, not of {possible_ms:?}"
        );
    }
}
