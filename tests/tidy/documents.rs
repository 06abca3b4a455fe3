//! What holds of the documents: what they name is there, and where they lead to.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    code::File,
    source::{is_word_char, tokens},
};

/// What there is to be named.
#[derive(Debug, Default)]
pub struct Known {
    /// Files and folders, from the root on.
    pub paths: BTreeSet<String>,
    /// The configuration's keys: `section.name`.
    pub keys: BTreeSet<String>,
    /// Names of samples.
    pub metrics: BTreeSet<String>,
    /// Words of the sources outside of comments, those in quotes too.
    pub words: BTreeSet<String>,
    /// What is defined, with what it is in.
    pub definitions: BTreeSet<(String, String)>,
    /// What is none of these, and may be named.
    pub foreign: BTreeSet<String>,
}

/// The endings that tell a file's name from a key.
const ENDINGS: [&str; 12] =
    ["rs", "md", "toml", "json", "js", "mjs", "py", "sh", "conf", "service", "socket", "supp"];
/// What paths begin with that are looked for.
const ROOTS: [&str; 8] = ["src/", "tests/", "docs/", "benches/", "loadtest/", "fuzz/", "deploy/", ".ci/"];

/// Paths and keys in code font that are not there.
pub fn unknown_paths_and_keys(document: &File, known: &Known) -> Vec<String> {
    let sections: BTreeSet<&str> =
        known.keys.iter().filter_map(|key| key.split_once('.')).map(|(section, _)| section).collect();
    let mut findings = Vec::new();
    for (line, span) in spans(&document.text) {
        for word in span.split_whitespace() {
            let word = word.split('=').next().unwrap_or(word).trim_start_matches("../");
            let ending = word.rsplit_once('.').map(|(_, ending)| ending);
            let is_file = ending.is_some_and(|ending| ENDINGS.contains(&ending));
            if known.foreign.contains(word) {
                continue;
            }
            if ROOTS.iter().any(|root| word.starts_with(root)) {
                if !known.paths.contains(word.trim_end_matches('/')) {
                    findings.push(format!("{}:{line}: there is no `{word}`", document.path));
                }
            } else if ending == Some("rs") {
                let end = format!("/{word}");
                if !known.paths.iter().any(|path| path.ends_with(&end)) {
                    findings.push(format!("{}:{line}: no path ends with `{word}`", document.path));
                }
            } else if let Some((section, name)) = word.split_once('.')
                && sections.contains(section)
                && !is_file
                && !name.is_empty()
                && name.chars().all(is_word_char)
                && !known.keys.contains(word)
            {
                findings.push(format!("{}:{line}: there is no key `{word}`", document.path));
            }
        }
    }
    findings
}

/// Paths that a source mentions, in any font, that are not there.
pub fn unknown_mentions(file: &File, paths: &BTreeSet<String>) -> Vec<String> {
    let is_path = |char: char| is_word_char(char) || matches!(char, '.' | '/' | '-');
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for word in line.split(|char| !is_path(char)) {
            let word = word.trim_end_matches(['.', '/']);
            let is_rooted = ["src/", "docs/", "benches/"].iter().any(|root| word.starts_with(root));
            if is_rooted && !paths.contains(word) {
                findings.push(format!("{}:{}: there is no {word}", file.path, index + 1));
            }
        }
    }
    findings
}

/// Names of metrics, in any font, that are not exported.
pub fn unknown_metrics(document: &File, known: &Known) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in document.text.lines().enumerate() {
        for word in line.split(|char| !is_word_char(char)) {
            if word.starts_with("fanfare_") && !known.foreign.contains(word) && !known.metrics.contains(word)
            {
                findings.push(format!("{}:{}: there is no metric {word}", document.path, index + 1));
            }
        }
    }
    findings
}

/// Names of Rust in code font that the sources do not have. A single word need only occur; of a path its last name must
/// be defined in the one before.
pub fn unknown_names(document: &File, known: &Known) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, span) in spans(&document.text) {
        let name = span.strip_suffix("()").unwrap_or(span);
        let segments: Vec<&str> = name.split("::").collect();
        let is_name = |segment: &&str| {
            segment.chars().all(is_word_char) && segment.starts_with(|char: char| !char.is_ascii_digit())
        };
        if !segments.iter().all(is_name) || known.foreign.contains(name) {
            continue;
        }
        let is_known = match segments[..] {
            [.., outer, inner] => known.definitions.contains(&(outer.to_string(), inner.to_string())),
            _ => known.words.contains(name),
        };
        if !is_known {
            findings.push(format!("{}:{line}: the sources have no `{name}`", document.path));
        }
    }
    findings
}

/// Relative links of `documents` that lead to none of `paths`, or to no heading in it.
pub fn broken_links(documents: &[File], paths: &BTreeSet<String>) -> Vec<String> {
    let headings: BTreeMap<&str, BTreeSet<String>> =
        documents.iter().map(|document| (document.path.as_str(), anchors(&document.text))).collect();
    let has_heading = |path: &str, anchor| headings.get(path).is_some_and(|anchors| anchors.contains(anchor));
    let mut findings = Vec::new();
    for document in documents {
        for (line, target) in links(&document.text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { document.path.clone() } else { joined(&document.path, file) };
            if !paths.contains(&path) {
                findings.push(format!("{}:{line}: {target} leads to no file", document.path));
            } else if !anchor.is_empty() && !has_heading(&path, anchor) {
                findings.push(format!("{}:{line}: {target} leads to no heading", document.path));
            }
        }
    }
    findings
}

/// The steps of the turn in the order of the table, whose rows begin with their names, and in that of the code; one
/// line where they differ. `others` are calls that are no steps.
pub fn different_steps(architecture: &str, turn: &str, others: &[&str]) -> Vec<String> {
    let told: Vec<&str> = architecture
        .lines()
        .skip_while(|line| *line != "## The turn")
        .skip_while(|line| !line.starts_with("| step |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| spans(line.split('|').nth(1).unwrap_or_default()))
        .map(|(_, step)| step)
        .collect();
    let tokens = tokens(turn);
    let words: Vec<&str> = tokens.iter().map(|token| token.text).collect();
    let begin = words.windows(3).position(|words| words == ["fn", "turn", "("]).unwrap_or(words.len());
    let end = words[begin..].iter().skip(1).position(|word| *word == "fn").unwrap_or(0);
    let mut done = Vec::new();
    for at in begin..begin + end {
        if let ["self", ".", rest @ ..] = &words[at..] {
            let name = match rest {
                [name, "(", ..] | ["desk" | "acceptor" | "io", ".", name, "(", ..] => name,
                _ => continue,
            };
            if !others.contains(name) {
                done.push(*name);
            }
        }
    }
    if told == done && !done.is_empty() {
        return Vec::new();
    }
    vec![format!("the table of the turn has {told:?}, the turn {done:?}")]
}

/// What is in code font within a line, outside of blocks of code, with its line.
fn spans(text: &str) -> Vec<(usize, &str)> {
    prose(text)
        .flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |span| (number, span)))
        .collect()
}

/// Where relative links lead to.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if !target.contains(':') {
                links.push((number, target));
            }
        }
    }
    links
}

/// The lines outside of fences and indented blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
            return None;
        }
        (!is_fenced && !line.starts_with("    ")).then_some((index + 1, line))
    })
}

/// The anchors of the headings, as they are made of them.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |(_, line): (usize, &str)| {
        let title = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
        let kept = title.chars().filter(|char| is_word_char(*char) || matches!(char, ' ' | '-'));
        Some(kept.map(|char| if char == ' ' { '-' } else { char.to_ascii_lowercase() }).collect())
    };
    prose(text).filter_map(heading).collect()
}

/// The path that `relative` is from the file `from`.
fn joined(from: &str, relative: &str) -> String {
    let mut segments: Vec<&str> = from.split('/').collect();
    segments.pop();
    for segment in relative.trim_end_matches('/').split('/') {
        match segment {
            ".." => _ = segments.pop(),
            "." => {}
            segment => segments.push(segment),
        }
    }
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let strings = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        Known {
            paths: strings(&["docs", "docs/A.md", "README.md", "src", "src/a", "src/a/b.rs"]),
            keys: strings(&["log.level"]),
            metrics: strings(&["fanfare_ready"]),
            words: strings(&["word", "Type"]),
            definitions: [("Type".to_string(), "member".to_string())].into(),
            foreign: strings(&["foreign", "src/made", "log.other", "fanfare_cfg"]),
        }
    }

    fn document(text: &str) -> File {
        File { path: "docs/A.md".to_string(), text: text.to_string() }
    }

    #[test]
    fn a_path_or_key_that_is_not_there_is_found_and_blocks_of_code_are_passed_over() {
        let text = "`src/a/b.rs`, `a/b.rs`, `b.rs`, `src/a/` and `../src/a`, `log.level = 1`, `limits.x`, `src/made`, `log.other`\n\
            ```\n`src/none`\n```\n`src/c` `c.rs`\n`--set log.none=1`, `tests/run x`";
        assert_eq!(
            unknown_paths_and_keys(&document(text), &known()),
            [
                "docs/A.md:5: there is no `src/c`",
                "docs/A.md:5: no path ends with `c.rs`",
                "docs/A.md:6: there is no key `log.none`",
                "docs/A.md:6: there is no `tests/run`",
            ]
        );
        let found =
            unknown_mentions(&document("// docs/A.md.\n// See docs/B.md: (src/a/b.rs)"), &known().paths);
        assert_eq!(found, ["docs/A.md:2: there is no docs/B.md"]);
    }

    #[test]
    fn a_metric_that_is_not_exported_is_found_in_any_font() {
        let text = "`fanfare_ready == 0`\n\n    rate(fanfare_gone_total[5m])\n--cfg fanfare_cfg";
        assert_eq!(
            unknown_metrics(&document(text), &known()),
            ["docs/A.md:3: there is no metric fanfare_gone_total"]
        );
    }

    #[test]
    fn a_name_that_the_sources_do_not_have_is_found() {
        let text = "`word`, `word()`, `Type::member`, `a::Type::member()`, `Gone`, `foreign`, `no name`, `64`\n`Type::gone`";
        assert_eq!(
            unknown_names(&document(text), &known()),
            ["docs/A.md:1: the sources have no `Gone`", "docs/A.md:2: the sources have no `Type::gone`"]
        );
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let text = "# What, it *is*: `a`\n[a](#what-it-is-a) [b](../README.md#c) [c](https://d) [e](../src/a/)\n\
            [f](B.md), [g](#h)";
        let documents =
            [document(text), File { path: "README.md".to_string(), text: "## C\n```\n# D\n```".to_string() }];
        assert_eq!(
            broken_links(&documents, &known().paths),
            ["docs/A.md:3: B.md leads to no file", "docs/A.md:3: #h leads to no heading"]
        );
        let into_code = [document("[i](../README.md#d)"), documents[1].clone()];
        assert_eq!(
            broken_links(&into_code, &known().paths),
            ["docs/A.md:1: ../README.md#d leads to no heading"]
        );
    }

    #[test]
    fn a_step_that_is_missing_or_elsewhere_is_found() {
        let table =
            "## The turn\n\n| step | share |\n|---|---|\n| `a` | |\n| `b`, `c` | `x` |\n\n| `d` | |\n";
        let turn = |body: &str| {
            format!("fn new() {{ self.z() }} fn turn(&mut self) {{ {body} }} fn a() {{ self.y() }}")
        };
        let good = turn("self.a(); let x = self.desk.b(1); self.desk.stats.w(); self.other(); self.io.c()");
        assert_eq!(different_steps(table, &good, &["other"]), [""; 0]);
        for body in
            ["self.a(); self.b();", "self.b(); self.a(); self.c()", "self.a(); self.b(); self.c(); self.d();"]
        {
            assert_eq!(different_steps(table, &turn(body), &["other"]).len(), 1, "{body}");
        }
        assert_eq!(different_steps("", "", &[]).len(), 1);
    }
}
