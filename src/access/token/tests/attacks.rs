//! What has been tried against readers of tokens elsewhere, a table per part of a token: each is refused, and for the
//! reason that it is there to show.

use super::*;
use crate::access::forge::pem;

#[track_caller]
fn refused(name: &str, header: &str, claims: &str, expected: TokenFault) {
    let token = signer(KeyKind::EcP256).token(Algorithm::Es256, header, claims);
    assert_eq!(read_now(&token).map(|claims| claims.user), Err(expected), "{name}: {header} {claims}");
}

#[test]
fn headers() {
    let kid = |id: &str| format!(r#"{{"alg":"ES256","kid":"{id}"}}"#);
    let unknown = TokenFault::UnknownKey { issuer_index: 0 };
    let (bad, critical, wrong) =
        (TokenFault::BadHeader, TokenFault::CriticalHeader, TokenFault::WrongAlgorithm);
    for (name, header, expected) in [
        ("no algorithm", "{}", bad),
        ("none", r#"{"alg":"none"}"#, wrong),
        ("None", r#"{"alg":"None"}"#, wrong),
        ("NONE", r#"{"alg":"NONE"}"#, wrong),
        ("nOnE", r#"{"alg":"nOnE"}"#, wrong),
        ("none with escapes", r#"{"alg":"\u006eone"}"#, wrong),
        ("none with a blank", r#"{"alg":"none "}"#, wrong),
        ("an empty algorithm", r#"{"alg":""}"#, wrong),
        ("a null algorithm", r#"{"alg":null}"#, bad),
        ("no text", r#"{"alg":256}"#, bad),
        ("several algorithms", r#"{"alg":["ES256","none"]}"#, bad),
        ("another case", r#"{"alg":"es256"}"#, wrong),
        ("a blank", r#"{"alg":"ES256 "}"#, wrong),
        ("a NUL", r#"{"alg":"ES256\u0000"}"#, wrong),
        ("a curve that is not offered", r#"{"alg":"ES512"}"#, wrong),
        ("secp256k1", r#"{"alg":"ES256K"}"#, wrong),
        ("an encryption", r#"{"alg":"dir","enc":"A256GCM"}"#, wrong),
        ("a path", &kid("../../../dev/null"), unknown),
        ("SQL", &kid("x' UNION SELECT 'key' --"), unknown),
        ("a NUL in a name", &kid(r"EcP256\u0000"), unknown),
        ("an empty name", &kid(""), unknown),
        ("another case of a name", &kid("ecp256"), unknown),
        ("a name of 256 bytes", &kid(&"k".repeat(KEY_ID_BYTES_MAX)), unknown),
        ("a name of 257 bytes", &kid(&"k".repeat(KEY_ID_BYTES_MAX + 1)), bad),
        ("a name of a megabyte", &kid(&"k".repeat(1 << 20)), TokenFault::TooLong),
        ("a name that is a number", r#"{"alg":"ES256","kid":7}"#, bad),
        ("a name that is a list", r#"{"alg":"ES256","kid":["EcP256"]}"#, bad),
        ("a null name", r#"{"alg":"ES256","kid":null}"#, bad),
        ("two names", r#"{"alg":"ES256","kid":"EcP256","kid":"Hmac"}"#, bad),
        ("two names, one with escapes", r#"{"alg":"ES256","kid":"EcP256","\u006bid":"Hmac"}"#, bad),
        ("two algorithms", r#"{"alg":"none","alg":"ES256"}"#, bad),
        ("a duplicate deep inside", r#"{"alg":"ES256","x":[{"a":1,"a":2}]}"#, bad),
        ("what is critical", r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, critical),
        ("nothing that is critical", r#"{"alg":"ES256","crit":[]}"#, critical),
        ("a null that is critical", r#"{"alg":"ES256","crit":null}"#, critical),
        ("claims as they are", r#"{"alg":"ES256","b64":false,"crit":["b64"]}"#, critical),
        ("claims as they are, unsaid", r#"{"alg":"ES256","b64":false}"#, critical),
        ("claims as ever, said", r#"{"alg":"ES256","b64":true}"#, critical),
        ("another type", r#"{"alg":"ES256","typ":"JWE"}"#, bad),
        ("a logout", r#"{"alg":"ES256","typ":"logout+jwt"}"#, bad),
        ("a type that is none", r#"{"alg":"ES256","typ":1}"#, bad),
        ("no object", r#"["ES256"]"#, bad),
        ("two objects", r#"{"alg":"ES256"}{}"#, bad),
        ("no JSON", "alg=ES256", bad),
        ("a trailing comma", r#"{"alg":"ES256",}"#, bad),
        ("a mark of the byte order", "\u{feff}{\"alg\":\"ES256\"}", bad),
        ("9 levels", r#"{"alg":"ES256","x":[[[[[[[[1]]]]]]]]}"#, bad),
    ] {
        refused(name, header, &claims(""), expected);
    }
    for header in [
        r#"{"alg":"ES256","typ":"JWT"}"#,
        r#"{"alg":"ES256","typ":"jwt"}"#,
        r#"{"alg":"ES256","typ":"AT+JWT"}"#,
        r#" { "typ" : "at+jwt" , "alg" : "\u0045S256" } "#,
        r#"{"alg":"ES256","cty":"x","new":[[[[[[1]]]]]]}"#,
    ] {
        let token = signer(KeyKind::EcP256).token(Algorithm::Es256, header, &claims(""));
        assert!(read_now(&token).is_ok(), "{header}");
    }
}

#[test]
fn claims_that_are_not_what_they_should_be() {
    let exp = |value: &str| format!(r#"{{"iss":"{ISS}","aud":"fanfare","exp":{value}}}"#);
    let iss = |value: &str| format!(r#"{{"iss":{value},"aud":"fanfare","exp":{}}}"#, NOW_S + 600);
    let aud = |value: &str| format!(r#"{{"iss":"{ISS}","aud":{value},"exp":{}}}"#, NOW_S + 600);
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    let deepest = format!(r#","x":{}{}"#, "[".repeat(1_000), "]".repeat(1_000));
    let (bad, unknown, audience) =
        (TokenFault::BadClaims, TokenFault::UnknownIssuer, TokenFault::WrongAudience);
    for (name, claims, expected) in [
        ("no end", format!(r#"{{"iss":"{ISS}","aud":"fanfare"}}"#), bad),
        ("an end as text", exp(r#""2000000600""#), bad),
        ("an end in a list", exp("[2000000600]"), bad),
        ("an end beyond doubles", exp("1e400"), bad),
        ("an end beyond what doubles count", exp("9007199254740993"), bad),
        ("an end beyond 64 bits", exp("36893488147419103232"), bad),
        ("an end before the beginning", exp("-1"), bad),
        ("an end a little before it", exp("-0.5"), bad),
        ("a null end", exp("null"), bad),
        ("a true end", exp("true"), bad),
        ("no number", exp("NaN"), bad),
        ("two ends", exp(r#"2000000600,"exp":2000000601"#), bad),
        ("two ends, one with escapes", exp(r#"1,"\u0065xp":2000000600"#), bad),
        ("a beginning as text", claims(r#","nbf":"1""#), bad),
        ("a beginning in the future", claims(r#","nbf":2000000011"#), TokenFault::NotYetValid),
        ("issued as text", claims(r#","iat":"1""#), bad),
        ("issued before the beginning", claims(r#","iat":-1"#), bad),
        ("issued in the future", claims(r#","iat":2000000011"#), TokenFault::NotYetValid),
        ("no issuer", format!(r#"{{"aud":"fanfare","exp":{}}}"#, NOW_S + 600), bad),
        ("issuers", iss(&format!(r#"["{ISS}"]"#)), bad),
        ("a number for an issuer", iss("7"), bad),
        ("a null issuer", iss("null"), bad),
        ("an object for an issuer", iss(&format!(r#"{{"{ISS}":1}}"#)), bad),
        ("a prefix of an issuer", iss(&format!(r#""{}""#, &ISS[..ISS.len() - 1])), unknown),
        ("an issuer and more", iss(&format!(r#""{ISS}x""#)), unknown),
        ("an issuer in capitals", iss(&format!(r#""{}""#, ISS.to_uppercase())), unknown),
        ("an issuer and a NUL", iss(&format!(r#""{ISS}\u0000""#)), unknown),
        ("an empty issuer", iss(r#""""#), bad),
        ("an issuer of 129 bytes", iss(&format!(r#""{long}""#)), bad),
        ("two issuers", iss(&format!(r#""{OTHER_ISS}","iss":"{ISS}""#)), bad),
        ("no audience", format!(r#"{{"iss":"{ISS}","exp":{}}}"#, NOW_S + 600), audience),
        ("another audience", aud(r#""fanfar""#), audience),
        ("an audience and more", aud(r#""fanfare2""#), audience),
        ("other audiences", aud(r#"["a","b"]"#), audience),
        ("no audiences", aud("[]"), audience),
        ("a number for an audience", aud("7"), bad),
        ("a null audience", aud("null"), bad),
        ("a number among audiences", aud(r#"["fanfare",7]"#), bad),
        ("audiences in a list", aud(r#"[["fanfare"]]"#), bad),
        ("a user of 129 bytes", claims("").replace("alice", &long), bad),
        ("a number for a user", claims("").replace(r#""alice""#, "7"), bad),
        ("an empty user", claims("").replace("alice", ""), bad),
        ("a number for a name", claims(r#","jti":7"#), bad),
        ("a name of 129 bytes", claims(&format!(r#","jti":"{long}""#)), bad),
        ("a list", "[]".into(), bad),
        ("nothing in it", "null".into(), bad),
        ("a token in a token", token(&claims("")), bad),
        ("a token as text", format!("\"{}\"", token(&claims(""))), bad),
        ("two objects", claims("") + "{}", bad),
        ("a duplicate deep inside", claims(r#","x":{"y":[{"a":1,"a":1}]}"#), bad),
        ("a lone surrogate", claims(r#","x":"\ud800""#), bad),
        ("9 levels", claims(r#","x":[[[[[[[[1]]]]]]]]"#), bad),
        ("1,000 levels", claims(&deepest), bad),
    ] {
        refused(name, r#"{"alg":"ES256","kid":"EcP256"}"#, &claims, expected);
    }
    let latin1 = signed(r#"{"alg":"ES256"}"#, b"{\"iss\":\"\xe9\"}", |_| vec![1; 64]);
    assert_eq!(read_now(&latin1).unwrap_err(), bad);
    for claims in [
        aud(r#""broker""#),
        aud(r#"["a","broker"]"#),
        claims(&format!(r#","jti":"{}","x":[[[[[[[1]]]]]]]"#, &long[1..])),
        iss(&format!(r#""{}""#, ISS.replace('/', r"\/"))),
    ] {
        assert!(read_now(&token(&claims)).is_ok(), "{claims}");
    }
}

#[test]
fn a_token_for_others_is_not_taken_by_who_has_no_name() {
    for (members, expected) in [
        ("", None),
        (r#","aud":"x""#, Some(TokenFault::WrongAudience)),
        (r#","aud":[]"#, Some(TokenFault::WrongAudience)),
    ] {
        let text = format!(r#"{{"iss":"{OTHER_ISS}","exp":{}{members}}}"#, NOW_S + 600);
        let token = foreign_signer(KeyKind::EcP256).token(Algorithm::Es256, r#"{"alg":"ES256"}"#, &text);
        assert_eq!(read_now(&token).err(), expected, "{members}");
    }
}

#[test]
fn parts() {
    let token = token(&claims(""));
    let [header, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    // The next of the alphabet's digits: 64 bytes leave bits at the end that stand for nothing.
    let mut trailing = signature.as_bytes().to_vec();
    *trailing.last_mut().unwrap() += 1;
    let trailing = String::from_utf8(trailing).unwrap();
    for (name, token) in [
        ("nothing", String::new()),
        ("dots", "..".into()),
        ("one part", header.into()),
        ("two parts", format!("{header}.{body}")),
        ("two parts and a dot", format!("{header}.{body}.")),
        ("no header", format!(".{body}.{signature}")),
        ("no claims", format!("{header}..{signature}")),
        ("four parts", format!("{token}.{signature}")),
        ("four parts, the first empty", format!(".{token}")),
        ("four parts, the last empty", format!("{token}.")),
        ("five, as an encrypted token has", format!("{header}.{body}.{body}.{body}.{signature}")),
        ("padding", format!("{token}==")),
        ("padding of the header", format!("{header}=.{body}.{signature}")),
        ("three digits too many", format!("{token}AAA")),
        ("a newline", format!("{token}\n")),
        ("a newline inside", format!("{header}.{body}.\n{signature}")),
        ("a blank before it", format!(" {token}")),
        ("its scheme", format!("Bearer {token}")),
        ("a NUL", format!("{token}\0")),
        ("no ASCII", format!("{header}.{body}.{}é", &signature[2..])),
        ("trailing bits", format!("{header}.{body}.{trailing}")),
    ] {
        assert_eq!(read_now(&token).map(|claims| claims.user), Err(TokenFault::Malformed), "{name}");
    }
}

#[test]
fn the_alphabet_of_addresses_is_the_only_one() {
    // Each is signed anew until its signature has both of the digits that another alphabet has others for.
    let token = std::iter::repeat_with(|| token(&claims("")))
        .find(|token| token.rsplit('.').next().is_some_and(|it| it.contains('-') && it.contains('_')))
        .expect("there is always another");
    assert!(read_now(&token).is_ok());
    assert_eq!(read_now(&token.replace('-', "+")).unwrap_err(), TokenFault::Malformed);
    assert_eq!(read_now(&token.replace('_', "/")).unwrap_err(), TokenFault::Malformed);
}

#[test]
fn a_token_is_no_longer_than_8_kib() {
    let of_fill = |fill: usize| token(&claims(&format!(r#","x":"{}""#, "x".repeat(fill))));
    let fill_max = (0..TOKEN_BYTES_MAX).rev().find(|fill| {
        let claims_len = claims(r#","x":"""#).len() + fill;
        let header_len = r#"{"alg":"ES256","kid":"EcP256"}"#.len();
        [header_len, claims_len, 64].map(|len| (4 * len).div_ceil(3)).iter().sum::<usize>() + 2
            <= TOKEN_BYTES_MAX
    });
    let fill_max = fill_max.expect("one fits");
    let longest = of_fill(fill_max);
    assert!(longest.len() > TOKEN_BYTES_MAX - 2 && read_now(&longest).is_ok(), "{}", longest.len());
    assert_eq!(read_now(&of_fill(fill_max + 2)).unwrap_err(), TokenFault::TooLong);
    assert_eq!(read_now(&"a".repeat(TOKEN_BYTES_MAX)).unwrap_err(), TokenFault::Malformed);
    assert_eq!(read_now(&"a".repeat(TOKEN_BYTES_MAX + 1)).unwrap_err(), TokenFault::TooLong);
}

/// Everything that anybody may know of a public key, as a secret.
#[test]
fn a_public_key_as_a_secret() {
    for kind in [KeyKind::Rsa, KeyKind::EcP256, KeyKind::EcP384, KeyKind::Ed25519] {
        let key = signer(kind);
        let der = key.der();
        for secret in [
            key.pem().into_bytes(),
            key.pem().trim_end().as_bytes().to_vec(),
            key.pem().replace('\n', "\r\n").into_bytes(),
            pem("RSA PUBLIC KEY", &der).into_bytes(),
            key.jwk("").into_bytes(),
            key.jwk(&format!(r#","kid":"{kind:?}""#)).into_bytes(),
            der.clone(),
            encode(&der).into_bytes(),
            der[der.len() - 32..].to_vec(),
            Vec::new(),
        ] {
            for algorithm in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
                let name = algorithm.as_str();
                for (id, iss, expected) in [
                    (format!(r#","kid":"{kind:?}""#), ISS, TokenFault::WrongAlgorithm),
                    (r#","kid":"Hmac""#.into(), ISS, TokenFault::BadSignature),
                    (String::new(), ISS, TokenFault::BadSignature),
                    (String::new(), OTHER_ISS, TokenFault::WrongAlgorithm),
                ] {
                    let header = format!(r#"{{"alg":"{name}"{id}}}"#);
                    let claims = claims("").replace(ISS, iss);
                    let token = signed(header, claims, |message| sign_hmac(algorithm, &secret, message));
                    assert_eq!(read_now(&token).unwrap_err(), expected, "{kind:?} for {name}{id} of {iss}");
                }
            }
        }
    }
}

#[test]
fn keys_that_are_not_the_issuers() {
    let foreign = foreign_signer(KeyKind::EcP256);
    for (name, members) in [
        ("another key", String::new()),
        ("by its name", r#","kid":"EcP256""#.into()),
        ("with the key in it", format!(r#","jwk":{}"#, foreign.jwk(""))),
        ("with an address", r#","jku":"https://evil.example/keys""#.into()),
        ("with the address of a certificate", r#","x5u":"https://evil.example/c.pem""#.into()),
        ("with a certificate", format!(r#","x5c":["{}"],"x5t":"AA""#, encode(foreign.der()))),
    ] {
        let header = format!(r#"{{"alg":"ES256"{members}}}"#);
        let token = foreign.token(Algorithm::Es256, &header, &claims(""));
        assert_eq!(read_now(&token).unwrap_err(), TokenFault::BadSignature, "{name}");
        // None of that does any harm to who has the right key.
        let token = signer(KeyKind::EcP256).token(Algorithm::Es256, &header, &claims(""));
        assert!(read_now(&token).is_ok(), "{name}");
    }
    // Another issuer has that key.
    let token = foreign.token(Algorithm::Es256, r#"{"alg":"ES256","kid":"other"}"#, &claims(""));
    assert_eq!(read_now(&token).unwrap_err(), TokenFault::UnknownKey { issuer_index: 0 });
    for (algorithm, expected) in
        [(Algorithm::Es384, TokenFault::WrongAlgorithm), (Algorithm::Es256, TokenFault::BadSignature)]
    {
        let header = format!(r#"{{"alg":"{}"}}"#, algorithm.as_str());
        let claims = claims("").replace(ISS, OTHER_ISS).replace(r#""aud":"fanfare","#, "");
        let token = signer(algorithm.kind()).token(algorithm, &header, &claims);
        assert_eq!(read_now(&token).unwrap_err(), expected);
    }
}

#[test]
fn signatures() {
    for algorithm in Algorithm::ALL {
        let name = algorithm.as_str();
        let good = signer(algorithm.kind());
        let (header, text) = (format!(r#"{{"alg":"{name}"}}"#), claims(""));
        let check = |what: &str, forge: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            let token = signed(&header, &text, |message| forge(good.sign(algorithm, message)));
            let is_empty = token.ends_with('.');
            let expected = if is_empty { TokenFault::Malformed } else { TokenFault::BadSignature };
            assert_eq!(read_now(&token).map(|claims| claims.user), Err(expected), "{name}: {what}");
        };
        check("nothing", &|_| Vec::new());
        check("one byte", &|_| vec![0]);
        check("zeroes", &|it| vec![0; it.len()]);
        check("ones", &|it| vec![0xff; it.len()]);
        check("cut", &|it| it[..it.len() - 1].to_vec());
        check("half", &|it| it[..it.len() / 2].to_vec());
        check("and a byte", &|it| [&it, &[0][..]].concat());
        check("a byte and it", &|it| [&[0][..], &it].concat());
        check("twice", &|it| it.repeat(2));
        check("of something else", &|_| good.sign(algorithm, b"something else"));
        for bit in [0, 7, 100, 255] {
            check("another bit", &|mut it| {
                it[bit / 8] ^= 1 << (bit % 8);
                it
            });
        }
        let message = |token: &str| token[..token.rfind('.').unwrap()].to_string();
        let token = good.token(algorithm, &header, &text);
        let other = good.token(algorithm, &header, &claims(r#","admin":true"#));
        let swapped = message(&other) + &token[message(&token).len()..];
        assert_eq!(read_now(&swapped).unwrap_err(), TokenFault::BadSignature, "{name}: of another token");
    }
}

/// Each half has to be a number from 1 to less than the curve's order (CVE-2022-21449), with all its bytes.
#[test]
fn signatures_on_curves() {
    let order = [
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..],
        &[0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51],
    ]
    .concat();
    let one = [&[0; 31][..], &[1]].concat();
    let zero = vec![0; 32];
    type Forge<'a> = &'a dyn Fn(&[u8], &[u8]) -> Vec<u8>;
    let check = |forge: Forge<'_>| {
        let token = signed(r#"{"alg":"ES256"}"#, claims(""), |message| {
            let signature = signer(KeyKind::EcP256).sign(Algorithm::Es256, message);
            forge(&signature[..32], &signature[32..])
        });
        read_now(&token).map(|_| ())
    };
    let bad = Err(TokenFault::BadSignature);
    for number in [&zero, &one, &order, &vec![0xff; 32]] {
        assert_eq!(check(&|_, s| [number, s].concat()), bad);
        assert_eq!(check(&|r, _| [r, number].concat()), bad);
        assert_eq!(check(&|_, _| [&**number, number].concat()), bad);
    }
    assert_eq!(check(&|r, s| [s, r].concat()), bad);
    // As X.509 writes signatures.
    let integer = |number: &[u8]| {
        let sign = if number[0] >= 0x80 { &[0][..] } else { &[] };
        [&[2, (number.len() + sign.len()) as u8], sign, number].concat()
    };
    let der = |r: &[u8], s: &[u8]| {
        let both = [integer(r), integer(s)].concat();
        [&[0x30, both.len() as u8][..], &both].concat()
    };
    assert_eq!(check(&|r, s| der(r, s)), bad);
    assert_eq!(check(&|_, _| der(&zero, &zero)), bad);
    assert_eq!(check(&|r, s| [r, s].concat()), Ok(()));
}

/// Whoever logs why, or counts it, keeps nothing of what was shown.
#[test]
fn nothing_of_a_token_is_told() {
    for claims in [own_claims(r#"{"canary":"canary"}"#), claims(r#","jti":["canary"]"#)] {
        let fault = read_now(&token(&claims)).unwrap_err();
        assert!(!format!("{fault:?} {}", fault.as_str()).contains("canary"));
    }
}
