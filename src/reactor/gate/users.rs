//! Limits of users: how many connections each has, and how much it publishes.

use crate::{
    access::principal::Principal,
    metrics::Trouble,
    protocol::close::CloseReason,
    reactor::{admission::users::UserLimits, desk::Desk, gate::Gate},
};

impl Gate {
    /// From now on each user may do what `limits` says. Whoever is let in already stays, however many it has.
    pub fn set_user_limits(&mut self, limits: UserLimits) {
        self.user_limits = limits;
    }

    /// Some users go that have no connection any more.
    pub fn tidy_users(&self, round: u64) {
        if self.access.is_some() {
            self.users.tidy(round, self.now_ns);
        }
    }

    /// Whether each user's publications are counted.
    #[inline]
    pub fn counts_publishes(&self) -> bool {
        self.user_limits.has_rates()
    }

    /// The connection publishes so many bytes, if its user may; else nothing is counted, and the answer is in how many milliseconds
    /// it may.
    pub fn take_publish(&mut self, slot: u32, len: usize) -> Result<(), u64> {
        let is_held = matches!(self.user_meters.get(slot as usize), Some(Some(_)));
        if !is_held {
            // It has no name, or was there before there were limits.
            let named = self.principal(slot).filter(|principal| principal.user().is_some()).cloned();
            let Some(principal) = named else { return Ok(()) };
            self.count_in(slot, &principal, u32::MAX);
        }
        let Some(Some(meter)) = self.user_meters.get(slot as usize) else { return Ok(()) };
        let taken = meter.take(&self.user_limits, len, self.now_ns);
        taken.map_err(|next_ns| (next_ns - self.now_ns).div_ceil(1_000_000))
    }

    /// Counts the connection as one of whoever `principal` is, where that is limited; false if that is one too many. It may
    /// have been counted already.
    pub(super) fn count_in(&mut self, slot: u32, principal: &Principal, count_max: u32) -> bool {
        let is_held = matches!(self.user_meters.get(slot as usize), Some(Some(_)));
        let Some(named) = principal.named().filter(|_| self.user_limits.is_any() && !is_held) else {
            return true;
        };
        let Some(meter) = self.users.enter(named, count_max, self.now_ns) else { return false };
        if self.user_meters.len() <= slot as usize {
            self.user_meters.resize_with(slot as usize + 1, || None);
        }
        self.user_meters[slot as usize] = Some(meter);
        true
    }

    /// The same with as many as one may have.
    pub(super) fn may_have_another(&mut self, slot: u32, principal: &Principal) -> bool {
        let connections_max = self.user_limits.connections_max;
        self.count_in(slot, principal, if connections_max == 0 { u32::MAX } else { connections_max })
    }

    /// The connection is over: it counts no more.
    pub(super) fn count_out(&mut self, slot: u32) {
        if let Some(meter) = self.user_meters.get_mut(slot as usize).and_then(Option::take) {
            self.users.leave(&meter, self.now_ns);
        }
    }
}

impl Desk {
    /// The connection is one more of its user's than may be.
    pub(super) fn close_for_user(&mut self, slot: u32) {
        self.shared.troubles.note(Trouble::UserMax);
        let count_max = self.shared.config.limits.connections_per_user_max;
        let text = format!("a user has at most {count_max} connections (limits.connections_per_user_max)");
        self.close(slot, CloseReason::UserLimit, &text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::access::Access;

    fn gate(limits: UserLimits) -> Gate {
        let access = Some(Arc::new(Access::new(1, Vec::new())));
        let mut gate = Gate::new(access, Arc::default(), Arc::default());
        gate.set_user_limits(limits);
        gate
    }

    fn bob() -> Arc<Principal> {
        Arc::new(Principal::with_static_token("bob", [].into(), None, [0; 32]))
    }

    /// Neither at a slot nor in the table.
    #[test]
    fn without_limits_nothing_is_known_of_users() {
        let mut gate = gate(UserLimits::default());
        for slot in 0..9 {
            assert!(gate.may_have_another(slot, &bob()));
            gate.let_in(slot, bob());
            assert!(!gate.counts_publishes());
        }
        assert_eq!((gate.user_meters.capacity(), gate.users.count()), (0, 0));
    }

    /// Whoever is renewed is the same, and a limit that comes later turns nobody out.
    #[test]
    fn connections_are_counted_once_and_until_they_are_over() {
        let limits = UserLimits { connections_max: 2, ..UserLimits::default() };
        let mut gate = gate(UserLimits::default());
        (0..3).for_each(|slot| gate.let_in(slot, bob()));
        gate.set_user_limits(limits);
        for slot in 0..3 {
            gate.let_in(slot, bob());
            assert!(gate.may_have_another(slot, &bob()), "it is none more");
        }
        assert!(!gate.may_have_another(3, &bob()));
        gate.forget(0);
        assert!(!gate.may_have_another(3, &bob()));
        gate.forget(1);
        assert!(gate.may_have_another(3, &bob()) && gate.may_have_another(3, &bob()));
        let anonymous = Principal::anonymous([].into());
        assert!(
            (4..9).all(|slot| gate.may_have_another(slot, &anonymous)),
            "nobody in particular is no user"
        );
        [2, 3].iter().for_each(|slot| gate.forget(*slot));
        assert_eq!(gate.users.count(), 0);
    }

    /// Of all connections of a user together, and of those that were there before there was a limit.
    #[test]
    fn what_a_user_publishes_counts_over_all_of_its_connections() {
        let mut gate = gate(UserLimits::default());
        (0..2).for_each(|slot| gate.let_in(slot, bob()));
        let eve = Arc::new(Principal::with_static_token("eve", [].into(), None, [0; 32]));
        gate.let_in(2, eve);
        let publishes = crate::reactor::admission::users::UserRate::new(2);
        gate.set_user_limits(UserLimits { publishes, ..UserLimits::default() });
        assert_eq!([0, 1, 0, 1].map(|slot| gate.take_publish(slot, 0)), [Ok(()), Ok(()), Err(500), Err(500)]);
        assert_eq!([2, 3].map(|slot| gate.take_publish(slot, 0)), [Ok(()); 2], "another, and nobody");
        gate.begin_turn(499_000_001, 0);
        assert_eq!(gate.take_publish(0, 0), Err(1), "it is rounded up");
        gate.begin_turn(500_000_000, 0);
        assert_eq!([0, 1].map(|slot| gate.take_publish(slot, 0)), [Ok(()), Err(500)]);
    }
}
