//! Files and answers with keys.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::access::{
    keys::{
        Algorithm, KEYS_BYTES_MAX, KEYS_MAX, KeyKind, KeySet, KeysError, Loaded, RSA_BITS, SECRET_BYTES,
        Source,
    },
    token::{IssuerTerms, Issuers, read},
};

/// Takes `bytes` as keys, from a file and from an address, for everything and for a part of it.
pub fn jwks(bytes: &[u8]) {
    let secrets = [Algorithm::Hs256];
    let public = &Algorithm::ALL[3..];
    for algorithms in [&Algorithm::ALL, public, &secrets, &[]] {
        let at_url = KeySet::from_jwks(bytes, algorithms, Source::Url);
        let in_set = KeySet::from_jwks(bytes, algorithms, Source::File);
        let in_file = KeySet::from_key_file(bytes, algorithms);
        if let Ok(loaded) = &at_url {
            let is_secret = |kind: KeyKind| kind == KeyKind::Hmac;
            assert!(!loaded.keys.keys().iter().any(|key| is_secret(key.kind())), "{loaded:?}");
            let count = in_set.as_ref().map_or(0, |loaded| loaded.keys.keys().len());
            assert!(count >= loaded.keys.keys().len(), "what an address may give a file may as well");
        }
        for loaded in [at_url, in_set, in_file] {
            check(loaded, algorithms, bytes);
        }
    }
}

fn check(loaded: Result<Loaded, KeysError>, algorithms: &[Algorithm], bytes: &[u8]) {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(char::is_control), "{line:?}");
            return;
        }
    };
    assert!(bytes.len() <= KEYS_BYTES_MAX);
    let keys = loaded.keys.keys();
    assert!((1..=KEYS_MAX).contains(&keys.len()) && keys.len() + loaded.passed_over.len() <= KEYS_MAX);
    for key in keys {
        assert!(algorithms.iter().any(|algorithm| algorithm.kind() == key.kind()), "{key:?}");
        let is_right = match key.kind() {
            KeyKind::Hmac => SECRET_BYTES.contains(&(key.bits() as usize / 8)),
            KeyKind::Rsa => RSA_BITS.contains(&key.bits()),
            KeyKind::EcP256 | KeyKind::Ed25519 => key.bits() == 256,
            KeyKind::EcP384 => key.bits() == 384,
        };
        assert!(is_right, "{key:?}");
    }
    let lens = [32, 48, 64, 96].into_iter().chain(keys.iter().map(|key| key.bits().div_ceil(8) as usize));
    let lens: Vec<usize> = lens.collect();
    check_proofs(loaded.keys, algorithms, &lens);
}

/// None of the keys proves that it signed what has no signature.
fn check_proofs(keys: KeySet, algorithms: &[Algorithm], lens: &[usize]) {
    let terms = IssuerTerms {
        iss: "a".into(),
        audience: Vec::new(),
        algorithms: algorithms.to_vec(),
        user_claim: "sub".into(),
        claims: "fanfare".into(),
        ttl_s_max: None,
        tenants: false,
        keys: Some(Arc::new(keys)),
        refetch: None,
    };
    let issuers = Issuers::new(vec![terms], Vec::new());
    let encode = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    for algorithm in algorithms {
        let header = format!(r#"{{"alg":"{}"}}"#, algorithm.as_str());
        let message = [encode(header.as_bytes()), encode(br#"{"iss":"a","exp":1}"#)].join(".");
        for len in lens {
            let token = format!("{message}.{}", encode(&vec![0; *len]));
            assert!(read(&token, &issuers, 0, 0).is_err(), "{token}");
        }
    }
}
