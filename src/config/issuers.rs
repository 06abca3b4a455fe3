//! `auth.issuers`: whose signed tokens are taken.

use std::path::PathBuf;

use toml::{Spanned, de::DeValue};

use super::{
    keys::{Key, Kind, Refusal},
    roles,
    table::{self, TableKey, not_allowed},
};
use crate::{
    access::{keys::Algorithm, pattern, principal},
    protocol::tenant,
};

/// So many issuers.
pub(super) const ISSUERS_MAX: usize = 16;

/// One issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its name, as the claim `iss` has it.
    pub iss: String,
    /// One of these has to be in the claim `aud`.
    pub audience: Vec<String>,
    /// What it signs with, such as `ES256`.
    pub algorithms: Vec<String>,
    /// A file with its key.
    pub key_file: Option<PathBuf>,
    /// A file with its keys, as a JWKS.
    pub jwks_file: Option<PathBuf>,
    /// The claim with the user's name; `sub`.
    pub user_claim: String,
    /// The claim with what is for the broker; `fanfare`.
    pub claims: String,
    /// What whoever has a token of this issuer has, beside what the token says.
    pub roles: Vec<String>,
    /// For how long a token may still be good, in seconds; 86,400.
    pub ttl_s_max: u64,
    /// Of which tenant whoever has a token of this issuer is; `""` is of none.
    pub tenant: String,
    /// Its tokens say of which tenant they are.
    pub tenants: bool,
}

impl Default for Issuer {
    fn default() -> Issuer {
        Issuer {
            iss: String::new(),
            audience: Vec::new(),
            algorithms: Vec::new(),
            key_file: None,
            jwks_file: None,
            user_claim: "sub".into(),
            claims: "fanfare".into(),
            roles: Vec::new(),
            ttl_s_max: 86_400,
            tenant: String::new(),
            tenants: false,
        }
    }
}

/// Every key, the name first.
pub(super) static ISSUER_KEYS: &[TableKey<Issuer>] = &[
    TableKey {
        key: Key {
            path: "auth.issuers.iss",
            about: "Its name: the claim iss of its tokens, byte for byte.",
            is_reloadable: true,
            kind: Kind::OptionalText {
                allowed: principal::NAME_ALLOWED,
                is_valid: principal::is_name,
                field: |issuer| &mut issuer.iss,
            },
        },
        example: "\"https://login.example.org/\"",
        is_set: |issuer| !issuer.iss.is_empty(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.audience",
            about: "Whom its tokens have to be for: one of these is in their claim aud. Without any a token with aud is refused.",
            is_reloadable: true,
            kind: Kind::Texts {
                allowed: "an array of texts of 1 to 128 bytes",
                is_valid: principal::is_name,
                field: |issuer| &mut issuer.audience,
            },
        },
        example: "[\"fanfare\"]",
        is_set: |issuer| !issuer.audience.is_empty(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.algorithms",
            about: "What its tokens may be signed with.",
            is_reloadable: true,
            kind: Kind::Texts {
                allowed: "an array of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA",
                is_valid: |text| Algorithm::parse(text).is_some(),
                field: |issuer| &mut issuer.algorithms,
            },
        },
        example: "[\"ES256\"]",
        is_set: |issuer| !issuer.algorithms.is_empty(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.key_file",
            about: "A file with its key: a public one in PEM or as a JWK, or a secret of 32 bytes or more for HS256 and its like.\n\
                    Only the broker's user, and its group, may read it.",
            is_reloadable: true,
            kind: Kind::OptionalFile(|issuer| &mut issuer.key_file),
        },
        example: "\"/etc/fanfare/login.pem\"",
        is_set: |issuer| issuer.key_file.is_some(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.jwks_file",
            about: "In place of key_file: a file with several keys as a JWKS, of which tokens name one (kid).",
            is_reloadable: true,
            kind: Kind::OptionalFile(|issuer| &mut issuer.jwks_file),
        },
        example: "\"\"",
        is_set: |issuer| issuer.jwks_file.is_some(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.user_claim",
            about: "The claim that is the client's name.",
            is_reloadable: true,
            kind: Kind::OptionalText {
                allowed: "the name of a claim, 1 to 64 letters, digits, _, - and .",
                is_valid: pattern::is_claim_name,
                field: |issuer| &mut issuer.user_claim,
            },
        },
        example: "\"sub\"",
        is_set: |issuer| issuer.user_claim != "sub",
    },
    TableKey {
        key: Key {
            path: "auth.issuers.claims",
            about: "The claim with what is for the broker: an object of roles, publish, subscribe, history, presence and deny.",
            is_reloadable: true,
            kind: Kind::OptionalText {
                allowed: "the name of a claim, 1 to 64 letters, digits, _, - and .",
                is_valid: pattern::is_claim_name,
                field: |issuer| &mut issuer.claims,
            },
        },
        example: "\"fanfare\"",
        is_set: |issuer| issuer.claims != "fanfare",
    },
    TableKey {
        key: Key {
            path: "auth.issuers.roles",
            about: "What whoever has a token of this issuer has, beside the roles and filters that the token itself says.",
            is_reloadable: true,
            kind: Kind::Texts {
                allowed: "an array of names of [roles]",
                is_valid: roles::is_name,
                field: |issuer| &mut issuer.roles,
            },
        },
        example: "[\"chat\"]",
        is_set: |issuer| !issuer.roles.is_empty(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.ttl_s_max",
            about: "For how long a token may still be good when it is brought; one that is for longer is refused.",
            is_reloadable: true,
            kind: Kind::Integer {
                range: 60..=31_536_000,
                unit: "seconds",
                get: |issuer| issuer.ttl_s_max,
                set: |issuer, value| issuer.ttl_s_max = value,
            },
        },
        example: "86_400",
        is_set: |issuer| issuer.ttl_s_max != 86_400,
    },
    TableKey {
        key: Key {
            path: "auth.issuers.tenant",
            about: "Of which of [tenants] everybody is who has a token of this issuer.",
            is_reloadable: true,
            kind: Kind::OptionalText {
                allowed: tenant::TENANT_ALLOWED,
                is_valid: tenant::is_name,
                field: |issuer| &mut issuer.tenant,
            },
        },
        example: "\"\"",
        is_set: |issuer| !issuer.tenant.is_empty(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.tenants",
            about: "In place of tenant: each of its tokens says of which of [tenants] it is, as tenant beside roles.",
            is_reloadable: true,
            kind: Kind::Bool(|issuer| &mut issuer.tenants),
        },
        example: "false",
        is_set: |issuer| issuer.tenants,
    },
];

/// The issuers of an array of tables.
///
/// # Errors
/// The first thing wrong with one of them, a name that two have, or that they are too many.
pub(super) fn issuers(entries: &[Spanned<DeValue<'_>>]) -> Result<Vec<Issuer>, Refusal> {
    const NAME: &str = "auth.issuers";
    if let Some(entry) = entries.get(ISSUERS_MAX) {
        return Err(not_allowed(NAME, entry, format!("at most {ISSUERS_MAX} tables")));
    }
    let mut issuers: Vec<Issuer> = Vec::with_capacity(entries.len());
    for entry in entries {
        let allowed = "a table with iss, algorithms, and either key_file or jwks_file";
        let issuer = table::read(NAME, entry, ISSUER_KEYS, allowed)?;
        let is_whole = !issuer.iss.is_empty()
            && !issuer.algorithms.is_empty()
            && !issuer.user_claim.is_empty()
            && !issuer.claims.is_empty()
            && issuer.key_file.is_some() != issuer.jwks_file.is_some();
        if !is_whole {
            return Err(not_allowed(NAME, entry, allowed.into()));
        }
        if issuer.tenants && !issuer.tenant.is_empty() {
            let allowed = "a table with either tenant or tenants, or neither";
            return Err(not_allowed(NAME, entry, allowed.into()));
        }
        if issuers.iter().any(|before| before.iss == issuer.iss) {
            return Err(not_allowed(NAME, entry, "a table with an iss that no other one has".into()));
        }
        issuers.push(issuer);
    }
    Ok(issuers)
}

/// The issuer as an inline table of what it sets.
pub(super) fn literal(issuer: &mut Issuer) -> String {
    table::literal(issuer, ISSUER_KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        load::{Sources, load_text},
    };

    fn load(issuers: &str) -> Result<Config, String> {
        let text = format!("auth.issuers = [{issuers}]\nroles.chat = {{}}\n");
        load_text("f", &text, &Sources::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_issuer_is_read_and_written_as_it_is_read() {
        let text = r#"{ iss = "https://a/", audience = ["x"], algorithms = ["ES256", "EdDSA"], jwks_file = "/k", user_claim = "uid", claims = "ff", roles = ["chat"], ttl_s_max = 900 }"#;
        let mut config = load(text).unwrap();
        let issuer = &mut config.auth.issuers[0];
        assert_eq!((&*issuer.iss, &*issuer.user_claim, issuer.ttl_s_max), ("https://a/", "uid", 900));
        // What excludes another one, and what needs a tenant.
        let unset = ["key_file", "tenant", "tenants"];
        assert!(ISSUER_KEYS.iter().all(|key| (key.is_set)(issuer) != unset.contains(&key.key.name())));
        let literal = literal(issuer);
        assert_eq!(load(&literal).unwrap().auth.issuers, config.auth.issuers);
        let short = load(r#"{ iss = "b", algorithms = ["HS256"], key_file = "/k" }"#).unwrap();
        assert_eq!((&*short.auth.issuers[0].user_claim, short.auth.issuers[0].ttl_s_max), ("sub", 86_400));
        assert!(short.auth.is_on());
    }

    #[test]
    fn what_is_no_issuer_is_refused() {
        let good = r#"{ iss = "b", algorithms = ["HS256"], key_file = "/k" }"#;
        for (text, why) in [
            ("1", "auth.issuers = 1 is not allowed: it must be a table with iss"),
            (r#"{ iss = "b", algorithms = ["HS256"] }"#, "it must be a table with iss"),
            (r#"{ algorithms = ["HS256"], key_file = "/k" }"#, "it must be a table with iss"),
            (r#"{ iss = "b", key_file = "/k" }"#, "it must be a table with iss"),
            (
                r#"{ iss = "b", algorithms = ["HS256"], key_file = "/k", jwks_file = "/k" }"#,
                "it must be a table with iss",
            ),
            (
                r#"{ iss = "b", algorithms = ["none"], key_file = "/k" }"#,
                "auth.issuers.algorithms = [\"none\"] is not allowed",
            ),
            (
                r#"{ iss = "b", algorithms = ["HS256"], key_file = "k/k" }"#,
                "auth.issuers.key_file = \"k/k\" is not allowed",
            ),
            (
                r#"{ iss = "b", algoritms = ["HS256"] }"#,
                "there is no key auth.issuers.algoritms; did you mean auth.issuers.algorithms?",
            ),
            (
                r#"{ iss = "b", algorithms = ["HS256"], key_file = "/k", roles = ["x"] }"#,
                "auth.issuers.roles = \"x\" is not allowed: it must be the name of a table in [roles]",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(load(&format!("{good}, {good}")).unwrap_err().contains("an iss that no other one has"));
        let named = |n: usize| good.replace("\"b\"", &format!("\"b{n}\""));
        let many = |count: usize| (0..count).map(named).collect::<Vec<_>>().join(",");
        assert!(load(&many(ISSUERS_MAX)).is_ok());
        assert!(load(&many(ISSUERS_MAX + 1)).unwrap_err().contains("at most 16 tables"));
    }
}
