//! Who may do what: which topics a client may publish to and read, decided without a descriptor or a clock.
//!
//! What is not granted is not allowed, and a subscription is granted only if all that its filter can match is: so nothing has to
//! be asked again as publications come.

#[cfg(test)]
pub(crate) mod forge;
pub mod grants;
pub mod keys;
pub mod pattern;
pub mod principal;
pub mod revocation;
pub mod static_token;
mod strict;
pub mod token;

use std::{collections::HashMap, num::NonZeroU64, sync::Arc};

use foldhash::fast::RandomState;

use crate::protocol::{secret::Secret, tenant::Tenant};
use grants::{Action, Rights, Role, RoleSet, Verdict};
use keys::{KeySet, Refetch};
use principal::{Principal, Source};
use token::{IssuerTerms, Issuers, TokenFault, Unverified};

/// All that is known of who may come in and what they may do, as of one configuration. A clone shares all that may be much.
#[derive(Clone, Debug)]
pub struct Access {
    /// That of another configuration has another number.
    version: u64,
    roles: Arc<[Role]>,
    /// For each of them a list of its name alone, which whoever is given no other shares.
    single_roles: Arc<[Arc<[Box<str>]>]>,
    /// By digest.
    static_tokens: Arc<HashMap<[u8; 32], Arc<Principal>, RandomState>>,
    issuers: Issuers,
    /// By its place, what an issuer is called.
    issuer_names: Arc<[Arc<Box<str>>]>,
    /// What those have whom an issuer vouches for, by its place.
    issuer_roles: Arc<[Box<[Box<str>]>]>,
    /// Of which tenant they are where their tokens do not say, by its place.
    issuer_tenants: Arc<[Option<Arc<Tenant>>]>,
    /// By name.
    tenants: Arc<HashMap<Box<str>, Arc<Tenant>, RandomState>>,
    leeway_s: u64,
    /// Who comes without a credential; none if a credential is needed.
    anonymous: Option<Arc<Principal>>,
}

/// Why a credential was not accepted: for the operator alone, since the client is told that it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A static token that is not in the file, or none at all that could be.
    UnknownToken,
    /// A signed token, and why.
    Token(TokenFault),
    /// A good one, of a tenant that there is not.
    UnknownTenant,
    /// A good one, which is revoked or whose user is blocked.
    Revoked,
}

impl Refused {
    /// The length of a table indexed by [`Refused::index`].
    pub const COUNT: usize = 3 + TokenFault::COUNT;

    /// Every reason, in order of its index.
    pub fn all() -> impl Iterator<Item = Refused> {
        let of_tokens = TokenFault::ALL.into_iter().map(Refused::Token);
        [Refused::UnknownToken].into_iter().chain(of_tokens).chain([Refused::UnknownTenant, Refused::Revoked])
    }

    /// This reason's place in a table of [`Refused::COUNT`] entries.
    pub fn index(self) -> usize {
        match self {
            Refused::UnknownToken => 0,
            Refused::Token(fault) => 1 + fault.index(),
            Refused::UnknownTenant => Self::COUNT - 2,
            Refused::Revoked => Self::COUNT - 1,
        }
    }

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::UnknownToken => "unknown_token",
            Refused::Token(fault) => fault.as_str(),
            Refused::UnknownTenant => "unknown_tenant",
            Refused::Revoked => "revoked",
        }
    }
}

/// An issuer, and what whoever it vouches for has.
#[derive(Debug)]
pub struct Trusted {
    /// What its tokens have to be.
    pub terms: IssuerTerms,
    /// Roles beside those that a token names.
    pub roles: Box<[Box<str>]>,
    /// Its name, of those that there are, if everybody is of one.
    pub tenant: Option<Box<str>>,
}

/// A credential that is read and not proven: see [`Access::prove`].
#[derive(Debug)]
pub enum Read<'a> {
    /// A static token, which needs no proof.
    Known(Arc<Principal>),
    /// A signed one.
    Signed(Box<Unverified<'a>>),
}

impl Access {
    /// With these roles, [`grants::ROLES_MAX`] at most, no tokens, and nobody without one.
    pub fn new(version: u64, roles: Vec<Role>) -> Access {
        assert!(roles.len() <= grants::ROLES_MAX, "the configuration bounds the roles");
        Access {
            version,
            single_roles: roles.iter().map(|role| [role.name.clone()].into()).collect(),
            roles: roles.into(),
            static_tokens: Arc::default(),
            issuers: Issuers::default(),
            issuer_names: Arc::new([]),
            issuer_roles: Arc::new([]),
            issuer_tenants: Arc::new([]),
            tenants: Arc::default(),
            leeway_s: 0,
            anonymous: None,
        }
    }

    /// There are these tenants.
    pub fn set_tenants(&mut self, tenants: impl IntoIterator<Item = Tenant>) {
        let by_name = tenants.into_iter().map(|tenant| (tenant.name().into(), Arc::new(tenant)));
        self.tenants = Arc::new(by_name.collect());
    }

    /// The tenant of this name, if there is one.
    pub fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(name)
    }

    /// Lets in whoever these issuers vouch for, by clocks that may be `leeway_s` apart.
    ///
    /// # Panics
    /// If one is of a tenant that there is not.
    pub fn trust(&mut self, trusted: Vec<Trusted>, leeway_s: u64) {
        let mut claims: Vec<Box<str>> = Vec::new();
        for name in self.roles.iter().flat_map(|role| role.grants.claims()) {
            if !claims.iter().any(|known| **known == *name) {
                claims.push(name.into());
            }
        }
        self.issuer_names = trusted.iter().map(|it| Arc::new(it.terms.iss.clone())).collect();
        let tenants = trusted.iter().map(|it| it.tenant.as_deref());
        let known =
            |name: &str| self.tenant(name).expect("the configuration names those that there are").clone();
        self.issuer_tenants = tenants.map(|name| name.map(known)).collect();
        let (terms, roles): (Vec<_>, Vec<_>) = trusted.into_iter().map(|it| (it.terms, it.roles)).unzip();
        (self.issuers, self.issuer_roles) = (Issuers::new(terms, claims), roles.into());
        self.leeway_s = leeway_s;
    }

    /// The same, with what `keys_of` says of each issuer whose keys are fetched. It has the same version: who connections are, and
    /// what they may do, need not be found again.
    pub fn with_keys(&self, keys_of: impl Fn(&str) -> Option<Arc<KeySet>>) -> Access {
        Access { issuers: self.issuers.with_keys(keys_of), ..self.clone() }
    }

    /// What is told of the keys of an issuer, if there is one of this name and they are fetched.
    pub fn refetch(&self, iss: &str) -> Option<&Arc<Refetch>> {
        self.issuers.terms()[self.place_of(iss)?].refetch.as_ref()
    }

    /// Whether a token was refused for want of a key that may be there soon: keys are fetched then, and whoever brought it may come
    /// again.
    pub fn awaits_keys(&self, why: Refused) -> bool {
        let (issuer_index, has_keys) = match why {
            Refused::Token(TokenFault::NoKeys { issuer_index }) => (issuer_index, false),
            Refused::Token(TokenFault::UnknownKey { issuer_index }) => (issuer_index, true),
            _ => return false,
        };
        let refetch = self.issuers.terms()[issuer_index].refetch.as_ref();
        refetch.is_some_and(|refetch| refetch.ask() || !has_keys)
    }

    /// Lets those in who bring no credential, with these roles.
    pub fn admit_anonymous(&mut self, roles: Arc<[Box<str>]>) {
        self.anonymous = Some(Arc::new(Principal::anonymous(roles)));
    }

    /// The same, and they are of this tenant, which is there.
    #[cfg(test)]
    pub(crate) fn admit_anonymous_of(&mut self, roles: Arc<[Box<str>]>, tenant: &str) {
        let tenant = self.tenant(tenant).cloned();
        self.anonymous = Some(Arc::new(Principal { tenant, ..Principal::anonymous(roles) }));
    }

    /// Lets in who brings the token with this digest; tells whether another one has it already.
    pub fn admit_static_token(
        &mut self,
        user: &str,
        roles: Arc<[Box<str>]>,
        tenant: Option<Arc<Tenant>>,
        digest: [u8; 32],
    ) -> bool {
        let principal = Principal::with_static_token(user, roles, tenant, digest);
        let tokens = Arc::get_mut(&mut self.static_tokens).expect("tokens come before anybody has it");
        tokens.insert(digest, Arc::new(principal)).is_none()
    }

    /// Which configuration it is of.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Who comes without a credential, if anybody may.
    pub fn anonymous(&self) -> Option<&Arc<Principal>> {
        self.anonymous.as_ref()
    }

    /// Reads a credential, as far as that takes no time to speak of.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn read<'a>(&self, credential: &'a Secret) -> Result<Read<'a>, Refused> {
        if static_token::is_meant(credential.get()) {
            let digest = static_token::digest(credential.get());
            let known = digest.and_then(|digest| self.static_tokens.get(&digest));
            return known.cloned().map(Read::Known).ok_or(Refused::UnknownToken);
        }
        let unverified = Unverified::parse(credential, &self.issuers).map_err(Refused::Token)?;
        Ok(Read::Signed(Box::new(unverified)))
    }

    /// Who brought a credential that was read, at `now_s` seconds since the Unix epoch.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn prove(&self, read: Read<'_>, now_s: u64) -> Result<Arc<Principal>, Refused> {
        let unverified = match read {
            Read::Known(principal) => return Ok(principal),
            Read::Signed(unverified) => unverified,
        };
        let claims = unverified.verify(now_s, self.leeway_s).map_err(Refused::Token)?;
        let tenant = match &claims.tenant {
            Some(name) => Some(self.tenant(name).ok_or(Refused::UnknownTenant)?.clone()),
            None => self.issuer_tenants[claims.issuer_index].clone(),
        };
        Ok(Arc::new(Principal {
            source: Source::Issuer(self.issuer_names[claims.issuer_index].clone()),
            roles: self.role_list(claims.roles),
            claimed: claims.grants.map(Arc::new),
            bindings: claims.bindings,
            tenant,
            token_id: claims.token_id,
            issued_s: claims.issued_s.and_then(NonZeroU64::new),
            expires_s: NonZeroU64::new(claims.expires_s.saturating_add(self.leeway_s)),
        }))
    }

    /// The names as a principal has them: of none all have the same, and of one as well.
    fn role_list(&self, names: Vec<Box<str>>) -> Arc<[Box<str>]> {
        let of_one = |name: &str| self.single_roles.iter().find(|list| *list[0] == *name).cloned();
        match &names[..] {
            [] => Arc::default(),
            [name] => of_one(name).unwrap_or_else(|| names.into()),
            _ => names.into(),
        }
    }

    /// What a credential that is refused says of whose it is: an issuer that there is, and the name of a key, which may be any text.
    pub fn tell_of(&self, credential: &Secret) -> (Option<Arc<Box<str>>>, Option<Box<str>>) {
        if static_token::is_meant(credential.get()) {
            return (None, None);
        }
        let (issuer_index, key_id) = token::tell_of(credential.get(), &self.issuers);
        (issuer_index.map(|index| self.issuer_names[index].clone()), key_id)
    }

    /// Who somebody is under this configuration that an earlier one let in; nobody if what vouched for it is gone, or vouches for
    /// somebody of another tenant: what they were subscribed to by the same names were other topics.
    pub fn find_again(&self, principal: &Arc<Principal>) -> Option<Arc<Principal>> {
        let found = match &principal.source {
            Source::Anonymous => self.anonymous.clone(),
            Source::StaticToken(digest) => self.static_tokens.get(&**digest).cloned(),
            Source::Issuer(iss) => {
                let place = self.place_of(iss)?;
                let is_still_of_it = match (self.issuers.terms()[place].tenants, &principal.tenant) {
                    (true, Some(tenant)) => self.tenant(tenant.name()).is_some(),
                    (true, None) => false,
                    (false, tenant) => *tenant == self.issuer_tenants[place],
                };
                is_still_of_it.then(|| principal.clone())
            }
        };
        found.filter(|found| found.is_of_same_tenant(principal))
    }

    /// Which of the roles that there are somebody has.
    pub fn roles_of(&self, principal: &Principal) -> RoleSet {
        let of_issuer = match &principal.source {
            Source::Issuer(iss) => self.place_of(iss).map_or(&[][..], |place| &self.issuer_roles[place]),
            Source::Anonymous | Source::StaticToken(_) => &[],
        };
        RoleSet::of(&self.roles, principal.roles.iter().chain(of_issuer).map(|name| &**name))
    }

    /// How many names are held against others for that at most.
    pub fn lookup_count(&self, principal: &Principal) -> usize {
        let of_issuers = self.issuer_roles.iter().map(|names| names.len()).max().unwrap_or(0);
        (principal.roles.len() + of_issuers) * self.roles.len()
    }

    fn place_of(&self, iss: &str) -> Option<usize> {
        self.issuers.terms().iter().position(|terms| *terms.iss == *iss)
    }

    /// What somebody may do who has these roles.
    pub fn rights<'a>(&'a self, principal: &'a Principal, has: RoleSet) -> Rights<'a> {
        Rights {
            roles: &self.roles,
            has,
            claimed: principal.claimed.as_deref(),
            bindings: &principal.bindings,
        }
    }

    /// Whether somebody with these roles may do that with a topic, or with all that a filter matches.
    pub fn may(&self, principal: &Principal, has: RoleSet, action: Action, filter: &str) -> Verdict {
        match action {
            Action::Publish => self.rights(principal, has).may_publish(filter),
            action => self.rights(principal, has).may(action, filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: [u8; 32] = [1; 32];

    /// There are these tenants, of whom the issuer's and the static token's are the first ones.
    fn access(version: u64, tenants: &[&str], of_issuer: Option<&str>, of_token: Option<&str>) -> Access {
        let mut access = Access::new(version, Vec::new());
        access.set_tenants(tenants.iter().map(|name| Tenant::new(name).expect("a name")));
        let terms = IssuerTerms {
            iss: "login".into(),
            audience: Vec::new(),
            algorithms: Vec::new(),
            user_claim: "sub".into(),
            claims: "fanfare".into(),
            ttl_s_max: None,
            tenants: of_issuer == Some("any"),
            keys: None,
            refetch: None,
        };
        let tenant = of_issuer.filter(|name| *name != "any").map(Into::into);
        access.trust(vec![Trusted { terms, roles: [].into(), tenant }], 0);
        let tenant = of_token.map(|name| access.tenant(name).expect("it is there").clone());
        access.admit_static_token("bob", [].into(), tenant, DIGEST);
        access
    }

    /// Whoever a token of the issuer's was taken for.
    fn of_issuer(access: &Access, tenant: Option<&str>) -> Arc<Principal> {
        let tenant = tenant.map(|name| access.tenant(name).expect("it is there").clone());
        let source = Source::Issuer(access.issuer_names[0].clone());
        Arc::new(Principal { source, tenant, ..Principal::anonymous([].into()) })
    }

    #[test]
    fn whoever_has_one_role_shares_its_name() {
        let role = |name: &str| Role { name: name.into(), grants: grants::Grants::default() };
        let access = Access::new(1, vec![role("a"), role("b")]);
        let list = |names: &[&str]| access.role_list(names.iter().map(|name| (*name).into()).collect());
        for names in [&[][..], &["b"], &["a"], &["gone"], &["a", "b"]] {
            assert_eq!(list(names).iter().map(|name| &**name).collect::<Vec<_>>(), names);
            let is_shared = names.is_empty() || matches!(names, ["a"] | ["b"]);
            assert_eq!(Arc::strong_count(&list(names)) > 1, is_shared, "{names:?}");
        }
    }

    #[test]
    fn whoever_would_be_of_another_tenant_is_not_found_again() {
        let both = ["acme", "globex"];
        for (before, issuer, is_found) in [
            (Some("acme"), Some("acme"), true),
            (Some("acme"), Some("globex"), false),
            (Some("acme"), None, false),
            (None, Some("acme"), false),
            (None, None, true),
            (Some("acme"), Some("any"), true),
            (None, Some("any"), false),
        ] {
            let principal = of_issuer(&access(1, &both, None, None), before);
            let now = access(2, &both, issuer, None);
            assert_eq!(now.find_again(&principal).is_some(), is_found, "{before:?} {issuer:?}");
        }
        let principal = of_issuer(&access(1, &both, None, None), Some("globex"));
        assert!(access(2, &["acme"], Some("any"), None).find_again(&principal).is_none(), "it is gone");
        for (before, now, is_found) in [
            (Some("acme"), Some("acme"), true),
            (Some("acme"), Some("globex"), false),
            (Some("acme"), None, false),
            (None, Some("acme"), false),
            (None, None, true),
        ] {
            let principal = access(1, &both, None, before).static_tokens[&DIGEST].clone();
            let found = access(2, &both, None, now).find_again(&principal);
            assert_eq!(found.is_some(), is_found, "{before:?} {now:?}");
        }
    }
}
