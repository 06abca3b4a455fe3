//! Connections that subscribe and stay idle: what each costs the broker in memory.

use std::{thread, time::Duration};

use serde::Serialize;

use super::{ensure_descriptors, write_json};
use crate::{
    cli::Idle,
    connect::{self, Target},
    dialect::Role,
    process,
};

/// How long the broker is given to put away what it used for the upgrades.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct IdleReport {
    connections: usize,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
    bytes_per_connection: f64,
    /// The broker's CPU time per upgrade and subscription.
    cpu_us_per_connection: f64,
}

/// Runs it.
///
/// # Errors
/// One line for the operator.
pub fn run(idle: &Idle) -> Result<bool, String> {
    let pid = idle.broker.pid.ok_or("idle needs --pid, the broker's process")?;
    let connections = idle.connections as usize;
    ensure_descriptors(connections)?;
    let target = Target::parse(&idle.broker.url)?;
    let look = || {
        process::resident_bytes(pid).zip(process::cpu_ns(pid)).ok_or(format!("process {pid} is not readable"))
    };
    let before = look()?;
    let mut open = Vec::with_capacity(connections);
    for topic in 0..idle.topics as usize {
        let share = |topic| topic * connections / idle.topics as usize;
        let count = share(topic + 1) - share(topic);
        let name = format!("idle/{topic}");
        open.extend(connect::connect(
            &target,
            idle.broker.protocol,
            Role::Subscriber(&name),
            open.len(),
            count,
        )?);
    }
    thread::sleep(SETTLE);
    let after = look()?;
    let report = IdleReport {
        connections,
        resident_bytes_before: before.0,
        resident_bytes_after: after.0,
        bytes_per_connection: (after.0 as f64 - before.0 as f64) / connections as f64,
        cpu_us_per_connection: after.1.saturating_sub(before.1) as f64 / 1e3 / connections as f64,
    };
    println!(
        "idle, {connections} connections: {:.0} B each ({} → {} KiB resident); upgrade and subscription \
         {:.1} µs CPU each",
        report.bytes_per_connection,
        before.0 / 1024,
        after.0 / 1024,
        report.cpu_us_per_connection
    );
    if let Some(path) = &idle.json {
        write_json(path, &report)?;
    }
    thread::sleep(Duration::from_secs(idle.hold));
    Ok(true)
}
