//! Who is not let in any more, although what it brings is good: users, single tokens, and tokens that were made before some
//! time.
//!
//! A table of them is never changed once reactors have it: they get another one.

use std::{num::NonZeroU64, sync::Arc};

use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashMap};

use super::principal::{Principal, Source};

/// So many revocations are in force at most.
pub const REVOCATIONS_MAX: usize = 65_536;

/// What a revocation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A user, whatever it brings.
    User,
    /// A user's tokens that were made before some time.
    Older,
    /// The token with this name.
    Token,
}

/// Who or what is not let in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// What the name is of.
    pub kind: Kind,
    /// The user's name, or the token's.
    pub name: Arc<str>,
    /// Of this issuer alone; without, whoever vouches for it.
    pub issuer: Option<Arc<str>>,
}

/// Until when, and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Tokens that were made before this second of the Unix epoch; for [`Kind::Older`] alone.
    pub issued_before_s: u64,
    /// From this second of the Unix epoch on it is over.
    pub until_s: u64,
}

/// A subject with its terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Of what.
    pub subject: Subject,
    /// For how long.
    pub terms: Terms,
}

/// Why somebody is not let in any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The user is not, whatever it brings.
    Blocked,
    /// What it brought is not; something else may be.
    Revoked,
}

/// There are [`REVOCATIONS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// All revocations. Each subject has one: the last that was said of it.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    /// With the number of each, by which they came.
    entries: HashMap<Subject, (Terms, u64), RandomState>,
    next_number: u64,
}

/// A subject that is looked for.
#[derive(Hash)]
struct Asked<'a> {
    kind: Kind,
    name: &'a str,
    issuer: Option<&'a str>,
}

impl Equivalent<Subject> for Asked<'_> {
    fn equivalent(&self, subject: &Subject) -> bool {
        self.kind == subject.kind && *self.name == *subject.name && self.issuer == subject.issuer.as_deref()
    }
}

impl Revocations {
    /// Whether there are none, not even such as are over.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Why whoever this is is not let in at `now_s` seconds since the Unix epoch; none if it is.
    pub fn revokes(&self, principal: &Principal, now_s: u64) -> Option<Why> {
        if self.entries.is_empty() {
            return None;
        }
        let issuer = match &principal.source {
            Source::Issuer(issuer) => Some(&**issuer),
            Source::StaticToken(_) => None,
            Source::Anonymous => return None,
        };
        let finds = |kind, name: Option<&str>, holds: &dyn Fn(&Terms) -> bool| {
            let Some(name) = name else { return false };
            let holds = |issuer: Option<&str>| {
                let found = self.entries.get(&Asked { kind, name, issuer });
                found.is_some_and(|(terms, _)| now_s < terms.until_s && holds(terms))
            };
            holds(None) || issuer.is_some_and(|issuer| holds(Some(issuer)))
        };
        if finds(Kind::User, principal.user(), &|_| true) {
            return Some(Why::Blocked);
        }
        // One that does not say when it was made may be as old as any.
        let issued_s = principal.issued_s.map_or(0, NonZeroU64::get);
        let is_revoked = finds(Kind::Older, principal.user(), &|terms| issued_s < terms.issued_before_s)
            || finds(Kind::Token, principal.token_id.as_deref(), &|_| true);
        is_revoked.then_some(Why::Revoked)
    }

    /// Takes one in, in place of what was said of the same subject before; one that is over at `now_s` takes that away.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn insert(&mut self, revocation: Revocation, now_s: u64) -> Result<(), Full> {
        let Revocation { subject, terms } = revocation;
        if terms.until_s <= now_s {
            self.entries.remove(&subject);
            return Ok(());
        }
        if self.entries.len() >= REVOCATIONS_MAX && !self.entries.contains_key(&subject) {
            self.forget_over(now_s);
            if self.entries.len() >= REVOCATIONS_MAX {
                return Err(Full);
            }
        }
        self.entries.insert(subject, (terms, self.next_number));
        self.next_number += 1;
        Ok(())
    }

    /// Forgets those that are over at `now_s`.
    pub fn forget_over(&mut self, now_s: u64) {
        self.entries.retain(|_, (terms, _)| now_s < terms.until_s);
    }

    /// Whether something is in force of this subject at `now_s`.
    pub fn has(&self, subject: &Subject, now_s: u64) -> bool {
        self.entries.get(subject).is_some_and(|(terms, _)| now_s < terms.until_s)
    }

    /// How many are in force at `now_s`.
    pub fn count(&self, now_s: u64) -> usize {
        self.entries.values().filter(|(terms, _)| now_s < terms.until_s).count()
    }

    /// All that are in force at `now_s`, the newest first.
    pub fn newest(&self, now_s: u64) -> Vec<Revocation> {
        self.page(u64::MAX, usize::MAX, now_s).into_iter().map(|(_, revocation)| revocation).collect()
    }

    /// The newest of those that are in force at `now_s` and have a number below this one, `count_max` at most, the newest first, each
    /// with its number. One that is said anew has a new number.
    pub fn page(&self, below: u64, count_max: usize, now_s: u64) -> Vec<(u64, Revocation)> {
        let in_force =
            self.entries.iter().filter(|(_, (terms, number))| now_s < terms.until_s && *number < below);
        let mut page: Vec<(&Subject, &(Terms, u64))> = in_force.collect();
        let by_number = |(_, (_, number)): &(&Subject, &(Terms, u64))| std::cmp::Reverse(*number);
        // Not all of them are put in order for a few.
        if (1..page.len()).contains(&count_max) {
            page.select_nth_unstable_by_key(count_max, by_number);
        }
        page.truncate(count_max);
        page.sort_unstable_by_key(by_number);
        let numbered = |(subject, (terms, number)): (&Subject, &(Terms, u64))| {
            (*number, Revocation { subject: subject.clone(), terms: *terms })
        };
        page.into_iter().map(numbered).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::access::pattern::Bindings;

    const NOW_S: u64 = 1_000;

    fn revocation(
        kind: Kind,
        name: &str,
        issuer: Option<&str>,
        issued_before_s: u64,
        until_s: u64,
    ) -> Revocation {
        let subject = Subject { kind, name: name.into(), issuer: issuer.map(Arc::from) };
        Revocation { subject, terms: Terms { issued_before_s, until_s } }
    }

    fn of_issuer(user: &str, token_id: Option<&str>, issued_s: Option<u64>, issuer: &str) -> Principal {
        Principal {
            source: Source::Issuer(Arc::new(issuer.into())),
            token_id: token_id.map(Box::from),
            issued_s: issued_s.and_then(NonZeroU64::new),
            bindings: Bindings::new(Some(user), []),
            ..Principal::anonymous(Arc::new([]))
        }
    }

    fn table(revocations: &[Revocation]) -> Revocations {
        let mut table = Revocations::default();
        revocations.iter().for_each(|it| table.insert(it.clone(), NOW_S).unwrap());
        table
    }

    #[test]
    fn a_user_is_blocked_and_a_token_revoked_for_as_long_as_was_said() {
        let bob = of_issuer("bob", Some("t1"), Some(500), "a");
        for (revocation, why) in [
            (revocation(Kind::User, "bob", None, 0, 1_100), Some(Why::Blocked)),
            (revocation(Kind::User, "bob", Some("a"), 0, 1_100), Some(Why::Blocked)),
            (revocation(Kind::User, "bob", Some("b"), 0, 1_100), None),
            (revocation(Kind::User, "bo", None, 0, 1_100), None),
            (revocation(Kind::Token, "t1", None, 0, 1_100), Some(Why::Revoked)),
            (revocation(Kind::Token, "bob", None, 0, 1_100), None),
            (revocation(Kind::User, "t1", None, 0, 1_100), None),
            (revocation(Kind::Older, "bob", None, 501, 1_100), Some(Why::Revoked)),
            (revocation(Kind::Older, "bob", None, 500, 1_100), None),
            (revocation(Kind::Older, "bob", Some("a"), 501, 1_100), Some(Why::Revoked)),
        ] {
            let table = table(std::slice::from_ref(&revocation));
            assert_eq!(table.revokes(&bob, NOW_S), why, "{revocation:?}");
            assert_eq!(table.revokes(&bob, 1_099), why, "{revocation:?}");
            assert_eq!((table.revokes(&bob, 1_100), table.count(1_100)), (None, 0), "{revocation:?}");
        }
    }

    #[test]
    fn what_does_not_say_when_it_was_made_is_as_old_as_any() {
        let table = table(&[revocation(Kind::Older, "bob", None, 1, 1_100)]);
        assert_eq!(table.revokes(&of_issuer("bob", None, None, "a"), NOW_S), Some(Why::Revoked));
        let with_static_token = Principal::with_static_token("bob", Arc::new([]), None, [1; 32]);
        assert_eq!(table.revokes(&with_static_token, NOW_S), Some(Why::Revoked));
        assert_eq!(table.revokes(&of_issuer("bob", None, Some(1), "a"), NOW_S), None);
        assert_eq!(table.revokes(&Principal::anonymous(Arc::new([])), NOW_S), None);
    }

    #[test]
    fn the_last_that_was_said_of_a_subject_holds() {
        let mut table = table(&[
            revocation(Kind::User, "bob", None, 0, 1_100),
            revocation(Kind::User, "eve", None, 0, 1_100),
            revocation(Kind::User, "bob", None, 0, 1_200),
        ]);
        let expected =
            [revocation(Kind::User, "bob", None, 0, 1_200), revocation(Kind::User, "eve", None, 0, 1_100)];
        assert_eq!(table.newest(NOW_S), expected);
        // One that is over is how one is taken back.
        table.insert(revocation(Kind::User, "bob", None, 0, 0), NOW_S).unwrap();
        assert_eq!(table.newest(NOW_S), expected[1..]);
        assert!(!table.has(&expected[0].subject, NOW_S) && table.has(&expected[1].subject, NOW_S));
    }

    #[test]
    fn pages_of_any_length_are_all_of_them_in_order() {
        let mut table = Revocations::default();
        for number in 0..20 {
            let until_s = if number % 5 == 3 { NOW_S } else { NOW_S + 9 };
            table.insert(revocation(Kind::User, &number.to_string(), None, 0, until_s), 0).unwrap();
        }
        table.insert(revocation(Kind::User, "7", None, 0, NOW_S + 9), 0).unwrap();
        let all = table.newest(NOW_S);
        assert_eq!((all.len(), &*all[0].subject.name, &*all[1].subject.name), (16, "7", "19"));
        for count_max in 1..20 {
            let (mut below, mut paged) = (u64::MAX, Vec::new());
            loop {
                let page = table.page(below, count_max, NOW_S);
                assert!(page.len() <= count_max && page.iter().all(|(number, _)| *number < below));
                let Some((last, _)) = page.last() else { break };
                below = *last;
                paged.extend(page.into_iter().map(|(_, revocation)| revocation));
            }
            assert_eq!(paged, all, "{count_max}");
        }
        assert_eq!((table.page(u64::MAX, 0, NOW_S), table.page(0, 9, NOW_S)), (vec![], vec![]));
    }

    #[test]
    fn a_full_table_takes_what_it_has_and_makes_room_of_what_is_over() {
        let mut table = Revocations::default();
        for number in 0..REVOCATIONS_MAX {
            let until_s = if number == 7 { NOW_S + 1 } else { NOW_S + 9 };
            table.insert(revocation(Kind::User, &number.to_string(), None, 0, until_s), NOW_S).unwrap();
        }
        let one_more = revocation(Kind::User, "x", None, 0, NOW_S + 9);
        assert_eq!(table.insert(one_more.clone(), NOW_S), Err(Full));
        assert_eq!(table.insert(revocation(Kind::User, "3", None, 0, NOW_S + 8), NOW_S), Ok(()));
        assert_eq!(table.insert(one_more.clone(), NOW_S + 1), Ok(()));
        assert_eq!(table.insert(revocation(Kind::User, "y", None, 0, NOW_S + 9), NOW_S + 1), Err(Full));
        assert!(table.has(&one_more.subject, NOW_S + 1));
    }

    /// The same by looking at all of them, the last first.
    fn naive(said: &[Revocation], principal: &Principal, now_s: u64) -> Option<Why> {
        let mut seen = Vec::new();
        let mut why = None;
        for Revocation { subject, terms } in said.iter().rev() {
            if seen.contains(&subject) {
                continue;
            }
            seen.push(subject);
            let of_issuer = match (&subject.issuer, &principal.source) {
                (_, Source::Anonymous) => false,
                (None, _) => true,
                (Some(one), Source::Issuer(other)) => **one == ***other,
                (Some(_), Source::StaticToken(_)) => false,
            };
            let (user, token) = (principal.user(), principal.token_id.as_deref());
            let name = Some(&*subject.name);
            let is_meant = match subject.kind {
                Kind::User => user == name,
                Kind::Older => {
                    user == name && principal.issued_s.map_or(0, NonZeroU64::get) < terms.issued_before_s
                }
                Kind::Token => token == name,
            };
            if of_issuer && is_meant && now_s < terms.until_s {
                match subject.kind {
                    Kind::User => return Some(Why::Blocked),
                    _ => why = Some(Why::Revoked),
                }
            }
        }
        why
    }

    proptest! {
        #[test]
        fn the_table_finds_what_looking_at_all_finds(
            said in prop::collection::vec((0..3usize, 0..3usize, 0..3usize, 0..4u64, 998..1_004u64), 0..12),
            asked in prop::collection::vec((0..3usize, 0..4usize, 0..4usize, 0..5u64, 1_000..1_004u64), 1..8),
        ) {
            const NAMES: [&str; 3] = ["a", "b", "c"];
            let kinds = [Kind::User, Kind::Older, Kind::Token];
            let said: Vec<Revocation> = said
                .into_iter()
                .map(|(kind, name, issuer, before_s, until_s)| {
                    let issuer = NAMES.get(issuer).copied().filter(|issuer| *issuer != "c");
                    revocation(kinds[kind], NAMES[name], issuer, before_s, until_s)
                })
                .collect();
            let table = table(&said);
            for (user, token, issuer, issued_s, now_s) in asked {
                let principal = match NAMES.get(issuer) {
                    Some(issuer) => {
                        of_issuer(NAMES[user], NAMES.get(token).copied(), issued_s.checked_sub(1), issuer)
                    }
                    None => Principal::with_static_token(NAMES[user], Arc::new([]), None, [0; 32]),
                };
                prop_assert_eq!(table.revokes(&principal, now_s), naive(&said, &principal, now_s));
            }
        }
    }
}
