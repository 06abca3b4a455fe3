//! Connections that subscribe and stay idle: what each costs the broker in memory.

use std::{thread, time::Duration};

use serde::Serialize;

use super::{check, ensure_descriptors};
use crate::{
    cli::Idle,
    client::INTERRUPTED,
    connect::{self, Target},
    dialect::Role,
    environment::Environment,
    process,
};

/// How long the broker is given to put away what it used for the upgrades.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct IdleReport {
    scenario: &'static str,
    environment: Environment,
    parameters: Vec<(String, String)>,
    connections: usize,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
    bytes_per_connection: f64,
    /// The broker's CPU time per upgrade and subscription.
    cpu_us_per_connection: f64,
    /// The broker's CPU time per second and connection while they were idle.
    idle_ns_per_connection_s: Option<f64>,
}

/// Runs it.
///
/// # Errors
/// One line for the operator.
pub fn run(idle: &Idle, parameters: Vec<(String, String)>) -> Result<bool, String> {
    let pid = idle.broker.pid.ok_or("idle needs --pid, the broker's process")?;
    if idle.outputs.html.is_some() {
        return Err("idle has nothing to plot: --json only".to_owned());
    }
    check(&idle.broker, &idle.outputs)?;
    let connections = idle.connections;
    ensure_descriptors(connections)?;
    let target = Target::parse(&idle.broker.url)?;
    let look = || {
        process::resident_bytes(pid).zip(process::cpu_ns(pid)).ok_or(format!("process {pid} is not readable"))
    };
    let before = look()?;
    let mut open = Vec::with_capacity(connections);
    for topic in 0..idle.topics {
        let share = |topic| topic * connections / idle.topics;
        let count = share(topic + 1) - share(topic);
        let name = format!("idle/{topic}");
        let role = Role::Subscriber(&name);
        open.extend(connect::connect(&target, idle.broker.protocol, role, open.len(), count)?);
    }
    thread::sleep(SETTLE);
    let after = look()?;
    let mut report = IdleReport {
        scenario: "idle",
        environment: Environment::read(Some(pid)),
        parameters,
        connections,
        resident_bytes_before: before.0,
        resident_bytes_after: after.0,
        bytes_per_connection: (after.0 as f64 - before.0 as f64) / connections as f64,
        cpu_us_per_connection: after.1.saturating_sub(before.1) as f64 / 1e3 / connections as f64,
        idle_ns_per_connection_s: None,
    };
    println!(
        "idle, {connections} connections: {:.0} B each ({} → {} KiB resident); upgrade and subscription \
         {:.1} µs CPU each",
        report.bytes_per_connection,
        before.0 / 1024,
        after.0 / 1024,
        report.cpu_us_per_connection
    );
    idle.outputs.write_json(&report)?;
    let mut held_s = 0;
    while held_s < idle.hold && !INTERRUPTED.load(std::sync::atomic::Ordering::SeqCst) {
        thread::sleep(Duration::from_secs(1));
        held_s += 1;
    }
    if held_s > 0 {
        let held = look()?;
        let cpu_ns = held.1.saturating_sub(after.1) as f64;
        report.idle_ns_per_connection_s = Some(cpu_ns / connections as f64 / held_s as f64);
        println!(
            "held for {held_s} s: {} KiB resident, {:.0} ns CPU per connection and second",
            held.0 / 1024,
            cpu_ns / connections as f64 / held_s as f64
        );
        idle.outputs.write_json(&report)?;
    }
    Ok(true)
}
