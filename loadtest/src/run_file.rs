//! A scenario from a TOML file: turned into the command line that means the same, so that a file has
//! exactly the flags' names, defaults and bounds.

use std::fs;

use clap::{Command, CommandFactory};

use crate::cli::{Cli, RunFile};

/// The command line that the file and the flags after it mean.
///
/// # Errors
/// One line that names the file and the key.
pub fn command_line(run: &RunFile) -> Result<Vec<String>, String> {
    let named = |error: String| format!("{}: {error}", run.file.display());
    let text = fs::read_to_string(&run.file).map_err(|error| named(error.to_string()))?;
    let mut arguments = translate(&text).map_err(named)?;
    arguments.extend(run.flags.iter().cloned());
    Ok(arguments)
}

fn translate(text: &str) -> Result<Vec<String>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("line {line}: {}", error.message().replace('\n', " "))
    })?;
    let scenario = table.get("scenario").and_then(|it| it.as_str());
    let scenario = scenario.ok_or("scenario = \"...\" is missing: which one is to run?")?;
    let cli = Cli::command();
    let command = cli
        .get_subcommands()
        .find(|it| it.get_name() == scenario && is_scenario(it))
        .ok_or_else(|| format!("there is no scenario {scenario:?}: {}", scenario_names(&cli).join(", ")))?;
    let mut arguments = vec!["fanfare-loadtest".to_owned(), scenario.to_owned()];
    for (key, value) in table.iter().filter(|(key, _)| *key != "scenario") {
        let flag = key.replace('_', "-");
        if !command.get_arguments().any(|it| it.get_long() == Some(&flag)) {
            return Err(format!("{scenario} has no key {key:?}"));
        }
        match value {
            toml::Value::Boolean(true) => arguments.push(format!("--{flag}")),
            toml::Value::Boolean(false) => {}
            value => {
                let text = plain(value).ok_or_else(|| format!("{key} is not a plain value"))?;
                arguments.push(format!("--{flag}={text}"));
            }
        }
    }
    Ok(arguments)
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(plain).collect();
            items.map(|it| it.join(","))
        }
        _ => None,
    }
}

fn is_scenario(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "run" && command.get_name() != "help"
}

fn scenario_names(cli: &Command) -> Vec<String> {
    cli.get_subcommands().filter(|it| is_scenario(it)).map(|it| it.get_name().to_owned()).collect()
}

/// What a run was told, by flag, defaults included: for its report.
pub fn parameters(arguments: &[String]) -> Vec<(String, String)> {
    let cli = Cli::command();
    let Ok(matches) = cli.clone().try_get_matches_from(arguments) else { return Vec::new() };
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let Some(command) = cli.find_subcommand(name) else { return Vec::new() };
    let known = command.get_arguments().filter_map(|argument| {
        let values = matches.try_get_raw(argument.get_id().as_str()).ok()??;
        let values: Vec<_> = values.map(|it| it.to_string_lossy().into_owned()).collect();
        Some((argument.get_long()?.to_owned(), values.join(",")))
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_command_line_that_it_means() {
        let text = "scenario = \"fanout\"\nrate = 14000\ncores = [1, 2]\nfind_max = true\nclosed = false\n\
                    p99-ms = 7.5\ntopic = \"a b\"\n";
        let mut arguments = translate(text).unwrap();
        arguments[2..].sort();
        assert_eq!(
            arguments,
            [
                "fanfare-loadtest",
                "fanout",
                "--cores=1,2",
                "--find-max",
                "--p99-ms=7.5",
                "--rate=14000",
                "--topic=a b"
            ]
        );
    }

    #[test]
    fn what_a_file_must_not_say_is_told_by_its_name() {
        for (text, expected) in [
            ("rate = 1", "scenario = \"...\" is missing: which one is to run?"),
            ("scenario = \"fanout\"\nratee = 1", "fanout has no key \"ratee\""),
            ("scenario = \"fanout\"\n[rate]\na = 1", "rate is not a plain value"),
            ("scenario = \"run\"", "there is no scenario \"run\": fanout, fanin, "),
        ] {
            let error = translate(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(translate("scenario = \"fanout\"\nrate = = 2").unwrap_err().starts_with("line 2: "));
        let run = RunFile { file: "/nowhere/x.toml".into(), flags: Vec::new() };
        let error = command_line(&run).unwrap_err();
        assert!(error.starts_with("/nowhere/x.toml: "), "{error}");
    }

    #[test]
    fn parameters_are_known_with_their_defaults() {
        let arguments = ["fanfare-loadtest", "fanout", "--rate", "5", "--cores", "1,2"].map(str::to_owned);
        let parameters = parameters(&arguments);
        let value = |name: &str| parameters.iter().find(|it| it.0 == name).map(|it| &*it.1);
        assert_eq!(value("rate"), Some("5"));
        assert_eq!(value("subscribers"), Some("1000"));
        assert_eq!(value("cores"), Some("1,2"));
        assert_eq!(value("pid"), None);
    }
}
