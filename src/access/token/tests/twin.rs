//! `jsonwebtoken` as the twin: whatever is taken here it takes as well, and what it takes beyond that is known.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{DecodingKey, Validation, decode};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngSeed, TestRunner},
};

use super::*;

/// Why what the twin takes is refused. It does not look at which key a token says it is signed with, so that one that names a key
/// of another kind is among them.
const BEYOND: [&str; 8] = [
    "bad_claims",
    "bad_grants",
    "bad_header",
    "critical_header",
    "lifetime",
    "not_yet_valid",
    "unknown_key",
    "wrong_algorithm",
];

/// Whether the twin takes it, by any of the issuer's keys.
fn twin_takes(token: &str) -> bool {
    let Ok(header) = jsonwebtoken::decode_header(token) else { return false };
    let mut validation = Validation::new(header.alg);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_audience(&["fanfare", "broker"]);
    validation.set_issuer(&[ISS]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    Signer::KINDS.into_iter().any(|kind| {
        let jwk = serde_json::from_str(&signer(kind).jwk("")).expect("a JWK");
        let key = DecodingKey::from_jwk(&jwk).expect("a key");
        key.family() == header.alg.family() && decode::<serde_json::Value>(token, &key, &validation).is_ok()
    })
}

/// Some of it as it should be. The twin takes numbers with fractions only where `serde_json` makes doubles of them, and looks
/// at what names keys: there is neither.
fn header() -> impl Strategy<Value = (&'static str, Vec<&'static str>)> {
    let algorithm = mostly(vec!["ES256", "HS256", "HS384", "EdDSA", "ES384"], vec!["none", "ES512"]);
    let member = mostly(
        vec![r#""typ":"JWT""#, r#""x":{"a":[1]}"#, r#""jku":"https://evil.example/""#],
        vec![
            r#""typ":"JWE""#,
            r#""kid":"EcP256""#,
            r#""kid":"Hmac""#,
            r#""kid":"nobody""#,
            r#""kid":7"#,
            r#""crit":["exp"]"#,
            r#""b64":false"#,
            r#""y":{"a":1,"a":2}"#,
        ],
    );
    (algorithm, prop::collection::vec(member, 0..2))
}

fn body(now_s: u64) -> impl Strategy<Value = Vec<String>> {
    let at = |name: &str, ahead: i64| format!(r#""{name}":{}"#, now_s as i64 + ahead);
    let exp_text = format!(r#""exp":"{}""#, now_s + 1_000);
    let exp = mostly(
        vec![at("exp", 1_000), at("exp", 10_000)],
        vec![at("exp", 100_000), at("exp", -1_000), exp_text, r#""exp":-1"#.into()],
    );
    let iss = mostly(
        vec![format!(r#""iss":"{ISS}""#)],
        vec![format!(r#""iss":["{ISS}"]"#), r#""iss":"x""#.into(), r#""iss":7"#.into()],
    );
    let aud = mostly(
        vec![r#""aud":"fanfare""#.to_string(), r#""aud":["x","broker"]"#.into()],
        vec![r#""aud":["x"]"#.into(), r#""aud":"x""#.into(), r#""no":1"#.into()],
    );
    let member = mostly(
        vec![at("nbf", -1_000), at("iat", -1_000), r##""fanfare":{"publish":["#"]}"##.into()],
        vec![
            at("nbf", 1_000),
            at("iat", 1_000),
            r#""iat":"then""#.into(),
            r#""sub":"""#.into(),
            r#""jti":7"#.into(),
            r#""own":1,"own":2"#.into(),
            r##""fanfare":{"publish":"#"}"##.into(),
        ],
    );
    (exp, iss, aud, prop::collection::vec(member, 0..3))
        .prop_map(|(exp, iss, aud, members)| [exp, iss, aud].into_iter().chain(members).collect())
}

fn mostly<T: Clone + std::fmt::Debug + 'static>(right: Vec<T>, wrong: Vec<T>) -> impl Strategy<Value = T> {
    prop_oneof![6 => select(right), 1 => select(wrong)]
}

/// What is done to a token that is signed: mostly nothing.
fn mutation() -> impl Strategy<Value = Option<(Index, u8)>> {
    prop::option::weighted(0.3, (any::<Index>(), select(&b"AQgwz09-_.=+/\n"[..])))
}

#[test]
fn whatever_is_taken_the_twin_takes_and_what_it_takes_beyond_is_known() {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time since then").as_secs();
    let config = Config {
        rng_seed: RngSeed::Fixed(7_519),
        cases: 4_000,
        failure_persistence: None,
        ..Config::default()
    };
    let (issuers, beyond, taken_count) = (issuers(), RefCell::new(BTreeSet::new()), Cell::new(0));
    let cases = (header(), body(now_s), mutation(), prop::bool::weighted(0.1));
    let run = TestRunner::new(config).run(&cases, |((name, members), body, mutation, is_foreign)| {
        let algorithm = Algorithm::parse(name).unwrap_or(Algorithm::Hs256);
        let sign = if is_foreign { foreign_signer } else { signer };
        let header = [&[&*format!(r#""alg":"{name}""#)], &members[..]].concat().join(",");
        let body = body.join(",");
        let mut token =
            sign(algorithm.kind()).token(algorithm, &format!("{{{header}}}"), &format!("{{{body}}}"));
        if let Some((at, byte)) = mutation {
            let at = at.index(token.len());
            token.replace_range(at..=at, &char::from(byte).to_string());
        }
        match (read(&token, &issuers, now_s, LEEWAY_S), twin_takes(&token)) {
            (Ok(_), true) => taken_count.set(taken_count.get() + 1),
            (Ok(_), false) => prop_assert!(false, "{} {} {}", header, body, token),
            (Err(fault), true) => _ = beyond.borrow_mut().insert(fault.as_str()),
            (Err(_), false) => {}
        }
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(taken_count.get() > 500, "{} were taken", taken_count.get());
    assert_eq!(beyond.into_inner().into_iter().collect::<Vec<_>>(), BEYOND);
}
