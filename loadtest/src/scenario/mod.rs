//! What is measured, one file each.

pub mod beside;
pub mod fanout;
pub mod idle;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::{
    cli::{Broker, Run},
    client::{self, Publisher, Subscriber, Times, Topic},
    connect::{self, Connected, Target},
    dialect::Role,
    process,
    report::Report,
};

/// One topic of a scenario and its connections.
pub struct Load {
    /// The topic.
    pub topic: Topic,
    /// Connections that subscribe to it.
    pub subscribers: usize,
    /// How many of them are verified by content.
    pub sample: usize,
}

/// The timetable's resolution.
pub const TICK_NS: u64 = 1_000_000;

/// Connects everybody, runs, prints; whether nothing went wrong.
///
/// # Errors
/// One line for the operator.
pub fn run_loads(name: &str, broker: &Broker, run: &Run, loads: Vec<Load>) -> Result<bool, String> {
    let report = prepare_and_run(name, broker, run, loads)?;
    finish(&report, run.json.as_deref())
}

/// Connects everybody and runs.
///
/// # Errors
/// One line for the operator.
pub fn prepare_and_run(name: &str, broker: &Broker, run: &Run, loads: Vec<Load>) -> Result<Report, String> {
    let target = Target::parse(&broker.url)?;
    ensure_descriptors(loads.iter().map(|it| it.subscribers + it.topic.publishers).sum())?;
    let (mut subscribers, mut publishers) = (Vec::new(), Vec::new());
    let mut opened = 0;
    for (topic, load) in loads.iter().enumerate() {
        let topic_name = &*load.topic.name;
        let connections = connect::connect(
            &target,
            broker.protocol,
            Role::Subscriber(topic_name),
            opened,
            load.subscribers,
        )?;
        opened += connections.len();
        subscribers.extend(connections.into_iter().enumerate().map(|(index, it)| {
            let Connected { socket, reader, seq } = it;
            // Spread over the connections, so that early and late ones are both looked at.
            let is_sampled =
                index * load.sample / load.subscribers != (index + 1) * load.sample / load.subscribers;
            Subscriber { topic, socket, reader, seq, is_sampled }
        }));
        let connections = connect::connect(
            &target,
            broker.protocol,
            Role::Publisher(topic_name),
            opened,
            load.topic.publishers,
        )?;
        opened += connections.len();
        publishers.extend(connections.into_iter().enumerate().map(|(index, it)| Publisher {
            topic,
            index,
            socket: it.socket,
            reader: it.reader,
        }));
    }
    let topics: Vec<Topic> = loads.iter().map(|it| it.topic.clone()).collect();
    let names: Vec<_> = loads.iter().map(|it| (it.topic.name.clone(), it.subscribers)).collect();
    let times = Times::starting_soon(run.warmup, run.duration, run.drain);
    let outcome =
        client::run(&topics, times, broker.protocol, subscribers, publishers, &run.cores, broker.pid)?;
    let resident_bytes = broker.pid.and_then(process::resident_bytes);
    Ok(Report::new(name, &times, outcome, &names, resident_bytes))
}

/// Prints the report and writes it; whether it is clean.
///
/// # Errors
/// If the file cannot be written.
pub fn finish(report: &Report, json: Option<&Path>) -> Result<bool, String> {
    println!("{report}");
    if let Some(path) = json {
        write_json(path, report)?;
    }
    Ok(report.is_clean())
}

/// Writes `value` to `path`.
///
/// # Errors
/// One line that names the file.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).expect("a report is plain data") + "\n";
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Fails early, in words, if this process may not open so many connections.
///
/// # Errors
/// One line for the operator.
pub fn ensure_descriptors(connections: usize) -> Result<(), String> {
    let limit = process::raise_descriptor_limit();
    let needed = connections as u64 + 64;
    if needed > limit {
        return Err(format!("{connections} connections need {needed} descriptors, the limit is {limit}"));
    }
    Ok(())
}
