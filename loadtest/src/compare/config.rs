//! The list of brokers to compare, as a TOML file has it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{connect::Target, dialect::Dialect};

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    broker: Vec<Broker>,
}

/// One broker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// What the table calls it.
    pub name: String,
    /// How to speak with it.
    pub protocol: Dialect,
    /// Where it listens once it is started. It is ready when a subscriber there is answered.
    pub url: String,
    /// Program and arguments, run in the file's directory. It must stay in the foreground and be one
    /// process, which is where its CPU time and memory are read.
    pub start: Vec<String>,
    /// Program and arguments that print its version; the first line of them.
    #[serde(default)]
    pub version: Vec<String>,
    /// More environment for both.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Seconds until it must be ready.
    #[serde(default = "default_ready_s")]
    pub ready_s: u64,
    /// Publications per second at which its first search begins: a guess of the highest that holds, which
    /// saves time and changes nothing else.
    #[serde(default = "default_begin")]
    pub begin: u64,
    /// How to get it, told when it is not there.
    #[serde(default)]
    pub install: String,
}

fn default_ready_s() -> u64 {
    10
}

fn default_begin() -> u64 {
    1000
}

/// Reads the file at `path`; the directory that it is in, and its brokers.
///
/// # Errors
/// One line that names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<(PathBuf, Vec<Broker>), String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let brokers = parse(&text, &|name| std::env::var(name).ok())
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((directory.to_owned(), brokers))
}

fn parse(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Broker>, String> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |it| text[..it.start].matches('\n').count() + 1);
        format!("line {line}: {}", error.message().replace('\n', " "))
    })?;
    let mut brokers = file.broker;
    if brokers.is_empty() {
        return Err("there is no [[broker]]".to_owned());
    }
    for (index, broker) in brokers.iter_mut().enumerate() {
        let of = |error: String| format!("broker {} ({}): {error}", index + 1, broker.name);
        if broker.start.is_empty() {
            return Err(of("start is empty".to_owned()));
        }
        Target::parse(&broker.url).map_err(of)?;
        let words = broker.start.iter_mut().chain(&mut broker.version).chain(broker.environment.values_mut());
        for word in words {
            *word = substitute(word, variable)
                .map_err(|error| format!("broker {} ({}): {error}", index + 1, broker.name))?;
        }
    }
    if let Some(twice) =
        brokers.iter().enumerate().find(|(index, it)| brokers[..*index].iter().any(|one| one.name == it.name))
    {
        return Err(format!("two brokers are called {}", twice.1.name));
    }
    Ok(brokers)
}

/// `${NAME:-otherwise}` from the environment.
fn substitute(word: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut result = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        let (inner, after) = after.split_once('}').ok_or_else(|| format!("{word}: `${{` without `}}`"))?;
        let (name, otherwise) = inner.split_once(":-").map_or((inner, None), |(a, b)| (a, Some(b)));
        let value = variable(name).or_else(|| otherwise.map(str::to_owned));
        result.push_str(before);
        result.push_str(&value.ok_or_else(|| format!("{word}: {name} is not in the environment"))?);
        rest = after;
    }
    Ok(result + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [[broker]]
        name = "one"
        protocol = "fanfare-json"
        url = "ws://127.0.0.1:1/ws"
        start = ["${PEERS:-/tmp/peers}/one", "--port", "1"]
        environment = { PATH_TO = "${PEERS:-x}/y" }
        "#;

    fn parse_with(text: &str) -> Result<Vec<Broker>, String> {
        parse(text, &|name| (name == "SET").then(|| "value".to_owned()))
    }

    #[test]
    fn a_good_file_is_read() {
        let brokers = parse_with(GOOD).unwrap();
        assert_eq!((&*brokers[0].name, brokers[0].protocol), ("one", Dialect::Json));
        assert_eq!(brokers[0].start, ["/tmp/peers/one", "--port", "1"]);
        assert_eq!(brokers[0].environment["PATH_TO"], "x/y");
        assert_eq!((brokers[0].ready_s, brokers[0].version.len(), brokers[0].begin), (10, 0, 1000));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (from, to, expected) in [
            ("start =", "stert =", "line 6: unknown field `stert`"),
            ("[[broker]]", "[[brokers]]", "line 2: unknown field `brokers`"),
            ("fanfare-json", "amqp", "line 4: unknown variant `amqp`"),
            (
                "ws://",
                "http://",
                "broker 1 (one): http://127.0.0.1:1/ws is not allowed: only ws:// is spoken here",
            ),
            (
                "${PEERS:-/tmp/peers}",
                "${PEERS}",
                "broker 1 (one): ${PEERS}/one: PEERS is not in the environment",
            ),
            ("${PEERS:-/tmp/peers}", "${PEERS", "broker 1 (one): ${PEERS/one: `${` without `}`"),
        ] {
            let error = parse_with(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{error}");
        }
        assert_eq!(parse_with("").unwrap_err(), "there is no [[broker]]");
        assert_eq!(parse_with(&[GOOD, GOOD].concat()).unwrap_err(), "two brokers are called one");
    }

    #[test]
    fn the_environment_comes_before_what_is_otherwise() {
        let value = substitute("a${SET:-b}c${UNSET:-d}", &|name| (name == "SET").then(|| "v".into()));
        assert_eq!(value.unwrap(), "avcd");
    }

    #[test]
    fn the_file_that_is_shipped_is_right() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/compare.toml");
        let (directory, brokers) = read(&path).unwrap();
        assert!(brokers.len() >= 5 && brokers.iter().any(|it| it.name == "fanfare"));
        assert!(directory.ends_with("peers"));
    }
}
