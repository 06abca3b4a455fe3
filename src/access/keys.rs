//! The keys of an issuer: which of those that a file or an address gives may prove its tokens.
//!
//! A key is for algorithms of one kind, by what it is: what proves an RSA signature is never taken for a secret, whatever a token
//! calls it. A key that is no good is passed over and told, so that one of them does not take the others with it.

use std::{fmt, ops::RangeInclusive};

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{
    Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::STANDARD_NO_PAD,
    engine::general_purpose::URL_SAFE_NO_PAD,
};
use jsonwebtoken::{
    DecodingKey, DecodingKeyKind,
    crypto::{self, aws_lc},
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};

use super::strict::{Object, Value};

mod algorithm;
mod refetch;
#[cfg(test)]
mod tests;

pub use algorithm::{Algorithm, KeyKind};
pub use refetch::Refetch;

/// The most bytes of a file or an answer with keys.
pub const KEYS_BYTES_MAX: usize = 256 << 10;
/// The most keys of an issuer.
pub const KEYS_MAX: usize = 64;
/// The longest name of a key, in bytes.
pub const KEY_ID_BYTES_MAX: usize = 256;
/// How many bytes a secret may have: as many as the digest of HS256 at least (RFC 7518 section 3.2), and no more than what somebody
/// means to be one.
pub const SECRET_BYTES: RangeInclusive<usize> = 32..=1_024;
/// How many bits the modulus of an RSA key may have.
pub const RSA_BITS: RangeInclusive<u32> = 2_048..=8_192;
/// What the exponent of an RSA key may be, if it is odd. FIPS 186-5 asks for the least of these, which issuers have; ones of few
/// bits have fooled lax verifiers, with 1 everything proves itself, and more than the most of these would only be slow.
pub const RSA_EXPONENT: RangeInclusive<u64> = 65_537..=(1 << 33) - 1;

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeySet {
    keys: Box<[Key]>,
}

/// One key that may prove tokens.
#[derive(Debug)]
pub struct Key {
    /// What tokens call it.
    id: Option<Box<str>>,
    kind: KeyKind,
    /// Of an RSA key: how many its modulus has.
    bits: u32,
    /// What it is for, if it says so.
    algorithm: Option<Algorithm>,
    /// Nothing of it is printed.
    key: DecodingKey,
}

/// Where keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of the operator's.
    File,
    /// An address, at which nobody keeps secrets.
    Url,
}

/// The keys that there are, and what is none.
#[derive(Debug)]
pub struct Loaded {
    /// One at least.
    pub keys: KeySet,
    /// What may prove nothing.
    pub passed_over: Vec<PassedOver>,
}

/// A key that may prove nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Its place, from 0 on.
    pub index: usize,
    /// What tokens would call it.
    pub id: Option<Box<str>>,
    /// Why.
    pub rule: KeyRule,
}

/// Why a key may prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRule {
    /// Something is missing, or is not what it should be.
    Malformed,
    /// It is of a type or on a curve that is not offered.
    Kind,
    /// It signs.
    Private,
    /// `use` is not `sig`.
    Use,
    /// `key_ops` is without `verify`.
    Operations,
    /// `alg`, or whatever such a key may be for, is nothing that the issuer may use.
    Algorithm,
    /// It is a secret, at an address.
    SecretAtUrl,
    /// It is a secret of so many bytes.
    SecretBytes(usize),
    /// It is an RSA key of so many bits.
    RsaBits(u32),
    /// It is an RSA key with another exponent than [`RSA_EXPONENT`].
    RsaExponent,
    /// It is no point on its curve, or no modulus.
    Value,
    /// `kid` has so many bytes.
    IdBytes(usize),
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysError {
    /// So many bytes.
    Bytes(usize),
    /// It begins like an object, and is neither a JWK nor a set of those.
    Jwk,
    /// It looks like a key without its armour, and would be a secret.
    Bare,
    /// So many keys.
    Count(usize),
    /// No key may prove what is signed with any of the algorithms.
    NoneUsable {
        /// What the issuer may use.
        algorithms: Box<[Algorithm]>,
        /// All keys.
        passed_over: Vec<PassedOver>,
    },
}

impl KeySet {
    /// Reads public keys in PEM, a JWK or a set of those, or else takes the bytes for a secret, without a final newline.
    ///
    /// # Errors
    /// If none of them may prove what is signed with one of `algorithms`.
    pub fn from_key_file(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Loaded, KeysError> {
        // Secrets of random bytes may begin with anything, and are no text.
        if bytes.trim_ascii_start().starts_with(b"{") && str::from_utf8(bytes).is_ok() {
            return KeySet::from_jwks(bytes, algorithms, Source::File);
        }
        check_len(bytes)?;
        if memchr::memmem::find(bytes, PEM_BEGIN.as_bytes()).is_some() {
            let text = String::from_utf8_lossy(bytes);
            let blocks = text.split(PEM_BEGIN).skip(1);
            return KeySet::collect(blocks.map(|block| (None, read_pem(block, algorithms))), algorithms);
        }
        if is_bare_key(bytes) {
            return Err(KeysError::Bare);
        }
        let secret = DecodingKey::from_secret(bytes.strip_suffix(b"\n").unwrap_or(bytes));
        let key = Key::new(None, KeyKind::Hmac, None, secret, algorithms);
        KeySet::collect([(None, key)].into_iter(), algorithms)
    }

    /// Reads a JWK, or a set of those (RFC 7517 section 5).
    ///
    /// # Errors
    /// If none of them may prove what is signed with one of `algorithms`.
    pub fn from_jwks(bytes: &[u8], algorithms: &[Algorithm], source: Source) -> Result<Loaded, KeysError> {
        check_len(bytes)?;
        let object = Object::read(bytes).ok_or(KeysError::Jwk)?;
        let keys = match object.get("keys") {
            Some(keys) => keys.array().ok_or(KeysError::Jwk)?,
            None if object.get("kty").is_some() => vec![object.value()],
            None => return Err(KeysError::Jwk),
        };
        KeySet::collect(keys.into_iter().map(|key| read_jwk(key, algorithms, source)), algorithms)
    }

    fn collect(
        read: impl Iterator<Item = (Option<Box<str>>, Result<Key, KeyRule>)>,
        algorithms: &[Algorithm],
    ) -> Result<Loaded, KeysError> {
        let (mut keys, mut passed_over, mut count) = (Vec::new(), Vec::new(), 0);
        for (index, (id, key)) in read.enumerate() {
            count = index + 1;
            if count > KEYS_MAX {
                continue;
            }
            match key {
                Ok(key) => keys.push(Key { id, ..key }),
                Err(rule) => passed_over.push(PassedOver { index, id, rule }),
            }
        }
        if count > KEYS_MAX {
            return Err(KeysError::Count(count));
        }
        if keys.is_empty() {
            return Err(KeysError::NoneUsable { algorithms: algorithms.into(), passed_over });
        }
        Ok(Loaded { keys: KeySet { keys: keys.into() }, passed_over })
    }

    /// All of them.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether a key goes by this name.
    pub fn has_id(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// The places of those that may have signed with `algorithm`: that go by the name that a token has for its key, or by
    /// none, as those of PEM and of secrets do; all if the token does not say.
    pub(super) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = (u8, &Key)> {
        let is_named = id.is_some_and(|id| self.has_id(id));
        let is_candidate = move |key: &Key| match &key.id {
            Some(own) => id.is_none_or(|id| id == &**own),
            None => !is_named,
        };
        let places = self.keys.iter().enumerate().map(|(place, key)| (place as u8, key));
        places.filter(move |(_, key)| is_candidate(key) && key.may_verify(algorithm))
    }
}

const _: () = assert!(KEYS_MAX <= 1 << u8::BITS);

impl Key {
    /// A key for one of `algorithms`, if it keeps the rules of its kind.
    fn new(
        id: Option<Box<str>>,
        kind: KeyKind,
        algorithm: Option<Algorithm>,
        key: DecodingKey,
        algorithms: &[Algorithm],
    ) -> Result<Key, KeyRule> {
        let bits = match kind {
            KeyKind::Rsa => check_rsa(&key)?,
            _ => check_bytes(kind, key.try_get_as_bytes().map_err(|_| KeyRule::Malformed)?)?,
        };
        let key = Key { id, kind, bits, algorithm, key };
        match algorithms.iter().any(|algorithm| key.may_verify(*algorithm)) {
            true => Ok(key),
            false => Err(KeyRule::Algorithm),
        }
    }

    /// What it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// How long it is, which of RSA says what it costs.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Whether it is for this.
    fn may_verify(&self, algorithm: Algorithm) -> bool {
        algorithm.kind() == self.kind && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// How many bytes a signature has that it may prove.
    pub(super) fn signature_len(&self, algorithm: Algorithm) -> usize {
        algorithm.signature_len(self.bits)
    }

    /// Whether it proves that `signature`, in base64url, is of `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &str, algorithm: Algorithm) -> bool {
        debug_assert!(self.may_verify(algorithm), "{:?} is not for {algorithm:?}", self.kind);
        crypto::verify(signature, message, &self.key, algorithm.foreign()).is_ok_and(|is_proven| is_proven)
    }
}

/// What PEM begins with (RFC 7468).
const PEM_BEGIN: &str = "-----BEGIN ";

fn check_len(bytes: &[u8]) -> Result<(), KeysError> {
    if bytes.len() <= KEYS_BYTES_MAX { Ok(()) } else { Err(KeysError::Bytes(bytes.len())) }
}

/// Whether this looks like a key in DER or in base64 of that, or like SSH's: who has their public key taken for a secret lets
/// everybody sign.
fn is_bare_key(bytes: &[u8]) -> bool {
    // What a key ends with may look like a space.
    let is_der =
        sequence_len(bytes).and_then(|len| bytes.get(len..)).is_some_and(|rest| rest.trim_ascii().is_empty());
    let bytes = bytes.trim_ascii();
    let digits: Vec<u8> =
        bytes.iter().filter(|byte| !byte.is_ascii_whitespace() && **byte != b'=').copied().collect();
    let decoded = STANDARD_NO_PAD.decode(&digits).or_else(|_| URL_SAFE_NO_PAD.decode(&digits));
    is_der
        || decoded.is_ok_and(|bytes| is_sequence(&bytes))
        || [&b"ssh-"[..], b"ecdsa-sha2-", b"sk-"].iter().any(|name| bytes.starts_with(name))
}

/// Whether this is one sequence of DER, with nothing behind it.
fn is_sequence(bytes: &[u8]) -> bool {
    sequence_len(bytes) == Some(bytes.len())
}

/// How long the sequence of DER is that this begins with, if it does with one.
fn sequence_len(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [0x30, len, ..] if len < 0x80 => Some(2 + usize::from(len)),
        [0x30, 0x81, len, ..] => Some(3 + usize::from(len)),
        [0x30, 0x82, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([high, low]))),
        _ => None,
    }
}

/// Reads a block of PEM, of which the beginning is cut off: a public key, for itself or as an RSA key (RFC 8017 section A.1.1).
fn read_pem(block: &str, algorithms: &[Algorithm]) -> Result<Key, KeyRule> {
    let (label, body) = block.split_once("-----").ok_or(KeyRule::Malformed)?;
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        label if label.ends_with("PRIVATE KEY") => return Err(KeyRule::Private),
        _ => return Err(KeyRule::Kind),
    }
    let (body, _) = body.split_once(&format!("-----END {label}-----")).ok_or(KeyRule::Malformed)?;
    let der = STANDARD.decode(body.split_ascii_whitespace().collect::<String>());
    let der = der.ok().filter(|der| is_sequence(der)).ok_or(KeyRule::Malformed)?;
    let curves = [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Ed25519].into_iter();
    let curve = curves.filter_map(|kind| Some((kind, kind.curve()?)));
    for (kind, (len, verifier)) in curve {
        // What it ends with is the point (RFC 5480 section 2.2, RFC 8410 section 4).
        if let (true, Some(at)) = (ParsedPublicKey::new(verifier, &der).is_ok(), der.len().checked_sub(len)) {
            let new =
                if kind == KeyKind::Ed25519 { DecodingKey::from_ed_der } else { DecodingKey::from_ec_der };
            return Key::new(None, kind, None, new(&der[at..]), algorithms);
        }
    }
    let components = (aws_lc::DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key)(&der);
    let (modulus, exponent) = components.map_err(|_| KeyRule::Kind)?;
    let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
    Key::new(None, KeyKind::Rsa, None, key, algorithms)
}

/// Reads one JWK, and what tokens would call it.
fn read_jwk(
    value: Value<'_>,
    algorithms: &[Algorithm],
    source: Source,
) -> (Option<Box<str>>, Result<Key, KeyRule>) {
    let Some(object) = value.object() else { return (None, Err(KeyRule::Malformed)) };
    let id = object.get("kid").and_then(Value::text);
    let is_told = id.as_ref().is_none_or(|id| id.len() <= KEY_ID_BYTES_MAX);
    let key = match &id {
        Some(id) if !is_told => Err(KeyRule::IdBytes(id.len())),
        _ => read_members(&object, value, algorithms, source),
    };
    (id.filter(|_| is_told), key)
}

fn read_members(
    object: &Object<'_>,
    value: Value<'_>,
    algorithms: &[Algorithm],
    source: Source,
) -> Result<Key, KeyRule> {
    let jwk: Jwk = serde_json::from_str(value.raw()).map_err(|_| KeyRule::Malformed)?;
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature) {
        return Err(KeyRule::Use);
    }
    if common.key_operations.as_ref().is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
        return Err(KeyRule::Operations);
    }
    let (kind, lens) = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) if source == Source::Url => return Err(KeyRule::SecretAtUrl),
        AlgorithmParameters::OctetKey(_) => (KeyKind::Hmac, None),
        _ if object.get("d").is_some() => return Err(KeyRule::Private),
        AlgorithmParameters::RSA(_) => (KeyKind::Rsa, None),
        AlgorithmParameters::EllipticCurve(key) => {
            let lens = (key.x.len(), key.y.len());
            match key.curve {
                EllipticCurve::P256 => (KeyKind::EcP256, Some((lens, (43, 43)))),
                EllipticCurve::P384 => (KeyKind::EcP384, Some((lens, (64, 64)))),
                _ => return Err(KeyRule::Kind),
            }
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (KeyKind::Ed25519, None)
        }
        _ => return Err(KeyRule::Kind),
    };
    // Both coordinates are of the same length, with all their zeroes (RFC 7518 section 6.2.1.2).
    if lens.is_some_and(|(lens, expected)| lens != expected) {
        return Err(KeyRule::Malformed);
    }
    let algorithm = match object.get("alg") {
        Some(name) => {
            let algorithm = name.text().as_deref().and_then(Algorithm::parse);
            Some(algorithm.filter(|it| it.kind() == kind).ok_or(KeyRule::Algorithm)?)
        }
        None => None,
    };
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| KeyRule::Malformed)?;
    Key::new(None, kind, algorithm, key, algorithms)
}

/// How many bits an RSA key has, if it keeps the rules.
fn check_rsa(key: &DecodingKey) -> Result<u32, KeyRule> {
    let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else { return Err(KeyRule::Malformed) };
    let [n, e] = [n, e].map(|number| {
        let zeroes = number.iter().take_while(|byte| **byte == 0).count();
        &number[zeroes..]
    });
    let bits = n.first().map_or(0, |first| 8 * n.len() as u32 - first.leading_zeros());
    if !RSA_BITS.contains(&bits) {
        return Err(KeyRule::RsaBits(bits));
    }
    let exponent = (e.len() <= 8).then(|| e.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    if !exponent.is_some_and(|exponent| RSA_EXPONENT.contains(&exponent) && exponent % 2 == 1) {
        return Err(KeyRule::RsaExponent);
    }
    let components = RsaPublicKeyComponents { n, e };
    let is_key = n.last().is_some_and(|last| last % 2 == 1)
        && components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).is_ok();
    if is_key { Ok(bits) } else { Err(KeyRule::Value) }
}

/// Whether this is a point of Ed25519 of which eight times are nothing: anybody can make signatures for such a key.
fn has_small_order(mut point: [u8; 32]) -> bool {
    // By its height, as 0, 1 and -1 can be written, and of the others.
    const EIGHTHS: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    // Which side it is on.
    point[31] &= 0x7f;
    let [first, middle @ .., last] = point;
    let is_low = middle == [0; 30] && last == 0 && first <= 1;
    let is_high = middle == [0xff; 30] && last == 0x7f && first >= 0xec;
    is_low || is_high || EIGHTHS.contains(&point)
}

/// What a point begins with that has both of its coordinates (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// How many bits a key of another kind has, if it keeps the rules.
fn check_bytes(kind: KeyKind, bytes: &[u8]) -> Result<u32, KeyRule> {
    let is_key = match kind {
        KeyKind::Hmac if !SECRET_BYTES.contains(&bytes.len()) => {
            return Err(KeyRule::SecretBytes(bytes.len()));
        }
        KeyKind::Hmac => return Ok(8 * bytes.len() as u32),
        kind => kind.curve().is_some_and(|(len, verifier)| {
            bytes.len() == len && ParsedPublicKey::new(verifier, bytes).is_ok()
        }),
    };
    let is_key = match <[u8; 32]>::try_from(bytes) {
        Ok(point) => is_key && !has_small_order(point),
        Err(_) => is_key && bytes.first() == Some(&UNCOMPRESSED),
    };
    match (is_key, kind) {
        (false, _) => Err(KeyRule::Value),
        (true, KeyKind::EcP384) => Ok(384),
        (true, _) => Ok(256),
    }
}

impl fmt::Display for KeyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyRule::Malformed => f.write_str("a member is missing or not what it should be"),
            KeyRule::Kind => {
                f.write_str("it is neither a public RSA key, nor one on P-256, P-384 or Ed25519")
            }
            KeyRule::Private => f.write_str("it is a private key; the broker needs the public one"),
            KeyRule::Use => f.write_str("its `use` is not `sig`"),
            KeyRule::Operations => f.write_str("its `key_ops` are without `verify`"),
            KeyRule::Algorithm => f.write_str("it is for none of the algorithms"),
            KeyRule::SecretAtUrl => f.write_str("it is a secret, which nobody has at an address"),
            KeyRule::SecretBytes(bytes) => {
                let (min, max) = (SECRET_BYTES.start(), SECRET_BYTES.end());
                write!(f, "the secret has {bytes} bytes; {min} to {max} are allowed")
            }
            KeyRule::RsaBits(bits) => {
                write!(f, "it has {bits} bits; {} to {} are allowed", RSA_BITS.start(), RSA_BITS.end())
            }
            KeyRule::RsaExponent => {
                let (min, max) = (RSA_EXPONENT.start(), RSA_EXPONENT.end());
                write!(f, "its exponent is not odd and from {min} to {max}")
            }
            KeyRule::Value => f.write_str("it is no point on its curve, or no modulus"),
            KeyRule::IdBytes(bytes) => {
                write!(f, "its `kid` has {bytes} bytes; at most {KEY_ID_BYTES_MAX} are allowed")
            }
        }
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "key \"{}\": {}", id.escape_debug(), self.rule),
            None => write!(f, "key {}: {}", self.index + 1, self.rule),
        }
    }
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeysError::Bytes(bytes) => write!(f, "{bytes} bytes; at most {KEYS_BYTES_MAX} are allowed"),
            KeysError::Jwk => f.write_str(
                "neither a JWK nor a set of those (RFC 7517), without a member twice and of at most 8 levels",
            ),
            KeysError::Bare => {
                f.write_str("a key that is neither PEM nor a JWK; a secret that looks like that is not taken")
            }
            KeysError::Count(count) => write!(f, "{count} keys; at most {KEYS_MAX} are allowed"),
            KeysError::NoneUsable { algorithms, passed_over } => {
                let names: Vec<&str> = algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
                write!(f, "no key for {}", names.join(", "))?;
                passed_over.iter().try_for_each(|key| write!(f, "; {key}"))
            }
        }
    }
}

impl std::error::Error for KeysError {}
