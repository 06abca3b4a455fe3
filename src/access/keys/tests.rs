use super::{
    super::forge::{Signer, encode, foreign_signer, pem, signer},
    *,
};

fn load(bytes: impl AsRef<[u8]>, algorithms: &[Algorithm]) -> Result<Loaded, KeysError> {
    KeySet::from_key_file(bytes.as_ref(), algorithms)
}

/// Why the only key is none.
fn rule(bytes: impl AsRef<[u8]>, algorithms: &[Algorithm]) -> KeyRule {
    match load(bytes, algorithms) {
        Err(KeysError::NoneUsable { passed_over, .. }) if passed_over.len() == 1 => passed_over[0].rule,
        other => panic!("{other:?}"),
    }
}

fn kinds(loaded: &Loaded) -> Vec<KeyKind> {
    loaded.keys.keys().iter().map(Key::kind).collect()
}

fn set(keys: &[String]) -> String {
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

#[test]
fn a_key_is_what_it_is_however_it_is_written() {
    for kind in Signer::KINDS {
        let signer = signer(kind);
        let mut files = vec![signer.jwk("").into_bytes(), set(&[signer.jwk("")]).into_bytes()];
        match signer {
            Signer::Hmac(secret) => files.extend([secret.clone(), [secret, &b"\n"[..]].concat()]),
            _ => files.extend([signer.pem().into(), format!("about this key\n{}", signer.pem()).into()]),
        }
        for file in files {
            let loaded = load(&file, &Algorithm::ALL).expect("a key");
            assert_eq!((kinds(&loaded), &loaded.passed_over[..]), (vec![kind], &[][..]));
            let bits = match kind {
                KeyKind::Hmac => 512,
                KeyKind::Rsa => 2_048,
                KeyKind::EcP384 => 384,
                KeyKind::EcP256 | KeyKind::Ed25519 => 256,
            };
            assert_eq!(loaded.keys.keys()[0].bits(), bits);
            for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.kind() == kind) {
                let [proof, foreign] =
                    [signer, foreign_signer(kind)].map(|it| encode(it.sign(algorithm, b"message")));
                let key = &loaded.keys.keys()[0];
                assert!(key.verifies(b"message", &proof, algorithm), "{algorithm:?}");
                assert!(!key.verifies(b"massage", &proof, algorithm), "{algorithm:?}");
                assert!(!key.verifies(b"message", &foreign, algorithm), "{algorithm:?}");
                assert_eq!(proof.len(), encode(vec![0; key.signature_len(algorithm)]).len());
            }
        }
    }
}

#[test]
fn a_file_may_have_several_public_keys() {
    let both = [signer(KeyKind::Rsa).pem(), signer(KeyKind::EcP256).pem()].concat();
    assert_eq!(kinds(&load(&both, &Algorithm::ALL).unwrap()), [KeyKind::Rsa, KeyKind::EcP256]);
    let loaded = load(&both, &[Algorithm::Es256]).unwrap();
    assert_eq!(kinds(&loaded), [KeyKind::EcP256]);
    assert_eq!(loaded.passed_over, [PassedOver { index: 0, id: None, rule: KeyRule::Algorithm }]);
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let algorithms = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];
    for kind in [KeyKind::Rsa, KeyKind::EcP256, KeyKind::EcP384, KeyKind::Ed25519] {
        let signer = signer(kind);
        assert_eq!(rule(signer.pem(), &algorithms), KeyRule::Algorithm);
        assert_eq!(rule(signer.jwk(""), &algorithms), KeyRule::Algorithm);
        assert_eq!(rule(signer.jwk(r#","alg":"HS256""#), &algorithms), KeyRule::Algorithm);
        let der = signer.der();
        let digits = STANDARD_NO_PAD.encode(&der);
        for file in [
            der.clone(),
            [&der, &b"\n"[..]].concat(),
            encode(&der).into(),
            digits.clone().into(),
            format!("{digits}==\n").into(),
            format!("{}\r\n{}", &digits[..40], &digits[40..]).into(),
        ] {
            assert_eq!(load(&file, &algorithms).unwrap_err(), KeysError::Bare, "{}", file.escape_ascii());
        }
    }
    for last in [b'\n', b' ', b'\r', 0] {
        let ends_so = [&[0x30, 42][..], &[1; 41], &[last]].concat();
        for file in [ends_so.clone(), [&ends_so, &b"\r\n"[..]].concat()] {
            assert_eq!(load(&file, &algorithms).unwrap_err(), KeysError::Bare, "{}", file.escape_ascii());
        }
    }
    let Signer::Rsa(key) = signer(KeyKind::Rsa) else { unreachable!() };
    use aws_lc_rs::signature::KeyPair;
    assert_eq!(load(key.public_key().as_ref(), &algorithms).unwrap_err(), KeysError::Bare);
    let ssh = format!("ssh-rsa {} somebody@example.org", "A".repeat(300));
    assert_eq!(load(ssh, &algorithms).unwrap_err(), KeysError::Bare);
    assert_eq!(rule(pem("CERTIFICATE", &[0; 64]), &algorithms), KeyRule::Kind);
    assert_eq!(load("{} is a secret of more than 32 bytes", &algorithms).unwrap_err(), KeysError::Jwk);
}

#[test]
fn who_signs_keeps_the_key() {
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
        assert_eq!(rule(pem(label, &[0; 64]), &Algorithm::ALL), KeyRule::Private, "{label}");
    }
    for kind in [KeyKind::Rsa, KeyKind::EcP256, KeyKind::Ed25519] {
        assert_eq!(rule(signer(kind).jwk(r#","d":"AA""#), &Algorithm::ALL), KeyRule::Private);
    }
}

#[test]
fn a_secret_is_long_and_in_a_file() {
    let algorithms = [Algorithm::Hs256];
    for (len, is_taken) in [(0, false), (1, false), (31, false), (32, true), (1_024, true), (1_025, false)] {
        let secret = vec![b's'; len];
        let jwk = format!(r#"{{"kty":"oct","k":"{}"}}"#, encode(&secret));
        for file in [secret.clone(), [&secret, &b"\n"[..]].concat(), jwk.clone().into()] {
            let rule = load(&file, &algorithms).map_err(|error| match error {
                KeysError::NoneUsable { passed_over, .. } => passed_over[0].rule,
                error => panic!("{error}"),
            });
            assert_eq!(rule.map(|_| ()), if is_taken { Ok(()) } else { Err(KeyRule::SecretBytes(len)) });
        }
        let at_url = KeySet::from_jwks(jwk.as_bytes(), &algorithms, Source::Url);
        let Err(KeysError::NoneUsable { passed_over, .. }) = at_url else { panic!("{at_url:?}") };
        assert_eq!(passed_over[0].rule, KeyRule::SecretAtUrl);
    }
    // Whatever it begins with.
    for first in [&b"{"[..], b" {", b"\n"] {
        assert!(load([first, &[0xff; 32]].concat(), &algorithms).is_ok(), "{}", first.escape_ascii());
    }
    // Only one newline is no part of it.
    assert!(load([b's'; 31].iter().chain(b"\n\n").copied().collect::<Vec<_>>(), &algorithms).is_ok());
}

#[test]
fn an_rsa_key_that_others_can_break_is_passed_over() {
    let jwk = |n: &[u8], e: &[u8]| format!(r#"{{"kty":"RSA","n":"{}","e":"{}"}}"#, encode(n), encode(e));
    let n = |bytes: usize, first: u8| {
        let mut n = vec![0x55; bytes];
        n[0] = first;
        n
    };
    let usual = &[1, 0, 1][..];
    for (key, expected) in [
        (jwk(&n(128, 0x80), usual), KeyRule::RsaBits(1_024)),
        (jwk(&n(256, 0x7f), usual), KeyRule::RsaBits(2_047)),
        (jwk(&n(1_025, 0x01), usual), KeyRule::RsaBits(8_193)),
        (jwk(&[], usual), KeyRule::RsaBits(0)),
        (jwk(&[0; 256], usual), KeyRule::RsaBits(0)),
        (jwk(&n(256, 0x80), &[1]), KeyRule::RsaExponent),
        (jwk(&n(256, 0x80), &[3]), KeyRule::RsaExponent),
        (jwk(&n(256, 0x80), &[1, 0, 2]), KeyRule::RsaExponent),
        (jwk(&n(256, 0x80), &[0xff, 0xff]), KeyRule::RsaExponent),
        (jwk(&n(256, 0x80), &[2, 0, 0, 0, 1]), KeyRule::RsaExponent),
        (jwk(&n(256, 0x80), &[1, 0, 0, 0, 0, 0, 0, 0, 1]), KeyRule::RsaExponent),
        (jwk(&n(256, 0x80), &[]), KeyRule::RsaExponent),
    ] {
        assert_eq!(rule(&key, &[Algorithm::Rs256]), expected, "{key}");
    }
    let mut even = n(256, 0x80);
    even[255] = 0x54;
    assert_eq!(rule(jwk(&even, usual), &[Algorithm::Rs256]), KeyRule::Value);
    for bytes in [256, 1_024] {
        let padded = [&[0][..], &n(bytes, 0x80)].concat();
        let loaded = load(jwk(&padded, usual), &[Algorithm::Ps512]).unwrap();
        assert_eq!(loaded.keys.keys()[0].bits() as usize, 8 * bytes);
    }
}

#[test]
fn what_is_no_key_of_its_kind_is_passed_over() {
    let ec = signer(KeyKind::EcP256).jwk("");
    let swapped = ec.replace(r#""x""#, r#""z""#).replace(r#""y""#, r#""x""#).replace(r#""z""#, r#""y""#);
    let x = ec.split('"').nth(11).expect("a coordinate");
    for (key, expected) in [
        (swapped, KeyRule::Value),
        (ec.replace("P-256", "P-384"), KeyRule::Malformed),
        (ec.replace("P-256", "P-521"), KeyRule::Kind),
        (ec.replace("P-256", "secp256k1"), KeyRule::Kind),
        (ec.replace(x, &x[1..]), KeyRule::Malformed),
        (ec.replace(x, &format!("{x}=")), KeyRule::Malformed),
        (r#"{"kty":"EC","crv":"P-256"}"#.into(), KeyRule::Kind),
        (r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#.into(), KeyRule::Kind),
        (r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#.into(), KeyRule::Value),
        (r#"{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"}"#.into(), KeyRule::Kind),
        (r#"{"kty":1}"#.into(), KeyRule::Kind),
        (r#"{"kty":"RSA","n":"%","e":"AQAB"}"#.into(), KeyRule::Malformed),
        (r#"{"kty":"oct","k":"AA=="}"#.into(), KeyRule::Malformed),
    ] {
        assert_eq!(rule(&key, &Algorithm::ALL), expected, "{key}");
    }
    // On another curve, with points as long as those of P-256.
    let spki = signer(KeyKind::EcP256).der();
    let p256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let at = spki.windows(8).position(|window| window == p256).expect("its curve");
    let mut broken = spki.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(rule(pem("PUBLIC KEY", &broken), &Algorithm::ALL), KeyRule::Kind);
    let mut other = spki.clone();
    other[at + 7] = 0x01;
    assert_eq!(rule(pem("PUBLIC KEY", &other), &Algorithm::ALL), KeyRule::Kind);
    for (file, expected) in [
        (pem("PUBLIC KEY", &spki[1..]), KeyRule::Malformed),
        (pem("PUBLIC KEY", &[&spki, &[0][..]].concat()), KeyRule::Malformed),
        (pem("PUBLIC KEY", b"key"), KeyRule::Malformed),
        (pem("PUBLIC KEY", b"\x30\x03key"), KeyRule::Kind),
        (pem("PUBLIC KEY", b"key").replace("a", "-"), KeyRule::Malformed),
        (pem("PUBLIC KEY", &spki).replace("END PUB", "END RSA PUB"), KeyRule::Malformed),
        ("-----BEGIN PUBLIC KEY-----\nAA".into(), KeyRule::Malformed),
        ("-----BEGIN PUBLIC KEY".into(), KeyRule::Malformed),
    ] {
        assert_eq!(rule(&file, &Algorithm::ALL), expected, "{file}");
    }
    let windows = signer(KeyKind::EcP256).pem().replace('\n', "\r\n");
    assert!(load(windows, &Algorithm::ALL).is_ok());
}

#[test]
fn a_key_for_something_else_is_passed_over() {
    let ec = |members: &str| signer(KeyKind::EcP256).jwk(members);
    for (members, expected) in [
        (r#","use":"enc""#, KeyRule::Use),
        (r#","use":"SIG""#, KeyRule::Use),
        (r#","use":1"#, KeyRule::Malformed),
        (r#","key_ops":["sign"]"#, KeyRule::Operations),
        (r#","key_ops":[]"#, KeyRule::Operations),
        (r#","key_ops":"verify""#, KeyRule::Malformed),
        (r#","alg":"ES384""#, KeyRule::Algorithm),
        (r#","alg":"RS256""#, KeyRule::Algorithm),
        (r#","alg":"none""#, KeyRule::Algorithm),
        (r#","alg":"es256""#, KeyRule::Algorithm),
        (r#","alg":null"#, KeyRule::Algorithm),
    ] {
        assert_eq!(rule(ec(members), &Algorithm::ALL), expected, "{members}");
    }
    for members in [r#","use":"sig""#, r#","key_ops":["sign","verify"]"#, r#","alg":"ES256","x5c":["AA"]"#] {
        assert!(load(ec(members), &Algorithm::ALL).is_ok(), "{members}");
    }
    assert_eq!(rule(ec(""), &[Algorithm::Es384, Algorithm::Hs256]), KeyRule::Algorithm);
    let long = format!(r#","kid":"{}""#, "k".repeat(KEY_ID_BYTES_MAX + 1));
    assert_eq!(rule(ec(&long), &Algorithm::ALL), KeyRule::IdBytes(KEY_ID_BYTES_MAX + 1));
}

/// On which signatures of nothing but zeroes may be of anything.
#[test]
fn a_point_of_small_order_is_no_key() {
    let hex = |text: &str| -> Vec<u8> {
        (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    };
    let eighths = [
        hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        hex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ];
    let low = [0, 1].map(|first| [&[first][..], &[0; 31]].concat());
    let high = [0xec, 0xed, 0xee].map(|first| [&[first][..], &[0xff; 30], &[0x7f]].concat());
    for mut point in eighths.into_iter().chain(low).chain(high) {
        for _ in 0..2 {
            let jwk = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, encode(&point));
            assert_eq!(rule(jwk, &Algorithm::ALL), KeyRule::Value, "{point:x?}");
            point[31] ^= 0x80;
        }
    }
}

/// As an issuer's set has keys for other uses, and some day ones of kinds that nobody knows yet.
#[test]
fn one_bad_key_does_not_take_the_others_with_it() {
    let keys = set(&[
        signer(KeyKind::Rsa).jwk(r#","kid":"enc","use":"enc""#),
        r#"{"kty":"new","kid":"n\"ew"}"#.into(),
        "7".into(),
        signer(KeyKind::EcP256).jwk(r#","kid":"good""#),
        signer(KeyKind::Hmac).jwk(""),
    ]);
    let loaded = KeySet::from_jwks(keys.as_bytes(), &Algorithm::ALL, Source::Url).unwrap();
    assert_eq!(kinds(&loaded), [KeyKind::EcP256]);
    assert!(loaded.keys.has_id("good") && !loaded.keys.has_id("enc"));
    let told: Vec<String> = loaded.passed_over.iter().map(PassedOver::to_string).collect();
    assert_eq!(
        told,
        [
            "key \"enc\": its `use` is not `sig`",
            "key \"n\\\"ew\": it is neither a public RSA key, nor one on P-256, P-384 or Ed25519",
            "key 3: a member is missing or not what it should be",
            "key 5: it is a secret, which nobody has at an address",
        ]
    );
    let error = KeySet::from_jwks(set(&["{}".into()]).as_bytes(), &[Algorithm::Es256], Source::Url);
    let expected =
        "no key for ES256; key 1: it is neither a public RSA key, nor one on P-256, P-384 or Ed25519";
    assert_eq!(error.unwrap_err().to_string(), expected);
}

#[test]
fn what_is_no_set_of_keys_is_refused() {
    let ec = signer(KeyKind::EcP256).jwk("");
    for text in [
        "",
        "[]",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":[],"keys":[]}"#,
        &set(std::slice::from_ref(&ec)).replace(r#""kty":"EC""#, r#""kty":"EC","kty":"EC""#),
        &format!("{ec}{ec}"),
        &format!(r#"{{"keys":[{}1{}]}}"#, "[".repeat(8), "]".repeat(8)),
    ] {
        let error = KeySet::from_jwks(text.as_bytes(), &Algorithm::ALL, Source::File).unwrap_err();
        assert_eq!(error, KeysError::Jwk, "{text}");
    }
    let of =
        |count| KeySet::from_jwks(set(&vec![ec.clone(); count]).as_bytes(), &Algorithm::ALL, Source::Url);
    assert_eq!(of(KEYS_MAX).unwrap().keys.keys().len(), KEYS_MAX);
    assert_eq!(of(KEYS_MAX + 1).unwrap_err(), KeysError::Count(KEYS_MAX + 1));
    assert!(matches!(of(0).unwrap_err(), KeysError::NoneUsable { .. }));
    let long = vec![b' '; KEYS_BYTES_MAX + 1];
    assert_eq!(load(&long, &Algorithm::ALL).unwrap_err(), KeysError::Bytes(long.len()));
}

#[test]
fn nothing_of_a_secret_is_told() {
    let secret = "a canary that is a secret of more than 32 bytes";
    let loaded = load(secret, &Algorithm::ALL).unwrap();
    assert!(!format!("{loaded:?}").contains("canary") && !format!("{loaded:?}").contains("99, 97, 110"));
    for text in [format!("{{\"kty\":\"oct\",\"k\":\"{secret}\"}}"), format!("{{\"{secret}\":\"{secret}\"}}")]
    {
        let error = load(&text, &Algorithm::ALL).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
