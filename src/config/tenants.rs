//! `[tenants]`: the parties of one broker, and how much of it each may take, by names of the operator's.

use toml::{Spanned, de::DeValue};

use super::{
    keys::{Key, Kind, Refusal},
    table::{self, TableKey, not_allowed},
};
use crate::protocol::tenant;

/// So many tenants.
pub(super) const TENANTS_MAX: usize = 4_096;

/// One tenant; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantPolicy {
    /// See [`tenant::is_name`].
    pub name: String,
    /// How many connections it may have.
    pub connections_max: u32,
    /// How many topics it may have on each reactor.
    pub topics_max: u32,
    /// How many messages all of its connections together may publish in a second.
    pub publishes_per_s_max: u32,
    /// How many bytes of payload these may have.
    pub bytes_per_s_max: u64,
}

/// Every key.
pub(super) static TENANT_KEYS: &[TableKey<TenantPolicy>] = &[
    TableKey {
        key: Key {
            path: "tenants.connections_max",
            about: "How many connections it may have.",
            is_reloadable: true,
            kind: Kind::IntegerOrZero {
                range: 1..=10_000_000,
                unit: "connections",
                get: |tenant| tenant.connections_max.into(),
                set: |tenant, value| tenant.connections_max = value.try_into().expect("it is in range"),
            },
        },
        example: "1_000",
        is_set: |tenant| tenant.connections_max > 0,
    },
    TableKey {
        key: Key {
            path: "tenants.topics_max",
            about: "How many topics it may have on each reactor.",
            is_reloadable: true,
            kind: Kind::IntegerOrZero {
                range: 1..=100_000_000,
                unit: "topics",
                get: |tenant| tenant.topics_max.into(),
                set: |tenant, value| tenant.topics_max = value.try_into().expect("it is in range"),
            },
        },
        example: "10_000",
        is_set: |tenant| tenant.topics_max > 0,
    },
    TableKey {
        key: Key {
            path: "tenants.publishes_per_s_max",
            about: "How many messages all of its connections together may publish in a second.",
            is_reloadable: true,
            kind: Kind::IntegerOrZero {
                range: 1..=100_000_000,
                unit: "messages/s",
                get: |tenant| tenant.publishes_per_s_max.into(),
                set: |tenant, value| tenant.publishes_per_s_max = value.try_into().expect("it is in range"),
            },
        },
        example: "500",
        is_set: |tenant| tenant.publishes_per_s_max > 0,
    },
    TableKey {
        key: Key {
            path: "tenants.bytes_per_s_max",
            about: "How many bytes of payload these may have.",
            is_reloadable: true,
            kind: Kind::IntegerOrZero {
                range: 1_024..=1_000_000_000_000,
                unit: "bytes/s",
                get: |tenant| tenant.bytes_per_s_max,
                set: |tenant, value| tenant.bytes_per_s_max = value,
            },
        },
        example: "1_000_000",
        is_set: |tenant| tenant.bytes_per_s_max > 0,
    },
];

/// What tenants may be: completes "it must be …".
pub(super) fn allowed() -> String {
    "a table of tables by name such as acme = { connections_max = 1_000 }".into()
}

/// The tenants of a table of tables, in the order of their names.
///
/// # Errors
/// The first thing wrong with one of them, or that they are too many.
pub(super) fn tenants(value: &Spanned<DeValue<'_>>) -> Result<Vec<TenantPolicy>, Refusal> {
    const NAME: &str = "tenants";
    let table = value.get_ref().as_table().ok_or_else(|| not_allowed(NAME, value, allowed()))?;
    if table.len() > TENANTS_MAX {
        return Err(not_allowed(NAME, value, format!("at most {TENANTS_MAX} tenants")));
    }
    let mut tenants = Vec::with_capacity(table.len());
    for (name, value) in table.iter() {
        if !tenant::is_name(name.get_ref()) {
            let allowed = format!("tenants whose names are {}", tenant::TENANT_ALLOWED);
            return Err(Refusal::NotAllowed { path: NAME.into(), span: name.span(), allowed });
        }
        let policy: TenantPolicy = table::read(NAME, value, TENANT_KEYS, &allowed())?;
        tenants.push(TenantPolicy { name: name.get_ref().to_string(), ..policy });
    }
    tenants.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(tenants)
}

/// The tenants as an inline table.
pub(super) fn literal(tenants: &mut [TenantPolicy]) -> String {
    let tenants = tenants.iter_mut().map(|tenant| {
        let name = tenant.name.clone();
        format!("{name} = {}", table::literal(tenant, TENANT_KEYS))
    });
    format!("{{ {} }}", tenants.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        load::{Sources, load_text},
    };

    fn load(text: &str) -> Result<Config, String> {
        let text = format!("{text}\n[auth]\ntokens_file = \"/t\"\n");
        load_text("f", &text, &Sources::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn tenants_are_read_by_name_and_written_as_they_are_read() {
        let text = "[tenants]\nglobex = {}\n\
                    acme = { connections_max = 1, topics_max = 2, publishes_per_s_max = 3, bytes_per_s_max = 1_024 }\n";
        let mut config = load(text).unwrap();
        let [acme, globex] = &config.tenants[..] else { panic!("{config:?}") };
        assert_eq!((&*acme.name, acme.connections_max, acme.topics_max), ("acme", 1, 2));
        assert_eq!((acme.publishes_per_s_max, acme.bytes_per_s_max), (3, 1_024));
        assert_eq!(*globex, TenantPolicy { name: "globex".into(), ..TenantPolicy::default() });
        let literal = Key::find("tenants").unwrap().literal(&mut config);
        assert_eq!(load(&format!("tenants = {literal}")).unwrap().tenants, config.tenants);
    }

    #[test]
    fn what_is_no_tenant_is_refused_by_its_place() {
        for (text, line) in [
            ("tenants = 1", "f:1: tenants = 1 is not allowed: it must be a table of tables"),
            ("[tenants]\nacme = 1", "f:2: tenants = 1 is not allowed: it must be a table of tables"),
            (
                "[tenants]\nAcme = {}",
                "f:2: tenants = Acme is not allowed: it must be tenants whose names are 1 to 32",
            ),
            (
                "[tenants]\nacme = { topic_max = 1 }",
                "f:2: there is no key tenants.topic_max; did you mean tenants.topics_max?",
            ),
            ("[tenants]\nacme = { topics_max = -1 }", "f:2: tenants.topics_max = -1 is not allowed"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(line), "{text}: {error}");
        }
        let many = |count: usize| (0..count).map(|n| format!("t{n} = {{}}\n")).collect::<String>();
        assert!(load(&format!("[tenants]\n{}", many(TENANTS_MAX))).is_ok());
        let error = load(&format!("[tenants]\n{}", many(TENANTS_MAX + 1))).unwrap_err();
        assert!(error.contains("at most 4096 tenants"), "{error}");
    }

    #[test]
    fn who_is_of_a_tenant_is_of_one_that_there_is() {
        let issuer = |more: &str| {
            format!(
                "auth.issuers = [{{ iss = \"a\", algorithms = [\"HS256\"], key_file = \"/k\", {more} }}]\n"
            )
        };
        let config = |more: &str, tenants: &str| {
            let text = format!("{}{tenants}", issuer(more));
            load_text("f", &text, &Sources::default()).map_err(|error| error.to_string())
        };
        let acme = "tenants = { acme = {} }\n";
        assert_eq!(config("tenant = \"acme\"", acme).unwrap().auth.issuers[0].tenant, "acme");
        assert!(config("tenants = true", acme).unwrap().auth.issuers[0].tenants);
        for (more, tenants, why) in [
            (
                "tenant = \"acme\"",
                "",
                "auth.issuers.tenant = \"acme\" is not allowed: it must be the name of a table in [tenants]",
            ),
            (
                "tenant = \"Acme\"",
                acme,
                "auth.issuers.tenant = \"Acme\" is not allowed: it must be 1 to 32 lower-case",
            ),
            ("tenant = \"acme\", tenants = true", acme, "with either tenant or tenants, or neither"),
        ] {
            let error = config(more, tenants).unwrap_err();
            assert!(error.contains(why), "{more}: {error}");
        }
        let error = load_text("f", acme, &Sources::default()).unwrap_err().to_string();
        assert!(error.contains("tenants.acme is not allowed without"), "{error}");
    }
}
