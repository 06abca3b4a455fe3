//! A report for a terminal.

use std::fmt;

use super::{Broke, Report, TopicReport, Try};
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
        self.write_losses(f)?;
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        if let Some(soak) = &self.soak {
            write!(f, "{soak}")?;
        }
        if !self.tries.is_empty() {
            write_tries(f, &self.tries)?;
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

fn write_tries(f: &mut fmt::Formatter<'_>, tries: &[Try]) -> fmt::Result {
    write!(
        f,
        "\n  {:>10} {:>14} {:>10} {:>8} {:>8} {:>8}",
        "pub/s", "deliveries/s", "p99 ms", "lost", "broker", "client"
    )?;
    let mut sorted: Vec<&Try> = tries.iter().collect();
    sorted.sort_by_key(|it| it.rate);
    for it in sorted {
        let broker = it.broker_cpu_share.map_or("?".to_owned(), |share| format!("{:.0} %", share * 100.0));
        write!(
            f,
            "\n  {:>10} {:>14} {:>10.2} {:>8} {broker:>8} {:>6.0} %  {}",
            it.rate,
            thousands(it.deliveries_per_s),
            it.p99_ms,
            it.lost,
            it.client_cpu_share * 100.0,
            it.broke.map_or("held", Broke::as_str)
        )?;
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

    fn write_losses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for loss in self.losses.iter().take(LOSSES_PRINTED) {
            let faults = &loss.faults;
            write!(f, "\n  subscriber {} of {}:", loss.subscriber, loss.topic)?;
            for (name, count) in [
                ("lost", faults.lost),
                ("duplicated", faults.duplicated),
                ("reordered", faults.reordered),
                ("corrupted", faults.corrupted),
                ("gaps announced", loss.gaps),
            ] {
                if count > 0 {
                    write!(f, " {count} {name}")?;
                }
            }
            if let Some(first) = loss.first_missing {
                write!(f, ", the first that is missing is number {first}")?;
            }
            if !loss.is_sampled {
                write!(f, ", by its bytes")?;
            }
        }
        let more = self.losses.len().saturating_sub(LOSSES_PRINTED) as u64 + self.losses_omitted;
        if more > 0 { write!(f, "\n  … and {more} more subscribers") } else { Ok(()) }
    }
}
