//! How tokens are signed (RFC 7518 section 3.1), and with which keys.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, VerificationAlgorithm,
};

/// A way to sign that an issuer may be allowed. There is none that needs no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519 (RFC 8037).
    EdDsa,
}

/// What a key is, which says what may be signed with it and what it costs to look at that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// A secret that both sides have.
    Hmac,
    /// RSA.
    Rsa,
    /// A point on P-256.
    EcP256,
    /// A point on P-384.
    EcP384,
    /// A point on the curve of Ed25519.
    Ed25519,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Algorithm; 12] = [
        Algorithm::Hs256,
        Algorithm::Hs384,
        Algorithm::Hs512,
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// The one of this name, which is written as there and no other way, but that EdDSA may say on which curve (RFC 9864 section 2.2):
    /// here it is on no other.
    pub fn parse(name: &str) -> Option<Algorithm> {
        let name = if name == "Ed25519" { Algorithm::EdDsa.as_str() } else { name };
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Hs384 => "HS384",
            Algorithm::Hs512 => "HS512",
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// The one kind of key that it is for.
    pub fn kind(self) -> KeyKind {
        match self {
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => KeyKind::Hmac,
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => KeyKind::Rsa,
            Algorithm::Ps256 | Algorithm::Ps384 | Algorithm::Ps512 => KeyKind::Rsa,
            Algorithm::Es256 => KeyKind::EcP256,
            Algorithm::Es384 => KeyKind::EcP384,
            Algorithm::EdDsa => KeyKind::Ed25519,
        }
    }

    /// How long a signature is with a key of so many bits, in bytes.
    pub(super) fn signature_len(self, bits: u32) -> usize {
        match self {
            Algorithm::Hs256 => 32,
            Algorithm::Hs384 => 48,
            Algorithm::Hs512 => 64,
            Algorithm::Es256 | Algorithm::EdDsa => 64,
            Algorithm::Es384 => 96,
            _ => bits.div_ceil(8) as usize,
        }
    }

    /// What the crate calls it.
    pub(super) fn foreign(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::Hs384 => jsonwebtoken::Algorithm::HS384,
            Algorithm::Hs512 => jsonwebtoken::Algorithm::HS512,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
            Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
            Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::Ps384 => jsonwebtoken::Algorithm::PS384,
            Algorithm::Ps512 => jsonwebtoken::Algorithm::PS512,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl KeyKind {
    /// Of a key that is a point: how long that is, in bytes, and what takes it.
    pub(super) fn curve(self) -> Option<(usize, &'static dyn VerificationAlgorithm)> {
        match self {
            KeyKind::EcP256 => Some((65, &ECDSA_P256_SHA256_FIXED)),
            KeyKind::EcP384 => Some((97, &ECDSA_P384_SHA384_FIXED)),
            KeyKind::Ed25519 => Some((32, &ED25519)),
            KeyKind::Hmac | KeyKind::Rsa => None,
        }
    }
}
