//! Tokens that other libraries have made: each is read as it was meant, and none with a bit of its signature changed.

use std::{
    env, fs,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fanfare::access::{
    keys::{Algorithm, KeySet},
    token::{IssuerTerms, Issuers, TokenFault, read},
};
use serde::Deserialize;

/// What a maker prints.
#[derive(Deserialize)]
struct Case {
    maker: String,
    algorithm: String,
    /// The same key, in every form that the maker writes.
    keys: Vec<String>,
    token: String,
}

const MAKERS: [&str; 3] = ["PyJWT", "joserfc", "jose"];
/// Tokens are made and read by the same clock.
const LEEWAY_S: u64 = 1;

/// An issuer that has this key, and uses it for nothing else.
fn issuers(key: &str, algorithm: Algorithm) -> Issuers {
    let loaded =
        KeySet::from_key_file(key.as_bytes(), &[algorithm]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((loaded.keys.keys().len(), loaded.passed_over.len()), (1, 0));
    let terms = IssuerTerms {
        iss: "https://tokens.example.org/".into(),
        audience: vec!["fanfare".into()],
        algorithms: vec![algorithm],
        user_claim: "sub".into(),
        claims: "fanfare".into(),
        ttl_s_max: Some(3_600),
        tenants: false,
        keys: Some(Arc::new(loaded.keys)),
        refetch: None,
    };
    Issuers::new(vec![terms], Vec::new())
}

#[test]
#[ignore = "needs tokens, which tests/tokens/run has made"]
fn tokens_of_others_are_read_and_none_that_was_changed() {
    let path = env::var("FANFARE_TOKENS").expect("FANFARE_TOKENS, a file of them");
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time since then").as_secs();
    let mut seen: Vec<(String, Algorithm)> = Vec::new();
    for line in fs::read_to_string(&path).expect("a file of tokens").lines() {
        let Case { maker, algorithm, keys, token } = serde_json::from_str(line).expect("a token");
        let algorithm = Algorithm::parse(&algorithm).unwrap_or_else(|| panic!("there is no {algorithm}"));
        let what = format!("{} by {maker}", algorithm.as_str());
        assert!(!keys.is_empty(), "{what} has no key");
        for key in keys {
            let issuers = issuers(&key, algorithm);
            let claims = read(&token, &issuers, now_s, LEEWAY_S);
            let claims = claims.unwrap_or_else(|fault| panic!("{what}: {fault:?} with {key}"));
            assert!(claims.user.is_some() && claims.grants.is_some(), "{what}: {claims:?}");
            let (message, signature) = token.rsplit_once('.').expect("three parts");
            let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
            for bit in (0..8 * signature.len()).step_by(37) {
                let mut signature = signature.clone();
                signature[bit / 8] ^= 1 << (bit % 8);
                let changed = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
                let fault = read(&changed, &issuers, now_s, LEEWAY_S).err();
                assert_eq!(fault, Some(TokenFault::BadSignature), "{what}: bit {bit}");
            }
        }
        seen.push((maker, algorithm));
    }
    for maker in MAKERS {
        for algorithm in Algorithm::ALL {
            let is_seen = seen.iter().any(|(other, of)| other == maker && *of == algorithm);
            assert!(is_seen, "no {} by {maker}", algorithm.as_str());
        }
    }
    println!("{} tokens were read", seen.len());
}
