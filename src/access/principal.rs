//! Who a client is: what a credential proved, and what it may do by that.

use std::{num::NonZeroU64, sync::Arc};

use super::{grants::Grants, pattern::Bindings, token::NAME_BYTES_MAX};
use crate::protocol::{publication::USER_BYTES_MAX, tenant::Tenant};

/// Somebody with a name, or one of those without. Shared by all connections with the same static token.
#[derive(Debug, PartialEq, Eq)]
pub struct Principal {
    /// What vouched for it.
    pub source: Source,
    /// The roles that it was given, by name: which of them there are is the configuration's.
    pub roles: Arc<[Box<str>]>,
    /// What its token grants by itself.
    pub claimed: Option<Arc<Grants>>,
    /// Its name, and what else stands in templates' places.
    pub bindings: Bindings,
    /// Whose topics it publishes to and receives; nobody's without one.
    pub tenant: Option<Arc<Tenant>>,
    /// The token's own name, by which it can be revoked.
    pub token_id: Option<Box<str>>,
    /// When the token was made, in seconds since the Unix epoch, if it says so.
    pub issued_s: Option<NonZeroU64>,
    /// When it ends, in the same.
    pub expires_s: Option<NonZeroU64>,
}

// Nearly every connection with a signed token has its own: with what counts its owners no more than 128 bytes.
const _: () = assert!(size_of::<Principal>() <= 112);

/// What vouches for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing: whoever brings no credential.
    Anonymous,
    /// The static token with this SHA-256.
    StaticToken(Box<[u8; 32]>),
    /// A token of this issuer.
    Issuer(Arc<Box<str>>),
}

/// Somebody with a name: the same somebody whichever token says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Named<'a> {
    /// The issuer that knows it by that name; none is the operator, who gives static tokens.
    pub issuer: Option<&'a str>,
    /// Its tenant, if it is of one.
    pub tenant: Option<&'a str>,
    /// Its name.
    pub user: &'a str,
}

/// What a name may be, as [`is_name`] has it: completes "it must be …".
pub const NAME_ALLOWED: &str = "1 to 128 bytes without control characters";

/// Whether an operator may write this for the name of a user or an issuer.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

// The sentence says it.
const _: () = assert!(NAME_BYTES_MAX == 128 && NAME_BYTES_MAX == USER_BYTES_MAX);

impl Principal {
    /// Whoever brings no credential.
    pub fn anonymous(roles: Arc<[Box<str>]>) -> Principal {
        Principal {
            source: Source::Anonymous,
            roles,
            claimed: None,
            bindings: Bindings::default(),
            tenant: None,
            token_id: None,
            issued_s: None,
            expires_s: None,
        }
    }

    /// Whoever brings the static token with this digest.
    pub fn with_static_token(
        user: &str,
        roles: Arc<[Box<str>]>,
        tenant: Option<Arc<Tenant>>,
        digest: [u8; 32],
    ) -> Principal {
        Principal {
            tenant,
            source: Source::StaticToken(Box::new(digest)),
            bindings: Bindings::new(Some(user), []),
            ..Principal::anonymous(roles)
        }
    }

    /// Its name; none is anonymous, or one that its issuer gave none.
    pub fn user(&self) -> Option<&str> {
        self.bindings.user()
    }

    /// Who it is, if that is somebody with a name.
    pub fn named(&self) -> Option<Named<'_>> {
        let issuer = match &self.source {
            Source::Anonymous => return None,
            Source::StaticToken(_) => None,
            Source::Issuer(issuer) => Some(&***issuer),
        };
        let tenant = self.tenant.as_deref().map(Tenant::name);
        Some(Named { issuer, tenant, user: self.user()? })
    }

    /// Whether `other` is the same somebody, so that its credential may take the place of this one's.
    pub fn is_same_as(&self, other: &Principal) -> bool {
        let vouches = match (&self.source, &other.source) {
            (Source::Issuer(one), Source::Issuer(other)) => one == other,
            // A static token that is replaced by another one of the same name.
            (Source::StaticToken(_), Source::StaticToken(_)) => true,
            (Source::Anonymous, Source::Anonymous) => true,
            _ => false,
        };
        vouches && self.user() == other.user() && self.is_of_same_tenant(other)
    }

    /// Whether `other` means the same topics by the same names.
    pub fn is_of_same_tenant(&self, other: &Principal) -> bool {
        self.tenant == other.tenant
    }
}
