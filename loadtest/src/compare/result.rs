//! What a comparison found out, round by round, as `--json` writes it.

use serde::Serialize;

use crate::dialect::Dialect;

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// How it was started.
    pub command: String,
    /// Kernel, processor, cores.
    pub machine: String,
    /// Of broker and client among everything else on the machine.
    pub priority: Priority,
    /// Subscribers of the topic.
    pub subscribers: u64,
    /// Bytes of a publication's data.
    pub size: u64,
    /// Idle connections.
    pub connections: u64,
    /// Whether every round of every broker that could be started was run.
    pub is_complete: bool,
    /// How long it took.
    pub elapsed_s: f64,
    /// What there was no time for.
    pub cut: Vec<String>,
    /// In the order of the file, and the floor.
    pub brokers: Vec<BrokerResult>,
}

/// Before whom broker and client run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Nobody in particular.
    Usual,
    /// nice -20.
    Nice,
    /// SCHED_FIFO.
    RealTime,
}

/// One broker's.
#[derive(Clone, Debug, Serialize)]
pub struct BrokerResult {
    /// Its name.
    pub name: String,
    /// How it was spoken with; `None`: the floor.
    pub protocol: Option<Dialect>,
    /// As it tells it.
    pub version: String,
    /// Why it was not measured, or not to the end.
    pub trouble: Option<Trouble>,
    /// What was measured.
    pub rounds: Vec<Round>,
}

/// Why a broker was not measured, or not to the end.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// It is not installed.
    Skipped(String),
    /// It did not start, or died.
    Failed(String),
}

/// One round of one broker.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Round {
    /// Connections that subscribe and do nothing.
    pub idle: Option<Idle>,
    /// 100 publications per second.
    pub calm: Option<Step>,
    /// 1,000 publications per second.
    pub paced: Option<Step>,
    /// 1,000 topics with a publisher and a subscriber each, 40,000 publications per second.
    pub pairs: Option<Step>,
    /// 100 topics with a publisher and ten subscribers each, 5,000 publications per second.
    pub rooms: Option<Step>,
    /// 1,000 publishers on one topic with two subscribers, 20,000 publications per second.
    pub fan_in: Option<Step>,
    /// The highest rate that held.
    pub knee: Option<Step>,
    /// Whether the client, not the broker, was at its limit where the next rate did not hold, or
    /// whether there was no next rate.
    pub knee_is_least: bool,
    /// Rates that seemed spoilt, and for whose second try there was no time.
    pub retries_cut: usize,
    /// What did not go as it should.
    pub notes: Vec<String>,
}

impl Round {
    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        let steps = [&self.calm, &self.paced, &self.pairs, &self.rooms, &self.fan_in, &self.knee];
        self.idle.is_none() && steps.into_iter().all(Option::is_none)
    }
}

/// Connections that subscribe and do nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Resident memory of the broker for each.
    pub bytes_per_connection: f64,
    /// CPU time of the broker for each: upgrade, the protocol's greeting, subscription.
    pub upgrade_us: f64,
    /// How many were opened per second, by a client that keeps 100 under way.
    pub upgrades_per_s: f64,
}

/// One run at a steady rate.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Publications per second.
    pub rate: u64,
    /// Deliveries per second.
    pub deliveries_per_s: f64,
    /// CPU time of the broker per delivery.
    pub ns_per_delivery: f64,
    /// Half are faster.
    pub p50_ms: f64,
    /// 99 % are faster.
    pub p99_ms: f64,
    /// 99.9 % are faster.
    pub p999_ms: f64,
    /// The broker's CPU time as a share of its core.
    pub broker_cpu_share: f64,
    /// The client's CPU time as a share of its core.
    pub client_cpu_share: f64,
    /// Whether everybody got everything, once and in order.
    pub is_clean: bool,
}
