//! What it takes to ask whether a publish or a subscription is allowed, and to look at a token.
//!
//! Run with `cargo bench --bench access`. The first are what each publish and subscribe of a client with so many grants costs
//! more; the last ones are priced in `src/work.rs`.

use std::hint::black_box;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, criterion_group, criterion_main};
use fanfare::{
    access::{
        Access, Trusted,
        grants::{Action, GrantTexts, Grants, Role},
        keys::{Algorithm, KeySet, Source},
        static_token,
        token::IssuerTerms,
    },
    protocol::secret::Secret,
};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

const NOW_S: u64 = 2_000_000_000;
const SECRET: &[u8; 32] = b"01234567890123456789012345678901";

/// A role of so many grants, of which the last is the one that is asked for.
fn access_with(grant_count: usize) -> Access {
    let mut filters: Vec<String> = (1..grant_count).map(|n| format!("room/{n}/+/in")).collect();
    filters.push("own/{user}/#".into());
    let texts = GrantTexts { publish: filters.clone(), subscribe: filters, ..GrantTexts::default() };
    let grants = Grants::parse(&texts).expect("filters");
    Access::new(0, vec![Role { name: "chat".into(), grants }])
}

fn rights(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rights");
    for grant_count in [1, 8, 64] {
        let mut access = access_with(grant_count);
        let token = static_token::from_random(&[7; 32]);
        let digest = static_token::digest(&token).expect("a token");
        access.admit_static_token("bob", vec!["chat".into()].into(), None, digest);
        let token = Secret::new(token);
        let read = access.read(&token).expect("it is known");
        let principal = access.prove(read, NOW_S).expect("it is known");
        let has = access.roles_of(&principal);
        for (name, action, filter) in
            [("publish", Action::Publish, "own/bob/1"), ("subscribe", Action::Subscribe, "own/bob/#")]
        {
            group.bench_function(format!("{name}, {grant_count} grants"), |bencher| {
                bencher.iter(|| {
                    let verdict = access.may(&principal, has, action, black_box(filter));
                    assert!(verdict.is_allowed);
                });
            });
        }
    }
}

/// An issuer with these keys.
fn trusting(algorithm: Algorithm, keys: KeySet) -> Access {
    let mut access = access_with(1);
    let terms = IssuerTerms {
        iss: "login".into(),
        audience: vec!["fanfare".into()],
        algorithms: vec![algorithm],
        user_claim: "sub".into(),
        claims: "fanfare".into(),
        ttl_s_max: None,
        tenants: false,
        keys: Some(keys.into()),
        refetch: None,
    };
    access.trust(vec![Trusted { terms, roles: ["chat".into()].into(), tenant: None }], 10);
    access
}

fn tokens(criterion: &mut Criterion) {
    let claims = json!({"iss": "login", "aud": "fanfare", "sub": "bob", "exp": NOW_S + 600, "iat": NOW_S,
        "fanfare": {"roles": ["chat"], "subscribe": ["room/7/#"]}});
    let hmac = KeySet::from_key_file(SECRET, &[Algorithm::Hs256]).expect("a secret");
    let hmac = trusting(Algorithm::Hs256, hmac.keys);
    let by_hmac = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET)).expect("a token");

    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let point = pair.public_key().as_ref();
    let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}).to_string();
    let curve = KeySet::from_jwks(jwk.as_bytes(), &[Algorithm::Es256], Source::File).expect("a key");
    let curve = trusting(Algorithm::Es256, curve.keys);
    let signed =
        [json!({"alg": "ES256"}), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    let by_curve = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));

    let mut static_access = access_with(1);
    let by_bits = static_token::from_random(&[7; 32]);
    static_access.admit_static_token(
        "bob",
        [].into(),
        None,
        static_token::digest(&by_bits).expect("a token"),
    );

    let mut group = criterion.benchmark_group("token");
    for (name, access, token) in
        [("static", static_access, by_bits), ("HS256", hmac, by_hmac), ("ES256", curve, by_curve)]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let token = Secret::new(token.as_str());
                let read = access.read(&token).expect("it is good");
                access.prove(read, NOW_S).expect("it is good")
            });
        });
    }
}

criterion_group!(benches, rights, tokens);
criterion_main!(benches);
