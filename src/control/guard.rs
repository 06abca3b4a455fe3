//! Who may use the admin listener: by the names that it is reached by, and by tokens.
//!
//! Health is everybody's. Nothing here knows cookies, so that no page can have a browser bring what it does not know itself.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use crate::{
    access::static_token,
    protocol::{secret::Secret, site::Hosts},
    reactor::admission::addresses::Origin,
};

/// So many tokens of an address that are none, within [`FAILURES_PERIOD`], and it has to wait for as long.
const FAILURES_MAX: u32 = 10;
const FAILURES_PERIOD: Duration = Duration::from_secs(60);
/// Addresses whose failures are counted; for one more the one that has waited longest is forgotten.
const ADDRESSES_MAX: usize = 1_024;
/// Why a lock is not poisoned: whoever holds it does not panic.
const LOCK_HELD: &str = "nobody panics with what the guard knows locked";

/// Whoever may use the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The name, for the log.
    pub name: Arc<str>,
    /// Whether it may change anything.
    pub may_write: bool,
}

/// All of them, by the digests of their tokens.
#[derive(Debug, Default)]
pub struct Operators(HashMap<[u8; 32], Operator, RandomState>);

impl Operators {
    /// One, who has this token, and may do everything for as long as the broker runs.
    pub fn of_the_start(token: &Secret) -> Operators {
        let mut operators = Operators::default();
        let digest = static_token::digest(token.get()).expect("what was made is a token");
        operators.admit(digest, Operator { name: "start".into(), may_write: true });
        operators
    }

    /// One more; tells whether no other has the same digest.
    pub fn admit(&mut self, digest: [u8; 32], operator: Operator) -> bool {
        self.0.insert(digest, operator).is_none()
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// What is everybody's.
    Nothing,
    /// The counters.
    Metrics,
    /// What is an operator's to read.
    Read,
    /// And to change.
    Write,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It brings no token.
    NoToken,
    /// One that is not in the file.
    UnknownToken,
    /// One that may only read.
    NotAllowed,
    /// Its address brought too many that are none.
    TooMany,
}

impl Refused {
    /// Every reason, in order of its index.
    pub const ALL: [Refused; 4] =
        [Refused::NoToken, Refused::UnknownToken, Refused::NotAllowed, Refused::TooMany];

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::NoToken => "no_token",
            Refused::UnknownToken => "unknown_token",
            Refused::NotAllowed => "forbidden",
            Refused::TooMany => "too_many",
        }
    }
}

/// How often requests were refused, by [`Refused::ALL`].
pub type RefusedCounts = [u64; Refused::ALL.len()];

/// What decides who is answered what.
#[derive(Debug)]
pub struct Guard {
    /// The names that it is reached by.
    pub hosts: Hosts,
    is_loopback: bool,
    is_insecure: bool,
    operators: Mutex<Option<Arc<Operators>>>,
    failures: Mutex<Failures>,
    refused: [AtomicU64; Refused::ALL.len()],
}

impl Guard {
    /// Of a listener that is reached by these names, and by this machine alone if `is_loopback`. With `is_insecure` others may
    /// read metrics where there are no tokens.
    pub fn new(
        hosts: Hosts,
        is_loopback: bool,
        is_insecure: bool,
        operators: Option<Arc<Operators>>,
    ) -> Guard {
        Guard {
            hosts,
            is_loopback,
            is_insecure,
            operators: Mutex::new(operators),
            failures: Mutex::default(),
            refused: Default::default(),
        }
    }

    /// Goes by these tokens from now on.
    pub fn set_operators(&self, operators: Option<Arc<Operators>>) {
        *self.operators.lock().expect(LOCK_HELD) = operators;
    }

    /// Whether there is any token that could be brought.
    pub fn has_operators(&self) -> bool {
        self.operators.lock().expect(LOCK_HELD).is_some()
    }

    /// How often requests were refused.
    pub fn refused(&self) -> RefusedCounts {
        self.refused.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Who asks, if that has to be known; `authorization` is what its only header of that name says.
    ///
    /// # Errors
    /// Why it is not answered, which is counted.
    pub fn admit(
        &self,
        asks: Asks,
        authorization: Option<&str>,
        address: IpAddr,
        now: Instant,
    ) -> Result<Option<Operator>, Refused> {
        let operators = self.operators.lock().expect(LOCK_HELD).clone();
        let is_open = match asks {
            Asks::Nothing => true,
            Asks::Metrics => self.is_loopback || (self.is_insecure && operators.is_none()),
            Asks::Read | Asks::Write => false,
        };
        if is_open {
            return Ok(None);
        }
        let found =
            self.find(operators.as_deref(), asks, authorization, Origin::of(address.to_canonical()), now);
        if let Err(why) = found {
            self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
        }
        found.map(Some)
    }

    fn find(
        &self,
        operators: Option<&Operators>,
        asks: Asks,
        authorization: Option<&str>,
        origin: Origin,
        now: Instant,
    ) -> Result<Operator, Refused> {
        let mut failures = self.failures.lock().expect(LOCK_HELD);
        if failures.is_waiting(origin, now) {
            return Err(Refused::TooMany);
        }
        let token = authorization.and_then(bearer).ok_or(Refused::NoToken)?;
        let digest = static_token::digest(token);
        let Some(operator) = operators.zip(digest).and_then(|(operators, digest)| operators.0.get(&digest))
        else {
            failures.note(origin, now);
            return Err(Refused::UnknownToken);
        };
        if asks == Asks::Write && !operator.may_write {
            return Err(Refused::NotAllowed);
        }
        Ok(operator.clone())
    }
}

/// The token of an `Authorization` header (RFC 6750 section 2.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

/// How many tokens that are none came from where, and since when.
#[derive(Debug, Default)]
struct Failures(HashMap<Origin, (u32, Instant), RandomState>);

impl Failures {
    fn is_waiting(&self, origin: Origin, now: Instant) -> bool {
        self.0.get(&origin).is_some_and(|(count, since)| {
            *count >= FAILURES_MAX && now.saturating_duration_since(*since) < FAILURES_PERIOD
        })
    }

    fn note(&mut self, origin: Origin, now: Instant) {
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&origin) {
            let oldest = self.0.iter().min_by_key(|(_, (_, since))| *since).map(|(origin, _)| *origin);
            oldest.into_iter().for_each(|oldest| _ = self.0.remove(&oldest));
        }
        let (count, since) = self.0.entry(origin).or_insert((0, now));
        if now.saturating_duration_since(*since) >= FAILURES_PERIOD {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count >= FAILURES_MAX {
            // It waits from now on.
            *since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn operators(entries: &[(u8, bool)]) -> (Arc<Operators>, Vec<String>) {
        let mut operators = Operators::default();
        let mut tokens = Vec::new();
        for (random, may_write) in entries {
            let token = static_token::from_random(&[*random; 32]);
            let digest = static_token::digest(&token).unwrap();
            assert!(operators.admit(digest, Operator { name: "ops".into(), may_write: *may_write }));
            assert!(!operators.admit(digest, Operator { name: "ops".into(), may_write: *may_write }));
            tokens.push(format!("Bearer {token}"));
        }
        (Arc::new(operators), tokens)
    }

    fn guard(is_loopback: bool, is_insecure: bool, operators: Option<Arc<Operators>>) -> Guard {
        Guard::new(Hosts::of(&[], is_loopback), is_loopback, is_insecure, operators)
    }

    #[test]
    fn each_asks_for_what_it_may() {
        let (known, tokens) = operators(&[(1, false), (2, true)]);
        let now = Instant::now();
        let guard = guard(true, false, Some(known));
        let admit = |asks, authorization: Option<&str>| guard.admit(asks, authorization, HERE, now);
        for authorization in [None, Some("Bearer x"), Some(&*tokens[0])] {
            assert_eq!(admit(Asks::Nothing, authorization), Ok(None));
            assert_eq!(admit(Asks::Metrics, authorization), Ok(None));
        }
        let reader = Operator { name: "ops".into(), may_write: false };
        assert_eq!(admit(Asks::Read, Some(&tokens[0])), Ok(Some(reader)));
        assert_eq!(admit(Asks::Write, Some(&tokens[0])), Err(Refused::NotAllowed));
        let lower = tokens[1].replace("Bearer", "bEARER");
        assert!(admit(Asks::Write, Some(&lower)).is_ok_and(|it| it.is_some_and(|it| it.may_write)));
        for (authorization, why) in [
            (None, Refused::NoToken),
            (Some("Basic x"), Refused::NoToken),
            (Some("Bearer"), Refused::NoToken),
            (Some("Bearer "), Refused::UnknownToken),
            (Some("Bearer x"), Refused::UnknownToken),
        ] {
            assert_eq!(admit(Asks::Read, authorization), Err(why), "{authorization:?}");
        }
        assert_eq!(guard.refused(), [3, 2, 1, 0]);
        guard.set_operators(None);
        assert_eq!(admit(Asks::Read, Some(&tokens[0])), Err(Refused::UnknownToken));
    }

    #[test]
    fn metrics_are_open_where_only_this_machine_reaches_them_or_everybody_may() {
        let (known, tokens) = operators(&[(1, false)]);
        let now = Instant::now();
        for (is_loopback, is_insecure, has_tokens, is_open) in [
            (true, false, false, true),
            (true, false, true, true),
            (false, true, false, true),
            (false, true, true, false),
            (false, false, true, false),
            (false, false, false, false),
        ] {
            let guard = guard(is_loopback, is_insecure, has_tokens.then(|| known.clone()));
            let open = guard.admit(Asks::Metrics, None, HERE, now);
            assert_eq!(open.is_ok(), is_open, "{is_loopback} {is_insecure} {has_tokens}");
            let with_token = guard.admit(Asks::Metrics, Some(&tokens[0]), HERE, now);
            assert_eq!(with_token.is_ok(), is_open || has_tokens);
        }
    }

    #[test]
    fn whoever_brings_too_many_that_are_none_waits_for_a_minute() {
        let (known, tokens) = operators(&[(1, false)]);
        let guard = guard(true, false, Some(known));
        let began = Instant::now();
        let at = |seconds: u64, authorization: &str, address: &str| {
            let now = began + Duration::from_secs(seconds);
            guard.admit(Asks::Read, Some(authorization), address.parse().unwrap(), now).map(|_| ())
        };
        for second in 0..10 {
            assert_eq!(at(second, "Bearer x", "192.0.2.1"), Err(Refused::UnknownToken));
        }
        // With a good one too, or it could be found by trying.
        assert_eq!(at(10, &tokens[0], "192.0.2.1"), Err(Refused::TooMany));
        assert_eq!(at(10, &tokens[0], "::ffff:192.0.2.1"), Err(Refused::TooMany));
        assert_eq!(at(68, &tokens[0], "192.0.2.1"), Err(Refused::TooMany));
        assert_eq!(at(10, &tokens[0], "192.0.2.2"), Ok(()));
        assert_eq!(at(69, &tokens[0], "192.0.2.1"), Ok(()));
        // Slowly is not too many.
        for number in 0..30 {
            assert_eq!(at(100 + number * 7, "Bearer x", "192.0.2.3"), Err(Refused::UnknownToken), "{number}");
        }
    }

    #[test]
    fn so_many_addresses_are_counted_and_no_more() {
        let mut failures = Failures::default();
        let now = Instant::now();
        for number in 0..ADDRESSES_MAX as u32 + 5 {
            failures.note(Origin::V4(number), now + Duration::from_millis(u64::from(number)));
        }
        assert_eq!(failures.0.len(), ADDRESSES_MAX);
        assert!(!failures.0.contains_key(&Origin::V4(4)) && failures.0.contains_key(&Origin::V4(5)));
    }
}
