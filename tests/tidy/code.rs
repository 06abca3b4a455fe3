//! What holds of the code by itself: who imports whom, what pure modules use, how long files are.

use std::collections::BTreeSet;

use crate::source::{Token, paths, tokens, without_tests};

/// A file of the repository, its path relative to the root.
#[derive(Clone, Debug)]
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    /// The module that it is, from the crate's root on.
    pub fn module(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Vec<&str> = path.split('/').collect();
        if matches!(module.last(), Some(&("mod" | "lib" | "main"))) {
            module.pop();
        }
        module
    }

    fn is_within(&self, path: &str) -> bool {
        self.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Imports that `arrow` does not allow, and modules that it does not know. What is for tests may import what it likes:
/// it is no part of the broker, and tests drive a module from where it is used.
pub fn against_the_arrow(files: &[File], arrow: &[(&str, &[&str])]) -> Vec<String> {
    let mut findings = Vec::new();
    for (file, tokens) in outside_of_tests(files) {
        let module = file.module();
        let Some(&importer) = module.first() else { continue };
        let Some((_, allowed)) = arrow.iter().find(|(name, _)| *name == importer) else {
            findings.push(format!("{}: the arrow does not say what {importer} may import", file.path));
            continue;
        };
        for path in paths(&tokens) {
            let Some(imported) = top_level(&path.segments, &module) else { continue };
            if imported != importer
                && arrow.iter().any(|(name, _)| *name == imported)
                && !allowed.contains(&imported)
            {
                findings.push(format!(
                    "{}:{}: {importer} imports {imported}, and may import {allowed:?}",
                    file.path, path.line
                ));
            }
        }
    }
    findings
}

/// Modules that `arrow` lets import each other, in however many steps.
pub fn circles(arrow: &[(&str, &[&str])]) -> Vec<String> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while let Some((name, _)) = arrow.iter().find(|(name, allowed)| {
        !done.contains(name) && allowed.iter().all(|imported| done.contains(imported))
    }) {
        done.insert(name);
    }
    let is_left = |name: &&str| !done.contains(name);
    arrow.iter().map(|(name, _)| *name).filter(is_left).map(|name| format!("{name} imports itself")).collect()
}

/// What the files of `pure` use of other crates that is not in `may_use`, and what they print.
pub fn impure(files: &[File], pure: &[&str], may_use: &[&str], crates: &[String]) -> Vec<String> {
    let is_allowed = |path: &str| {
        may_use.iter().any(|allowed| {
            path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    };
    let is_foreign =
        |name: &&str| matches!(*name, "std" | "core" | "alloc") || crates.iter().any(|c| c == name);
    let mut findings = Vec::new();
    for (file, tokens) in outside_of_tests(files) {
        if !pure.iter().any(|path| file.is_within(path)) {
            continue;
        }
        for path in paths(&tokens) {
            let name = path.segments.join("::");
            if path.segments.first().is_some_and(is_foreign) && !is_allowed(&name) {
                findings
                    .push(format!("{}:{}: {name} is nothing that pure code may use", file.path, path.line));
            }
        }
        for token in tokens {
            if matches!(
                token.text,
                "print" | "println" | "eprint" | "eprintln" | "dbg" | "thread_local" | "extern"
            ) {
                findings
                    .push(format!("{}:{}: {} is nothing for pure code", file.path, token.line, token.text));
            }
        }
    }
    findings
}

/// What of `may_use` nobody uses.
pub fn unused(files: &[File], pure: &[&str], may_use: &[&str]) -> Vec<String> {
    let mut unused: BTreeSet<&str> = may_use.iter().copied().collect();
    for (file, tokens) in outside_of_tests(files) {
        if pure.iter().any(|path| file.is_within(path)) {
            for path in paths(&tokens) {
                let name = path.segments.join("::");
                unused.retain(|allowed| !name.starts_with(allowed));
            }
        }
    }
    unused.iter().map(|name| format!("no pure code uses {name}")).collect()
}

/// Files of more than `lines_max` lines that are not in `long`, and those in it that are not so long.
pub fn too_long(files: &[File], long: &[(&str, &str)], lines_max: usize) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        let count = file.text.lines().count();
        match long.iter().any(|(path, _)| *path == file.path) {
            false if count > lines_max => findings.push(format!(
                "{}: {count} lines, and no reason is given why it has more than {lines_max}",
                file.path
            )),
            true if count <= lines_max => findings.push(format!(
                "{}: {count} lines, and a reason is given why it has more than {lines_max}",
                file.path
            )),
            _ => {}
        }
    }
    let is_there = |path: &str| files.iter().any(|file| file.path == path);
    let gone = long.iter().filter(|(path, _)| !is_there(path));
    findings.extend(
        gone.map(|(path, _)| format!("{path}: a reason is given for its length, and it is not there")),
    );
    findings
}

/// Variants of the enum `name` that nothing makes but tests. Its list `ALL` and the patterns of a match make none.
pub fn never_made(files: &[File], name: &str) -> Vec<String> {
    let (mut variants, mut made) = (BTreeSet::new(), BTreeSet::new());
    let files = outside_of_tests(files);
    for (_, tokens) in &files {
        let words: Vec<&str> = tokens.iter().map(|token| token.text).collect();
        let mut is_list = false;
        for at in 0..words.len() {
            match words[at..] {
                ["const", "ALL", ..] => is_list = true,
                ["]", ";", ..] => is_list = false,
                _ => {}
            }
            if words[at..].starts_with(&["enum", name, "{"]) {
                let body = words[at + 3..].iter().take_while(|word| **word != "}");
                variants.extend(body.filter(|word| word.starts_with(char::is_uppercase)).copied());
            }
            let [enum_, "::", variant, next, after, ..] = words[at..] else { continue };
            let before = at.checked_sub(1).map_or("", |before| words[before]);
            let is_pattern = before == "|" || next == "|" || (next == "=" && after == ">");
            if enum_ == name && !is_pattern && !is_list {
                made.insert(variant);
            }
        }
    }
    variants.difference(&made).map(|variant| format!("nothing makes {name}::{variant}")).collect()
}

/// The library's files that are no tests, with what of them is none.
fn outside_of_tests(files: &[File]) -> Vec<(&File, Vec<Token<'_>>)> {
    let mut tests: Vec<Vec<&str>> = Vec::new();
    let mut outside = Vec::new();
    for file in files {
        let (tokens, modules) = without_tests(&tokens(&file.text));
        tests.extend(modules.iter().map(|name| [file.module(), vec![name]].concat()));
        outside.push((file, tokens));
    }
    outside.retain(|(file, _)| !tests.iter().any(|test| file.module().starts_with(test)));
    outside
}

/// Which of the crate's top-level modules a path in `module` leads to, if it says so.
fn top_level<'a>(segments: &[&'a str], module: &[&'a str]) -> Option<&'a str> {
    let supers = segments.iter().take_while(|segment| **segment == "super").count();
    match segments {
        ["crate", name, ..] => Some(name),
        ["super", ..] if supers < module.len() => Some(module[0]),
        ["super", ..] => segments.get(supers).copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_string(), text: text.to_string() }
    }

    const ARROW: [(&str, &[&str]); 3] = [("low", &[]), ("middle", &["low"]), ("high", &["low", "middle"])];

    #[test]
    fn an_import_against_the_arrow_is_found_however_it_is_written() {
        for text in [
            "use crate::high::X;",
            "use crate::{low::Y, high};",
            "fn f() { crate::high::g() }",
            "use super::super::high::X;",
        ] {
            let found = against_the_arrow(&[file("src/middle/part.rs", text)], &ARROW);
            assert_eq!(
                found,
                ["src/middle/part.rs:1: middle imports high, and may import [\"low\"]"],
                "{text}"
            );
        }
        let found = against_the_arrow(&[file("src/other.rs", "")], &ARROW);
        assert_eq!(found, ["src/other.rs: the arrow does not say what other may import"]);
    }

    #[test]
    fn imports_along_the_arrow_and_of_tests_are_none_against_it() {
        let files = [
            file("src/lib.rs", "#[cfg(test)] mod fuzz; pub mod low;"),
            file("src/fuzz/mod.rs", "use crate::high;"),
            file(
                "src/middle/mod.rs",
                "use crate::low; use super::low; #[cfg(test)] mod tests { use crate::high; }",
            ),
            file(
                "src/high.rs",
                "use crate::{low, middle::X}; // crate::higher\n const A: &str = \"crate::b\";",
            ),
        ];
        assert_eq!(against_the_arrow(&files, &ARROW), [""; 0]);
    }

    #[test]
    fn an_arrow_that_goes_in_a_circle_is_none() {
        assert_eq!(circles(&ARROW), [""; 0]);
        assert_eq!(circles(&[("a", &["b"]), ("b", &["a"])]), ["a imports itself", "b imports itself"]);
    }

    #[test]
    fn what_pure_code_may_not_use_is_found() {
        let crates = ["libc".to_string()];
        let may_use = ["std::time::Duration", "std::mem"];
        for text in [
            "use std::time::{Duration, Instant};",
            "use std::time;",
            "use std::{mem, time::*};",
            "fn f() { std::thread::yield_now() }",
            "fn f() { unsafe { libc::getpid() }; }",
            "use libc;",
            "fn f() { println!() }",
            "unsafe extern \"C\" { fn getpid(); }",
        ] {
            let found = impure(&[file("src/low/part.rs", text)], &["src/low"], &may_use, &crates);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(impure(&[file("src/lower.rs", text)], &["src/low"], &may_use, &crates), [""; 0]);
        }
        let text = "use std::{mem, time::Duration}; #[cfg(test)] mod tests { use std::thread; }";
        let files = [file("src/low.rs", text)];
        assert_eq!(impure(&files, &["src/low.rs"], &may_use, &crates), [""; 0]);
        assert_eq!(
            unused(&files, &["src/low.rs"], &["std::mem", "std::fmt"]),
            ["no pure code uses std::fmt"]
        );
    }

    #[test]
    fn a_variant_that_is_only_listed_matched_and_tested_is_found() {
        let text = "enum E { A, B, C, D } const ALL: [E; 4] = [E::A, E::B, E::C, E::D];
            fn f(e: E) -> E { g(1, E::A, 2); match e { E::A => E::B, E::B | E::C => h, E::D => i } }
            #[cfg(test)] mod tests { fn j() { E::D } }";
        let found = never_made(&[file("src/a.rs", text)], "E");
        assert_eq!(found, ["nothing makes E::C", "nothing makes E::D"]);
    }

    #[test]
    fn a_long_file_needs_a_reason_and_a_reason_a_long_file() {
        let files = [file("a", "\n\n\n"), file("b", "\n\n\n"), file("c", "\n"), file("d", "\n")];
        let found = too_long(&files, &[("b", "why"), ("d", "why"), ("e", "why")], 2);
        assert_eq!(
            found,
            [
                "a: 3 lines, and no reason is given why it has more than 2",
                "d: 1 lines, and a reason is given why it has more than 2",
                "e: a reason is given for its length, and it is not there",
            ]
        );
    }
}
