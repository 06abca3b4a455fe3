//! A comparison whose broker is killed under it.

use clap::Parser;

use super::*;
use crate::{
    cli::{Cli, Command},
    dialect::Dialect,
    scenario::tests::BROKER_PORT,
};

/// The broker is this program again, which kills itself with the tenth publication.
fn killed_broker() -> config::Broker {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let start = [&program, "--exact", "scenario::tests::be_a_broker_that_is_killed", "--nocapture"];
    config::Broker {
        name: "killed".to_owned(),
        protocol: Dialect::Json,
        url: format!("ws://{free}/ws"),
        start: start.map(str::to_owned).to_vec(),
        version: Vec::new(),
        environment: [(BROKER_PORT.to_owned(), free.port().to_string())].into(),
        ready_s: 10,
        begin: 1000,
        install: String::new(),
    }
}

/// What was measured until then is kept, and the comparison is not complete.
#[test]
fn a_broker_that_is_killed_is_told_in_a_line_and_keeps_its_figures() {
    let line = ["fanfare-loadtest", "compare", "--connections", "20", "--subscribers", "5", "--seconds", "1"];
    let Command::Compare(options) = Cli::parse_from(line).command else { panic!() };
    let subject = Subject::Broker(killed_broker());
    let logs = std::env::temp_dir().join(format!("fanfare-compare-killed-{}", process::id()));
    fs::create_dir_all(&logs).unwrap();
    let comparison = Comparison {
        command: String::new(),
        machine: String::new(),
        priority: Priority::Usual,
        subscribers: 5,
        size: 128,
        connections: 20,
        is_complete: false,
        elapsed_s: 0.0,
        cut: Vec::new(),
        brokers: vec![subject.result(Path::new("/"))],
    };
    let run = Run {
        options: &options,
        directory: "/".into(),
        logs: logs.clone(),
        subjects: vec![subject],
        comparison: Arc::new(Mutex::new(comparison)),
        begun: Instant::now(),
    };
    run.one_round(0, "round 1 of 1: killed", None, Duration::from_secs(60));
    fs::remove_dir_all(logs).unwrap();
    let comparison = run.with(|it| it.clone());
    let broker = &comparison.brokers[0];
    let Some(Trouble::Failed(reason)) = &broker.trouble else { panic!("{broker:?}") };
    assert!(reason.starts_with("it ended (signal: 9 (SIGKILL)): ") && !reason.contains('\n'), "{reason}");
    assert!(broker.rounds[0].idle.is_some() && broker.rounds[0].calm.is_none(), "{broker:?}");
    let table = comparison.to_string();
    assert!(table.contains("| killed ") && table.contains("failed: it ended (signal: 9"), "{table}");
}
