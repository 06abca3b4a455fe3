//! A report for a terminal.

use std::fmt;

use super::{Report, TopicReport, soak::SoakReport};
use crate::output::thousands;

/// Losses that are printed one by one; the JSON and the page have more.
const LOSSES_PRINTED: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {:.1} s measured", self.scenario, self.measured_s)?;
        if let Some(at_s) = self.ended_early_s {
            writeln!(f, "  ENDED EARLY, {at_s:.1} s after the start: what follows is what came until then")?;
        }
        self.topics.iter().try_for_each(|it| write_topic(f, it))?;
        self.write_costs(f)?;
        if let Some(reason) = &self.broken_reason {
            write!(f, "\n  {} connections ended: {reason}", self.broken_connections)?;
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        let soak = self.soak.as_ref().map(SoakReport::section);
        let sections = [self.losses_section(LOSSES_PRINTED), soak, self.tries_section()];
        if sections.iter().any(Option::is_some) {
            writeln!(f)?;
        }
        for section in sections.iter().flatten() {
            write!(f, "\n{section}")?;
        }
        write!(f, "\n  {}", if self.passed { self.good_verdict() } else { "FAIL" })
    }
}

fn write_topic(f: &mut fmt::Formatter<'_>, topic: &TopicReport) -> fmt::Result {
    let TopicReport { name, subscribers, latency_ms: latency, faults, .. } = topic;
    let topics = if topic.topics > 1 { format!("{} topics, ", topic.topics) } else { String::new() };
    writeln!(
        f,
        "  {name}: {topics}{subscribers} subscribers ({} verified by content), {} publications, \
         {} deliveries/s of {:.0} B",
        topic.sampled,
        topic.published,
        thousands(topic.deliveries_per_s),
        topic.delivery_bytes
    )?;
    writeln!(
        f,
        "    latency from due, ms: p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}",
        latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    )?;
    writeln!(
        f,
        "    lost {}  duplicated {}  reordered {}  corrupted {}  gaps announced {}",
        faults.lost, faults.duplicated, faults.reordered, faults.corrupted, topic.gaps
    )?;
    if topic.is_conflated {
        let rule =
            "conflated: the order had to rise and the newest to come; who is not sampled was not checked";
        writeln!(f, "    {rule}")?;
    } else if !topic.sinks_are_exact {
        let doubt = "its frames hold packets as it pleases the broker, so that those who are not sampled \
                     are counted by bytes to within a frame header per delivery";
        writeln!(f, "    {doubt}")?;
    }
    Ok(())
}

impl Report {
    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  broker:")?;
        match (self.broker_ns_per_delivery, self.broker_cpu_share) {
            (Some(ns), Some(share)) => {
                write!(f, " {ns:.1} ns CPU per delivery, {:.1} % of a core", share * 100.0)?;
            }
            (None, Some(share)) => write!(f, " {:.1} % of a core", share * 100.0)?,
            _ => write!(f, " CPU unknown (--pid)")?,
        }
        if let Some(share) = self.broker.as_ref().and_then(|broker| broker.user_share) {
            write!(f, " ({:.0} % of it user)", share * 100.0)?;
        }
        if let Some(bytes) = self.broker_resident_bytes {
            write!(f, ", {:.1} MiB resident", bytes as f64 / (1 << 20) as f64)?;
        }
        if let Some(broker) = &self.broker {
            let calls = broker.system_calls_per_delivery.map_or_else(
                || "system calls unknown (--metrics; /proc does not count them)".to_owned(),
                |it| format!("{it:.5} system calls"),
            );
            write!(
                f,
                "\n          per delivery: {:.5} voluntary and {:.5} involuntary context switches, {calls}",
                broker.voluntary_switches_per_delivery, broker.involuntary_switches_per_delivery
            )?;
        }
        write!(f, "\n  client: {:.1} % of a core", self.client_cpu_share * 100.0)?;
        if self.client_threads.len() > 1 {
            let shares = self.client_threads.iter().map(|it| format!("{:.0} %", it.1 * 100.0));
            write!(f, ", by thread {}", shares.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}
