//! Clients that are not written here: node's `ws` and Python's `websockets`. Their scripts are in
//! `tests/interop`; `.ci/run` installs what they need.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::common::Broker;

/// Runs a client's script, which prints "restart" when it wants the broker to stop.
fn run(command: &mut Command) {
    let broker = Broker::start(2, &[]);
    command.arg(format!("ws://{}/ws", broker.address));
    let mut script = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // A script that failed has said why on stderr.
    assert_eq!(line, "restart\n", "the script ended early: {:?}", script.wait());
    broker.stop();
    assert_eq!(script.wait().unwrap().code(), Some(0));
}

/// Runs a client's script for compression against a broker with a full and one with a small window.
fn run_deflate(interpreter: &Path, script: &Path) {
    for window_bits in ["15", "10"] {
        let window = format!("deflate.window_bits={window_bits}");
        // What the clients send is the same words over and over: it shrinks as only bombs do else.
        let broker = Broker::start(2, &["deflate.enabled=true", "deflate.ratio_max=1032", &window]);
        let url = format!("ws://{}/ws", broker.address);
        let status = Command::new(interpreter).arg(script).args([&url, window_bits]).status().unwrap();
        // A script that failed has said why on stderr.
        assert_eq!(status.code(), Some(0), "{window}");
        for name in ["fanfare_deflated_total", "fanfare_inflated_total"] {
            assert!(broker.metric(name, "").iter().sum::<f64>() > 0.0, "{name}");
        }
        broker.stop();
    }
}

/// Without the client there is nothing to test, which only a developer's machine may get away with.
fn skip(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
    // Past the test runner, which would keep it to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn scripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

/// Node, if it and its client are there.
fn node() -> Option<PathBuf> {
    if Command::new("node").arg("--version").stdout(Stdio::null()).status().is_err() {
        skip("there is no node");
        return None;
    }
    if !scripts().join("node/node_modules/ws").exists() {
        skip("node's ws is missing: npm ci --prefix tests/interop/node");
        return None;
    }
    Some("node".into())
}

/// A Python that has its client, if there is one.
fn python() -> Option<PathBuf> {
    let python = scripts().join("python/.venv/bin/python");
    let has_library = Command::new(&python).args(["-c", "import websockets"]).stderr(Stdio::null()).status();
    if !has_library.is_ok_and(|status| status.success()) {
        skip(
            "Python's websockets is missing: python3 -m venv tests/interop/python/.venv && \
             tests/interop/python/.venv/bin/pip install -r tests/interop/python/requirements.txt",
        );
        return None;
    }
    Some(python)
}

#[test]
fn a_node_client_finds_what_the_protocol_promises() {
    let Some(node) = node() else { return };
    run(Command::new(node).arg(scripts().join("node/check.mjs")));
}

#[test]
fn a_node_client_understands_the_brokers_compression_and_is_understood() {
    let Some(node) = node() else { return };
    run_deflate(&node, &scripts().join("node/deflate.mjs"));
}

#[test]
fn a_python_client_finds_what_the_protocol_promises() {
    let Some(python) = python() else { return };
    run(Command::new(python).arg(scripts().join("python/check.py")));
}

#[test]
fn a_python_client_understands_the_brokers_compression_and_is_understood() {
    let Some(python) = python() else { return };
    run_deflate(&python, &scripts().join("python/deflate.py"));
}
