//! The commented default file that `fanfare config default` prints.

use super::{
    Config,
    issuers::{ISSUER_KEYS, ISSUERS_MAX},
    keys::{KEYS, Key, POLICIES_MAX, SECTIONS},
    roles::{self, LISTS, List},
    table::TableKey,
    tenants::{TENANT_KEYS, TENANTS_MAX},
    topic::TOPIC_KEYS,
};
use crate::access::grants::ROLES_MAX;

/// The defaults as TOML, each key with what it means and what it may be.
pub fn default_toml() -> String {
    let mut config = Config::default();
    let mut text = String::from(
        "# The configuration of fanfare. Every value here is the default: keep only what you change.\n\
         #\n\
         # Flags win over the environment, the environment over this file. The variable of a key is its\n\
         # section and name in capitals: FANFARE_LISTEN_ADDRESS is address in [listen]. The flag of a key\n\
         # is --set, as in --set listen.backlog=1024. SIGHUP reads everything again; a key that says so needs a\n\
         # restart.\n",
    );
    for (section, about) in SECTIONS {
        text.push_str(&format!("\n# {about}\n[{section}]\n"));
        for key in KEYS.iter().filter(|key| key.split().0 == Some(section)) {
            if key.path == "auth.issuers" {
                push_issuer(&mut text, key);
            } else {
                text.push_str(&explained(key));
            }
            text.push_str(&format!("{} = {}\n", key.split().1, key.literal(&mut config)));
        }
    }
    // Of tables of which there may be many there is none by default.
    for key in KEYS.iter().filter(|key| key.split().0.is_none()) {
        text.push_str(&format!("\n{}", about(key)));
        match key.path {
            "roles" => push_role(&mut text),
            "tenants" => push_tenant(&mut text),
            _ => push_policy(&mut text),
        }
    }
    text
}

/// Since the keys of a table stand in one line there, what each means stands before it.
fn push_issuer(text: &mut String, key: &Key) {
    text.push_str(&about(key));
    for TableKey { key, .. } in ISSUER_KEYS {
        let lines = format!("{}: {}", key.name(), key.about);
        let allowed = format!("Allowed: {}.", key.allowed());
        let lines = lines.lines().chain([allowed.as_str()]).map(|line| format!("#   {line}\n"));
        text.push_str(&lines.collect::<String>());
    }
    let example = ISSUER_KEYS.iter().filter(|key| key.example != "\"\"");
    let example: Vec<_> = example.map(|it| format!("{} = {}", it.key.name(), it.example)).collect();
    text.push_str(&format!("# At most {ISSUERS_MAX} tables.\n# issuers = [{{ {} }}]\n", example.join(", ")));
}

fn push_role(text: &mut String) {
    text.push_str(&format!("# At most {ROLES_MAX} tables.\n# [roles.chat]\n"));
    for List { name, about, example, .. } in &LISTS {
        text.push_str(&format!(
            "# {about}\n# Allowed: {}.\n# {name} = {example}\n",
            roles::allowed_filters()
        ));
    }
}

fn push_tenant(text: &mut String) {
    text.push_str(&format!("# At most {TENANTS_MAX} tables.\n# [tenants.acme]\n"));
    for TableKey { key, example, .. } in TENANT_KEYS {
        text.push_str(&explained(key));
        text.push_str(&format!("# {} = {example}\n", key.split().1));
    }
}

fn push_policy(text: &mut String) {
    text.push_str(&format!("# At most {POLICIES_MAX} tables.\n# [[topic]]\n"));
    for TableKey { key, example, .. } in TOPIC_KEYS {
        text.push_str(&explained(key));
        text.push_str(&format!("# {} = {example}\n", key.split().1));
    }
}

/// What the key means and what it may be, as a comment.
fn explained<T>(key: &Key<T>) -> String {
    let restart = if key.is_reloadable { "" } else { " A change needs a restart." };
    format!("{}# Allowed: {}.{restart}\n", about(key), key.allowed())
}

fn about<T>(key: &Key<T>) -> String {
    key.about.lines().map(|line| format!("# {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::grants::GrantTexts,
        config::load::{Sources, load_text},
    };

    #[test]
    fn the_default_file_parses_back_to_the_defaults() {
        let text = default_toml();
        assert_eq!(load_text("default.toml", &text, &Sources::default()).unwrap(), Config::default());
    }

    #[test]
    fn the_default_file_lists_every_key_once() {
        let text = default_toml();
        let parsed: toml::Table = text.parse().unwrap();
        let listed: usize = parsed.values().map(|section| section.as_table().unwrap().len()).sum();
        let sectionless = KEYS.iter().filter(|key| key.split().0.is_none()).count();
        assert_eq!(listed + sectionless, KEYS.len());
    }

    /// What is a comment there is a table that could be one's own, with every key that a table may have.
    #[test]
    fn the_example_of_a_table_of_topics_is_taken() {
        let text = default_toml();
        let (_, example) = text.split_once("# [[topic]]\n").expect("an example");
        let lines = example.lines().map(|line| line.trim_start_matches("# "));
        let set: Vec<&str> = lines.filter(|line| line.contains(" = ")).collect();
        let config = load_text("", &format!("[[topic]]\n{}\n", set.join("\n")), &Sources::default()).unwrap();
        let [policy] = &config.topic[..] else { panic!("one table: {config:?}") };
        assert!(TOPIC_KEYS.iter().all(|key| (key.is_set)(policy)), "{policy:?}");
        assert_eq!(set.len(), TOPIC_KEYS.len());
    }

    #[test]
    fn the_example_of_an_issuer_is_taken() {
        let text = default_toml();
        let example = text.lines().find_map(|line| line.strip_prefix("# issuers = ")).expect("an example");
        let text = format!("auth.issuers = {example}\nroles.chat = {{}}\n");
        let config = load_text("", &text, &Sources::default()).unwrap();
        assert_eq!(config.auth.issuers.len(), 1);
    }

    #[test]
    fn the_example_of_a_role_is_taken() {
        let text = default_toml();
        let (_, example) = text.split_once("# [roles.chat]\n").expect("an example");
        let (example, _) = example.split_once("\n\n").unwrap_or((example, ""));
        let set: Vec<&str> = example
            .lines()
            .map(|line| line.trim_start_matches("# "))
            .filter(|line| LISTS.iter().any(|list| line.starts_with(&format!("{} = ", list.name))))
            .collect();
        let text = format!("[auth]\ntokens_file = \"/t\"\n[roles.chat]\n{}\n", set.join("\n"));
        let config = load_text("", &text, &Sources::default()).unwrap();
        let [role] = &config.roles[..] else { panic!("one role: {config:?}") };
        let GrantTexts { publish, subscribe, history, presence, deny } = &role.grants;
        let lists = [publish, subscribe, history.as_ref().expect("a list"), presence, deny];
        assert!(role.name == "chat" && lists.iter().all(|list| !list.is_empty()), "{role:?}");
    }

    #[test]
    fn the_example_of_a_tenant_is_taken() {
        let text = default_toml();
        let (_, example) = text.split_once("# [tenants.acme]\n").expect("an example");
        let (example, _) = example.split_once("\n\n").unwrap_or((example, ""));
        let lines = example.lines().map(|line| line.trim_start_matches("# "));
        let set: Vec<&str> = lines.filter(|line| line.contains(" = ")).collect();
        let text = format!("[auth]\ntokens_file = \"/t\"\n[tenants.acme]\n{}\n", set.join("\n"));
        let config = load_text("", &text, &Sources::default()).unwrap();
        let [tenant] = &config.tenants[..] else { panic!("one tenant: {config:?}") };
        assert!(TENANT_KEYS.iter().all(|key| (key.is_set)(tenant)), "{tenant:?}");
    }

    /// A field of [`Config`] without a key could not be set. The Debug output names every field.
    #[test]
    fn every_field_has_a_key() {
        let debug = format!("{:#?}", Config::default());
        let mut section = String::new();
        let mut fields = Vec::new();
        for line in debug.lines() {
            let name = line.trim().split(':').next().unwrap();
            match line.len() - line.trim_start().len() {
                4 if line.ends_with('{') => section = name.to_owned(),
                4 if line.contains(": ") => fields.push(name.to_owned()),
                8 if line.contains(": ") => fields.push(format!("{section}.{name}")),
                _ => {}
            }
        }
        let keys: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
        assert_eq!(fields, keys);
    }
}
