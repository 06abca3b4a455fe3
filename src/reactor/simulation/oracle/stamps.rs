//! What the broker promises of what it stamps messages with.

use super::{Oracle, policy::Policy};
use crate::{
    reactor::simulation::{MS, START_NS, client::Told},
    uring::sim::EPOCH_NS,
};

impl Oracle {
    /// A publication has its stamps where some configuration says so, one from when it was on its way, and the same for
    /// everybody, however it came.
    pub(super) fn check_stamps(&mut self, number: usize, topic: &str, told: &Told) {
        let publication = &mut self.publications[number];
        let Told { seq, time_ms, ref user, .. } = *told;
        let first = publication.stamps.get_or_insert_with(|| (user.clone(), time_ms));
        assert_eq!((user, time_ms), (&first.0, first.1), "{topic} {seq} is of one publisher and one time");
        let is_said = |policy: &Policy| policy.stamps_time(topic) == time_ms.is_some();
        assert!(self.policies.iter().any(is_said), "{topic} {seq} is of {time_ms:?}, and nobody said so");
        let wall_ms = |moment_ms| (EPOCH_NS + START_NS) / MS + moment_ms;
        let possible_ms = wall_ms(publication.sent_ms)..=wall_ms(self.now_ms);
        assert!(
            time_ms.is_none_or(|time_ms| possible_ms.contains(&time_ms)),
            "{topic} {seq} is of {time_ms:?}, not of {possible_ms:?}"
        );
        self.check_user(number, topic, user.as_deref());
    }

    /// It says who published it where some configuration says so, and that is whoever sent it. A reload comes to the publisher's
    /// reactor and to the home in turns of their own, so that a name may be missing between two configurations.
    fn check_user(&self, number: usize, topic: &str, user: Option<&str>) {
        let mut publishers = self.publishers(number).into_iter();
        let mut policies = self.policies.iter();
        let is_right = match user {
            Some(user) => {
                let is_of = publishers.any(|publisher| publisher.is_some_and(|(_, name)| name == user));
                is_of && policies.any(|policy| policy.stamps_user(topic))
            }
            None => {
                policies.any(|policy| !policy.stamps_user(topic))
                    || publishers.any(|publisher| publisher.is_none())
            }
        };
        assert!(is_right, "{topic} {} is of {user:?}", number);
    }
}
