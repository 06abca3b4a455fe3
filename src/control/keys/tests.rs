//! The ring of keys without a network: what fetches bring, and when, is the tests' to say.

use hyper::body::Bytes;

use super::*;
use crate::{
    access::{
        Access, Refused, Trusted,
        forge::{Signer, signer},
        keys::{Algorithm, KEYS_MAX, KeyKind},
        token::{IssuerTerms, TokenFault},
    },
    config::Issuer,
    protocol::secret::Secret,
};

const REFETCH: Duration = Duration::from_secs(30);

/// A configuration with issuers whose keys are fetched, each from an address.
fn config(issuers: &[(&str, &str)]) -> Config {
    let mut config = Config::default();
    config.auth.issuers = issuers.iter().map(|(iss, url)| issuer(iss, url)).collect();
    config
}

fn issuer(iss: &str, url: &str) -> Issuer {
    Issuer { iss: iss.into(), algorithms: vec!["ES256".into()], jwks_url: url.into(), ..Issuer::default() }
}

/// What is read of it, as another version.
fn read(config: &Config, version: u64) -> (Option<Arc<Access>>, Vec<KeyUrl>) {
    let of = |issuer: &Issuer| KeyUrl::of(issuer, vec![Algorithm::Es256], |_| unreachable!()).unwrap();
    let urls = config.auth.issuers.iter().filter_map(of).collect();
    let trusted = config.auth.issuers.iter().map(|issuer| {
        let terms = IssuerTerms {
            iss: issuer.iss.as_str().into(),
            audience: Vec::new(),
            algorithms: vec![Algorithm::Es256],
            user_claim: "sub".into(),
            claims: "fanfare".into(),
            ttl_s_max: None,
            tenants: false,
            keys: None,
            refetch: Some(Arc::default()),
        };
        Trusted { terms, roles: Box::default(), tenant: None }
    });
    let mut access = Access::new(version, Vec::new());
    access.trust(trusted.collect(), 0);
    (Some(Arc::new(access)), urls)
}

/// A keeper of these issuers, which has told reactors of them.
fn keeper(issuers: &[(&str, &str)], now: Instant) -> Keeper {
    let config = config(issuers);
    let (access, urls) = read(&config, 1);
    let mut keeper = Keeper::default();
    keeper.adopt(access, urls, &config, now);
    keeper.is_adopting = false;
    keeper
}

fn set(keys: &[String]) -> Result<Fetched, FetchError> {
    Ok(Fetched { body: Bytes::from(format!(r#"{{"keys":[{}]}}"#, keys.join(","))), life: None })
}

fn key(id: &str) -> String {
    signer(KeyKind::EcP256).jwk(&format!(r#","kid":"{id}""#))
}

fn token(iss: &str, id: &str) -> String {
    let (header, claims) =
        (format!(r#"{{"alg":"ES256","kid":"{id}"}}"#), format!(r#"{{"iss":"{iss}","exp":9999999999}}"#));
    signer(KeyKind::EcP256).token(Algorithm::Es256, &header, &claims)
}

/// What a reactor with this access would say to a token, and whether it is to come again.
fn bring(access: &Access, iss: &str, id: &str) -> Result<(), (&'static str, bool)> {
    let token = Secret::new(token(iss, id));
    let proven = access.read(&token).and_then(|read| access.prove(read, 1));
    proven.map(|_| ()).map_err(|why: Refused| (why.as_str(), access.awaits_keys(why)))
}

/// What reactors are told.
fn owed(keeper: &mut Keeper) -> Option<Arc<Access>> {
    let now = keeper.entries.iter().filter_map(|entry| entry.schedule.began()).max();
    let access = keeper.take_owed()?;
    keeper.note_told(true, now.unwrap_or_else(Instant::now));
    Some(access)
}

/// What is to be fetched now, by its number.
fn due(keeper: &mut Keeper, now: Instant) -> Vec<u64> {
    keeper.look(now).into_iter().map(|(id, _)| id).collect()
}

/// It has not been told, and the token may be of the key that has just come.
#[test]
fn whoever_comes_before_a_reactor_has_the_new_set_is_to_come_again() {
    let began = Instant::now();
    let mut keeper = keeper(&[("a", "https://a/")], began);
    let ids = due(&mut keeper, began);
    keeper.take(ids[0], set(&[key("1")]), 0, began);
    let at_reactor = owed(&mut keeper).unwrap();
    let later = began + Duration::from_secs(600);
    let ids = due(&mut keeper, later);
    keeper.take(ids[0], set(&[key("1"), key("2")]), 0, later);
    let new = keeper.take_owed().expect("there are others");
    assert_eq!(bring(&new, "a", "2"), Ok(()));
    assert_eq!(bring(&at_reactor, "a", "2"), Err(("unknown_key", true)));
    keeper.note_told(false, later);
    assert_eq!(bring(&at_reactor, "a", "2"), Err(("unknown_key", true)), "some reactor has not taken it");
    keeper.take_owed().expect("it is told again");
    keeper.note_told(true, later);
    assert_eq!(bring(&at_reactor, "a", "2"), Err(("unknown_key", false)), "all have the new one");
}

#[test]
fn keys_come_to_reactors_once_and_again_only_when_they_change() {
    let now = Instant::now();
    let mut keeper = keeper(&[("a", "https://a/")], now);
    assert!(owed(&mut keeper).is_none());
    assert_eq!(bring(keeper.access.as_ref().unwrap(), "a", "1"), Err(("no_keys", true)));
    assert_eq!(keeper.status(now).without, ["a"]);
    let ids = due(&mut keeper, now);
    assert!(due(&mut keeper, now + 20 * REFETCH).is_empty(), "it is under way");
    keeper.take(ids[0], set(&[key("1")]), 0, now);
    let told = owed(&mut keeper).expect("it has keys");
    assert_eq!((told.version(), bring(&told, "a", "1")), (1, Ok(())));
    assert!(owed(&mut keeper).is_none());
    // The same ones again, and then others.
    let later = now + Duration::from_secs(600);
    let ids = due(&mut keeper, later);
    keeper.take(ids[0], set(&[key("1")]), 0, later);
    assert!(owed(&mut keeper).is_none());
    let later = later + Duration::from_secs(600);
    let ids = due(&mut keeper, later);
    keeper.take(ids[0], set(&[key("2")]), 0, later);
    let told = owed(&mut keeper).expect("it has others");
    assert_eq!((bring(&told, "a", "1").is_err(), bring(&told, "a", "2")), (true, Ok(())));
    let status = keeper.status(later + Duration::from_secs(5));
    assert_eq!(status.ages, [("a".to_owned(), Duration::from_secs(5))]);
    assert_eq!((status.fetches, status.without.len(), status.is_shut), ([2, 1, 0], 0, false));
}

#[test]
fn a_key_that_is_not_there_is_fetched_once_in_thirty_seconds_whatever_strangers_name() {
    let began = Instant::now();
    let mut keeper = keeper(&[("a", "https://a/")], began);
    let ids = due(&mut keeper, began);
    keeper.take(ids[0], set(&[key("1")]), 0, began);
    let access = owed(&mut keeper).unwrap();
    let mut fetches = Vec::new();
    let mut answers = Vec::new();
    // Four times a second for two minutes.
    for quarter in 1..=480u32 {
        let now = began + quarter * LOOK_INTERVAL;
        answers.push(bring(&access, "a", &format!("made-up-{quarter}")).unwrap_err());
        for id in due(&mut keeper, now) {
            fetches.push(quarter / 4);
            keeper.take(id, set(&[key("1")]), 0, now);
        }
    }
    assert_eq!(fetches, [30, 60, 90, 120]);
    // The set is fresh: who names others is told that they are none.
    assert!(answers.iter().all(|answer| *answer == ("unknown_key", false)));
    assert!(owed(&mut keeper).is_none());
    // When nobody has asked for a while, whoever does is to come again, and the set is fetched at once.
    let later = began + Duration::from_secs(200);
    assert!(due(&mut keeper, later).is_empty());
    assert_eq!(bring(&access, "a", "2"), Err(("unknown_key", true)));
    let ids = due(&mut keeper, later);
    assert_eq!(bring(&access, "a", "2"), Err(("unknown_key", true)), "it is under way");
    keeper.take(ids[0], set(&[key("1"), key("2")]), 0, later);
    assert_eq!(bring(&owed(&mut keeper).unwrap(), "a", "2"), Ok(()));
}

#[test]
fn keys_of_before_are_used_while_none_can_be_fetched_but_not_for_ever() {
    let began = Instant::now();
    let mut keeper = keeper(&[("a", "https://a/")], began);
    let ids = due(&mut keeper, began);
    keeper.take(ids[0], set(&[key("1")]), 0, began);
    let mut told = owed(&mut keeper).unwrap();
    let (mut attempts, mut dropped_s) = (0, None);
    for second in 0..90_000 {
        let now = began + Duration::from_secs(second);
        for id in due(&mut keeper, now) {
            attempts += 1;
            keeper.take(id, Err(FetchError::TooSlow), u64::MAX, now);
        }
        if let Some(access) = owed(&mut keeper) {
            (told, dropped_s) = (access, dropped_s.or(Some(second)));
        }
        let status = keeper.status(now);
        assert_eq!((status.without.is_empty(), status.is_shut), (dropped_s.is_none(), dropped_s.is_some()));
    }
    assert_eq!(dropped_s, Some(86_400));
    assert!((1_400..3_000).contains(&attempts), "{attempts}");
    assert_eq!(bring(&told, "a", "1"), Err(("no_keys", true)));
    assert_eq!(keeper.status(began + Duration::from_secs(90_000)).ages, []);
    // The same ones are taken again when they come.
    let later = began + Duration::from_secs(90_100);
    let ids = due(&mut keeper, later);
    keeper.take(ids[0], set(&[key("1")]), 0, later);
    assert_eq!(bring(&owed(&mut keeper).unwrap(), "a", "1"), Ok(()));
}

#[test]
fn what_is_no_set_of_keys_changes_nothing() {
    let now = Instant::now();
    let mut keeper = keeper(&[("a", "https://a/")], now);
    let many: Vec<String> = (0..=KEYS_MAX).map(|number| key(&number.to_string())).collect();
    let secret = Signer::new(KeyKind::Hmac).jwk(r#","kid":"s""#);
    let foreign = signer(KeyKind::Rsa).jwk(r#","kid":"r""#);
    let body = |text: &'static str| Ok(Fetched { body: Bytes::from_static(text.as_bytes()), life: None });
    let mut at = now;
    for (answer, why) in [
        (body("<html>"), "neither a JWK nor a set of those"),
        (body(""), "neither a JWK nor a set of those"),
        (body(r#"{"keys":[]}"#), "no key for ES256"),
        (set(&many), "65 keys; at most 64 are allowed"),
        (set(&[secret.clone(), foreign.clone()]), "no key for ES256; key \"s\": it is a secret"),
        (Err(FetchError::TooLong), "more than 262144 bytes"),
    ] {
        at += Duration::from_secs(120);
        let ids = due(&mut keeper, at);
        keeper.take(ids[0], answer, 0, at);
        let failure = keeper.entries[0].failure.as_deref();
        assert!(failure.is_some_and(|failure| failure.starts_with(why)), "{why}: {failure:?}");
        assert!(owed(&mut keeper).is_none());
    }
    // Beside a good one they are passed over.
    at += Duration::from_secs(120);
    let ids = due(&mut keeper, at);
    let unused = signer(KeyKind::EcP256).jwk(r#","kid":"e","use":"enc""#);
    let signs = signer(KeyKind::EcP256).jwk(r#","kid":"o","key_ops":["sign"]"#);
    keeper.take(ids[0], set(&[secret, foreign, unused, signs, key("1")]), 0, at);
    let access = owed(&mut keeper).unwrap();
    assert_eq!((bring(&access, "a", "1"), keeper.entries[0].passed_over.len()), (Ok(()), 4));
    for id in ["s", "r", "e", "o"] {
        assert!(bring(&access, "a", id).is_err(), "{id}");
    }
    assert_eq!(keeper.status(at).fetches, [1, 0, 6]);
}

#[test]
fn another_configuration_keeps_the_keys_of_issuers_that_stay_the_same() {
    let now = Instant::now();
    let mut keeper = keeper(&[("a", "https://a/"), ("b", "https://b/"), ("c", "https://c/")], now);
    for id in due(&mut keeper, now) {
        keeper.take(id, set(&[key("1")]), 0, now);
    }
    owed(&mut keeper).unwrap();
    // In another order, one with another address, one gone, one new.
    let others = config(&[("c", "https://c/"), ("b", "https://other/"), ("d", "https://d/")]);
    let (access, urls) = read(&others, 2);
    let access = keeper.adopt(access, urls, &others, now).unwrap();
    assert_eq!(access.version(), 2);
    let told = ["a", "b", "c", "d"].map(|iss| bring(&access, iss, "1"));
    let unknown = Err(("unknown_issuer", false));
    assert_eq!(told, [unknown, Err(("no_keys", true)), Ok(()), Err(("no_keys", true))]);
    // It is as fresh as it was.
    assert_eq!(bring(&access, "c", "2"), Err(("unknown_key", false)));
    let ids = due(&mut keeper, now);
    assert_eq!(ids.len(), 2);
    keeper.take(ids[0], set(&[key("2")]), 0, now);
    assert_eq!(bring(&access, "b", "2"), Err(("no_keys", true)), "reactors do not have it yet");
    // Reactors may not have heard of that configuration: they would take its keys for nothing.
    assert!(owed(&mut keeper).is_none());
    keeper.is_adopting = false;
    assert_eq!(bring(&owed(&mut keeper).unwrap(), "b", "2"), Ok(()));
    // What was under way for one that is gone was for nothing.
    keeper.take(1, set(&[key("9")]), 0, now);
    assert!(owed(&mut keeper).is_none());
    let (access, urls) = read(&config(&[]), 3);
    keeper.adopt(access, urls, &config(&[]), now);
    assert!(due(&mut keeper, now + 1_000 * REFETCH).is_empty());
}

#[test]
fn a_broker_is_shut_only_if_everybody_comes_by_issuers_without_keys() {
    let now = Instant::now();
    for (tokens_file, anonymous, with_file, is_shut) in [
        (false, false, false, true),
        (true, false, false, false),
        (false, true, false, false),
        (false, false, true, false),
    ] {
        let mut config = config(&[("a", "https://a/"), ("b", "https://b/")]);
        config.auth.tokens_file = tokens_file.then(|| "/t".into());
        config.auth.anonymous_roles = if anonymous { vec!["chat".into()] } else { Vec::new() };
        let (access, urls) = read(&config, 1);
        if with_file {
            config.auth.issuers.push(Issuer { key_file: Some("/k".into()), ..issuer("c", "") });
        }
        let mut keeper = Keeper::default();
        keeper.adopt(access, urls, &config, now);
        assert_eq!(keeper.status(now).is_shut, is_shut);
        let ids = due(&mut keeper, now);
        keeper.take(ids[1], set(&[key("1")]), 0, now);
        let status = keeper.status(now);
        assert_eq!((status.is_shut, status.without), (false, vec!["a".to_owned()]));
    }
    assert!(!Keeper::default().status(now).is_shut);
}

#[test]
fn only_a_missing_key_of_a_fetched_set_is_worth_coming_again_for() {
    let config = config(&[("a", "https://a/")]);
    let (access, _) = read(&config, 1);
    let access = access.unwrap();
    let missing = [TokenFault::NoKeys { issuer_index: 0 }, TokenFault::UnknownKey { issuer_index: 0 }];
    for why in Refused::all() {
        let is_missing = missing.into_iter().any(|fault| why == Refused::Token(fault));
        assert_eq!(access.awaits_keys(why), is_missing, "{why:?}");
    }
}
