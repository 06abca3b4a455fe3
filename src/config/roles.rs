//! `[roles]`: what those may do who have them, by names of the operator's.

use toml::{Spanned, de::DeValue};

use super::keys::Refusal;
use crate::access::{
    grants::{GrantTexts, ROLES_MAX},
    pattern::{self, Pattern},
};

/// The most filters in one of its lists.
const GRANTS_MAX: usize = 64;
/// The most filters of all roles together: whoever has all of them is asked about for half a millisecond at most.
const ALL_GRANTS_MAX: usize = 1_024;

/// One role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolePolicy {
    /// As [`pattern::is_label`] has it.
    pub name: String,
    /// What it allows and denies.
    pub grants: GrantTexts,
}

/// A list that a role may have.
pub(super) struct List {
    pub name: &'static str,
    /// What it means; lines of the default file's comment.
    pub about: &'static str,
    /// What is there as an example in the default file.
    pub example: &'static str,
    get: fn(&GrantTexts) -> Option<&Vec<String>>,
    set: fn(&mut GrantTexts, Vec<String>),
}

/// Every list.
pub(super) const LISTS: [List; 5] = [
    List {
        name: "publish",
        about: "Topics that may be published to.",
        example: "[\"room/+/in\"]",
        get: |grants| Some(&grants.publish),
        set: |grants, filters| grants.publish = filters,
    },
    List {
        name: "subscribe",
        about: "Topics that may be received. A subscription is allowed if all is that its filter could match.",
        example: "[\"room/#\", \"inbox/{user}/#\"]",
        get: |grants| Some(&grants.subscribe),
        set: |grants, filters| grants.subscribe = filters,
    },
    List {
        name: "history",
        about: "Topics whose past may be read. Without this list those of subscribe.",
        example: "[\"room/#\"]",
        get: |grants| grants.history.as_ref(),
        set: |grants, filters| grants.history = Some(filters),
    },
    List {
        name: "presence",
        about: "Topics of which may be known who is subscribed.",
        example: "[\"room/+\"]",
        get: |grants| Some(&grants.presence),
        set: |grants, filters| grants.presence = filters,
    },
    List {
        name: "deny",
        about: "Topics with which nothing may be done, whatever else is said here, in another role or in a token.",
        example: "[\"room/staff/#\"]",
        get: |grants| Some(&grants.deny),
        set: |grants, filters| grants.deny = filters,
    },
];

/// What a list may hold: completes "it must be …".
pub(super) fn allowed_filters() -> String {
    format!(
        "an array of at most {GRANTS_MAX} topics or filters such as \"room/#\", of which whole levels may be {{user}} or \
         {{claim.NAME}}"
    )
}

/// What roles may be: completes "it must be …".
pub(super) fn allowed_roles() -> String {
    "a table of tables by name such as chat = { publish = [\"room/+/in\"], subscribe = [\"room/#\"] }".into()
}

/// The roles of a table of tables, in the order of their names.
///
/// # Errors
/// The first thing wrong with one of them, or that they are too many.
pub(super) fn roles(value: &Spanned<DeValue<'_>>) -> Result<Vec<RolePolicy>, Refusal> {
    let table = value.get_ref().as_table().ok_or_else(|| refused("roles", value, allowed_roles()))?;
    if table.len() > ROLES_MAX {
        return Err(refused("roles", value, format!("at most {ROLES_MAX} roles")));
    }
    let mut roles = Vec::with_capacity(table.len());
    for (name, value) in table.iter() {
        if !pattern::is_label(name.get_ref()) {
            let allowed = format!("roles whose names are {}", pattern::LABEL_ALLOWED);
            return Err(Refusal::NotAllowed { path: "roles".into(), span: name.span(), allowed });
        }
        let path = format!("roles.{}", name.get_ref());
        let lists = value.get_ref().as_table().ok_or_else(|| refused(&path, value, allowed_roles()))?;
        let mut grants = GrantTexts::default();
        for (name, value) in lists.iter() {
            let path = format!("{path}.{}", name.get_ref());
            let Some(list) = LISTS.iter().find(|list| list.name == name.get_ref()) else {
                let known = LISTS.iter().map(|list| list.name).collect();
                return Err(Refusal::Unknown { path, span: name.span(), known });
            };
            (list.set)(&mut grants, filters(&path, value)?);
        }
        roles.push(RolePolicy { name: name.get_ref().to_string(), grants });
    }
    let count: usize = roles
        .iter()
        .flat_map(|role| LISTS.iter().filter_map(|list| (list.get)(&role.grants)))
        .map(Vec::len)
        .sum();
    if count > ALL_GRANTS_MAX {
        let allowed = format!("roles with at most {ALL_GRANTS_MAX} filters in all lists together");
        return Err(refused("roles", value, allowed));
    }
    roles.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(roles)
}

/// The roles as an inline table.
pub(super) fn literal(roles: &[RolePolicy]) -> String {
    let roles = roles.iter().map(|RolePolicy { name, grants }| {
        let lists = LISTS.iter().filter_map(|list| {
            // What grants nothing need not be written; that the past is nobody's must.
            let filters = (list.get)(grants).filter(|it| !it.is_empty() || list.name == "history")?;
            Some(format!("{} = {}", list.name, toml::Value::from(filters.clone())))
        });
        format!("{} = {{ {} }}", toml_key(name), lists.collect::<Vec<_>>().join(", "))
    });
    format!("{{ {} }}", roles.collect::<Vec<_>>().join(", "))
}

/// A dot in a bare key would make it a path.
fn toml_key(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.into() }
}

fn filters(path: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Refusal> {
    let array = value.get_ref().as_array().filter(|array| array.len() <= GRANTS_MAX);
    let array = array.ok_or_else(|| refused(path, value, allowed_filters()))?;
    let filters = array.iter().map(|entry| {
        let text = entry.get_ref().as_str().filter(|text| Pattern::parse(text).is_ok());
        text.map(str::to_owned).ok_or_else(|| refused(path, entry, allowed_filters()))
    });
    filters.collect()
}

fn refused(path: &str, value: &Spanned<DeValue<'_>>, allowed: String) -> Refusal {
    Refusal::NotAllowed { path: path.into(), span: value.span(), allowed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        keys::Key,
        load::{Sources, load_text},
    };

    fn load(text: &str) -> Result<Config, String> {
        let text = format!("{text}\n[auth]\nanonymous_roles = []\ntokens_file = \"/t\"\n");
        load_text("f", &text, &Sources::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn roles_are_read_by_name_and_written_as_they_are_read() {
        let text = "[roles]\nchat = { publish = [\"room/+/in\"], subscribe = [\"room/#\", \"inbox/{user}/#\"], history = [] }\n\
                    \"a.b\" = { deny = [\"x/{claim.org}\"], presence = [\"room/+\"] }\nnone = {}\n";
        let mut config = load(text).unwrap();
        let [first, chat, none] = &config.roles[..] else { panic!("{config:?}") };
        assert_eq!((&*first.name, &*chat.name, &*none.name), ("a.b", "chat", "none"));
        assert_eq!(chat.grants.subscribe, ["room/#", "inbox/{user}/#"]);
        assert_eq!((&chat.grants.history, &first.grants.history), (&Some(vec![]), &None));
        let literal = Key::find("roles").unwrap().literal(&mut config);
        let again = load(&format!("roles = {literal}"));
        assert_eq!(again.unwrap().roles, config.roles);
    }

    #[test]
    fn what_is_no_role_is_refused_by_its_place() {
        for (text, line) in [
            ("roles = 1", "f:1: roles = 1 is not allowed: it must be a table of tables"),
            ("[roles]\nchat = 1", "f:2: roles.chat = 1 is not allowed: it must be a table of tables"),
            ("[roles]\n\"a b\" = {}", "f:2: roles = \"a b\" is not allowed: it must be roles whose names"),
            (
                "[roles]\nchat = { publsh = [] }",
                "f:2: there is no key roles.chat.publsh; did you mean publish?",
            ),
            ("[roles]\nchat = { publish = \"a\" }", "f:2: roles.chat.publish = \"a\" is not allowed"),
            (
                "[roles]\nchat = { publish = [\"a\", \"a/#/b\"] }",
                "f:2: roles.chat.publish = \"a/#/b\" is not allowed",
            ),
            ("[roles]\nchat = { deny = [\"{usr}\"] }", "f:2: roles.chat.deny = \"{usr}\" is not allowed"),
            ("[roles]\nchat = { deny = [1] }", "f:2: roles.chat.deny = 1 is not allowed"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(line), "{text}: {error}");
        }
        let many = |count: usize| (0..count).map(|n| format!("r{n} = {{}}\n")).collect::<String>();
        assert!(load(&format!("[roles]\n{}", many(ROLES_MAX))).is_ok());
        let error = load(&format!("[roles]\n{}", many(ROLES_MAX + 1))).unwrap_err();
        assert!(error.contains("at most 64 roles"), "{error}");
        let filters = |count: usize| vec!["\"a\""; count].join(",");
        let chat = |count| format!("[roles]\nchat = {{ publish = [{}] }}", filters(count));
        assert!(load(&chat(GRANTS_MAX)).is_ok() && load(&chat(GRANTS_MAX + 1)).is_err());
        let full = |count: usize| {
            let role = |n: usize| format!("r{n} = {{ publish = [{}] }}\n", filters(GRANTS_MAX));
            format!("[roles]\n{}", (0..count).map(role).collect::<String>())
        };
        assert!(load(&full(ALL_GRANTS_MAX / GRANTS_MAX)).is_ok());
        assert!(load(&full(ALL_GRANTS_MAX / GRANTS_MAX + 1)).unwrap_err().contains("at most 1024 filters"));
    }
}
