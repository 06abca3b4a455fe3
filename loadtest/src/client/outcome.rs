//! What a run found out, from what its threads did.

use std::sync::atomic::Ordering::SeqCst;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    monitor::{Row, Usage},
    plan::Topic,
    receiver::{Receiver, Tracked},
    series::fine_histogram,
    shared::Shared,
    worker::WorkerResult,
};
use crate::{dialect::Dialect, verify::Faults};

/// Of a frame from a server.
const FRAME_HEADER_BYTES_MAX: u64 = 10;
/// Losses that are listed one by one.
const LOSSES_MAX: usize = 50;

/// What a run found out.
#[derive(Debug)]
pub struct Outcome {
    /// By group.
    pub groups: Vec<GroupOutcome>,
    /// What the first subscribers with faults lost.
    pub losses: Vec<Loss>,
    /// How many more there are.
    pub losses_omitted: u64,
    /// How long was measured, in seconds: less than planned if it ended early.
    pub measured_s: f64,
    /// When it ended early: seconds since the start.
    pub ended_early_s: Option<f64>,
    /// By second.
    pub series: Vec<Row>,
    /// What it took while it was measured.
    pub usage: Usage,
    /// Connections that ended, with the first one's reason.
    pub broken: (u64, Option<String>),
    /// What whoever reads the figures must know.
    pub notes: Vec<String>,
}

/// What a run found out about one group of topics.
#[derive(Debug)]
pub struct GroupOutcome {
    /// Subscriptions.
    pub subscriptions: usize,
    /// From due to received, in nanoseconds, of publications due while it was measured.
    pub latency: Histogram<u64>,
    /// Publications that were sent, warm-up included.
    pub published: u64,
    /// Deliveries while it was measured.
    pub deliveries: f64,
    /// Bytes of one delivery, on average.
    pub delivery_bytes: f64,
    /// Over the whole run, all subscribers.
    pub faults: Faults,
    /// Losses that the broker announced.
    pub gaps: u64,
    /// Whether the number of a sink's bytes tells exactly which publications it has. Otherwise what it
    /// lost is seen only beyond what the frames' headers may make up for.
    pub sinks_are_exact: bool,
    /// Only the newest had to come to whoever was behind; who is not sampled was not checked.
    pub is_conflated: bool,
}

/// What one subscriber did not get right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// Its place among the run's subscribers.
    pub subscriber: usize,
    /// The topic's name; of a sink with several topics, the first.
    pub topic: String,
    /// How it was looked at: by content, or by the number of bytes.
    pub is_sampled: bool,
    /// What went wrong.
    pub faults: Faults,
    /// Losses that the broker announced on this connection.
    pub gaps: u64,
    /// The first `seq` that is missing, counted from the subscription's start, if known.
    pub first_missing: Option<u64>,
}

/// Bytes that the sampled subscribers of a topic got.
#[derive(Clone, Copy, Default)]
struct SampledBytes {
    publications: u64,
    count: u64,
}

impl SampledBytes {
    /// Of one publication.
    fn each(self) -> f64 {
        self.publications as f64 / self.count.max(1) as f64
    }
}

/// What follows from the workers' results.
pub struct Merged {
    /// By group.
    pub groups: Vec<GroupOutcome>,
    /// The first faults.
    pub losses: Vec<Loss>,
    /// How many more.
    pub losses_omitted: u64,
    /// Why the first connection that ended did.
    pub broken_reason: Option<String>,
}

/// First what is known exactly, then what follows from it by the number of bytes.
pub fn merge(
    topics: &[Topic],
    group_count: usize,
    shared: &Shared,
    results: Vec<WorkerResult>,
    dialect: Dialect,
) -> Merged {
    let mut receivers: Vec<&Receiver> = results.iter().flat_map(|it| &it.receivers).collect();
    receivers.sort_by_key(|it| it.index);
    let mut merging = Merging::new(topics, group_count, shared, dialect);
    merging.add_sampled(&receivers);
    receivers.iter().for_each(|it| merging.judge(it));
    for result in &results {
        merging.groups.iter_mut().zip(&result.latency).for_each(|(group, latency)| {
            group.latency.add(latency).expect("the same bounds");
        });
    }
    let broken_reason = results.into_iter().find_map(|it| it.broken_reason);
    let Merging { groups, losses, losses_omitted, .. } = merging;
    Merged { groups, losses, losses_omitted, broken_reason }
}

struct Merging<'a> {
    topics: &'a [Topic],
    published: Vec<u64>,
    shared: &'a Shared,
    /// By topic.
    sampled: Vec<SampledBytes>,
    /// How many bytes the connections carry for one of publications, by group; 1 unless frames are cut
    /// as it pleases the broker.
    framing: Vec<f64>,
    is_exact: bool,
    groups: Vec<GroupOutcome>,
    losses: Vec<Loss>,
    losses_omitted: u64,
}

impl<'a> Merging<'a> {
    fn new(topics: &'a [Topic], group_count: usize, shared: &'a Shared, dialect: Dialect) -> Merging<'a> {
        let published: Vec<u64> = shared.topics.iter().map(|it| it.published.load(SeqCst)).collect();
        let is_exact = !dialect.is_stream();
        let group = |index| GroupOutcome {
            subscriptions: 0,
            latency: fine_histogram(),
            published: topics.iter().zip(&published).filter(|(it, _)| it.group == index).map(|it| it.1).sum(),
            deliveries: 0.0,
            delivery_bytes: 0.0,
            faults: Faults::default(),
            gaps: 0,
            sinks_are_exact: is_exact,
            is_conflated: topics.iter().any(|it| it.group == index && it.is_conflated),
        };
        Merging {
            topics,
            groups: (0..group_count).map(group).collect(),
            published,
            shared,
            sampled: vec![SampledBytes::default(); topics.len()],
            framing: vec![1.0; group_count],
            is_exact,
            losses: Vec::new(),
            losses_omitted: 0,
        }
    }

    fn add_sampled(&mut self, receivers: &[&Receiver]) {
        let mut wire = vec![(0, SampledBytes::default()); self.groups.len()];
        for receiver in receivers {
            let Some(sampled) = &receiver.sampled else { continue };
            let (wire_bytes, of_group) = &mut wire[self.topics[receiver.topics[0]].group];
            *wire_bytes += receiver.bytes;
            for (topic, Tracked { tracker, publication_bytes, .. }) in
                receiver.topics.iter().zip(&sampled.tracked)
            {
                for total in [&mut self.sampled[*topic], of_group] {
                    total.publications += publication_bytes;
                    total.count += tracker.received();
                }
            }
        }
        for (index, (wire_bytes, sampled)) in wire.into_iter().enumerate() {
            self.framing[index] = wire_bytes as f64 / sampled.publications.max(1) as f64;
            self.groups[index].delivery_bytes = wire_bytes as f64 / sampled.count.max(1) as f64;
        }
    }

    fn judge(&mut self, receiver: &Receiver) {
        let group_index = self.topics[receiver.topics[0]].group;
        let group = &mut self.groups[group_index];
        group.subscriptions += receiver.topics.len();
        group.gaps += receiver.gaps;
        // Where topics differ in length, each weighs as much as was published on it.
        let (mut weight, mut bytes) = (0.0, 0.0);
        for topic in &receiver.topics {
            weight += self.published[*topic] as f64;
            bytes += self.published[*topic] as f64 * self.sampled[*topic].each();
        }
        if bytes > 0.0 {
            let each = bytes / weight * self.framing[group_index];
            group.deliveries += receiver.measured_bytes as f64 / each;
        }
        let Some(sampled) = &receiver.sampled else {
            let faults = self.judge_sink(receiver);
            self.add_faults(receiver, 0, faults, None);
            return;
        };
        for (place, Tracked { tracker, .. }) in sampled.tracked.iter().enumerate() {
            let published = self.published[receiver.topics[place]];
            let (faults, first_missing) = match self.topics[receiver.topics[place]].is_conflated {
                true => (tracker.faults_of_conflated(published), None),
                false => (tracker.faults(published), tracker.first_missing(published)),
            };
            self.add_faults(receiver, place, faults, first_missing);
        }
    }

    /// By the number of its bytes: what is short of one delivery is one, what is beyond by less than one
    /// (a ping) is none.
    fn judge_sink(&self, receiver: &Receiver) -> Faults {
        if self.topics[receiver.topics[0]].is_conflated {
            return Faults::default();
        }
        let (mut least, mut published) = (0.0, 0);
        for &topic in &receiver.topics {
            published += self.published[topic];
            least += match self.shared.topics[topic].bytes.load(SeqCst) {
                0 => (self.published[topic] as f64 * self.sampled[topic].each()).floor(),
                bytes => bytes as f64,
            };
        }
        let mut faults = Faults::default();
        let each = least / published.max(1) as f64;
        if each == 0.0 {
            // Nobody whom this one could be compared with got anything.
            faults.lost = if receiver.bytes == 0 { published } else { 0 };
            return faults;
        }
        let surplus = receiver.bytes as f64 - least;
        let framing_max = if self.is_exact { 0 } else { published * FRAME_HEADER_BYTES_MAX };
        if surplus < 0.0 {
            faults.lost = (-surplus / each).round().max(1.0) as u64;
        } else {
            faults.duplicated = ((surplus - framing_max as f64).max(0.0) / each).round() as u64;
        }
        faults
    }

    fn add_faults(&mut self, receiver: &Receiver, place: usize, faults: Faults, first_missing: Option<u64>) {
        let topic = &self.topics[receiver.topics[place]];
        self.groups[topic.group].faults.add(&faults);
        // A connection's announced gaps are listed once, with its first topic.
        let gaps = if place == 0 && !topic.is_conflated { receiver.gaps } else { 0 };
        if faults.is_clean() && gaps == 0 {
            return;
        }
        if self.losses.len() == LOSSES_MAX {
            self.losses_omitted += 1;
            return;
        }
        self.losses.push(Loss {
            subscriber: receiver.index,
            topic: topic.name.clone(),
            is_sampled: receiver.sampled.is_some(),
            faults,
            gaps,
            first_missing,
        });
    }
}
