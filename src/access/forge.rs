//! Keys and tokens for tests: keys are made anew by each run, by the same library that verifies, and tokens may say anything.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};

use super::keys::{Algorithm, KeyKind};

/// What signs tokens.
pub enum Signer {
    Hmac(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    Ec(KeyKind, EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

static OURS: LazyLock<Vec<(KeyKind, Signer)>> = LazyLock::new(Signer::all);
static FOREIGN: LazyLock<Vec<(KeyKind, Signer)>> = LazyLock::new(Signer::all);

/// The issuer's, of this kind.
pub fn signer(kind: KeyKind) -> &'static Signer {
    &OURS.iter().find(|(other, _)| *other == kind).expect("there is one of each").1
}

/// Somebody else's.
pub fn foreign_signer(kind: KeyKind) -> &'static Signer {
    &FOREIGN.iter().find(|(other, _)| *other == kind).expect("there is one of each").1
}

impl Signer {
    pub const KINDS: [KeyKind; 5] =
        [KeyKind::Hmac, KeyKind::Rsa, KeyKind::EcP256, KeyKind::EcP384, KeyKind::Ed25519];

    fn all() -> Vec<(KeyKind, Signer)> {
        Signer::KINDS.into_iter().map(|kind| (kind, Signer::new(kind))).collect()
    }

    pub fn new(kind: KeyKind) -> Signer {
        let ec = |algorithm| Signer::Ec(kind, EcdsaKeyPair::generate(algorithm).expect("a key"));
        match kind {
            KeyKind::Hmac => {
                let mut bytes = [0; 48];
                aws_lc_rs::rand::fill(&mut bytes).expect("randomness");
                Signer::Hmac(encode(bytes).into())
            }
            KeyKind::Rsa => Signer::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"))),
            KeyKind::EcP256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            KeyKind::EcP384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            KeyKind::Ed25519 => Signer::Ed(Ed25519KeyPair::generate().expect("a key")),
        }
    }

    /// # Panics
    /// If it cannot sign so.
    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Hmac(secret) => sign_hmac(algorithm, secret, message),
            Signer::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
                    _ => panic!("{algorithm:?} is not of RSA"),
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).expect("a signature");
                signature
            }
            Signer::Ec(_, key) => key.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Signer::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key as a JWK, or the secret; `members` begin with a comma if there are any.
    pub fn jwk(&self, members: &str) -> String {
        match self {
            Signer::Hmac(secret) => format!(r#"{{"kty":"oct","k":"{}"{members}}}"#, encode(secret)),
            Signer::Rsa(key) => {
                let public = key.public_key();
                let [n, e] = [public.modulus(), public.exponent()]
                    .map(|number| encode(number.big_endian_without_leading_zero()));
                format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"{members}}}"#)
            }
            Signer::Ec(kind, key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if *kind == KeyKind::EcP256 { "P-256" } else { "P-384" };
                let (x, y) = (encode(x), encode(y));
                format!(r#"{{"kty":"EC","crv":"{curve}","x":"{x}","y":"{y}"{members}}}"#)
            }
            Signer::Ed(key) => {
                let x = encode(key.public_key());
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"{members}}}"#)
            }
        }
    }

    /// The public key in DER (RFC 5280 section 4.1.2.7).
    pub fn der(&self) -> Vec<u8> {
        let der = match self {
            Signer::Hmac(_) => panic!("a secret has none"),
            Signer::Rsa(key) => key.public_key().as_der(),
            Signer::Ec(_, key) => key.public_key().as_der(),
            Signer::Ed(key) => key.public_key().as_der(),
        };
        der.expect("it can be written").as_ref().to_vec()
    }

    /// The public key in PEM.
    pub fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.der())
    }

    /// A token with this header and these claims.
    pub fn token(&self, algorithm: Algorithm, header: &str, claims: &str) -> String {
        signed(header, claims, |message| self.sign(algorithm, message))
    }
}

pub fn sign_hmac(algorithm: Algorithm, secret: &[u8], message: &[u8]) -> Vec<u8> {
    let digest = match algorithm {
        Algorithm::Hs256 => hmac::HMAC_SHA256,
        Algorithm::Hs384 => hmac::HMAC_SHA384,
        Algorithm::Hs512 => hmac::HMAC_SHA512,
        _ => panic!("{algorithm:?} is not of HMAC"),
    };
    hmac::sign(&hmac::Key::new(digest, secret), message).as_ref().to_vec()
}

/// A token with whatever signature.
pub fn signed(
    header: impl AsRef<[u8]>,
    claims: impl AsRef<[u8]>,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let message = [encode(header), encode(claims)].join(".");
    let signature = encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let digits = STANDARD.encode(der);
    let lines: Vec<&str> =
        digits.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("it is ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
