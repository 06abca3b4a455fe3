//! Connections that subscribe and stay idle: what each costs the broker in memory.

use std::{
    io::Write,
    net::TcpStream,
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{check, ensure_descriptors};
use crate::{
    cli::Idle,
    client::INTERRUPTED,
    connect::{self, Target},
    dialect::Role,
    environment::Environment,
    output::print,
    process,
    report::idle::{IdleReport, Look},
};

/// How long the broker is given to put away what it used for the upgrades.
const SETTLE: Duration = Duration::from_secs(1);
/// Points of the plots while connections are opened.
const LOOKS: usize = 100;
/// Everybody says something this often, so that the broker does not hang up on those who are silent.
const KEEPALIVE_S: u64 = 10;

/// Runs it.
///
/// # Errors
/// One line for the operator.
pub fn run(idle: &Idle, parameters: Vec<(String, String)>) -> Result<bool, String> {
    let pid = idle.broker.pid.ok_or("idle needs --pid, the broker's process")?;
    check(&idle.broker, &idle.outputs)?;
    ensure_descriptors(idle.connections)?;
    let target = idle.broker.target()?;
    let before = measure(pid).ok_or(format!("process {pid} is not readable"))?;
    let mut run = Run { idle, target, pid, begun: Instant::now(), open: Vec::new(), looks: Vec::new() };
    run.looks.reserve(LOOKS + idle.hold as usize);
    let mut report = IdleReport {
        scenario: format!("idle, {} connections", idle.connections),
        passed: false,
        environment: Environment::read(Some(pid)),
        parameters,
        connections: 0,
        failed_reason: None,
        closed: 0,
        resident_bytes_before: before.resident_bytes,
        resident_bytes_after: None,
        bytes_per_connection: None,
        cpu_us_per_connection: None,
        held_s: 0,
        resident_bytes_held: None,
        idle_ns_per_connection_s: None,
        series: Vec::new(),
    };
    if let Err(error) = run.open() {
        // Nobody there from the start is no measurement.
        if run.open.is_empty() {
            return Err(error);
        }
        report.failed_reason = Some(error);
    }
    report.connections = run.open.len();
    thread::sleep(SETTLE);
    if let Some(after) = measure(pid).filter(|_| report.failed_reason.is_none()) {
        let count = report.connections as f64;
        report.resident_bytes_after = Some(after.resident_bytes);
        report.bytes_per_connection =
            Some((after.resident_bytes as f64 - before.resident_bytes as f64) / count);
        report.cpu_us_per_connection = Some(after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e3 / count);
        report.held_s = run.hold();
        if let Some(held) = measure(pid).filter(|_| report.held_s > 0) {
            let cpu_ns = held.cpu_ns.saturating_sub(after.cpu_ns) as f64;
            report.resident_bytes_held = Some(held.resident_bytes);
            report.idle_ns_per_connection_s = Some(cpu_ns / count / report.held_s as f64);
        }
    }
    report.closed = run.open.iter().filter(|it| is_closed(it)).count();
    report.series = run.looks.into_iter().map(|it| it.0).collect();
    report.passed = report.failed_reason.is_none() && report.closed == 0;
    print(&report);
    idle.outputs.write_json(&report)?;
    idle.outputs.write_html(|| report.page())?;
    Ok(report.passed)
}

struct Run<'a> {
    idle: &'a Idle,
    target: Target,
    pid: u32,
    begun: Instant,
    open: Vec<TcpStream>,
    /// With the broker's CPU time until then.
    looks: Vec<(Look, u64)>,
}

impl Run<'_> {
    /// Opens everybody; looks at the broker in between.
    fn open(&mut self) -> Result<(), String> {
        let Idle { connections, topics, .. } = *self.idle;
        let step = connections.div_ceil(LOOKS);
        self.look();
        for topic in 0..topics {
            let until = (topic + 1) * connections / topics;
            let name = format!("idle/{topic}");
            while self.open.len() < until {
                let count = step.min(until - self.open.len());
                let role = Role::Subscriber(&name);
                let opened =
                    connect::connect(&self.target, self.idle.broker.protocol, role, self.open.len(), count)?;
                self.open.extend(opened.into_iter().map(|it| it.socket));
                let looked_at = self.looks.last().map_or(0, |it| it.0.connections);
                if self.open.len() >= looked_at + step {
                    self.look();
                }
                if INTERRUPTED.load(SeqCst) {
                    return Err("interrupted".to_owned());
                }
            }
        }
        self.look();
        Ok(())
    }

    /// Holds everybody; for how many seconds, which are fewer when it is interrupted or the broker ends.
    fn hold(&mut self) -> u64 {
        let mut keepalive = Vec::new();
        self.idle.broker.protocol.write_keepalive(&mut keepalive);
        for second in 0..self.idle.hold {
            thread::sleep(Duration::from_secs(1));
            let share = |second: u64| (second as usize) * self.open.len() / KEEPALIVE_S as usize;
            let turn = second % KEEPALIVE_S;
            for socket in &self.open[share(turn)..share(turn + 1)] {
                // One that has ended is counted at the end.
                let _ = (&*socket).write_all(&keepalive);
            }
            if !self.look() || INTERRUPTED.load(SeqCst) {
                return second;
            }
        }
        self.idle.hold
    }

    /// Whether the broker was there to be looked at.
    fn look(&mut self) -> bool {
        let (Some(resident_bytes), Some(cpu_ns)) =
            (process::resident_now_bytes(self.pid), process::cpu_ns(self.pid))
        else {
            return false;
        };
        let at_s = self.begun.elapsed().as_secs_f64();
        let cpu_share = self.looks.last().map_or(0.0, |(before, before_ns)| {
            cpu_ns.saturating_sub(*before_ns) as f64 / 1e9 / (at_s - before.at_s).max(1e-3)
        });
        let look = Look { at_s, connections: self.open.len(), resident_bytes, cpu_share };
        self.looks.push((look, cpu_ns));
        true
    }
}

/// The broker, counted exactly.
struct Measure {
    resident_bytes: u64,
    cpu_ns: u64,
}

fn measure(pid: u32) -> Option<Measure> {
    Some(Measure { resident_bytes: process::resident_bytes(pid)?, cpu_ns: process::cpu_ns(pid)? })
}

/// Whether the peer has hung up: everything that it sent before is read.
pub(super) fn is_closed(socket: &TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return true,
            Ok(_) => {}
            Err(error) => return error != Errno::WOULDBLOCK,
        }
    }
}
