//! What came of `idle`.

use std::fmt;

use serde::Serialize;

use super::{
    page::{Page, mib, unknown},
    plot::{self, Line},
};
use crate::{environment::Environment, output::thousands};

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct IdleReport {
    /// What was run, in a line.
    pub scenario: String,
    /// Whether everybody was subscribed and stayed.
    pub passed: bool,
    /// On what it was measured.
    pub environment: Environment,
    /// By flag, defaults included.
    pub parameters: Vec<(String, String)>,
    /// How many were opened and subscribed.
    pub connections: usize,
    /// Why there are no more, if there were to be.
    pub failed_reason: Option<String>,
    /// How many of them the broker had closed at the end.
    pub closed: usize,
    /// The broker's memory without them.
    pub resident_bytes_before: u64,
    /// And with them; absent if the broker was gone by then.
    pub resident_bytes_after: Option<u64>,
    /// The difference for each.
    pub bytes_per_connection: Option<f64>,
    /// The broker's CPU time per upgrade and subscription.
    pub cpu_us_per_connection: Option<f64>,
    /// How long they were held after that, in seconds.
    pub held_s: u64,
    /// The broker's memory at the end of that.
    pub resident_bytes_held: Option<u64>,
    /// The broker's CPU time per second and connection while they were idle.
    pub idle_ns_per_connection_s: Option<f64>,
    /// The broker as the run went on.
    pub series: Vec<Look>,
}

/// The broker at an instant.
#[derive(Clone, Debug, Serialize)]
pub struct Look {
    /// Seconds from the start.
    pub at_s: f64,
    /// Connections that were open.
    pub connections: usize,
    /// Resident memory, to some pages.
    pub resident_bytes: u64,
    /// CPU time since the look before, as a share of one core.
    pub cpu_share: f64,
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.resident_bytes_before / 1024;
        write!(f, "{}: ", self.scenario)?;
        match (self.bytes_per_connection, self.resident_bytes_after) {
            (Some(each), Some(after)) => {
                write!(f, "{each:.0} B each ({before} → {} KiB resident)", after / 1024)?;
            }
            _ => write!(f, "{} connections were open, {before} KiB resident before", self.connections)?,
        }
        if let Some(us) = self.cpu_us_per_connection {
            write!(f, "; upgrade and subscription {us:.1} µs CPU each")?;
        }
        if let (Some(bytes), Some(ns)) = (self.resident_bytes_held, self.idle_ns_per_connection_s) {
            write!(
                f,
                "\n  held for {} s: {} KiB resident, {ns:.0} ns CPU per connection and second",
                self.held_s,
                bytes / 1024
            )?;
        }
        if let Some(reason) = &self.failed_reason {
            write!(f, "\n  {reason}")?;
        }
        if self.closed > 0 {
            write!(f, "\n  {} of {} were closed by the broker", self.closed, self.connections)?;
        }
        write!(f, "\n  {}", if self.passed { "PASS: everybody was subscribed and stayed" } else { "FAIL" })
    }
}

impl IdleReport {
    /// As a page.
    pub fn page(&self) -> String {
        let verdict = if self.passed { "Passed: everybody was subscribed and stayed" } else { "Failed" };
        let mut page = Page::new(&self.scenario, self.passed, verdict);
        if let Some(reason) = &self.failed_reason {
            page.bad_note(reason);
        }
        if self.closed > 0 {
            page.bad_note(&format!("{} of {} were closed by the broker", self.closed, self.connections));
        }
        let with = |unit: &str, value: Option<f64>, digits: usize| {
            value.map_or_else(unknown, |it| format!("{it:.digits$} <small>{unit}</small>"))
        };
        page.tiles(&[
            ("connections", thousands(self.connections as f64)),
            ("broker memory for each", with("bytes", self.bytes_per_connection, 0)),
            ("broker memory before", mib(self.resident_bytes_before)),
            ("broker memory with them", self.resident_bytes_after.map_or_else(unknown, mib)),
            ("broker CPU per upgrade and subscription", with("µs", self.cpu_us_per_connection, 1)),
            ("broker CPU per idle connection and second", with("ns", self.idle_ns_per_connection_s, 0)),
        ]);
        page.figures(&self.figures());
        let more = [("Held", format!("{} s", self.held_s))];
        page.environment(&self.environment, &more, &self.parameters);
        page.finish()
    }

    fn figures(&self) -> Vec<(String, String)> {
        let plot = |value: &dyn Fn(&Look) -> f64, unit| {
            let points = self.series.iter().map(|it| (it.at_s, Some(value(it)))).collect();
            plot::lines(&[Line { name: String::new(), points }], unit, false, f64::INFINITY)
        };
        let mib = |it: &Look| it.resident_bytes as f64 / (1 << 20) as f64;
        vec![
            ("Connections".to_owned(), plot(&|it| it.connections as f64, "open")),
            ("Broker memory".to_owned(), plot(&mib, "MiB resident")),
            ("Broker CPU".to_owned(), plot(&|it| it.cpu_share * 100.0, "% of a core")),
        ]
    }
}
