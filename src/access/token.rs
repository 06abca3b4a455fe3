//! Signed tokens (RFC 7519, RFC 7515), read so strictly that there is one way to read them.
//!
//! [`Unverified::parse`] judges all that can be judged without a key or a clock, and says which keys there are to try;
//! [`Unverified::verify`] tries them. What stands in a token is what its issuer says only after that. A header may name
//! no key but one that the issuer has, and nothing that has to be understood.

use std::{mem, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    grants::{GrantTexts, Grants},
    keys::{Algorithm, KEY_ID_BYTES_MAX, Key, KeySet, Refetch},
    pattern::Bindings,
    strict::{Object, Value},
};
use crate::protocol::{secret::Secret, tenant};

#[cfg(test)]
mod tests;

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// The longest name of an issuer, a user or a token, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The most filters of a list, and the most roles.
pub const GRANTS_MAX: usize = 64;
/// The longest `info`, in bytes as it is written.
pub const INFO_BYTES_MAX: usize = 1_024;
/// So many keys are tried for a token that does not say which one it is.
pub const KEYS_TRIED_MAX: usize = 8;
/// The largest number of seconds: what every JSON reader holds exactly.
const SECONDS_MAX: u64 = 1 << 53;

/// Whose tokens are taken.
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    terms: Box<[IssuerTerms]>,
    claim_names: Arc<[Box<str>]>,
}

/// What an issuer's tokens have to be.
#[derive(Clone, Debug)]
pub struct IssuerTerms {
    /// Its name, as `iss` has it.
    pub iss: Box<str>,
    /// One of these is in `aud`; without any, `aud` is not there: a token that is for somebody says so (RFC 7519 section 4.1.3).
    pub audience: Vec<Box<str>>,
    /// What it signs with.
    pub algorithms: Vec<Algorithm>,
    /// The claim with the user's name.
    pub user_claim: Box<str>,
    /// The claim with what is for the broker.
    pub claims: Box<str>,
    /// How long a token may still be valid, in seconds.
    pub ttl_s_max: Option<u64>,
    /// Its tokens say of which tenant they are, each of them; others' never do.
    pub tenants: bool,
    /// Nothing as long as they have not been fetched.
    pub keys: Option<Arc<KeySet>>,
    /// Of keys that are fetched.
    pub refetch: Option<Arc<Refetch>>,
}

/// A token that may turn out to be its issuer's.
#[derive(Debug)]
pub struct Unverified<'a> {
    token: &'a Secret,
    /// Where the signature begins.
    signature_at: usize,
    algorithm: Algorithm,
    keys: Arc<KeySet>,
    /// Places of those that may have signed it.
    candidates: Box<[u8]>,
    /// Not before this, and issued no later.
    valid_from_s: u64,
    ttl_s_max: Option<u64>,
    claims: Claims,
}

/// What an issuer says of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose token it is, by its place in [`Issuers`].
    pub issuer_index: usize,
    /// The user.
    pub user: Option<Box<str>>,
    /// `jti`
    pub token_id: Option<Box<str>>,
    /// `iat`, in whole seconds.
    pub issued_s: Option<u64>,
    /// `exp`, in whole seconds.
    pub expires_s: u64,
    /// Its tenant: always there if the issuer has them.
    pub tenant: Option<Box<str>>,
    /// Names of roles, which need not be there.
    pub roles: Vec<Box<str>>,
    /// What it may do beside them.
    pub grants: Option<Grants>,
    /// What others are told of it: one I-JSON value.
    pub info: Option<Box<str>>,
    /// What stands in the places of templates: its own, and those of roles.
    pub bindings: Bindings,
}

/// Why a token is refused. Nothing of it is in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenFault {
    /// Longer than [`TOKEN_BYTES_MAX`].
    TooLong,
    /// Not three parts in base64url.
    Malformed,
    /// A header that is no object, or of which a member is not what it should be.
    BadHeader,
    /// `crit` or `b64`: what would have to be understood.
    CriticalHeader,
    /// Claims that are no object, or of which one is not what it should be.
    BadClaims,
    /// An issuer that is not taken.
    UnknownIssuer,
    /// An algorithm that this issuer may not use, or not with this key.
    WrongAlgorithm,
    /// This issuer has no keys yet.
    NoKeys {
        /// Its place in [`Issuers`].
        issuer_index: usize,
    },
    /// This issuer has no such key.
    UnknownKey {
        /// Its place in [`Issuers`].
        issuer_index: usize,
    },
    /// It is for others.
    WrongAudience,
    /// What is for the broker is not what it may be.
    BadGrants,
    /// `exp` is past.
    Expired,
    /// `nbf` or `iat` is to come.
    NotYetValid,
    /// It would be valid for too long.
    Lifetime,
    /// No key of this issuer signed it.
    BadSignature,
}

/// What a header says that is of use.
struct Header {
    algorithm: Box<str>,
    key_id: Option<Box<str>>,
}

/// Reads `token` at `now_s`, in seconds since 1970, by clocks that may be `leeway_s` apart.
///
/// # Errors
/// Why it is refused.
pub fn read(token: &str, issuers: &Issuers, now_s: u64, leeway_s: u64) -> Result<Claims, TokenFault> {
    check_len(token)?;
    Unverified::parse(&Secret::new(token), issuers)?.verify(now_s, leeway_s)
}

impl Issuers {
    /// Issuers with names of their own. `claim_names` are the claims that roles name, as `{claim.NAME}`.
    pub fn new(terms: Vec<IssuerTerms>, claim_names: Vec<Box<str>>) -> Issuers {
        Issuers { terms: terms.into(), claim_names: claim_names.into() }
    }

    /// All of them.
    pub fn terms(&self) -> &[IssuerTerms] {
        &self.terms
    }

    /// The same, with what `keys_of` says of each whose keys are fetched.
    pub(super) fn with_keys(&self, keys_of: impl Fn(&str) -> Option<Arc<KeySet>>) -> Issuers {
        let mut issuers = self.clone();
        for terms in issuers.terms.iter_mut().filter(|terms| terms.refetch.is_some()) {
            terms.keys = keys_of(&terms.iss);
        }
        issuers
    }
}

impl<'a> Unverified<'a> {
    /// Judges what can be judged without a key or a clock.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn parse(token: &'a Secret, issuers: &Issuers) -> Result<Unverified<'a>, TokenFault> {
        let text = token.get();
        check_len(text)?;
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::Malformed);
        };
        let signature_at = text.len() - signature.len();
        let [header, claims, signature] = [header, claims, signature].map(|part| {
            URL_SAFE_NO_PAD.decode(part).ok().filter(|bytes| !bytes.is_empty()).ok_or(TokenFault::Malformed)
        });
        let (header, claims, signature) = (Header::read(&header?)?, claims?, signature?);
        let claims = Object::read(&claims).ok_or(TokenFault::BadClaims)?;

        let iss = read_name(&claims, "iss")?.ok_or(TokenFault::BadClaims)?;
        let issuer_index = issuers.terms.iter().position(|terms| terms.iss == iss);
        let issuer_index = issuer_index.ok_or(TokenFault::UnknownIssuer)?;
        let terms = &issuers.terms[issuer_index];
        let algorithm = Algorithm::parse(&header.algorithm).filter(|it| terms.algorithms.contains(it));
        let algorithm = algorithm.ok_or(TokenFault::WrongAlgorithm)?;
        let keys = terms.keys.as_ref().ok_or(TokenFault::NoKeys { issuer_index })?;
        let candidates = find_candidates(keys, &header, algorithm, signature.len(), issuer_index)?;

        check_audience(&claims, terms)?;
        let valid_from_s =
            [read_seconds(&claims, "nbf", f64::ceil)?, read_seconds(&claims, "iat", f64::ceil)?];
        let valid_from_s = valid_from_s.into_iter().flatten().max().unwrap_or(0);
        let claims = Claims::read(&claims, issuers, issuer_index)?;
        let (keys, ttl_s_max) = (Arc::clone(keys), terms.ttl_s_max);
        Ok(Unverified { token, signature_at, algorithm, keys, candidates, valid_from_s, ttl_s_max, claims })
    }

    /// The keys that [`Unverified::verify`] tries, in the worst case all: what it costs.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.candidates.iter().map(|place| &self.keys.keys()[usize::from(*place)])
    }

    /// Whose it would be, by its place in [`Issuers`].
    pub fn issuer_index(&self) -> usize {
        self.claims.issuer_index
    }

    /// Whether it is of this time, as [`Unverified::verify`] asks before anything else.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check_times(&self, now_s: u64, leeway_s: u64) -> Result<(), TokenFault> {
        let expires_s = self.claims.expires_s;
        let latest_s = now_s.saturating_add(leeway_s);
        if expires_s.saturating_add(leeway_s) <= now_s {
            return Err(TokenFault::Expired);
        }
        if self.valid_from_s > latest_s {
            return Err(TokenFault::NotYetValid);
        }
        if self.ttl_s_max.is_some_and(|ttl_s_max| expires_s > latest_s.saturating_add(ttl_s_max)) {
            return Err(TokenFault::Lifetime);
        }
        Ok(())
    }

    /// What its issuer says, if it is of this time and its issuer's.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(self, now_s: u64, leeway_s: u64) -> Result<Claims, TokenFault> {
        self.check_times(now_s, leeway_s)?;
        let (signed, signature) = self.token.get().split_at(self.signature_at);
        let message = &signed.as_bytes()[..signed.len() - 1];
        let is_signed = self.keys().any(|key| key.verifies(message, signature, self.algorithm));
        if is_signed { Ok(self.claims) } else { Err(TokenFault::BadSignature) }
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, TokenFault> {
        let header = Object::read(bytes).ok_or(TokenFault::BadHeader)?;
        if header.get("crit").is_some() || header.get("b64").is_some() {
            return Err(TokenFault::CriticalHeader);
        }
        let text = |name: &str| header.get(name).map(|value| value.text().ok_or(TokenFault::BadHeader));
        let is_token = |kind: &str| kind.eq_ignore_ascii_case("JWT") || kind.eq_ignore_ascii_case("at+jwt");
        let algorithm = text("alg").ok_or(TokenFault::BadHeader)??;
        let key_id = text("kid").transpose()?;
        let kind = text("typ").transpose()?;
        let is_right = kind.is_none_or(|kind| is_token(&kind))
            && key_id.as_ref().is_none_or(|id| id.len() <= KEY_ID_BYTES_MAX);
        if is_right { Ok(Header { algorithm, key_id }) } else { Err(TokenFault::BadHeader) }
    }
}

impl Claims {
    fn read(claims: &Object<'_>, issuers: &Issuers, issuer_index: usize) -> Result<Claims, TokenFault> {
        let terms = &issuers.terms[issuer_index];
        let expires_s = read_seconds(claims, "exp", f64::floor)?.ok_or(TokenFault::BadClaims)?;
        let issued_s = read_seconds(claims, "iat", f64::floor)?;
        let subject = read_name(claims, "sub")?;
        let user = if *terms.user_claim == *"sub" { subject } else { read_name(claims, &terms.user_claim)? };
        let token_id = read_name(claims, "jti")?;
        let mut read = Claims {
            issuer_index,
            user,
            token_id,
            issued_s,
            expires_s,
            tenant: None,
            roles: Vec::new(),
            grants: None,
            info: None,
            bindings: Bindings::default(),
        };
        if let Some(own) = claims.get(&terms.claims) {
            read.read_own(own).ok_or(TokenFault::BadGrants)?;
        }
        let own_names = read.grants.iter().flat_map(Grants::claims);
        let mut names: Vec<&str> = issuers.claim_names.iter().map(|name| &**name).chain(own_names).collect();
        // Nobody has signed this yet: it may name one a thousand times, and have hundreds that none names.
        names.sort_unstable();
        names.dedup();
        let named = claims.members().filter(|(name, _)| names.binary_search(name).is_ok());
        let named: Vec<_> = named.filter_map(|(name, value)| Some((name, value.text()?))).collect();
        read.bindings =
            Bindings::new(read.user.as_deref(), named.iter().map(|(name, text)| (*name, &**text)));
        // One that is of no tenant would be in nobody's space, or in everybody's.
        if terms.tenants == read.tenant.is_some() { Ok(read) } else { Err(TokenFault::BadGrants) }
    }

    /// Reads what is for the broker, of which everything is known.
    fn read_own(&mut self, own: Value<'_>) -> Option<()> {
        let mut texts: Option<GrantTexts> = None;
        for (name, value) in own.object()?.members() {
            match name {
                "publish" => texts.get_or_insert_default().publish = read_filters(value)?,
                "subscribe" => texts.get_or_insert_default().subscribe = read_filters(value)?,
                "history" => texts.get_or_insert_default().history = Some(read_filters(value)?),
                "presence" => texts.get_or_insert_default().presence = read_filters(value)?,
                "deny" => texts.get_or_insert_default().deny = read_filters(value)?,
                "roles" => {
                    let roles = read_texts(value).filter(|roles| roles.len() <= GRANTS_MAX)?;
                    let are_names = roles.iter().all(|name| (1..=NAME_BYTES_MAX).contains(&name.len()));
                    self.roles = are_names.then_some(roles)?;
                }
                "tenant" => self.tenant = Some(value.text().filter(|name| tenant::is_name(name))?),
                "info" if value.raw().len() <= INFO_BYTES_MAX => self.info = Some(value.raw().into()),
                _ => return None,
            }
        }
        self.grants = texts.map(|texts| Grants::parse(&texts)).transpose().ok()?;
        Some(())
    }
}

impl TokenFault {
    /// Every fault, of whichever issuer.
    pub const ALL: [TokenFault; 15] = [
        TokenFault::TooLong,
        TokenFault::Malformed,
        TokenFault::BadHeader,
        TokenFault::CriticalHeader,
        TokenFault::BadClaims,
        TokenFault::UnknownIssuer,
        TokenFault::WrongAlgorithm,
        TokenFault::NoKeys { issuer_index: 0 },
        TokenFault::UnknownKey { issuer_index: 0 },
        TokenFault::WrongAudience,
        TokenFault::BadGrants,
        TokenFault::Expired,
        TokenFault::NotYetValid,
        TokenFault::Lifetime,
        TokenFault::BadSignature,
    ];

    /// The length of a table indexed by [`TokenFault::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// This fault's place in a table of [`TokenFault::COUNT`] entries.
    pub fn index(self) -> usize {
        let is_same = |other: &TokenFault| mem::discriminant(other) == mem::discriminant(&self);
        Self::ALL.iter().position(is_same).expect("all of them are there")
    }

    /// Its name, in metrics and audits.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenFault::TooLong => "too_long",
            TokenFault::Malformed => "malformed",
            TokenFault::BadHeader => "bad_header",
            TokenFault::CriticalHeader => "critical_header",
            TokenFault::BadClaims => "bad_claims",
            TokenFault::UnknownIssuer => "unknown_issuer",
            TokenFault::WrongAlgorithm => "wrong_algorithm",
            TokenFault::NoKeys { .. } => "no_keys",
            TokenFault::UnknownKey { .. } => "unknown_key",
            TokenFault::WrongAudience => "wrong_audience",
            TokenFault::BadGrants => "bad_grants",
            TokenFault::Expired => "expired",
            TokenFault::NotYetValid => "not_yet_valid",
            TokenFault::Lifetime => "lifetime",
            TokenFault::BadSignature => "bad_signature",
        }
    }
}

/// What a token that is refused says of whose it is, as far as that can be read: the place of its issuer, if that is one of ours, and
/// the name of its key.
pub fn tell_of(token: &str, issuers: &Issuers) -> (Option<usize>, Option<Box<str>>) {
    let mut parts = token.split('.').filter(|_| check_len(token).is_ok());
    let mut next = || URL_SAFE_NO_PAD.decode(parts.next()?).ok();
    let (header, claims) = (next(), next());
    let text = |bytes: Option<Vec<u8>>, name: &str| Object::read(&bytes?)?.get(name)?.text();
    let iss = text(claims, "iss");
    let issuer_index = issuers.terms.iter().position(|terms| Some(&terms.iss) == iss.as_ref());
    (issuer_index, text(header, "kid"))
}

fn check_len(token: &str) -> Result<(), TokenFault> {
    if token.len() <= TOKEN_BYTES_MAX { Ok(()) } else { Err(TokenFault::TooLong) }
}

/// The places of the keys that may have made a signature of so many bytes.
fn find_candidates(
    keys: &KeySet,
    header: &Header,
    algorithm: Algorithm,
    signature_len: usize,
    issuer_index: usize,
) -> Result<Box<[u8]>, TokenFault> {
    let key_id = header.key_id.as_deref();
    let mut candidates = keys.candidates(key_id, algorithm).peekable();
    if candidates.peek().is_none() {
        let is_other_kind = key_id.is_none_or(|id| keys.has_id(id));
        let fault = TokenFault::UnknownKey { issuer_index };
        return Err(if is_other_kind { TokenFault::WrongAlgorithm } else { fault });
    }
    let fitting = candidates.filter(|(_, key)| key.signature_len(algorithm) == signature_len);
    let places: Box<[u8]> = fitting.map(|(place, _)| place).take(KEYS_TRIED_MAX).collect();
    if places.is_empty() { Err(TokenFault::BadSignature) } else { Ok(places) }
}

fn check_audience(claims: &Object<'_>, terms: &IssuerTerms) -> Result<(), TokenFault> {
    let is_for_us = match claims.get("aud") {
        None => terms.audience.is_empty(),
        Some(value) => {
            let audience = value.text().map(|one| vec![one]).or_else(|| read_texts(value));
            audience.ok_or(TokenFault::BadClaims)?.iter().any(|one| terms.audience.contains(one))
        }
    };
    if is_for_us { Ok(()) } else { Err(TokenFault::WrongAudience) }
}

/// A claim that names somebody or something: one that is empty names nothing.
fn read_name(claims: &Object<'_>, name: &str) -> Result<Option<Box<str>>, TokenFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let text = value.text().filter(|text| (1..=NAME_BYTES_MAX).contains(&text.len()));
    text.map(Some).ok_or(TokenFault::BadClaims)
}

/// A claim that is a time (RFC 7519 section 2), which may have a fraction of a second.
fn read_seconds(claims: &Object<'_>, name: &str, round: fn(f64) -> f64) -> Result<Option<u64>, TokenFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.number(round).filter(|seconds| *seconds <= SECONDS_MAX);
    seconds.map(Some).ok_or(TokenFault::BadClaims)
}

fn read_filters(value: Value<'_>) -> Option<Vec<String>> {
    let texts = read_texts(value).filter(|texts| texts.len() <= GRANTS_MAX)?;
    Some(texts.into_iter().map(String::from).collect())
}

fn read_texts(value: Value<'_>) -> Option<Vec<Box<str>>> {
    value.array()?.into_iter().map(Value::text).collect()
}
