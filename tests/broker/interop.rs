//! Clients that are not written here: node's `ws` and Python's `websockets`. Their scripts are in
//! `tests/interop`; `.ci/run` installs what they need.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
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

/// Without the client there is nothing to test, which only a developer's machine may get away with.
fn skip(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
    // Past the test runner, which would keep it to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn scripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

#[test]
fn a_node_client_finds_what_the_protocol_promises() {
    let directory = scripts().join("node");
    if Command::new("node").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("there is no node");
    }
    if !directory.join("node_modules/ws").exists() {
        return skip("node's ws is missing: npm ci --prefix tests/interop/node");
    }
    run(Command::new("node").arg(directory.join("check.mjs")));
}

#[test]
fn a_python_client_finds_what_the_protocol_promises() {
    let directory = scripts().join("python");
    let python = directory.join(".venv/bin/python");
    let has_library = Command::new(&python).args(["-c", "import websockets"]).stderr(Stdio::null()).status();
    if !has_library.is_ok_and(|status| status.success()) {
        return skip(
            "Python's websockets is missing: python3 -m venv tests/interop/python/.venv && \
             tests/interop/python/.venv/bin/pip install -r tests/interop/python/requirements.txt",
        );
    }
    run(Command::new(python).arg(directory.join("check.py")));
}
