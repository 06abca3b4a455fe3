//! What a run prints and writes.

pub mod connect;
pub mod hostile;
mod html;
pub mod idle;
mod others;
mod page;
mod plot;
pub mod resume;
pub mod retained;
pub mod section;
pub mod soak;
pub mod stalled;
mod tables;
mod text;

use hdrhistogram::Histogram;
use serde::Serialize;

pub use html::page;
use soak::SoakReport;

use crate::{
    broker::{BrokerSample, LongTurns},
    client::{GroupOutcome, Loss, Outcome, Row, busiest},
    environment::Environment,
    verify::Faults,
};

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which scenario.
    pub scenario: String,
    /// Whether everybody got everything, once and in order.
    pub passed: bool,
    /// On what it was measured.
    pub environment: Environment,
    /// By flag, defaults included.
    pub parameters: Vec<(String, String)>,
    /// How long was measured, in seconds.
    pub measured_s: f64,
    /// When it ended before its time: seconds since the start.
    pub ended_early_s: Option<f64>,
    /// By topic, or by group of topics.
    pub topics: Vec<TopicReport>,
    /// All topics together.
    pub deliveries_per_s: f64,
    /// The broker's CPU time per delivery.
    pub broker_ns_per_delivery: Option<f64>,
    /// The broker's CPU time as a share of one core.
    pub broker_cpu_share: Option<f64>,
    /// For how much of the time its busiest thread was ready to run and had no processor.
    pub broker_waiting_share: Option<f64>,
    /// The broker's resident memory at the end.
    pub broker_resident_bytes: Option<u64>,
    /// More of what the broker took.
    pub broker: Option<BrokerReport>,
    /// This program's CPU time as a share of one core: near 1.0 per core it is what was measured.
    pub client_cpu_share: f64,
    /// By thread: its core, if it is pinned, and its share of it.
    pub client_threads: Vec<(Option<usize>, f64)>,
    /// Connections that ended by themselves.
    pub broken_connections: u64,
    /// Why the first of them did.
    pub broken_reason: Option<String>,
    /// The first subscribers that did not get everything right.
    pub losses: Vec<Loss>,
    /// How many more there are.
    pub losses_omitted: u64,
    /// What whoever reads the figures must know.
    pub notes: Vec<String>,
    /// By second.
    pub series: Vec<Row>,
    /// The rates that `--find-max` tried, in that order.
    pub tries: Vec<Try>,
    /// Of a soak, what came of it besides.
    pub soak: Option<SoakReport>,
}

/// More of what the broker took, while it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BrokerReport {
    /// The part of its CPU time in user mode; unknown where all of it is too few of the kernel's ticks to tell.
    pub user_share: Option<f64>,
    /// Context switches per delivery, because it had to wait.
    pub voluntary_switches_per_delivery: f64,
    /// Context switches per delivery, because another was to run.
    pub involuntary_switches_per_delivery: f64,
    /// System calls per delivery: fanfare's turns, from its metrics. /proc counts none but read and write.
    pub system_calls_per_delivery: Option<f64>,
}

/// Turns that were longer than a bound of the broker's histogram.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Turns {
    /// The bound, in milliseconds.
    pub over_ms: f64,
    /// How many were longer.
    pub count: u64,
}

/// One rate that `--find-max` tried.
#[derive(Clone, Debug, Serialize)]
pub struct Try {
    /// Publications per second.
    pub rate: u64,
    /// Deliveries per second that came.
    pub deliveries_per_s: f64,
    /// The worst group's.
    pub p99_ms: f64,
    /// Publications that never came.
    pub lost: u64,
    /// The broker's CPU time as a share of one core.
    pub broker_cpu_share: Option<f64>,
    /// This program's.
    pub client_cpu_share: f64,
    /// Whether it held: no loss, and p99 within the bound.
    pub held: bool,
    /// Otherwise, what gave way first.
    pub broke: Option<Broke>,
}

/// Why a rate did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Broke {
    /// Connections ended.
    Connections,
    /// Something was lost, or had not come when patience was over, or was not right.
    Loss,
    /// p99, with the broker at work all the time.
    P99,
    /// p99 or a loss, with this client at work all the time: it says nothing about the broker.
    Client,
    /// p99, with neither at work all the time: something else on the machine was.
    Machine,
}

impl Broke {
    /// As a table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Broke::Connections => "connections ended",
            Broke::Loss => "loss",
            Broke::P99 => "p99",
            Broke::Client => "the client's limit",
            Broke::Machine => "p99, with nobody busy",
        }
    }
}

/// One topic of a run, or a group of topics.
#[derive(Clone, Debug, Serialize)]
pub struct TopicReport {
    /// Its name.
    pub name: String,
    /// How many topics it is.
    pub topics: usize,
    /// How many subscribers it had.
    pub subscribers: usize,
    /// How many of them were verified by content.
    pub sampled: usize,
    /// Publications, warm-up included.
    pub published: u64,
    /// Deliveries per second while it was measured.
    pub deliveries_per_s: f64,
    /// Bytes of one delivery on the wire.
    pub delivery_bytes: f64,
    /// Latencies in milliseconds.
    pub latency_ms: Latency,
    /// Latencies in milliseconds, by bucket: its upper bound and how many. From the instant that a
    /// publication was due, so that nothing is left out while the broker keeps others waiting.
    pub histogram: Vec<(f64, u64)>,
    /// What went wrong.
    pub faults: Faults,
    /// Losses that the broker announced.
    pub gaps: u64,
    /// Whether those that are not sampled were checked to the byte, or only roughly: see
    /// [`GroupOutcome::sinks_are_exact`].
    pub sinks_are_exact: bool,
    /// Whether only the newest had to come to whoever was behind; who is not sampled was not checked.
    pub is_conflated: bool,
}

/// Percentiles, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// 90 % are faster.
    pub p90: f64,
    /// 99 % are faster.
    pub p99: f64,
    /// 99.9 % are faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// What a group is, before anything is known of it.
#[derive(Clone, Debug)]
pub struct GroupShape {
    /// Its name.
    pub name: String,
    /// How many topics it is.
    pub topics: usize,
    /// How many subscribers it has.
    pub subscribers: usize,
    /// How many of them are sampled.
    pub sampled: usize,
}

impl Report {
    /// From what a run found out.
    pub fn new(
        scenario: &str,
        environment: Environment,
        parameters: Vec<(String, String)>,
        outcome: Outcome,
        shapes: &[GroupShape],
        broker_resident_bytes: Option<u64>,
    ) -> Report {
        // A run that ended before it was measured has no rates; what it counts is zero.
        let measured_s = outcome.measured_s.max(1e-3);
        let deliveries: f64 = outcome.groups.iter().map(|it| it.deliveries).sum();
        let topics: Vec<TopicReport> = outcome
            .groups
            .iter()
            .zip(shapes)
            .map(|(group, shape)| TopicReport::new(group, shape, measured_s))
            .collect();
        let broker_waiting_share = outcome.usage.broker_waiting_share();
        let broker = outcome.usage.broker;
        // Each over its own time: a broker that died was looked at for less than was measured.
        let deliveries_per_s = deliveries / measured_s;
        let broker_s = outcome.usage.broker_s.max(1e-3);
        let cpu_share = broker
            .as_ref()
            .map(|(before, after)| after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e9 / broker_s);
        let mut report = Report {
            scenario: scenario.to_owned(),
            passed: false,
            environment,
            parameters,
            measured_s: outcome.measured_s,
            ended_early_s: outcome.ended_early_s,
            topics,
            deliveries_per_s,
            broker_ns_per_delivery: cpu_share
                .filter(|_| deliveries >= 1.0)
                .map(|it| it * 1e9 / deliveries_per_s),
            broker_cpu_share: cpu_share,
            broker_waiting_share,
            broker_resident_bytes,
            broker: broker
                .map(|(before, after)| BrokerReport::new(&before, &after, deliveries_per_s * broker_s)),
            client_cpu_share: outcome.usage.client_cpu_share,
            client_threads: outcome.usage.threads,
            broken_connections: outcome.broken.0,
            broken_reason: outcome.broken.1,
            losses: outcome.losses,
            losses_omitted: outcome.losses_omitted,
            notes: outcome.notes,
            series: outcome.series,
            tries: Vec::new(),
            soak: None,
        };
        report.passed = report.is_clean();
        report
    }

    /// Whether everybody got everything, once and in order.
    pub fn is_clean(&self) -> bool {
        self.broken_connections == 0
            && self.ended_early_s.is_none()
            && self.topics.iter().all(|it| it.faults.is_clean() && (it.gaps == 0 || it.is_conflated))
    }

    /// What a run that passed was held to.
    fn good_verdict(&self) -> &'static str {
        match self.topics.iter().any(|it| it.is_conflated) {
            true => "PASS: the newest came, and the order rose",
            false => "PASS: everything came, once and in order",
        }
    }

    /// The worst group's p99.
    pub fn p99_ms(&self) -> f64 {
        self.topics.iter().map(|it| it.latency_ms.p99).fold(0.0, f64::max)
    }

    /// The busiest core of this program, or thread if it is not pinned, as a share of a core.
    pub fn client_busiest_share(&self) -> f64 {
        busiest(&self.client_threads).map_or(0.0, |it| it.1)
    }

    /// What never came.
    pub fn lost(&self) -> u64 {
        self.topics.iter().map(|it| it.faults.lost).sum()
    }
}

impl TopicReport {
    fn new(group: &GroupOutcome, shape: &GroupShape, measured_s: f64) -> TopicReport {
        TopicReport {
            name: shape.name.clone(),
            topics: shape.topics,
            subscribers: shape.subscribers,
            sampled: shape.sampled,
            published: group.published,
            deliveries_per_s: group.deliveries / measured_s,
            delivery_bytes: group.delivery_bytes,
            latency_ms: Latency::of_histogram(&group.latency),
            histogram: buckets(&group.latency),
            faults: group.faults,
            gaps: group.gaps,
            sinks_are_exact: group.sinks_are_exact,
            is_conflated: group.is_conflated,
        }
    }
}

impl Latency {
    /// Of a histogram in nanoseconds.
    pub fn of_histogram(histogram: &Histogram<u64>) -> Latency {
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        Latency {
            p50: ms(0.5),
            p90: ms(0.9),
            p99: ms(0.99),
            p999: ms(0.999),
            max: histogram.max() as f64 / 1e6,
        }
    }
}

impl Turns {
    /// Those that there were more afterwards.
    pub fn between(before: LongTurns, after: LongTurns) -> Turns {
        Turns { over_ms: after.over_s * 1e3, count: after.count.saturating_sub(before.count) }
    }
}

/// The middle one, or the mean of the middle two; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// In milliseconds, upper bound and count, eight buckets to a doubling.
pub fn buckets(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let buckets = histogram.iter_log(1_000, 2f64.powf(0.125));
    let counted = buckets.map(|it| (it.value_iterated_to() as f64 / 1e6, it.count_since_last_iteration()));
    counted.filter(|it| it.1 > 0).collect()
}

impl BrokerReport {
    fn new(before: &BrokerSample, after: &BrokerSample, deliveries: f64) -> BrokerReport {
        /// Of a hundredth of a second each.
        const TICKS_MIN: f64 = 20.0;
        let user = after.ticks.0.saturating_sub(before.ticks.0) as f64;
        let system = after.ticks.1.saturating_sub(before.ticks.1) as f64;
        let per_delivery =
            |before: u64, after: u64| after.saturating_sub(before) as f64 / deliveries.max(1.0);
        BrokerReport {
            user_share: (user + system >= TICKS_MIN).then(|| user / (user + system)),
            voluntary_switches_per_delivery: per_delivery(before.switches.0, after.switches.0),
            involuntary_switches_per_delivery: per_delivery(before.switches.1, after.switches.1),
            system_calls_per_delivery: before.turns.zip(after.turns).map(|it| per_delivery(it.0, it.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![3.0, 1.0, 9.0, 5.0]), 4.0);
    }
}
