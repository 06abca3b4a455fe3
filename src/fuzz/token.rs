//! Signed tokens, and what they say.

use std::sync::{Arc, LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, crypto};
use serde_json::Value;

use crate::access::{
    grants::{GrantTexts, Grants},
    keys::{Algorithm, KeySet},
    token::{Claims, GRANTS_MAX, INFO_BYTES_MAX, IssuerTerms, Issuers, NAME_BYTES_MAX, read},
};

/// Of nobody: a key for tests.
const SECRET: &[u8] = b"a key for tests, which nobody else has";
const NOW_S: u64 = 2_000_000_000;
const LEEWAY_S: u64 = 10;
const TTL_S_MAX: u64 = 86_400;

/// One issuer, and one with tenants, both of whom have the same key.
static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| {
    let algorithms = vec![Algorithm::Hs256, Algorithm::Hs512];
    let loaded = KeySet::from_key_file(SECRET, &algorithms).expect("a key");
    let plain = IssuerTerms {
        iss: "a".into(),
        audience: vec!["fanfare".into()],
        algorithms,
        user_claim: "sub".into(),
        claims: "fanfare".into(),
        ttl_s_max: Some(TTL_S_MAX),
        tenants: false,
        keys: Some(Arc::new(loaded.keys)),
        refetch: None,
    };
    let tenants = IssuerTerms { iss: "t".into(), audience: Vec::new(), tenants: true, ..plain.clone() };
    Issuers::new(vec![plain, tenants], vec!["org".into()])
});

/// Reads `bytes` as a token, and the two sides of their first line break as header and claims of one that is signed.
pub fn token(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        check(text);
    }
    let Some(at) = memchr::memchr(b'\n', bytes) else { return };
    let parts = [&bytes[..at], &bytes[at + 1..]].map(|part| URL_SAFE_NO_PAD.encode(part));
    let message = parts.join(".");
    for algorithm in [jsonwebtoken::Algorithm::HS256, jsonwebtoken::Algorithm::HS512] {
        let signature = crypto::sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), algorithm);
        check(&format!("{message}.{}", signature.expect("a signature")));
    }
}

/// What is taken is what a reader that takes anything makes of it, and keeps the rules.
fn check(token: &str) {
    let Ok(claims) = read(token, &ISSUERS, NOW_S, LEEWAY_S) else { return };
    let (message, signature) = token.rsplit_once('.').expect("three parts");
    let [header, body] = message.split('.').collect::<Vec<_>>()[..] else { panic!("three parts: {token}") };
    let [header, body]: [Value; 2] = [header, body]
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON"));
    let algorithm = match header["alg"].as_str() {
        Some("HS256") => jsonwebtoken::Algorithm::HS256,
        Some("HS512") => jsonwebtoken::Algorithm::HS512,
        other => panic!("{other:?} may not be used"),
    };
    let proof = crypto::sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), algorithm);
    assert_eq!(proof.as_deref().ok(), Some(signature));
    for name in ["crit", "b64"] {
        assert!(header.get(name).is_none(), "{header}");
    }
    check_claims(&claims, &body);
}

fn check_claims(claims: &Claims, body: &Value) {
    let terms = &ISSUERS.terms()[claims.issuer_index];
    assert_eq!(body["iss"].as_str(), Some(&*terms.iss));
    assert_eq!(body["sub"].as_str(), claims.user.as_deref());
    assert_eq!(body["jti"].as_str(), claims.token_id.as_deref());
    assert!([&claims.user, &claims.token_id].into_iter().flatten().all(|name| name.len() <= NAME_BYTES_MAX));
    let is_ours = |audience: &Value| audience == "fanfare";
    let is_for_us = match &body["aud"] {
        Value::Array(all) => all.iter().any(is_ours),
        one => is_ours(one),
    };
    assert_eq!(is_for_us, claims.issuer_index == 0);
    assert_eq!(body["exp"].as_f64().map(f64::floor), Some(claims.expires_s as f64));
    assert!((NOW_S - LEEWAY_S + 1..=NOW_S + LEEWAY_S + TTL_S_MAX).contains(&claims.expires_s));
    for name in ["nbf", "iat"] {
        let seconds = body.get(name).map(|value| value.as_f64().expect("a number"));
        assert!(seconds.is_none_or(|seconds| seconds <= (NOW_S + LEEWAY_S) as f64));
    }
    assert_eq!(claims.tenant.is_some(), terms.tenants);
    let own = &body["fanfare"];
    assert_eq!(own["tenant"].as_str(), claims.tenant.as_deref());
    let info = claims.info.as_deref().map(|info| serde_json::from_str(info).expect("JSON"));
    assert_eq!(own.get("info").cloned(), info);
    assert!(claims.info.as_ref().is_none_or(|info| info.len() <= INFO_BYTES_MAX));
    assert_eq!(list(own, "roles"), claims.roles.iter().map(|name| name.to_string()).collect::<Vec<_>>());
    let lists = ["publish", "subscribe", "history", "presence", "deny"];
    let texts = GrantTexts {
        publish: list(own, "publish"),
        subscribe: list(own, "subscribe"),
        history: own.get("history").map(|_| list(own, "history")),
        presence: list(own, "presence"),
        deny: list(own, "deny"),
    };
    let grants = lists.iter().any(|name| own.get(name).is_some()).then(|| Grants::parse(&texts));
    assert_eq!(grants.transpose().as_ref(), Ok(&claims.grants));
}

fn list(own: &Value, name: &str) -> Vec<String> {
    let list = own.get(name).map(|list| list.as_array().expect("a list"));
    let texts = list.into_iter().flatten().map(|text| text.as_str().expect("a text").to_string());
    let texts: Vec<String> = texts.collect();
    assert!(texts.len() <= GRANTS_MAX);
    texts
}
