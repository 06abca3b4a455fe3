//! The commented default file that `fanfare config default` prints.

use super::{
    Config,
    keys::{KEYS, Kind, SECTIONS},
};

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
        for key in KEYS.iter().filter(|key| key.split().0 == section) {
            for line in key.about.lines() {
                text.push_str(&format!("# {line}\n"));
            }
            let restart = if key.is_reloadable { "" } else { " A change needs a restart." };
            text.push_str(&format!("# Allowed: {}.{restart}\n", key.allowed()));
            text.push_str(&format!("{} = {}\n", key.split().1, key.literal(&mut config)));
            if matches!(key.kind, Kind::TopicPolicies(_)) {
                text.push_str("# topics = [{ filter = \"ticker/#\", slow_consumer = \"skip\" }]\n");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load_text};

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
        assert_eq!(listed, KEYS.len());
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
                8 if line.contains(": ") => fields.push(format!("{section}.{name}")),
                _ => {}
            }
        }
        let keys: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
        assert_eq!(fields, keys);
    }
}
