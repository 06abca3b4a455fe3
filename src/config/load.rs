//! Puts the configuration together from its sources and says in one line what is wrong with them.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use strsim::levenshtein;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, ListenAddress,
    keys::{KEYS, Key, Refusal, SECTIONS, variable},
    together,
};

/// Where values come from besides the defaults, the weakest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `FANFARE_` are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags, a later one over an earlier one.
    pub flags: Vec<Setting>,
}

/// One value from the command line.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The flag as the user typed it: `--listen`.
    pub flag: &'static str,
    /// The key that it sets.
    pub path: String,
    /// The value as the user typed it.
    pub value: String,
}

/// What is wrong, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub(super) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Keys that there were, and what to do instead: passed over, they would leave a broker with other rules than it had.
const GONE: [(&str, &str); 1] = [(
    "delivery.topics",
    "write each entry as a table [[topic]] with match in place of filter, and mind that the most specific one that \
     matches decides, wherever it stands",
)];

/// Variables of ours that are no keys: the file, and the client's token and server.
const OTHER_VARIABLES: [&str; 3] = ["FANFARE_CONFIG", "FANFARE_TOKEN_FILE", "FANFARE_URL"];

/// Reads every source over the defaults.
///
/// # Errors
/// The first thing wrong: a file that cannot be read, an unknown key, a value that is not allowed.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    match &sources.file {
        Some(path) => load_text(&path.display().to_string(), &read(path)?, sources),
        None => load_text("", "", sources),
    }
}

/// As [`load`], with the text of a file in place of `sources.file`.
///
/// # Errors
/// As [`load`].
pub fn load_text(file: &str, text: &str, sources: &Sources) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    apply_toml(&mut config, file, text)?;
    apply_environment(&mut config, &sources.environment)?;
    for setting in &sources.flags {
        let Setting { flag, path, value } = setting;
        let key = find(flag, path)?;
        apply_text(&mut config, key, value).map_err(|refusal| refused(flag, value, refusal))?;
    }
    together::check(&config)?;
    Ok(config)
}

/// A line about each variable that begins as ours do and is no key: a slip perhaps, or, as `FANFARE_VERSION` in a
/// container's image, nothing of ours.
pub fn unknown_variables(sources: &Sources) -> Vec<String> {
    let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let strangers = ours(&sources.environment).into_iter().map(|(name, _)| name);
    strangers
        .filter(|name| Key::find_by_variable(name).is_none())
        .map(|name| {
            format!("the variable {} is no key and is passed over; {}", abridged(name), hint(name, &known))
        })
        .collect()
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        ConfigError(format!("cannot read the configuration file {}: {error}", path.display()))
    })
}

fn apply_toml(config: &mut Config, file: &str, text: &str) -> Result<(), ConfigError> {
    let at = |offset: usize| format!("{file}:{}", line_of(text, offset));
    let root = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let why = unquoted(text, offset).unwrap_or_else(|| one_line(error.message()));
        ConfigError(format!("{}: not valid TOML: {why}", at(offset)))
    })?;

    for (section, value) in root.get_ref().iter() {
        let (name, offset) = (section.get_ref().as_ref(), section.span().start);
        let refused = |refusal: Refusal| {
            let offset = match &refusal {
                Refusal::NotAllowed { span, .. } | Refusal::Unknown { span, .. } => span.start,
            };
            refused(&at(offset), text, refusal)
        };
        if let Some(key) = Key::find(name) {
            key.set(config, value).map_err(refused)?;
            continue;
        }
        if !SECTIONS.iter().any(|(known, _)| *known == name) {
            let sectionless = KEYS.iter().map(|key| key.path).filter(|path| !path.contains('.'));
            let known: Vec<&str> = SECTIONS.iter().map(|(known, _)| *known).chain(sectionless).collect();
            return Err(unknown(&at(offset), name, &known));
        }
        let Some(table) = value.get_ref().as_table() else {
            return Err(ConfigError(format!("{}: {name} is a section: write [{name}]", at(offset))));
        };
        for (key, value) in table.iter() {
            let path = format!("{name}.{}", key.get_ref());
            find(&at(key.span().start), &path)?.set(config, value).map_err(refused)?;
        }
    }
    Ok(())
}

/// What to write where the text at `offset` is the value of a key that takes a string, without its quotes.
fn unquoted(text: &str, offset: usize) -> Option<String> {
    let line = text.lines().nth(line_of(text, offset) - 1)?;
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim(), value.split('#').next()?.trim());
    let is_text = KEYS.iter().any(|key| key.is_text() && last_part(key.path) == name);
    let quoted = format!("{name} = \"{value}\"");
    let is_bare = !value.starts_with(['"', '\'']) && DeTable::parse(&quoted).is_ok();
    (is_text && is_bare).then(|| format!("strings need quotes: write {}", abridged(&quoted)))
}

fn apply_environment(config: &mut Config, variables: &[(String, String)]) -> Result<(), ConfigError> {
    for (name, value) in ours(variables) {
        if let Some((path, _)) = GONE.iter().find(|(path, _)| variable(path) == name) {
            find(name, path)?;
        }
        if let Some(key) = Key::find_by_variable(name) {
            // A line feed from `$(cat …)` or an indented file is nobody's intention.
            let value = value.trim();
            apply_text(config, key, value).map_err(|refusal| refused(name, value, refusal))?;
        }
    }
    Ok(())
}

/// Those with our prefix that may be meant for us, in order: the environment has none of its own, and the same mistake
/// must give the same line.
fn ours(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    let mut ours: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| name.starts_with("FANFARE_"))
        .filter(|(name, _)| !OTHER_VARIABLES.contains(name) && !is_kubernetes(name))
        .collect();
    ours.sort_unstable();
    ours
}

/// Kubernetes gives every container variables of each service: with a service named `fanfare` these
/// begin as ours do. No key of ours looks like one.
fn is_kubernetes(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}

/// Sets a key from text without TOML's quotes, as the environment and flags give it.
fn apply_text(config: &mut Config, key: &Key, text: &str) -> Result<(), Refusal> {
    let as_string = || Spanned::new(0..text.len(), DeValue::String(text.into()));
    let value = match DeValue::parse(text) {
        Ok(value) if !key.is_text() => value,
        // What is no TOML may still be a word such as `auto`.
        _ => as_string(),
    };
    key.set(config, &value)
}

/// Why a broker that others than this machine reach at `address` does not start.
pub fn reachable(address: &ListenAddress) -> String {
    format!(
        "listen.address = \"{address}\" is reachable by others than this machine, and whoever reaches it may publish and \
         subscribe: say in [auth] who may, listen on 127.0.0.1 or a Unix socket, behind a proxy that lets nobody in who must \
         not, or say --insecure (listen.insecure = true)"
    )
}

/// Why a broker whose admin listener others than this machine reach at `address` does not start.
pub fn admin_reachable(address: SocketAddr) -> String {
    format!(
        "admin.address = \"{address}\" is reachable by others than this machine, and nobody is asked who they are: name a file of \
         tokens in admin.tokens_file, listen on 127.0.0.1, or say --insecure (listen.insecure = true)"
    )
}

fn refused(origin: &str, text: &str, refusal: Refusal) -> ConfigError {
    match refusal {
        Refusal::NotAllowed { path, span, allowed } => {
            let value = abridged(text.get(span).unwrap_or(text));
            ConfigError(format!("{origin}: {path} = {value} is not allowed: it must be {allowed}"))
        }
        Refusal::Unknown { path, known, .. } => unknown(origin, &path, &known),
    }
}

/// The key of this path, which was said at `origin`.
fn find(origin: &str, path: &str) -> Result<&'static Key, ConfigError> {
    Key::find(path).ok_or_else(|| match GONE.iter().find(|(gone, _)| *gone == path) {
        Some((_, instead)) => ConfigError(format!("{origin}: there is no key {path} any more: {instead}")),
        None => unknown(origin, path, &all_paths()),
    })
}

fn unknown(origin: &str, name: &str, known: &[&str]) -> ConfigError {
    ConfigError(format!("{origin}: there is no key {}; {}", abridged(name), hint(name, known)))
}

/// What may have been meant.
fn hint(name: &str, known: &[&str]) -> String {
    // Names of what is in a table of the operator's own stand by themselves.
    let name = if known.iter().any(|key| key.contains('.')) { name } else { last_part(name) };
    let without_section: Vec<&str> = known.iter().copied().filter(|key| last_part(key) == name).collect();
    match (&without_section[..], nearest(name, known)) {
        ([_, ..], _) => format!("did you mean {}?", without_section.join(" or ")),
        ([], Some(near)) => format!("did you mean {near}?"),
        ([], None) => "`fanfare config default` lists every key".into(),
    }
}

/// A key's name without its section.
fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn all_paths() -> Vec<&'static str> {
    KEYS.iter().map(|key| key.path).collect()
}

/// The known name that is the fewest edits away, if that is few enough to be a slip.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, near) = known.iter().map(|near| (levenshtein(name, near), *near)).min()?;
    (distance <= 2 + name.len() / 10).then_some(near)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value fit for an error: one line, not too long, nothing that moves a terminal's cursor.
fn abridged(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let text: String = one_line(text).chars().filter(|c| !c.is_control()).collect();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if text.is_empty() => "\"\"".into(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SlowConsumer, TopicPolicy, keys::POLICIES_MAX};

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn flag(path: &str, value: &str) -> Setting {
        Setting { flag: "--set", path: path.into(), value: value.into() }
    }

    /// `listen.backlog` is set in one source more each time; the strongest wins, and what it does not
    /// set comes from the weaker ones.
    #[test]
    fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
        let file = "[listen]\nbacklog = 1\n[reactor]\ncount = 1\n[log]\njson = true\n";
        let environment = variables(&[("FANFARE_LISTEN_BACKLOG", "2"), ("FANFARE_REACTOR_COUNT", "2")]);
        let flags = vec![flag("listen.backlog", "3")];

        let mut sources = Sources::default();
        assert_eq!(load_text("", "", &sources).unwrap(), Config::default());
        assert_eq!(load_text("f", file, &sources).unwrap().listen.backlog, 1);
        sources.environment = environment;
        assert_eq!(load_text("f", file, &sources).unwrap().listen.backlog, 2);
        sources.flags = flags;
        let config = load_text("f", file, &sources).unwrap();
        assert_eq!((config.listen.backlog, config.reactor.count, config.log.json), (3, 2, true));
        assert_eq!(config.timeouts, Config::default().timeouts);
    }

    #[test]
    fn what_a_proxy_says_is_asked_for_only_where_one_is_trusted() {
        let load = |text: &str| load_text("", text, &Sources::default());
        for key in ["protocol = \"v2\"", "header = \"x-forwarded-for\""] {
            let error = load(&format!("[proxy]\n{key}\n")).unwrap_err().to_string();
            assert!(error.contains(&format!("proxy.{key} is not allowed without proxy.trusted")), "{error}");
            for trusted in ["unix", "10.0.0.0/8"] {
                assert!(load(&format!("[proxy]\n{key}\ntrusted = [\"{trusted}\"]\n")).is_ok());
            }
        }
        assert!(load("[proxy]\ntrusted = [\"10.0.0.1\"]\n").is_ok());
        for (key, value) in [("proxy.trusted", "[\"10.0.0.1/8\"]"), ("access.deny", "[\"unix\"]")] {
            let (section, name) = key.split_once('.').unwrap();
            let error = load(&format!("[{section}]\n{name} = {value}\n")).unwrap_err().to_string();
            assert!(error.contains("addresses and networks without a bit behind their prefix"), "{error}");
        }
    }

    #[test]
    fn every_key_can_be_set_by_its_variable_and_by_a_flag() {
        for key in KEYS {
            let literal = key.literal(&mut Config::default());
            let value = if key.is_text() { literal.trim_matches('"') } else { literal.as_str() };
            let from_environment =
                Sources { environment: variables(&[(&key.variable(), value)]), ..Sources::default() };
            assert_eq!(load(&from_environment), Ok(Config::default()), "{}", key.variable());
            let with_space = format!(" {value}\n");
            let from_environment =
                Sources { environment: variables(&[(&key.variable(), &with_space)]), ..Sources::default() };
            assert_eq!(load(&from_environment), Ok(Config::default()), "{}", key.variable());
            let from_flags = Sources { flags: vec![flag(key.path, value)], ..Sources::default() };
            assert_eq!(load(&from_flags), Ok(Config::default()), "{}", key.path);
        }
    }

    #[test]
    fn variables_that_are_no_keys_are_named_and_passed_over() {
        let environment = variables(&[
            ("FANFARE_VERSION", "1.2"),
            ("FANFARE_LISTEN_ADRESS", "127.0.0.1:1"),
            ("FANFARE_LISTEN_BACKLOG", "5"),
            ("FANFARE_URL", "ws://x/ws"),
            ("FANFARE_PORT_7600_TCP", "tcp://10.0.0.1:7600"),
            ("OTHER", ""),
        ]);
        let sources = Sources { environment, ..Sources::default() };
        assert_eq!(load(&sources).unwrap().listen.backlog, 5);
        assert_eq!(
            unknown_variables(&sources),
            [
                "the variable FANFARE_LISTEN_ADRESS is no key and is passed over; did you mean FANFARE_LISTEN_ADDRESS?",
                "the variable FANFARE_VERSION is no key and is passed over; `fanfare config default` lists every key",
            ]
        );
    }

    #[test]
    fn what_others_reach_is_said_to_be_insecure_or_refused() {
        let of = |address: &str, insecure: &str| {
            load(&Sources {
                flags: vec![flag("listen.address", address), flag("listen.insecure", insecure)],
                ..Sources::default()
            })
        };
        for address in
            ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "unix:/run/x.sock"]
        {
            assert!(of(address, "false").is_ok(), "{address}");
        }
        for address in ["0.0.0.0:80", "[::]:80", "192.0.2.7:80", "[2001:db8::1]:80", "[::ffff:192.0.2.7]:80"]
        {
            let why = of(address, "false").unwrap_err().to_string();
            assert!(
                why.starts_with(&format!("listen.address = \"{address}\" is reachable by others")),
                "{why}"
            );
            assert!(of(address, "true").is_ok(), "{address}");
        }
    }

    #[test]
    fn hosts_and_origins_that_are_none_are_refused() {
        for (path, value) in [
            ("listen.hosts", "[\"a:80\"]"),
            ("listen.hosts", "[\"*\"]"),
            ("listen.hosts", "[1]"),
            ("listen.hosts", "push.example.org"),
            ("admin.hosts", "[\"http://a\"]"),
            ("listen.origins", "[\"example.org\"]"),
            ("listen.origins", "[\"https://example.org/\"]"),
        ] {
            let why = load(&Sources { flags: vec![flag(path, value)], ..Sources::default() }).unwrap_err();
            let why = why.to_string();
            assert!(why.contains(&format!("{path} = ")) && why.contains("it must be an array of "), "{why}");
        }
    }

    #[test]
    fn values_of_every_kind_are_taken_from_text() {
        let sources = Sources {
            flags: vec![
                flag("listen.address", "[::]:80"),
                flag("listen.insecure", "true"),
                flag("listen.hosts", "[\"push.example.org\", \"*.example.net\", \"[::1]\"]"),
                flag("listen.mode", "606"),
                flag("admin.address", ""),
                flag("control.socket", "/run/fanfare/control.sock"),
                flag("reactor.pin", "false"),
                flag("reactor.max_delay_us", "10_000"),
                flag("delivery.slow_consumer", "skip"),
                flag("topic", "[{ match = 'a/#', slow_consumer = 'disconnect', owed_ms_max = 500 }]"),
                flag("log.level", "warn,fanfare::control=debug"),
            ],
            ..Sources::default()
        };
        let config = load(&sources).unwrap();
        assert_eq!(config.listen.address, ListenAddress::Tcp("[::]:80".parse().unwrap()));
        assert_eq!(config.listen.hosts, ["push.example.org", "*.example.net", "[::1]"]);
        assert_eq!(config.listen.mode, 0o606);
        assert_eq!(config.admin.address, None);
        assert_eq!(config.control.socket, Some("/run/fanfare/control.sock".into()));
        assert!(!config.reactor.pin);
        assert_eq!(config.reactor.max_delay_us, Some(10_000));
        assert_eq!(config.delivery.slow_consumer, SlowConsumer::Skip);
        let policy = TopicPolicy {
            filter: "a/#".into(),
            slow_consumer: Some(SlowConsumer::Disconnect),
            owed_ms_max: Some(500),
            ..TopicPolicy::default()
        };
        assert_eq!(config.topic, [policy]);
        assert_eq!(config.log.level, "warn,fanfare::control=debug");
        let back = flag("reactor.max_delay_us", "auto");
        let config = load(&Sources { flags: vec![back], ..Sources::default() }).unwrap();
        assert_eq!(config.reactor.max_delay_us, None);
    }

    /// Just outside each end of a range, and values of another type.
    #[test]
    fn values_outside_are_refused() {
        for (path, value) in [
            ("listen.backlog", "0"),
            ("listen.backlog", "65536"),
            ("listen.backlog", "-1"),
            ("listen.backlog", "1.0"),
            ("listen.backlog", "'1'"),
            ("listen.backlog", "99999999999999999999"),
            ("reactor.buffer_count", "8"),
            ("reactor.buffer_count", "65536"),
            ("reactor.max_delay_us", "Auto"),
            ("reactor.pin", "1"),
            ("listen.address", "127.0.0.1"),
            ("listen.address", "unix:ws.sock"),
            ("listen.mode", "0660"),
            ("listen.mode", "668"),
            ("listen.mode", "+66"),
            ("listen.mode", "rw-"),
            ("control.socket", "control.sock"),
            ("control.socket", &format!("/{}", "x".repeat(90))),
            ("log.level", "a=b=c"),
            ("topic", "skip"),
            ("topic", "{ match = 'a', slow_consumer = 'skip' }"),
            ("topic", "[1]"),
            ("topic", "[{ match = 'a' }]"),
            ("topic", "[{ slow_consumer = 'skip' }]"),
            ("topic", "[{ match = 'a+', slow_consumer = 'skip' }]"),
            ("topic", "[{ match = '', slow_consumer = 'skip' }]"),
            ("topic", "[{ match = 'a', slow_consumer = 'conflate' }]"),
            ("topic", "[{ match = 'a', owed_bytes_max = 65535 }]"),
            ("topic", "[{ match = 'a', owed_ms_max = -1 }]"),
            ("topic", "[{ match = 'a', owed_ms_max = 100 }, { match = 'a', slow_consumer = 'skip' }]"),
            ("topic", "[{ match = 'a', key_window_ms = 99 }]"),
            ("topic", "[{ match = 'a', history_count = 10000001 }]"),
            ("topic", "[{ match = 'a', history_bytes = 1023 }]"),
            ("topic", "[{ match = 'a', history_bytes = 1073741825 }]"),
            ("topic", "[{ match = 'a', history_ms = 0 }]"),
            ("topic", "[{ match = 'a', history_ms = 999 }]"),
            ("topic", "[{ match = 'a', history_ms = 2592000001 }]"),
            ("topic", "[{ match = 'a', history_count = 1, history_format = 'JSON' }]"),
            ("topic", "[{ match = 'a', stamp = 'time' }]"),
            ("topic", "[{ match = 'a', stamp = ['time', 'name'] }]"),
            ("topic", "[{ match = 'a', stamp = [1] }]"),
            ("topic", "[{ match = 'a', last_value = 'symbol' }]"),
            ("topic", "[{ match = 'a', last_value = '' }]"),
            ("topic", "[{ match = 'a', last_value = '/a~2' }]"),
            ("topic", "[{ match = 'a', last_value = ['/a'] }]"),
            ("topic", &format!("[{{ match = 'a', last_value = '/{}' }}]", "x".repeat(128))),
            ("topic", "[{ match = 'a', last_value = 1 }]"),
            ("topic", "[{ match = 'a', retain = true }]"),
            ("topic", "[{ match = 'a', retain = 'Clients' }]"),
            ("topic", &many_policies(POLICIES_MAX + 1)),
            ("delivery.owed_ms_max", "3600001"),
            ("publish.key_window_ms", "99"),
            ("publish.key_window_ms", "86400001"),
            ("limits.keys_max", "0"),
            ("limits.value_keys_max", "0"),
            ("history.bytes_max", "1048575"),
            ("history.bytes_max", "1099511627777"),
        ] {
            let error = load(&Sources { flags: vec![flag(path, value)], ..Sources::default() })
                .expect_err(path)
                .to_string();
            assert!(error.starts_with("--set: ") && error.contains("not allowed"), "{path}={value}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    /// At both ends of their ranges, and as they are told.
    #[test]
    fn what_a_topic_keeps_and_stamps_is_taken_and_told() {
        let least = "[{ match = \"a\", key_window_ms = 0, history_count = 0, history_bytes = 1024, history_ms = 1000, history_format = \"json\" }]";
        let most = "[{ match = \"a\", key_window_ms = 86_400_000, history_count = 10_000_000, history_bytes = 1_073_741_824, \
                    history_ms = 2_592_000_000, history_format = \"binary\" }]";
        let stamped = "[{ match = \"a\", stamp = [\"user\", \"time\"] }, { match = \"b\", stamp = [] }, \
                       { match = \"c\", stamp = [\"user\"] }, { match = \"d\", anonymous = true }]";
        let values = "[{ match = \"a\", last_value = true, retain = \"nobody\" }, { match = \"b\", last_value = false, retain = \"clients\" }, { match = \"c\", last_value = \"/a/0/~1~0\" }]";
        for text in [least, most, stamped, values] {
            let mut config =
                load(&Sources { flags: vec![flag("topic", text)], ..Sources::default() }).unwrap();
            assert_eq!(Key::find("topic").unwrap().literal(&mut config), text);
        }
    }

    /// So many entries, each with a filter of its own.
    fn many_policies(count: usize) -> String {
        let entries = (0..count).map(|number| format!("{{ match = 'a/{number}', owed_ms_max = 100 }}"));
        format!("[{}]", entries.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn there_may_be_so_many_policies_and_no_more() {
        let load = |count| {
            load(&Sources { flags: vec![flag("topic", &many_policies(count))], ..Sources::default() })
        };
        assert_eq!(load(POLICIES_MAX).unwrap().topic.len(), POLICIES_MAX);
        let error = load(POLICIES_MAX + 1).unwrap_err().to_string();
        assert!(error.ends_with("it must be at most 256 tables"), "{error}");
    }

    /// Wherever it is said: a broker that passed it over would treat its slow consumers otherwise than it did.
    #[test]
    fn policies_as_they_were_are_refused_with_what_to_write() {
        let entries = "[{ filter = 'a', slow_consumer = 'skip' }]";
        let flags = Sources { flags: vec![flag("delivery.topics", entries)], ..Sources::default() };
        let environment = variables(&[("FANFARE_DELIVERY_TOPICS", entries)]);
        let environment = Sources { environment, ..Sources::default() };
        for (origin, sources) in [("--set", flags), ("FANFARE_DELIVERY_TOPICS", environment)] {
            let error = load(&sources).unwrap_err().to_string();
            let begin = format!(
                "{origin}: there is no key delivery.topics any more: write each entry as a table [[topic]] with match"
            );
            assert!(error.starts_with(&begin), "{error}");
        }
    }

    #[test]
    fn a_socket_is_for_clients_or_for_a_successor() {
        let mut sources =
            Sources { flags: vec![flag("listen.address", "unix:/run/a b")], ..Sources::default() };
        assert_eq!(load(&sources).unwrap().listen.address, ListenAddress::Unix("/run/a b".into()));
        sources.flags.push(flag("control.socket", "/run/a b"));
        assert_eq!(
            load(&sources).unwrap_err().to_string(),
            "control.socket = \"/run/a b\" is not allowed with listen.address = \"unix:/run/a b\": \
             clients and a successor need sockets of their own"
        );
    }

    #[test]
    fn an_error_shows_a_hostile_value_on_one_short_line() {
        let value = format!("a\nb\u{1b}[2J{}", "x".repeat(1_000));
        let error = load(&Sources { flags: vec![flag("listen.address", &value)], ..Sources::default() });
        let error = error.unwrap_err().to_string();
        assert!(error.len() < 400 && !error.contains(['\n', '\u{1b}']), "{error}");
    }
}
