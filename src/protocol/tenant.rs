//! Tenants: parties of one broker that see nothing of each other's topics.
//!
//! Inside, a tenant's topic is called U+0000, the tenant's name, `/`, and then what its clients call it. Clients never see more
//! than the last of these, and cannot write U+0000, so that no name or filter of theirs reaches into what is another's, or
//! nobody's. All who receive a topic are of its tenant, which is why the bytes that they are sent are the same and need not name it.

use super::topic::TOPIC_BYTES_MAX;

/// The longest name of a tenant, in bytes.
pub const TENANT_BYTES_MAX: usize = 32;
/// The longest name of a topic inside, or filter, in bytes.
pub const INNER_BYTES_MAX: usize = TOPIC_BYTES_MAX + TENANT_BYTES_MAX + 2;
/// What a tenant's name may be: completes "it must be …".
pub const TENANT_ALLOWED: &str = "1 to 32 lower-case letters, digits and -";

// The sentence says it.
const _: () = assert!(TENANT_BYTES_MAX == 32);

/// What stands first in names of tenants' topics, and in no other.
const MARK: char = '\0';

/// One tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// What all names of its topics begin with.
    prefix: Box<str>,
}

impl Tenant {
    /// The tenant of this name; none if it is no name of a tenant.
    pub fn new(name: &str) -> Option<Tenant> {
        is_name(name).then(|| Tenant { prefix: format!("{MARK}{name}/").into() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.prefix[MARK.len_utf8()..self.prefix.len() - 1]
    }

    /// The first level of its topics' names inside.
    pub fn first_level(&self) -> &str {
        &self.prefix[..self.prefix.len() - 1]
    }

    /// What a topic or filter is called inside that its clients call `outer`.
    pub fn inner(&self, outer: &str) -> String {
        [&*self.prefix, outer].concat()
    }
}

/// Whether a tenant may have this name.
pub fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=TENANT_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// What clients call the topic or filter that is called `inner` inside.
#[inline]
pub fn outer(inner: &str) -> &str {
    match inner.as_bytes().first() {
        Some(0) => split(inner).1,
        _ => inner,
    }
}

/// The first level of a name or filter inside, if it is a tenant's, and what its clients call it.
#[inline]
pub fn split(inner: &str) -> (Option<&str>, &str) {
    if !inner.starts_with(MARK) {
        return (None, inner);
    }
    match inner.split_once('/') {
        Some((first, outer)) => (Some(first), outer),
        // What a client wrote, and what nothing is called.
        None => (None, inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_inside_is_the_tenant_s_and_outside_the_client_s() {
        let acme = Tenant::new("acme").expect("a name");
        assert_eq!((acme.name(), &*acme.inner("a/b")), ("acme", "\0acme/a/b"));
        for outer in ["a", "a/b", "/", "$sys/x", "acme/a"] {
            let inner = acme.inner(outer);
            assert_eq!((super::outer(&inner), split(&inner)), (outer, (Some("\0acme"), outer)));
            assert_eq!((super::outer(outer), split(outer)), (outer, (None, outer)));
        }
    }

    #[test]
    fn a_tenant_s_name_is_short_and_plain() {
        for name in ["a", "acme", "0-9", "-", &"x".repeat(32)] {
            assert_eq!(Tenant::new(name).expect(name).name(), name);
        }
        for name in ["", "Acme", "a/b", "a b", "a.b", "é", "+", "#", "\0", &"x".repeat(33)] {
            assert_eq!(Tenant::new(name), None, "{name:?}");
        }
    }
}
