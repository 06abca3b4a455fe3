//! Tokens of an issuer with a key of each kind, and of whoever wants to be taken for it.

use super::{
    super::{
        forge::{Signer, encode, foreign_signer, sign_hmac, signed, signer},
        keys::{KeyKind, Source},
        pattern::Pattern,
    },
    *,
};

mod attacks;
mod twin;

const NOW_S: u64 = 2_000_000_000;
const LEEWAY_S: u64 = 10;
const ISS: &str = "https://login.example.org/";
const OTHER_ISS: &str = "https://other.example.org/";
const TENANTS_ISS: &str = "https://tenants.example.org/";

/// One with a key of each kind, named as its kind; one with an EC key, which may use nothing else; and one with tenants.
fn issuers() -> Issuers {
    let set = |keys: Vec<String>, algorithms: &[Algorithm]| {
        let text = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
        let loaded = KeySet::from_jwks(text.as_bytes(), algorithms, Source::File).expect("keys");
        assert_eq!(loaded.passed_over, []);
        Some(Arc::new(loaded.keys))
    };
    let named = |kind: KeyKind| format!(r#","kid":"{kind:?}""#);
    let ours = Signer::KINDS.map(|kind| signer(kind).jwk(&named(kind)));
    let terms = IssuerTerms {
        iss: ISS.into(),
        audience: vec!["fanfare".into(), "broker".into()],
        algorithms: Algorithm::ALL.to_vec(),
        user_claim: "sub".into(),
        claims: "fanfare".into(),
        ttl_s_max: Some(86_400),
        tenants: false,
        keys: set(ours.to_vec(), &Algorithm::ALL),
        refetch: None,
    };
    let es256 = vec![Algorithm::Es256];
    let other = IssuerTerms {
        iss: OTHER_ISS.into(),
        audience: Vec::new(),
        keys: set(vec![foreign_signer(KeyKind::EcP256).jwk(r#","kid":"other""#)], &es256),
        algorithms: es256,
        user_claim: "email".into(),
        claims: "https://fanfare.example.org/".into(),
        ttl_s_max: None,
        ..terms.clone()
    };
    let tenants = IssuerTerms { iss: TENANTS_ISS.into(), tenants: true, ..terms.clone() };
    Issuers::new(vec![terms, other, tenants], vec!["org".into(), "team".into()])
}

/// What is in every token, and `members`, which begin with a comma if there are any.
fn claims(members: &str) -> String {
    format!(r#"{{"iss":"{ISS}","aud":"fanfare","exp":{},"sub":"alice"{members}}}"#, NOW_S + 600)
}

/// With what is for the broker.
fn own_claims(own: &str) -> String {
    claims(&format!(r#","fanfare":{own}"#))
}

/// As the issuer signs it.
fn token(claims: &str) -> String {
    signer(KeyKind::EcP256).token(Algorithm::Es256, r#"{"alg":"ES256","kid":"EcP256"}"#, claims)
}

fn read_now(token: &str) -> Result<Claims, TokenFault> {
    read(token, &issuers(), NOW_S, LEEWAY_S)
}

#[test]
fn a_token_says_who_somebody_is_and_what_they_may_do() {
    let read = read_now(&token(&claims(
        r#","jti":"t-1","iat":1999999999.5,"org":"acme","dept":"it","other":"x","team":["a"],"fanfare":{"roles":["chat","ops"],
        "publish":["room/+","in/{claim.dept}"],"subscribe":["room/#","in/{user}"],"deny":["room/staff"],
        "info": {"name" : "Alice"}}"#,
    )));
    let claims = read.expect("it is taken");
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
    let grants = Grants::parse(&GrantTexts {
        publish: texts(&["room/+", "in/{claim.dept}"]),
        subscribe: texts(&["room/#", "in/{user}"]),
        deny: texts(&["room/staff"]),
        ..GrantTexts::default()
    });
    let expected = Claims {
        issuer_index: 0,
        user: Some("alice".into()),
        token_id: Some("t-1".into()),
        issued_s: Some(NOW_S - 1),
        expires_s: NOW_S + 600,
        tenant: None,
        roles: vec!["chat".into(), "ops".into()],
        grants: grants.ok(),
        info: Some(r#"{"name" : "Alice"}"#.into()),
        bindings: Bindings::new(Some("alice"), [("org", "acme"), ("dept", "it")]),
    };
    assert_eq!(claims, expected);
    let matches = |pattern, topic| Pattern::parse(pattern).unwrap().matches(topic, &claims.bindings);
    assert!(matches("in/{user}", "in/alice") && matches("in/{claim.org}", "in/acme"));
    assert!(!matches("in/{claim.team}", "in/a") && !matches("in/{claim.other}", "in/x"));
}

/// Nobody has signed it when it is read: it costs what its bytes do.
#[test]
fn a_claim_is_read_once_however_many_templates_name_it() {
    let filters = vec![format!(r#""in/{}""#, vec!["{claim.dept}"; 15].join("/")); 8].join(",");
    let text = claims(&format!(r#","x":"y","dept":"it","fanfare":{{"publish":[{filters}]}}"#));
    let claims = read_now(&token(&text)).expect("it is taken");
    assert_eq!(claims.bindings, Bindings::new(Some("alice"), [("dept", "it")]));
}

#[test]
fn a_token_need_not_say_more_than_whose_it_is_and_for_how_long() {
    let text = format!(r#"{{"iss":"{OTHER_ISS}","exp":{}}}"#, NOW_S + 9_000_000);
    let token = foreign_signer(KeyKind::EcP256).token(Algorithm::Es256, r#"{"alg":"ES256"}"#, &text);
    let claims = read_now(&token).expect("it is taken");
    assert_eq!((claims.issuer_index, claims.user, claims.grants), (1, None, None));
    assert_eq!((claims.roles, claims.info, claims.token_id, claims.issued_s), (vec![], None, None, None));
}

#[test]
fn every_algorithm_is_taken_with_its_kind_of_key_and_no_other() {
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::parse(algorithm.as_str()), Some(algorithm));
        for kind in Signer::KINDS {
            for id in [format!(r#","kid":"{kind:?}""#), String::new()] {
                let header = format!(r#"{{"alg":"{}"{id}}}"#, algorithm.as_str());
                let token = signer(algorithm.kind()).token(algorithm, &header, &claims(""));
                let expected = match algorithm.kind() == kind || id.is_empty() {
                    true => Ok("alice"),
                    false => Err(TokenFault::WrongAlgorithm),
                };
                let read = read_now(&token);
                let user = read.as_ref().map(|claims| claims.user.as_deref().unwrap()).map_err(|it| *it);
                assert_eq!(user, expected, "{header}");
            }
        }
    }
}

/// RFC 9864: in a header, in a key and in the configuration.
#[test]
fn a_signature_with_ed25519_may_be_called_so() {
    let key = signer(KeyKind::Ed25519);
    for (of_key, of_token) in [
        ("", "Ed25519"),
        (r#","alg":"Ed25519""#, "EdDSA"),
        (r#","alg":"EdDSA""#, "Ed25519"),
        (r#","alg":"Ed25519""#, "Ed25519"),
    ] {
        let algorithms = [Algorithm::parse("Ed25519").expect("it is one")];
        let jwk = key.jwk(of_key);
        let keys = KeySet::from_jwks(jwk.as_bytes(), &algorithms, Source::Url).expect(&jwk).keys;
        let terms = IssuerTerms {
            algorithms: algorithms.to_vec(),
            keys: Some(Arc::new(keys)),
            ..issuers().terms()[0].clone()
        };
        let issuers = Issuers::new(vec![terms], Vec::new());
        let token = key.token(Algorithm::EdDsa, &format!(r#"{{"alg":"{of_token}"}}"#), &claims(""));
        assert!(read(&token, &issuers, NOW_S, LEEWAY_S).is_ok(), "{of_key} {of_token}");
    }
    for other in ["ed25519", "Ed448", "EdDSA25519", "ESP256", ""] {
        assert_eq!(Algorithm::parse(other), None, "{other}");
    }
}

#[test]
fn what_it_costs_is_known_before_it_is_paid() {
    let issuers = issuers();
    let header = r#"{"alg":"PS384","kid":"Rsa"}"#;
    let token = signer(KeyKind::Rsa).token(Algorithm::Ps384, header, &claims(""));
    let token = Secret::new(token);
    let unverified = Unverified::parse(&token, &issuers).unwrap();
    let keys: Vec<_> = unverified.keys().map(|key| (key.kind(), key.bits())).collect();
    assert_eq!((keys, unverified.issuer_index()), (vec![(KeyKind::Rsa, 2_048)], 0));
    assert!(!format!("{unverified:?}").contains(&token.get()[..20]));
}

#[test]
fn whose_a_refused_token_says_to_be_is_told_as_far_as_it_can_be_read() {
    let issuers = issuers();
    let made = |header: &str, claims: &str| signed(header, claims, |_| b"x".into());
    let ours = format!(r#"{{"iss":"{OTHER_ISS}"}}"#);
    for (token, told) in [
        (made(r#"{"alg":"none","kid":"k"}"#, &ours), (Some(1), Some("k"))),
        (made(r#"{"kid":7}"#, &ours), (Some(1), None)),
        (made("x", &ours), (Some(1), None)),
        (made(r#"{"kid":"k"}"#, r#"{"iss":"https://evil.example/"}"#), (None, Some("k"))),
        (made(r#"{"kid":"k"}"#, "x"), (None, Some("k"))),
        (made(r#"{"kid":"k","kid":"j"}"#, &ours), (Some(1), None)),
        (String::new(), (None, None)),
        ("..".into(), (None, None)),
        (made(r#"{"kid":"k"}"#, &ours).repeat(200), (None, None)),
    ] {
        let (issuer_index, key_id) = tell_of(&token, &issuers);
        assert_eq!((issuer_index, key_id.as_deref()), told, "{}", &token[..token.len().min(100)]);
    }
}

#[test]
fn a_key_is_found_by_its_name_or_tried_by_its_kind() {
    let (ours, others) = (signer(KeyKind::EcP256), foreign_signer(KeyKind::EcP256));
    let read_with = |keys: &[String], id: &str, signer: &Signer| {
        let text = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
        let loaded = KeySet::from_jwks(text.as_bytes(), &Algorithm::ALL, Source::Url).expect("keys");
        let terms = IssuerTerms { keys: Some(Arc::new(loaded.keys)), ..issuers().terms()[0].clone() };
        let issuers = Issuers::new(vec![terms], Vec::new());
        let header = format!(r#"{{"alg":"ES256"{id}}}"#);
        let token = signer.token(Algorithm::Es256, &header, &claims(""));
        let secret = Secret::new(&*token);
        let count = Unverified::parse(&secret, &issuers).map(|it| it.keys().count());
        (count, read(&token, &issuers, NOW_S, LEEWAY_S).map(|_| ()))
    };
    let named = |signer: &Signer, id: &str| signer.jwk(&format!(r#","kid":"{id}""#));
    let keys = [named(others, "a"), named(ours, "b"), ours.jwk("")];
    let bad = Err(TokenFault::BadSignature);
    let unknown = TokenFault::UnknownKey { issuer_index: 0 };
    for (id, expected) in [
        (r#","kid":"a""#, (Ok(1), bad)),
        (r#","kid":"b""#, (Ok(1), Ok(()))),
        (r#","kid":"\u0062""#, (Ok(1), Ok(()))),
        // One without a name may go by any that nobody has.
        (r#","kid":"B""#, (Ok(1), Ok(()))),
        ("", (Ok(3), Ok(()))),
    ] {
        assert_eq!(read_with(&keys, id, ours), expected, "{id}");
    }
    assert_eq!(read_with(&keys[..2], r#","kid":"c""#, ours), (Err(unknown), Err(unknown)));
    let mut twice = vec![named(others, "a"), named(ours, "a")];
    assert_eq!(read_with(&twice, r#","kid":"a""#, ours), (Ok(2), Ok(())));
    twice.extend(vec![others.jwk(""); KEYS_TRIED_MAX]);
    assert_eq!(read_with(&twice, "", ours), (Ok(KEYS_TRIED_MAX), Ok(())));
    twice.reverse();
    assert_eq!(read_with(&twice, "", ours), (Ok(KEYS_TRIED_MAX), bad));
    let own = ours.jwk(r#","kid":"a","alg":"ES256""#);
    assert_eq!(read_with(&[own], r#","kid":"a""#, ours), (Ok(1), Ok(())));
}

#[test]
fn an_issuer_without_keys_is_not_the_clients_fault() {
    let mut terms = issuers().terms()[0].clone();
    terms.keys = None;
    let issuers = Issuers::new(vec![terms], Vec::new());
    let fault = read(&token(&claims("")), &issuers, NOW_S, LEEWAY_S).unwrap_err();
    assert_eq!(fault, TokenFault::NoKeys { issuer_index: 0 });
}

#[test]
fn a_token_is_of_its_time() {
    let (after, long_after) = (NOW_S + 1, NOW_S + 86_400);
    for (times, expected) in [
        (format!(r#""exp":{}"#, NOW_S - LEEWAY_S), Some(TokenFault::Expired)),
        (format!(r#""exp":{}"#, NOW_S - LEEWAY_S + 1), None),
        (format!(r#""exp":{}.9"#, NOW_S - LEEWAY_S), Some(TokenFault::Expired)),
        (r#""exp":0"#.into(), Some(TokenFault::Expired)),
        (r#""exp":2.0000006e9"#.into(), None),
        (format!(r#""exp":{}"#, long_after + LEEWAY_S), None),
        (format!(r#""exp":{}"#, long_after + LEEWAY_S + 1), Some(TokenFault::Lifetime)),
        (format!(r#""exp":{}"#, SECONDS_MAX), Some(TokenFault::Lifetime)),
        (format!(r#""exp":{after},"nbf":{}"#, NOW_S + LEEWAY_S), None),
        (format!(r#""exp":{after},"nbf":{}"#, NOW_S + LEEWAY_S + 1), Some(TokenFault::NotYetValid)),
        (format!(r#""exp":{after},"nbf":{}.1"#, NOW_S + LEEWAY_S), Some(TokenFault::NotYetValid)),
        (format!(r#""exp":{after},"iat":{}"#, NOW_S + LEEWAY_S), None),
        (format!(r#""exp":{after},"iat":{}"#, NOW_S + LEEWAY_S + 1), Some(TokenFault::NotYetValid)),
        (format!(r#""exp":{after},"iat":0,"nbf":0"#), None),
    ] {
        let claims = format!(r#"{{"iss":"{ISS}","aud":["fanfare"],{times}}}"#);
        assert_eq!(read_now(&token(&claims)).err(), expected, "{times}");
    }
    // However the clock is wrong.
    let token = token(&claims(""));
    assert_eq!(read(&token, &issuers(), 0, LEEWAY_S).unwrap_err(), TokenFault::Lifetime);
    assert_eq!(read(&token, &issuers(), u64::MAX, LEEWAY_S).unwrap_err(), TokenFault::Expired);
    assert!(read(&token, &issuers(), NOW_S, u64::MAX).is_ok());
}

#[test]
fn a_tenant_is_named_by_whose_issuer_has_them() {
    for (iss, own, expected) in [
        (TENANTS_ISS, r#","fanfare":{"tenant":"acme-1"}"#, Ok(Some("acme-1"))),
        (TENANTS_ISS, "", Err(TokenFault::BadGrants)),
        (TENANTS_ISS, r#","fanfare":{}"#, Err(TokenFault::BadGrants)),
        (TENANTS_ISS, r#","tenant":"acme""#, Err(TokenFault::BadGrants)),
        (TENANTS_ISS, r#","fanfare":{"tenant":""}"#, Err(TokenFault::BadGrants)),
        (TENANTS_ISS, r#","fanfare":{"tenant":"Acme"}"#, Err(TokenFault::BadGrants)),
        (TENANTS_ISS, r#","fanfare":{"tenant":"a/b"}"#, Err(TokenFault::BadGrants)),
        (TENANTS_ISS, r#","fanfare":{"tenant":"a\u0000"}"#, Err(TokenFault::BadGrants)),
        (TENANTS_ISS, r#","fanfare":{"tenant":null}"#, Err(TokenFault::BadGrants)),
        (ISS, "", Ok(None)),
        (ISS, r#","fanfare":{"tenant":"acme"}"#, Err(TokenFault::BadGrants)),
    ] {
        let claims = claims(own).replace(ISS, iss);
        let read = read_now(&token(&claims));
        let tenant = read.as_ref().map(|claims| claims.tenant.as_deref()).map_err(|fault| *fault);
        assert_eq!(tenant, expected, "{claims}");
    }
    let long = "a".repeat(tenant::TENANT_BYTES_MAX + 1);
    for (name, is_taken) in [(&long[1..], true), (&long[..], false)] {
        let claims = own_claims(&format!(r#"{{"tenant":"{name}"}}"#)).replace(ISS, TENANTS_ISS);
        assert_eq!(read_now(&token(&claims)).is_ok(), is_taken);
    }
}

#[test]
fn what_is_for_the_broker_is_known_to_its_last_member() {
    let list = |count| vec![r#""a""#; count].join(",");
    let info = |len: usize| format!(r#"{{"info":"{}"}}"#, "i".repeat(len - 2));
    for own in [
        "{}".into(),
        format!(r#"{{"publish":[{}],"roles":[{}]}}"#, list(GRANTS_MAX), list(GRANTS_MAX)),
        r##"{"publish":[],"subscribe":["#"],"history":[],"presence":["a/+"],"deny":["$sys/#"]}"##.into(),
        info(INFO_BYTES_MAX),
        r#"{"info":null}"#.into(),
    ] {
        let read = read_now(&token(&own_claims(&own)));
        assert!(read.is_ok(), "{own}: {read:?}");
    }
    for own in [
        "null".into(),
        "[]".into(),
        r#""chat""#.into(),
        r#"{"publisch":["a"]}"#.into(),
        r#"{"Publish":["a"]}"#.into(),
        r#"{"publish":"a"}"#.into(),
        r#"{"publish":null}"#.into(),
        r#"{"publish":{"a":true}}"#.into(),
        r#"{"publish":[1]}"#.into(),
        r#"{"publish":[["a"]]}"#.into(),
        r#"{"publish":[""]}"#.into(),
        r#"{"subscribe":["a/#/b"]}"#.into(),
        r#"{"subscribe":["a+"]}"#.into(),
        r#"{"history":["a\u0000"]}"#.into(),
        r#"{"presence":["{role}"]}"#.into(),
        r#"{"presence":["{claim.}"]}"#.into(),
        r#"{"deny":["a{user}"]}"#.into(),
        r#"{"roles":"chat"}"#.into(),
        r#"{"roles":[""]}"#.into(),
        r#"{"roles":[null]}"#.into(),
        format!(r#"{{"publish":[{}]}}"#, list(GRANTS_MAX + 1)),
        format!(r#"{{"roles":[{}]}}"#, list(GRANTS_MAX + 1)),
        info(INFO_BYTES_MAX + 1),
    ] {
        assert_eq!(read_now(&token(&own_claims(&own))).unwrap_err(), TokenFault::BadGrants, "{own}");
    }
    // What is for others is nobody's business here.
    assert!(read_now(&token(&claims(r#","realm_access":{"roles":[1]},"publish":1"#))).is_ok());
}

#[test]
fn the_user_is_whom_the_issuers_own_claim_names() {
    for (members, expected) in [
        (r#","sub":"7","email":"a@example.org""#, Ok(Some("a@example.org"))),
        (r#","sub":"7""#, Ok(None)),
        (r#","email":7"#, Err(TokenFault::BadClaims)),
        (r#","email":"""#, Err(TokenFault::BadClaims)),
        (r#","sub":7,"email":"a@example.org""#, Err(TokenFault::BadClaims)),
    ] {
        let text = format!(r#"{{"iss":"{OTHER_ISS}","exp":{}{members}}}"#, NOW_S + 600);
        let token = foreign_signer(KeyKind::EcP256).token(Algorithm::Es256, r#"{"alg":"ES256"}"#, &text);
        let read = read_now(&token);
        let user = read.as_ref().map(|claims| claims.user.as_deref()).map_err(|fault| *fault);
        assert_eq!(user, expected, "{members}");
    }
}

#[test]
fn every_fault_has_a_name_and_a_place_of_its_own() {
    let mut names = TokenFault::ALL.map(TokenFault::as_str).to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TokenFault::COUNT);
    for (index, fault) in TokenFault::ALL.into_iter().enumerate() {
        assert_eq!(fault.index(), index);
    }
    assert_eq!(TokenFault::UnknownKey { issuer_index: 7 }.as_str(), TokenFault::ALL[8].as_str());
}
