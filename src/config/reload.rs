//! What a new configuration changes in a running broker, and what it cannot.

use std::borrow::Cow;

use super::{Config, keys::KEYS};

/// A running configuration that meets a new one.
#[derive(Debug)]
pub struct Reload {
    /// What runs from now on: the new values of keys that can change, the old ones of the others.
    pub config: Config,
    /// Keys that have another value from now on, in the order of the default file.
    pub changed: Vec<Change>,
    /// Keys whose new value waits for a restart.
    pub waiting: Vec<Change>,
}

/// A value in a line of the log is cut behind so many characters: lists may be of thousands.
const SHOWN_CHARS_MAX: usize = 1_000;

/// A key whose value is another one.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// `section.name`.
    pub key: &'static str,
    /// The value that runs, as TOML.
    pub from: String,
    /// The new one.
    pub to: String,
}

impl Reload {
    /// Compares key by key.
    pub fn new(running: &Config, loaded: &Config) -> Reload {
        let mut reload = Reload { config: running.clone(), changed: Vec::new(), waiting: Vec::new() };
        // To read a value is to borrow its field, whatever for.
        let (mut running, mut loaded) = (running.clone(), loaded.clone());
        for key in KEYS {
            let (from, to) = (key.literal(&mut running), key.literal(&mut loaded));
            if from == to {
                continue;
            }
            let change = Change { key: key.path, from, to };
            if key.is_reloadable {
                key.copy(&mut loaded, &mut reload.config);
                reload.changed.push(change);
            } else {
                reload.waiting.push(change);
            }
        }
        reload
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} → {}", self.key, shown(&self.from), shown(&self.to))
    }
}

fn shown(value: &str) -> Cow<'_, str> {
    match value.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}… (cut)", &value[..end]).into(),
        None => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::Key;

    #[test]
    fn what_can_change_does_and_the_rest_waits() {
        let running = Config::default();
        let mut loaded = Config::default();
        loaded.limits.subscriptions_max = 7;
        loaded.limits.connections_max = 9;
        loaded.log.level = "debug".into();
        let reload = Reload::new(&running, &loaded);
        let lines = |changes: &[Change]| changes.iter().map(Change::to_string).collect::<Vec<_>>();
        assert_eq!(
            lines(&reload.changed),
            ["limits.subscriptions_max = 1024 → 7", "log.level = \"info\" → \"debug\""]
        );
        assert_eq!(lines(&reload.waiting), ["limits.connections_max = 0 → 9"]);
        loaded.limits.connections_max = 0;
        assert_eq!(reload.config, loaded);
    }

    #[test]
    fn a_long_list_is_cut_in_the_line_about_it() {
        let (from, to) = ("[]".to_owned(), "\u{e9}".repeat(1_200));
        let line = Change { key: "access.deny", from, to }.to_string();
        assert_eq!(line, format!("access.deny = [] → {}… (cut)", "\u{e9}".repeat(1_000)));
    }

    /// Copying is by kind: each key must carry its own value and nothing else.
    #[test]
    fn every_key_is_copied_alone() {
        for key in KEYS {
            let mut target = Config::default();
            key.copy(&mut Config::default(), &mut target);
            assert_eq!(target, Config::default(), "{}", key.path);
        }
        let mut other = Config::default();
        other.delivery.slow_consumer = crate::config::SlowConsumer::Skip;
        other.reactor.max_delay_us = Some(3);
        other.admin.address = None;
        let mut target = Config::default();
        for path in ["delivery.slow_consumer", "reactor.max_delay_us", "admin.address"] {
            Key::find(path).unwrap().copy(&mut other, &mut target);
        }
        assert_eq!(target, other);
    }
}
