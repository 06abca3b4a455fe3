//! What a run prints and writes.

use std::fmt;

use serde::Serialize;

use crate::{
    client::{Outcome, Times, TopicOutcome},
    verify::Faults,
};

/// One run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which scenario.
    pub scenario: String,
    /// How long was measured, in seconds.
    pub measured_s: f64,
    /// By topic.
    pub topics: Vec<TopicReport>,
    /// All topics together.
    pub deliveries_per_s: f64,
    /// The broker's CPU time per delivery.
    pub broker_ns_per_delivery: Option<f64>,
    /// The broker's CPU time as a share of one core.
    pub broker_cpu_share: Option<f64>,
    /// The broker's resident memory at the end.
    pub broker_resident_bytes: Option<u64>,
    /// This program's CPU time as a share of one core: near 1.0 per core it is what was measured.
    pub client_cpu_share: f64,
    /// Connections that ended by themselves.
    pub broken_connections: u64,
    /// Why the first of them did.
    pub broken_reason: Option<String>,
}

/// One topic of a run.
#[derive(Debug, Serialize)]
pub struct TopicReport {
    /// Its name.
    pub name: String,
    /// How many subscribers it had.
    pub subscribers: usize,
    /// Publications, warm-up included.
    pub published: u64,
    /// Deliveries per second while it was measured.
    pub deliveries_per_s: f64,
    /// Bytes of one delivery on the wire.
    pub delivery_bytes: f64,
    /// Latencies in milliseconds.
    pub latency_ms: Latency,
    /// What went wrong.
    pub faults: Faults,
    /// Losses that the broker announced.
    pub gaps: u64,
    /// Whether those that are not sampled were checked to the byte, or only roughly: see
    /// [`TopicOutcome::sinks_are_exact`].
    pub sinks_are_exact: bool,
}

/// Percentiles, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// 99 % are faster.
    pub p99: f64,
    /// 99.9 % are faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Report {
    /// From what a run found out. `names` has each topic's name and number of subscribers.
    pub fn new(
        scenario: &str,
        times: &Times,
        outcome: Outcome,
        names: &[(String, usize)],
        broker_resident_bytes: Option<u64>,
    ) -> Report {
        let measured_s = times.measured_s();
        let deliveries: f64 = outcome.topics.iter().map(|it| it.deliveries).sum();
        let topics = outcome.topics.iter().zip(names).map(|(topic, (name, subscribers))| TopicReport {
            name: name.clone(),
            subscribers: *subscribers,
            published: topic.published,
            deliveries_per_s: topic.deliveries / measured_s,
            delivery_bytes: topic.delivery_bytes,
            latency_ms: Latency::of(topic),
            faults: topic.faults,
            gaps: topic.gaps,
            sinks_are_exact: topic.sinks_are_exact,
        });
        Report {
            scenario: scenario.to_owned(),
            measured_s,
            topics: topics.collect(),
            deliveries_per_s: deliveries / measured_s,
            broker_ns_per_delivery: outcome.broker_cpu_ns.map(|it| it as f64 / deliveries.max(1.0)),
            broker_cpu_share: outcome.broker_cpu_ns.map(|it| it as f64 / 1e9 / measured_s),
            broker_resident_bytes,
            client_cpu_share: outcome.client_cpu_share,
            broken_connections: outcome.broken.0,
            broken_reason: outcome.broken.1,
        }
    }

    /// Whether everybody got everything, once and in order.
    pub fn is_clean(&self) -> bool {
        self.broken_connections == 0 && self.topics.iter().all(|it| it.faults.is_clean() && it.gaps == 0)
    }
}

impl Latency {
    fn of(topic: &TopicOutcome) -> Latency {
        let ms = |quantile| topic.latency.value_at_quantile(quantile) as f64 / 1e6;
        Latency { p50: ms(0.5), p99: ms(0.99), p999: ms(0.999), max: topic.latency.max() as f64 / 1e6 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {:.1} s measured", self.scenario, self.measured_s)?;
        for topic in &self.topics {
            let TopicReport { name, subscribers, latency_ms: latency, faults, .. } = topic;
            writeln!(
                f,
                "  {name}: {subscribers} subscribers, {} publications, {:.0} deliveries/s of {:.0} B",
                topic.published, topic.deliveries_per_s, topic.delivery_bytes
            )?;
            writeln!(
                f,
                "    latency ms: p50 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}",
                latency.p50, latency.p99, latency.p999, latency.max
            )?;
            writeln!(
                f,
                "    lost {}  duplicated {}  reordered {}  corrupted {}  gaps announced {}",
                faults.lost, faults.duplicated, faults.reordered, faults.corrupted, topic.gaps
            )?;
            if !topic.sinks_are_exact {
                let doubt = "its frames hold packets as it pleases the broker, so that those who are \
                             not sampled are counted by bytes to within a frame header per delivery";
                writeln!(f, "    {doubt}")?;
            }
        }
        write!(f, "  broker:")?;
        match (self.broker_ns_per_delivery, self.broker_cpu_share) {
            (Some(ns), Some(share)) => {
                write!(f, " {ns:.1} ns CPU per delivery, {:.1} % of a core", share * 100.0)?
            }
            _ => write!(f, " CPU unknown (--pid)")?,
        }
        if let Some(bytes) = self.broker_resident_bytes {
            write!(f, ", {:.1} MiB resident", bytes as f64 / (1 << 20) as f64)?;
        }
        write!(f, "; client: {:.1} % of a core", self.client_cpu_share * 100.0)?;
        if let Some(reason) = &self.broken_reason {
            write!(f, "\n  {} connections ended: {reason}", self.broken_connections)?;
        }
        Ok(())
    }
}
