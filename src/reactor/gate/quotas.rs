//! Quotas of users and tenants: how many connections each has, and how much it publishes.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use crate::{
    access::principal::Principal,
    config::Config,
    metrics::Trouble,
    protocol::{close::CloseReason, tenant::Tenant},
    reactor::{
        admission::usages::{Quota, Usage, Usages},
        desk::Desk,
        gate::Gate,
    },
};

/// What users and tenants may, and what those of them have who have connections here.
#[derive(Debug, Default)]
pub struct Quotas {
    /// What they have, of all reactors.
    usages: Arc<Usages>,
    of_user: Quota,
    /// By tenant: of those that have any.
    of_tenants: HashMap<Box<str>, Quota, RandomState>,
    has_rates: bool,
    /// Of connections' users, by slot; empty without a quota. What is held when that is lifted goes with its connection.
    users: Held,
    /// Likewise of their tenants.
    tenants: Held,
}

/// By slot.
type Held = Vec<Option<Arc<Usage>>>;

/// Who has as much as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A user.
    User,
    /// A tenant.
    Tenant,
}

impl Quotas {
    /// Those of whom `usages` has what they have.
    pub fn new(usages: Arc<Usages>) -> Quotas {
        Quotas { usages, ..Quotas::default() }
    }

    /// From now on they may do what `config` says. Whoever is let in already stays, however many it has.
    pub fn reload(&mut self, config: &Config) {
        self.of_user = Quota::of(&config.limits);
        let of_tenants =
            config.tenants.iter().map(|policy| (policy.name.as_str().into(), Quota::of_tenant(policy)));
        self.of_tenants = of_tenants.filter(|(_, quota)| quota.is_any()).collect();
        self.has_rates = self.of_user.has_rates() || self.of_tenants.values().any(Quota::has_rates);
    }

    fn of_tenant(&self, tenant: Option<&Arc<Tenant>>) -> Option<Quota> {
        match self.of_tenants.is_empty() {
            true => None,
            false => self.of_tenants.get(tenant?.name()).copied(),
        }
    }

    /// Counts the connection as one of its user's and its tenant's, where they have quotas, unless `is_new` and it would be one too
    /// many. It may have been counted already.
    fn count_in(&mut self, slot: u32, principal: &Principal, is_new: bool, now_ns: u64) -> Result<(), Whose> {
        let count_max = |quota: &Quota| if is_new { quota.count_max() } else { u32::MAX };
        if self.of_user.is_any()
            && let Some(named) = principal.named()
        {
            let enter = || self.usages.enter(named, count_max(&self.of_user), now_ns);
            hold(&mut self.users, slot, enter).ok_or(Whose::User)?;
        }
        if let Some(quota) = self.of_tenant(principal.tenant.as_ref())
            && let Some(tenant) = &principal.tenant
        {
            let enter = || self.usages.enter_tenant(tenant.name(), count_max(&quota), now_ns);
            hold(&mut self.tenants, slot, enter).ok_or(Whose::Tenant)?;
        }
        Ok(())
    }

    /// The connection is over: it counts no more.
    fn count_out(&mut self, slot: u32, now_ns: u64) {
        for held in [&mut self.users, &mut self.tenants] {
            if let Some(usage) = held.get_mut(slot as usize).and_then(Option::take) {
                self.usages.leave(&usage, now_ns);
            }
        }
    }

    /// Takes a publication of so many bytes; else nothing is taken, and it is told from when on that is allowed.
    fn take(
        &self,
        slot: u32,
        tenant: Option<&Arc<Tenant>>,
        len: usize,
        now_ns: u64,
    ) -> Result<(), (Whose, u64)> {
        let slot = slot as usize;
        let user = self.users.get(slot).and_then(Option::as_ref);
        if let Some(usage) = user {
            usage.take(&self.of_user, len, now_ns).map_err(|next_ns| (Whose::User, next_ns))?;
        }
        let of_tenant = self.tenants.get(slot).and_then(Option::as_ref);
        let (Some(quota), Some(usage)) = (self.of_tenant(tenant), of_tenant) else { return Ok(()) };
        usage.take(&quota, len, now_ns).map_err(|next_ns| {
            if let Some(usage) = user {
                usage.give_back(&self.of_user, len);
            }
            (Whose::Tenant, next_ns)
        })
    }
}

/// What is held at `slot`, or from now on what `enter` gives.
fn hold(held: &mut Held, slot: u32, enter: impl FnOnce() -> Option<Arc<Usage>>) -> Option<()> {
    let slot = slot as usize;
    if !matches!(held.get(slot), Some(Some(_))) {
        let usage = enter()?;
        if held.len() <= slot {
            held.resize_with(slot + 1, || None);
        }
        held[slot] = Some(usage);
    }
    Some(())
}

impl Gate {
    /// From now on users and tenants may do what `config` says.
    pub fn set_quotas(&mut self, config: &Config) {
        self.quotas.reload(config);
    }

    /// Some users and tenants go that have no connection any more.
    pub fn tidy_usages(&self, round: u64) {
        if self.access.is_some() {
            self.quotas.usages.tidy(round, self.now_ns);
        }
    }

    /// Whether some users' or tenants' publications are counted.
    #[inline]
    pub fn counts_publishes(&self) -> bool {
        self.quotas.has_rates
    }

    /// The connection publishes so many bytes, if its user and its tenant may; else nothing is counted, and the answer is who may
    /// not, and in how many milliseconds it may.
    pub fn take_publish(&mut self, slot: u32, len: usize) -> Result<(), (Whose, u64)> {
        let Gate { members, quotas, now_ns, .. } = self;
        let Some(Some(member)) = members.get(slot as usize) else { return Ok(()) };
        let (principal, now_ns) = (&member.principal, *now_ns);
        // It may have been there before there were quotas.
        let counted = quotas.count_in(slot, principal, false, now_ns);
        assert_eq!(counted, Ok(()), "whoever is there is counted");
        let taken = quotas.take(slot, principal.tenant.as_ref(), len, now_ns);
        taken.map_err(|(whose, next_ns)| (whose, (next_ns - now_ns).div_ceil(1_000_000)))
    }

    /// Counts the connection, which is let in, as one of whoever `principal` is.
    pub(super) fn count_in(&mut self, slot: u32, principal: &Principal) {
        let counted = self.quotas.count_in(slot, principal, false, self.now_ns);
        assert_eq!(counted, Ok(()), "whoever is there is counted");
    }

    /// The same of one that is to be let in; if it is one too many it is told whose.
    pub(super) fn may_have_another(&mut self, slot: u32, principal: &Principal) -> Result<(), Whose> {
        self.quotas.count_in(slot, principal, true, self.now_ns)
    }

    /// The connection is over: it counts no more.
    pub(super) fn count_out(&mut self, slot: u32) {
        self.quotas.count_out(slot, self.now_ns);
    }
}

impl Desk {
    /// The connection is one more of its user's or its tenant's than may be.
    pub(super) fn close_for_quota(&mut self, slot: u32, whose: Whose) {
        self.shared.troubles.note(Trouble::QuotaConnections);
        let (reason, text) = match whose {
            Whose::User => {
                let count_max = self.shared.config.limits.connections_per_user_max;
                let text =
                    format!("a user has at most {count_max} connections (limits.connections_per_user_max)");
                (CloseReason::UserLimit, text)
            }
            Whose::Tenant => (
                CloseReason::TenantLimit,
                "this tenant has as many connections as its connections_max allows".into(),
            ),
        };
        self.close(slot, reason, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{access::Access, config::TenantPolicy, reactor::admission::usages::QuotaRate};

    fn gate(of_user: Quota) -> Gate {
        let access = Some(Arc::new(Access::new(1, Vec::new())));
        let mut gate = Gate::new(access, Arc::default(), Arc::default());
        set(&mut gate, of_user);
        gate
    }

    /// From now on users may do this.
    fn set(gate: &mut Gate, of_user: Quota) {
        (gate.quotas.of_user, gate.quotas.has_rates) = (of_user, of_user.has_rates());
    }

    /// Connections of the tenant acme, whose quota this is, and of one that has none.
    fn of_tenants(gate: &mut Gate, policy: TenantPolicy) -> [Arc<Principal>; 3] {
        let tenants = vec![
            TenantPolicy { name: "acme".into(), ..policy },
            TenantPolicy { name: "globex".into(), ..TenantPolicy::default() },
        ];
        gate.set_quotas(&Config { tenants, ..Config::default() });
        [("bob", "acme"), ("eve", "acme"), ("bob", "globex")].map(|(user, tenant)| {
            let tenant = Some(Arc::new(Tenant::new(tenant).expect("a name")));
            Arc::new(Principal::with_static_token(user, [].into(), tenant, [0; 32]))
        })
    }

    fn bob() -> Arc<Principal> {
        Arc::new(Principal::with_static_token("bob", [].into(), None, [0; 32]))
    }

    /// Neither at a slot nor in the table.
    #[test]
    fn without_limits_nothing_is_known_of_users() {
        let mut gate = gate(Quota::default());
        for slot in 0..9 {
            assert_eq!(gate.may_have_another(slot, &bob()), Ok(()));
            gate.let_in(slot, bob());
            assert!(!gate.counts_publishes());
        }
        assert_eq!((gate.quotas.users.capacity(), gate.quotas.usages.count()), (0, 0));
    }

    /// Whoever is renewed is the same, and a limit that comes later turns nobody out.
    #[test]
    fn connections_are_counted_once_and_until_they_are_over() {
        let limits = Quota { connections_max: 2, ..Quota::default() };
        let mut gate = gate(Quota::default());
        (0..3).for_each(|slot| gate.let_in(slot, bob()));
        set(&mut gate, limits);
        for slot in 0..3 {
            gate.let_in(slot, bob());
            assert_eq!(gate.may_have_another(slot, &bob()), Ok(()), "it is none more");
        }
        assert_eq!(gate.may_have_another(3, &bob()), Err(Whose::User));
        gate.forget(0);
        assert_eq!(gate.may_have_another(3, &bob()), Err(Whose::User));
        gate.forget(1);
        assert_eq!([(); 2].map(|()| gate.may_have_another(3, &bob())), [Ok(()); 2]);
        let anonymous = Principal::anonymous([].into());
        assert!(
            (4..9).all(|slot| gate.may_have_another(slot, &anonymous) == Ok(())),
            "nobody in particular is no user"
        );
        [2, 3].iter().for_each(|slot| gate.forget(*slot));
        assert_eq!(gate.quotas.usages.count(), 0);
    }

    /// Of all connections of a user together, and of those that were there before there was a limit.
    #[test]
    fn what_a_user_publishes_counts_over_all_of_its_connections() {
        let mut gate = gate(Quota::default());
        (0..2).for_each(|slot| gate.let_in(slot, bob()));
        let eve = Arc::new(Principal::with_static_token("eve", [].into(), None, [0; 32]));
        gate.let_in(2, eve);
        let publishes = QuotaRate::new(2);
        set(&mut gate, Quota { publishes, ..Quota::default() });
        let late = |left_ms| Err((Whose::User, left_ms));
        assert_eq!(
            [0, 1, 0, 1].map(|slot| gate.take_publish(slot, 0)),
            [Ok(()), Ok(()), late(500), late(500)]
        );
        assert_eq!([2, 3].map(|slot| gate.take_publish(slot, 0)), [Ok(()); 2], "another, and nobody");
        gate.begin_turn(499_000_001, 0);
        assert_eq!(gate.take_publish(0, 0), late(1), "it is rounded up");
        gate.begin_turn(500_000_000, 0);
        assert_eq!([0, 1].map(|slot| gate.take_publish(slot, 0)), [Ok(()), late(500)]);
    }

    /// Of all of its users together; another tenant's, and the same user's of another, are not of it.
    #[test]
    fn what_a_tenant_has_counts_over_all_of_its_users() {
        let mut gate = gate(Quota::default());
        let policy = TenantPolicy { connections_max: 2, publishes_per_s_max: 2, ..TenantPolicy::default() };
        let [bob, eve, other] = of_tenants(&mut gate, policy);
        for (slot, principal) in [(0, &bob), (1, &eve), (2, &other), (3, &other)] {
            assert_eq!(gate.may_have_another(slot, principal), Ok(()));
            gate.let_in(slot, principal.clone());
        }
        assert_eq!(gate.may_have_another(4, &bob), Err(Whose::Tenant));
        let late = |left_ms| Err((Whose::Tenant, left_ms));
        assert_eq!(
            [0, 1, 0, 1].map(|slot| gate.take_publish(slot, 0)),
            [Ok(()), Ok(()), late(500), late(500)]
        );
        assert_eq!([2, 3, 2].map(|slot| gate.take_publish(slot, 0)), [Ok(()); 3]);
        gate.forget(1);
        assert_eq!(gate.may_have_another(4, &bob), Ok(()));
        // Of quotas that are lifted nothing is left but what is held.
        gate.set_quotas(&Config::default());
        assert!(!gate.counts_publishes() && gate.may_have_another(5, &bob) == Ok(()));
        (0..6).for_each(|slot| gate.forget(slot));
        gate.begin_turn(10_000_000_000, 0);
        (0..64).for_each(|round| gate.tidy_usages(round));
        assert_eq!(gate.quotas.usages.count(), 0);
    }

    /// What its tenant may not does not count as its user's.
    #[test]
    fn a_publish_that_a_tenant_may_not_is_not_its_users() {
        let mut gate = gate(Quota::default());
        let policy = TenantPolicy { bytes_per_s_max: 1_024, ..TenantPolicy::default() };
        let [bob, ..] = of_tenants(&mut gate, policy);
        (gate.quotas.of_user.publishes, gate.quotas.of_user.bytes) =
            (QuotaRate::new(3), QuotaRate::new(2_048));
        gate.let_in(0, bob);
        assert_eq!(gate.take_publish(0, 1_024), Ok(()));
        (0..9).for_each(|_| assert_eq!(gate.take_publish(0, 1_024), Err((Whose::Tenant, 1_000))));
        assert_eq!([(); 2].map(|()| gate.take_publish(0, 0)), [Ok(()); 2]);
        assert_eq!(gate.take_publish(0, 0), Err((Whose::User, 334)));
    }

    /// A reload gives a static token to somebody else: the connection is that one's from then on.
    #[test]
    fn a_token_that_is_anothers_after_a_reload_counts_as_that_ones() {
        let access = |version, user: &str| {
            let mut access = Access::new(version, Vec::new());
            access.admit_static_token(user, [].into(), None, [1; 32]);
            Arc::new(access)
        };
        let mut gate = gate(Quota { connections_max: 1, ..Quota::default() });
        gate.set_access(Some(access(1, "bob")));
        let of =
            |user: &str, digest| Arc::new(Principal::with_static_token(user, [].into(), None, [digest; 32]));
        assert_eq!(gate.may_have_another(0, &of("bob", 1)), Ok(()));
        gate.let_in(0, of("bob", 1));
        gate.set_access(Some(access(2, "eve")));
        assert!(gate.find_again(0) && gate.user(0) == Some("eve"));
        assert_eq!(gate.may_have_another(1, &of("eve", 2)), Err(Whose::User), "eve has one already");
        assert_eq!(gate.may_have_another(2, &of("bob", 3)), Ok(()), "bob has none");
    }

    #[test]
    fn who_connections_were_is_forgotten_where_nobody_is_asked_any_more() {
        let mut gate = gate(Quota::default());
        let [acme, ..] = of_tenants(&mut gate, TenantPolicy::default());
        let nobody = bob();
        for (slot, principal) in [(0, &nobody), (1, &acme), (2, &nobody), (3, &acme)] {
            gate.let_in(slot, principal.clone());
        }
        gate.set_access(None);
        gate.forget(3);
        let gone: Vec<_> = std::iter::from_fn(|| gate.forget_gone()).collect();
        assert_eq!(gone, [(3, false), (2, false), (1, true), (0, false)]);
        assert_eq!((Arc::strong_count(&nobody), gate.gone.capacity(), gate.has_gone()), (1, 0, false));
    }
}
