//! Holds the code to the shape that docs/ARCHITECTURE.md gives it, and the documents to what is there: which way
//! imports go, what pure modules use, how long files are, and every name and link of a document.
//!
//! What has to hold is data here. A check takes texts and gives what is wrong with them, a line each; its own tests,
//! beside it, have it find that.

mod code;
mod documents;
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use code::File;
use documents::Known;
use fanfare::{
    config::document::default_toml,
    control::{
        fleet::{Answer, Phase},
        keys::KeyStatus,
        metrics::{Format, Process, exposition},
    },
};
use source::{definitions, is_word_char, tokens};

/// The arrow of imports: each module of the crate with those that it may import, the lowest first.
const ARROW: [(&str, &[&str]); 11] = [
    ("work", &[]),
    ("channel", &[]),
    ("protocol", &[]),
    ("access", &["protocol"]),
    ("config", &["protocol", "access"]),
    ("uring", &["config"]),
    ("pubsub", &["protocol", "work"]),
    ("metrics", &["protocol", "access", "pubsub"]),
    ("reactor", &["work", "channel", "uring", "protocol", "access", "config", "pubsub", "metrics"]),
    ("control", &["uring", "protocol", "access", "config", "pubsub", "metrics", "reactor"]),
    ("cli", &["uring", "protocol", "access", "config", "reactor", "control"]),
];

/// Where nothing has a descriptor, a clock, a thread or randomness of its own.
const PURE: [&str; 5] = ["src/work.rs", "src/access", "src/protocol", "src/pubsub", "src/channel"];

/// All that pure code may use of other crates: whoever adds to it makes sure that none of it reads, waits or tells the
/// time. `RandomState` is the one thing that differs from run to run, so that strangers cannot fill a table's bucket.
const PURE_MAY_USE: [&str; 51] = [
    "aws_lc_rs::signature",
    "base64",
    "crossbeam::queue::ArrayQueue",
    "crossbeam::utils::CachePadded",
    "foldhash::fast",
    "hashbrown::Equivalent",
    "hashbrown::HashMap",
    "hashbrown::HashTable",
    "httparse",
    "ipnet::IpNet",
    "jsonwebtoken::Algorithm",
    "jsonwebtoken::DecodingKey",
    "jsonwebtoken::DecodingKeyKind",
    "jsonwebtoken::crypto",
    "jsonwebtoken::jwk",
    "memchr",
    "serde::Deserialize",
    "serde::Deserializer",
    "serde::de",
    "serde_json::from_str",
    "serde_json::value::RawValue",
    "sha1",
    "sha2",
    "simd_json",
    "simdutf8",
    "slab",
    "std::arch",
    "std::borrow",
    "std::cell::UnsafeCell",
    "std::cmp",
    "std::collections",
    "std::error::Error",
    "std::fmt",
    "std::hash::BuildHasher",
    "std::hash::Hash",
    "std::hash::RandomState",
    "std::iter",
    "std::mem",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddrV4",
    "std::num",
    "std::ops",
    "std::slice",
    "std::str",
    "std::sync::Arc",
    "std::sync::OnceLock",
    "std::sync::atomic",
    "zeroize",
    "zlib_rs",
];

/// Code files of more than [`LINES_MAX`] lines, each with the reason why it is one file.
const LONG: [(&str, &str); 13] = [
    ("loadtest/src/cli.rs", "the flags of every scenario with their help: a declaration, hardly any code"),
    ("src/config/keys.rs", "a table with an entry per key, and the kinds that a key may have"),
    ("src/protocol/binary.rs", "a language, both ways; a third of it is its tests"),
    (
        "src/protocol/json/document.rs",
        "one walk over a text and its tape, whose parts know all of each other",
    ),
    ("src/protocol/session.rs", "one state machine; half of it is its tests"),
    ("src/protocol/upgrade.rs", "one request and its answer; a third of it is its tests"),
    (
        "src/pubsub/fanout/tests.rs",
        "tests around one model, queues per subscriber, which all of them are held to",
    ),
    ("src/pubsub/home.rs", "what gives a topic its order; almost half of it is its tests"),
    ("src/reactor/simulation/directed.rs", "scenes of a few lines each, which share nothing but their world"),
    ("src/reactor/simulation/mod.rs", "a world, and what is held against it after each of its turns"),
    ("src/reactor/turn.rs", "the steps of a turn, each of which needs ring and desk at once"),
    ("src/uring/ring.rs", "all that io_uring is asked; almost half of it is its tests"),
    ("src/uring/sim.rs", "a kernel in memory: its sockets, clients and accidents are one state"),
];
const LINES_MAX: usize = 700;

/// Documents whose names in code font are the sources' own.
const ABOUT_CODE: [&str; 2] = ["docs/ARCHITECTURE.md", "docs/DECISIONS.md"];

/// What documents name that is not in the repository, though it looks so.
const FOREIGN: [&str; 13] = [
    // Of the kernel and its tools, and of other crates.
    "optlen",
    "ss",
    "io_uring_params",
    "crossbeam::ArrayQueue",
    "InflateFlush::Block",
    // Of Kubernetes.
    "limits.cpu",
    // The prefix of all metrics, a cfg, and variables of nginx.
    "fanfare_",
    "fanfare_loom",
    "fanfare_origin",
    "fanfare_source",
    // A key that there was.
    "delivery.topics",
    // What a run leaves.
    "fuzz/artifacts",
    "fuzz/target/corpus",
];

/// What `Reactor::turn` calls beside its steps.
const NO_STEPS: [&str; 6] = ["wake", "is_all_submitted", "is_home_open", "wait", "clock_ns", "wall_ns"];

#[test]
fn imports_follow_the_arrow() {
    none(code::against_the_arrow(&sources("src"), &ARROW));
    none(code::circles(&ARROW));
}

#[test]
fn pure_modules_use_nothing_that_reads_waits_or_tells_the_time() {
    none(code::impure(&sources("src"), &PURE, &PURE_MAY_USE, &crates()));
    none(code::unused(&sources("src"), &PURE, &PURE_MAY_USE));
}

#[test]
fn no_file_is_long_without_a_reason() {
    let files: Vec<File> = ["src", "loadtest", "tests", "benches", "fuzz/fuzz_targets"]
        .into_iter()
        .flat_map(|folder| files(folder, &["rs", "js", "mjs", "py", "css"]))
        .collect();
    none(code::too_long(&files, &LONG, LINES_MAX));
}

#[test]
fn whatever_a_connection_may_be_closed_for_happens() {
    none(code::never_made(&sources("src"), "CloseReason"));
    none(code::never_made(&sources("src"), "BrokenRule"));
}

#[test]
fn documents_name_what_is_there() {
    let known = known();
    let mut findings = Vec::new();
    for document in documents() {
        findings.extend(documents::unknown_paths_and_keys(&document, &known));
        findings.extend(documents::unknown_metrics(&document, &known));
        if ABOUT_CODE.contains(&document.path.as_str()) {
            findings.extend(documents::unknown_names(&document, &known));
        }
    }
    none(findings);
}

#[test]
fn links_lead_somewhere() {
    none(documents::broken_links(&documents(), &all_paths("")));
}

#[test]
fn comments_point_to_files_that_are_there() {
    let paths = all_paths("");
    let sources = ["src", "loadtest/src", "benches", "fuzz/fuzz_targets"].into_iter().flat_map(sources);
    none(sources.flat_map(|file| documents::unknown_mentions(&file, &paths)).collect());
}

#[test]
fn the_table_of_the_turn_has_its_steps_in_their_order() {
    let architecture = read("docs/ARCHITECTURE.md");
    none(documents::different_steps(&architecture, &read("src/reactor/turn.rs"), &NO_STEPS));
}

#[test]
fn the_changelogs_newest_version_is_the_manifests() {
    let changelog = read("CHANGELOG.md");
    let versions = changelog.lines().filter_map(|line| line.strip_prefix("## [")?.split(']').next());
    let newest = versions.into_iter().find(|version| *version != "Unreleased");
    assert_eq!(newest, Some(env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_crate_takes_the_workspaces_lints_licence_and_versions() {
    for member in manifest("Cargo.toml")["workspace"]["members"].as_array().expect("members") {
        let path = format!("{}/Cargo.toml", member.as_str().expect("a path"));
        let manifest = manifest(&path);
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "lints of {path}");
        for key in ["version", "edition", "rust-version", "license"] {
            assert_eq!(manifest["package"][key]["workspace"].as_bool(), Some(true), "{key} of {path}");
        }
    }
}

#[track_caller]
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn manifest(path: &str) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The Rust files in `folder`, in whatever depth.
fn sources(folder: &str) -> Vec<File> {
    files(folder, &["rs"])
}

fn documents() -> Vec<File> {
    files("", &["md"])
}

fn files(folder: &str, endings: &[&str]) -> Vec<File> {
    let has_ending = |path: &&String| {
        path.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
            && root().join(path).is_file()
    };
    let paths = all_paths(folder);
    paths.iter().filter(has_ending).map(|path| File { path: path.clone(), text: read(path) }).collect()
}

/// All files and folders in `folder` that belong to the repository, from the root on.
fn all_paths(folder: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path: PathBuf = entry.expect("an entry of a folder").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            // What builds and runs leave there.
            if matches!(&*name, ".git" | "target" | "node_modules" | ".venv" | "__pycache__") {
                continue;
            }
            paths.insert(path.strip_prefix(root()).expect("a path within").to_string_lossy().into_owned());
            if path.is_dir() && name != "corpus" {
                folders.push(path);
            }
        }
    }
    paths
}

/// The crates that the broker depends on, as the code calls them.
fn crates() -> Vec<String> {
    let manifest = manifest("Cargo.toml");
    let targets =
        manifest["target"].as_table().expect("a table").values().filter_map(|target| target.as_table());
    let tables = targets.chain([&manifest]).filter_map(|table| table["dependencies"].as_table());
    tables.flat_map(|table| table.keys()).map(|name| name.replace('-', "_")).collect()
}

fn known() -> Known {
    let foreign = FOREIGN.map(str::to_string).into();
    let mut known =
        Known { paths: all_paths(""), keys: keys(), metrics: metrics(), foreign, ..Known::default() };
    for file in ["src", "loadtest/src", "tests", "benches"].into_iter().flat_map(sources) {
        let tokens = tokens(&file.text);
        let words = tokens.iter().flat_map(|token| token.text.split(|char| !is_word_char(char)));
        known.words.extend(words.map(str::to_string));
        let module = file.module().last().map_or("", |name| *name).to_string();
        let found = definitions(&tokens, &module);
        known
            .definitions
            .extend(found.into_iter().map(|(outer, inner)| (outer.to_string(), inner.to_string())));
    }
    known
}

/// The keys that the default configuration has.
fn keys() -> BTreeSet<String> {
    let sections: toml::Table = default_toml().parse().expect("the default configuration");
    let keys = |(section, keys): (&String, &toml::Value)| {
        let keys = keys.as_table().expect("a section").keys();
        keys.map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
    };
    sections.iter().flat_map(keys).collect()
}

/// The names of all samples, and of the families that they are of.
fn metrics() -> BTreeSet<String> {
    let process = Process {
        phase: Phase::Ready,
        uptime: Duration::ZERO,
        reloads: (0, 0),
        log_lines_dropped: 0,
        is_insecure: false,
        revocations: 0,
        bans: 0,
        admin_refused: [0; 4],
        audit_dropped: [0; 4],
        keys: KeyStatus { ages: vec![("i".into(), Duration::ZERO)], ..KeyStatus::default() },
    };
    let text = exposition(&[Answer::Stats(Box::default())], process, Format::OpenMetrics);
    let name = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        ["#", "TYPE", family, _] => Some(family.to_string()),
        ["#", ..] => None,
        _ => line.split(['{', ' ']).next().map(str::to_string),
    };
    text.lines().filter_map(name).collect()
}
