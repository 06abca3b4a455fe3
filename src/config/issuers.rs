//! `auth.issuers`: whose signed tokens are taken.

use std::path::PathBuf;

use toml::{Spanned, de::DeValue};
use url::{Host, Url};

use super::{
    keys::{Key, Kind, Refusal},
    table::{self, TableKey, not_allowed},
};
use crate::{
    access::{keys::Algorithm, pattern, principal},
    protocol::tenant,
};

/// So many issuers.
pub(super) const ISSUERS_MAX: usize = 16;
/// The longest address of keys, in bytes.
const URL_BYTES_MAX: usize = 2_048;

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
    /// Where its keys are fetched from, as [`jwks_url`] reads it.
    pub jwks_url: String,
    /// A file with the authorities that vouch for whoever is there; those of the machine without.
    pub jwks_ca_file: Option<PathBuf>,
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
            jwks_url: String::new(),
            jwks_ca_file: None,
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
                allowed: "an array of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA or Ed25519",
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
            path: "auth.issuers.jwks_url",
            about: "In place of either: where the JWKS is fetched from, again and again. Secrets are not taken from there.",
            is_reloadable: true,
            kind: Kind::OptionalText {
                allowed: "an https:// URL without a user, a password and a fragment, or an http:// one of this machine itself",
                is_valid: |text| jwks_url(text).is_some(),
                field: |issuer| &mut issuer.jwks_url,
            },
        },
        example: "\"\"",
        is_set: |issuer| !issuer.jwks_url.is_empty(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.jwks_ca_file",
            about: "Certificates in PEM of the authorities that vouch for the server of jwks_url; without it the machine's own.",
            is_reloadable: true,
            kind: Kind::OptionalFile(|issuer| &mut issuer.jwks_ca_file),
        },
        example: "\"\"",
        is_set: |issuer| issuer.jwks_ca_file.is_some(),
    },
    TableKey {
        key: Key {
            path: "auth.issuers.user_claim",
            about: "The claim that is the client's name.",
            is_reloadable: true,
            kind: Kind::OptionalText {
                allowed: pattern::LABEL_ALLOWED,
                is_valid: pattern::is_label,
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
                allowed: pattern::LABEL_ALLOWED,
                is_valid: pattern::is_label,
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
                is_valid: pattern::is_label,
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
        let allowed = "a table with iss, algorithms, and one of key_file, jwks_file and jwks_url";
        let issuer = table::read(NAME, entry, ISSUER_KEYS, allowed)?;
        let sources = [issuer.key_file.is_some(), issuer.jwks_file.is_some(), !issuer.jwks_url.is_empty()];
        let is_whole = !issuer.iss.is_empty()
            && !issuer.algorithms.is_empty()
            && !issuer.user_claim.is_empty()
            && !issuer.claims.is_empty()
            && sources.iter().filter(|is_set| **is_set).count() == 1;
        if !is_whole {
            return Err(not_allowed(NAME, entry, allowed.into()));
        }
        if issuer.tenants && !issuer.tenant.is_empty() {
            let allowed = "a table with either tenant or tenants, or neither";
            return Err(not_allowed(NAME, entry, allowed.into()));
        }
        let is_secured = jwks_url(&issuer.jwks_url).is_some_and(|url| url.scheme() == "https");
        if issuer.jwks_ca_file.is_some() && !is_secured {
            let allowed = "a table with jwks_ca_file only beside a jwks_url that begins with https://";
            return Err(not_allowed(NAME, entry, allowed.into()));
        }
        if issuers.iter().any(|before| before.iss == issuer.iss) {
            return Err(not_allowed(NAME, entry, "a table with an iss that no other one has".into()));
        }
        issuers.push(issuer);
    }
    Ok(issuers)
}

/// Where keys may be fetched from: over TLS, or from this machine itself.
pub fn jwks_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= URL_BYTES_MAX)?;
    let is_here = match url.host()? {
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    let is_allowed = match url.scheme() {
        "https" => true,
        "http" => is_here,
        _ => false,
    };
    let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (is_allowed && is_plain && url.port() != Some(0)).then_some(url)
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
        // What excludes another one, what goes with another one alone, and what needs a tenant.
        let others = ["key_file", "jwks_url", "jwks_ca_file", "tenant", "tenants"];
        assert!(ISSUER_KEYS.iter().all(|key| (key.is_set)(issuer) != others.contains(&key.key.name())));
        let again = literal(issuer);
        assert_eq!(load(&again).unwrap().auth.issuers, config.auth.issuers);
        let text = r#"{ iss = "c", algorithms = ["ES256"], jwks_url = "https://c/k", jwks_ca_file = "/ca" }"#;
        let mut fetched = load(text).unwrap();
        let again = literal(&mut fetched.auth.issuers[0]);
        assert_eq!((&*again, load(&again).unwrap().auth), (text, fetched.auth));
        let short = load(r#"{ iss = "b", algorithms = ["HS256"], key_file = "/k" }"#).unwrap();
        assert_eq!((&*short.auth.issuers[0].user_claim, short.auth.issuers[0].ttl_s_max), ("sub", 86_400));
        assert!(short.auth.is_on());
    }

    #[test]
    fn keys_are_fetched_over_tls_or_from_this_machine() {
        for (url, is_allowed) in [
            ("https://login.example.org/.well-known/jwks.json", true),
            ("https://login.example.org:8443/keys?v=1", true),
            ("https://192.0.2.1/", true),
            ("http://127.0.0.1:8080/keys", true),
            ("http://127.8.0.1/", true),
            ("http://[::1]:8080/", true),
            ("http://localhost/", true),
            ("http://keys.localhost/", true),
            ("http://login.example.org/", false),
            ("http://192.0.2.1/", false),
            ("http://localhost.example.org/", false),
            ("http://127.0.0.1.example.org/", false),
            ("https://user@login.example.org/", false),
            ("https://:secret@login.example.org/", false),
            ("https://login.example.org/#keys", false),
            ("https://login.example.org:0/", false),
            ("file:///etc/fanfare/keys", false),
            ("login.example.org/keys", false),
            ("https://", false),
            ("", false),
        ] {
            assert_eq!(jwks_url(url).is_some(), is_allowed, "{url}");
        }
        let of = |count: usize| format!("https://a/{}", "k".repeat(count - 10));
        assert!(jwks_url(&of(URL_BYTES_MAX)).is_some() && jwks_url(&of(URL_BYTES_MAX + 1)).is_none());
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
                r#"{ iss = "b", algorithms = ["HS256"], key_file = "/k", jwks_url = "https://b/" }"#,
                "it must be a table with iss",
            ),
            (
                r#"{ iss = "b", algorithms = ["ES256"], jwks_url = "http://b/" }"#,
                "auth.issuers.jwks_url = \"http://b/\" is not allowed: it must be an https:// URL",
            ),
            (
                r#"{ iss = "b", algorithms = ["ES256"], jwks_url = "http://[::1]/", jwks_ca_file = "/ca" }"#,
                "it must be a table with jwks_ca_file only beside a jwks_url",
            ),
            (
                r#"{ iss = "b", algorithms = ["HS256"], key_file = "/k", jwks_ca_file = "/ca" }"#,
                "it must be a table with jwks_ca_file only beside a jwks_url",
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
