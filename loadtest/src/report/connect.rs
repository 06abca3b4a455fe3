//! What came of `connect`.

use std::fmt;

use serde::Serialize;

use super::{
    Latency,
    page::{Page, ms, percent, unknown},
    plot::{self, Line},
};
use crate::{environment::Environment, output::thousands};

/// Above this share of its core the client may be what was measured.
const CLIENT_CPU_SHARE_MAX: f64 = 0.9;

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectReport {
    /// What was run, in a line.
    pub scenario: String,
    /// Whether everybody was upgraded.
    pub passed: bool,
    /// On what it was measured.
    pub environment: Environment,
    /// By flag, defaults included.
    pub parameters: Vec<(String, String)>,
    /// How many succeeded.
    pub upgrades: u64,
    /// How many did not.
    pub failed: u64,
    /// Why the first of them did not.
    pub failed_reason: Option<String>,
    /// From the first that was due to the last that was done.
    pub elapsed_s: f64,
    /// Over that time.
    pub upgrades_per_s: f64,
    /// From due to upgraded.
    pub latency_ms: Latency,
    /// The same by bucket: its upper bound in milliseconds and how many.
    pub histogram: Vec<(f64, u64)>,
    /// The broker's CPU time, each connection's close included.
    pub broker_cpu_us_per_upgrade: Option<f64>,
    /// This program's CPU time as a share of one core.
    pub client_cpu_share: f64,
    /// By slice of the run.
    pub series: Vec<Slice>,
}

/// A part of the run.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// Its middle, in seconds from the start.
    pub at_s: f64,
    /// Over its length.
    pub upgrades_per_s: f64,
    /// Latencies of what was upgraded in it; absent if nothing was.
    pub p50_ms: Option<f64>,
    /// 99 % are faster.
    pub p99_ms: Option<f64>,
    /// The slowest.
    pub max_ms: Option<f64>,
    /// The broker's CPU time as a share of one core.
    pub broker_cpu_share: Option<f64>,
}

impl fmt::Display for ConnectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnectReport { scenario, upgrades, elapsed_s, failed, latency_ms: latency, .. } = self;
        let rate = thousands(self.upgrades_per_s);
        writeln!(
            f,
            "{scenario}: {upgrades} upgrades in {elapsed_s:.2} s, {rate} per second, {failed} failed"
        )?;
        writeln!(
            f,
            "  from due to upgraded, ms: p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}",
            latency.p50, latency.p90, latency.p99, latency.p999, latency.max
        )?;
        match self.broker_cpu_us_per_upgrade {
            Some(us) => write!(f, "  broker: {us:.1} µs CPU per upgrade, its close included")?,
            None => write!(f, "  broker: CPU unknown (--pid)")?,
        }
        writeln!(f, "; client: {:.1} % of a core", self.client_cpu_share * 100.0)?;
        if let Some(reason) = &self.failed_reason {
            writeln!(f, "  the first that failed: {reason}")?;
        }
        if let Some(note) = self.client_note() {
            writeln!(f, "  note: {note}")?;
        }
        write!(f, "  {}", if self.passed { "PASS: everybody was upgraded" } else { "FAIL" })
    }
}

impl ConnectReport {
    fn client_note(&self) -> Option<String> {
        let share = self.client_cpu_share;
        (share > CLIENT_CPU_SHARE_MAX)
            .then(|| format!("this client was {:.0} % busy: it may be what was measured", share * 100.0))
    }

    /// As a page.
    pub fn page(&self) -> String {
        let verdict = if self.passed { "Passed: everybody was upgraded" } else { "Failed" };
        let mut page = Page::new(&self.scenario, self.passed, verdict);
        if let Some(reason) = &self.failed_reason {
            page.bad_note(&format!("{} failed. The first: {reason}", self.failed));
        }
        if let Some(note) = self.client_note() {
            page.note(&note);
        }
        let us = |it: f64| format!("{it:.1} <small>µs</small>");
        page.tiles(&[
            ("upgrades per second", thousands(self.upgrades_per_s)),
            ("latency p50", ms(self.latency_ms.p50)),
            ("latency p99", ms(self.latency_ms.p99)),
            ("slowest", ms(self.latency_ms.max)),
            ("broker CPU per upgrade", self.broker_cpu_us_per_upgrade.map_or_else(unknown, us)),
            ("client CPU", percent(self.client_cpu_share)),
            ("failed", thousands(self.failed as f64)),
        ]);
        page.figures(&self.figures());
        page.html(
            "<p>An upgrade counts from the instant at which it was due to the last byte of the broker's 101, \
             the TCP handshake included.</p>\n",
        );
        let more = [("Upgrades", format!("{} in {:.2} s", self.upgrades, self.elapsed_s))];
        page.environment(&self.environment, &more, &self.parameters);
        page.finish()
    }

    fn figures(&self) -> Vec<(String, String)> {
        let line = |name: &str, value: &dyn Fn(&Slice) -> Option<f64>| Line {
            name: name.to_owned(),
            points: self.series.iter().map(|it| (it.at_s, value(it))).collect(),
        };
        let over_time = |lines: &[Line], unit, is_log| plot::lines(lines, unit, is_log, f64::INFINITY);
        let latency =
            [line("p50", &|it| it.p50_ms), line("p99", &|it| it.p99_ms), line("max", &|it| it.max_ms)];
        let Latency { p50, p99, p999, .. } = self.latency_ms;
        let marks = [("p50", p50), ("p99", p99), ("p99.9", p999)];
        let mut figures = vec![
            ("Upgrades", over_time(&[line("", &|it| Some(it.upgrades_per_s))], "upgrades/s", false)),
            ("Latency", over_time(&latency, "milliseconds", true)),
            ("Latency histogram", plot::bars(&self.histogram, "milliseconds", &marks)),
        ];
        if self.broker_cpu_us_per_upgrade.is_some() {
            let cpu = line("", &|it| it.broker_cpu_share.map(|it| it * 100.0));
            figures.push(("Broker CPU", over_time(&[cpu], "% of a core", false)));
        }
        figures.into_iter().map(|(title, svg)| (title.to_owned(), svg)).collect()
    }
}
