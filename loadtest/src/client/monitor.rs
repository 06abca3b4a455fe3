//! Watches a run from outside the workers: once a second, what came and what it took.

use std::{collections::VecDeque, sync::atomic::Ordering::SeqCst};

use serde::Serialize;

use super::{
    plan::{SECOND_NS, Times},
    series::GroupSecond,
    shared::Shared,
};
use crate::{
    broker::{BrokerProbe, BrokerSample},
    clock,
    process::{self, ThreadTime},
};

/// A second is told this many seconds after its end: by then every worker has handed it over.
const ROW_DELAY: u64 = 1;

/// One second of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which second, from the first that is measured; negative: warm-up.
    pub second: i64,
    /// All groups together.
    pub deliveries: f64,
    /// By group.
    pub groups: Vec<GroupRow>,
    /// Connections that have ended so far.
    pub broken_connections: u64,
    /// The broker's CPU time as a share of one core.
    pub broker_cpu_share: Option<f64>,
    /// The same per delivery.
    pub broker_ns_per_delivery: Option<f64>,
    /// The broker's resident memory.
    pub broker_resident_bytes: Option<u64>,
    /// This program's CPU time as a share of one core.
    pub client_cpu_share: f64,
}

/// One second of a group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupRow {
    /// How many came.
    pub deliveries: f64,
    /// Latencies of what came, in milliseconds; absent if nothing came to those sampled.
    pub p50_ms: Option<f64>,
    /// 99 % are faster.
    pub p99_ms: Option<f64>,
    /// 99.9 % are faster.
    pub p999_ms: Option<f64>,
    /// The slowest.
    pub max_ms: Option<f64>,
}

/// What a run took while it was measured.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// The broker's, at the beginning and the end.
    pub broker: Option<(BrokerSample, BrokerSample)>,
    /// How long that was, in seconds: less than was measured if the broker was gone before the end.
    pub broker_s: f64,
    /// This process's CPU time as a share of one core.
    pub client_cpu_share: f64,
    /// By worker: its core, if it is pinned, and its share of it.
    pub threads: Vec<(Option<usize>, f64)>,
}

impl Usage {
    /// For how much of the time the broker's busiest thread was ready to run and had no processor. Others may wait for that
    /// one, which says nothing of the machine.
    pub fn broker_waiting_share(&self) -> Option<f64> {
        let (before, after) = self.broker.as_ref()?;
        let meanwhile = after.threads.iter().filter_map(|(id, after)| {
            let before = before.threads.get(id)?;
            let since = |of: fn(&ThreadTime) -> u64| of(after).saturating_sub(of(before));
            Some((since(|it| it.cpu_ns), since(|it| it.waited_ns)))
        });
        let (_, waited_ns) = meanwhile.max_by_key(|(cpu_ns, _)| *cpu_ns)?;
        Some(waited_ns as f64 / 1e9 / self.broker_s.max(1e-3))
    }
}

/// Is told each second when it is complete.
pub trait Watcher {
    /// Another one.
    fn on_row(&mut self, row: &Row);
}

/// Nobody watches: of runs that are parts of something larger.
pub struct Unwatched;

impl Watcher for Unwatched {
    fn on_row(&mut self, _row: &Row) {}
}

/// The one who watches.
pub struct Monitor<'a> {
    times: Times,
    shared: &'a Shared,
    probe: &'a BrokerProbe,
    watcher: &'a mut (dyn Watcher + Send),
    /// By worker: its core and its thread id.
    threads: Vec<(Option<usize>, u32)>,
    /// At the beginning of each second that no row was made of.
    samples: VecDeque<Sample>,
    /// Bytes of a delivery, by group, as last seen.
    delivery_bytes: Vec<f64>,
    measured: [Option<Sample>; 2],
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Sample {
    second: u64,
    at_ns: u64,
    client_cpu_ns: u64,
    thread_cpu_ns: Vec<u64>,
    broker: Option<BrokerSample>,
}

impl<'a> Monitor<'a> {
    /// Of a run that begins in a moment.
    pub fn new(
        times: Times,
        group_count: usize,
        shared: &'a Shared,
        probe: &'a BrokerProbe,
        watcher: &'a mut (dyn Watcher + Send),
        threads: Vec<(Option<usize>, u32)>,
    ) -> Monitor<'a> {
        Monitor {
            times,
            shared,
            probe,
            watcher,
            threads,
            samples: VecDeque::new(),
            delivery_bytes: vec![0.0; group_count],
            measured: [None, None],
            rows: Vec::new(),
        }
    }

    /// Watches until `is_over`; what there was to see.
    pub fn watch(mut self, is_over: impl Fn() -> bool) -> (Vec<Row>, Usage) {
        const LOOK_NS: u64 = 50_000_000;
        let mut second = 0;
        loop {
            let at_ns = self.times.start_ns + second * SECOND_NS;
            while clock::now_ns() < at_ns && !is_over() {
                clock::sleep_until(at_ns.min(clock::now_ns() + LOOK_NS));
            }
            if is_over() {
                break;
            }
            self.take_sample(second);
            if second > ROW_DELAY {
                self.tell_seconds(second - ROW_DELAY);
            }
            second += 1;
        }
        // What was cut short has no sample at its end but this.
        self.take_sample(second);
        self.tell_seconds(u64::MAX);
        let usage = self.usage();
        (self.rows, usage)
    }

    fn take_sample(&mut self, second: u64) {
        let at_start = self.times.start_ns + second * SECOND_NS;
        let with_metrics = [self.times.measure_ns, self.times.end_ns].contains(&at_start);
        let sample = Sample {
            second,
            at_ns: clock::now_ns(),
            client_cpu_ns: clock::process_cpu_ns(),
            thread_cpu_ns: self.threads.iter().map(|it| process::thread_cpu_ns(it.1).unwrap_or(0)).collect(),
            broker: self.probe.sample(with_metrics),
        };
        let measured = match at_start {
            at_ns if at_ns <= self.times.measure_ns => &mut self.measured[0],
            at_ns if at_ns <= self.times.end_ns => &mut self.measured[1],
            _ => &mut None,
        };
        // A broker that is gone leaves the last figures that it gave.
        if sample.broker.is_some() || measured.as_ref().is_none_or(|it| it.broker.is_none()) {
            *measured = Some(sample.clone());
        }
        self.samples.push_back(sample);
    }

    /// Makes rows of the seconds before `until`.
    fn tell_seconds(&mut self, until: u64) {
        loop {
            let first = self.shared.seconds.lock().expect("nobody panics with it").pop_first();
            match first {
                Some((second, groups)) if second < until => self.tell(second, &groups),
                Some((second, groups)) => {
                    let mut seconds = self.shared.seconds.lock().expect("nobody panics with it");
                    // A worker may have begun it anew in between.
                    match seconds.get_mut(&second) {
                        Some(begun) => begun.iter_mut().zip(&groups).for_each(|(sum, it)| sum.add(it)),
                        None => drop(seconds.insert(second, groups)),
                    }
                    return;
                }
                None => return,
            }
        }
    }

    fn tell(&mut self, second: u64, groups: &[GroupSecond]) {
        while self.samples.len() > 2 && self.samples[1].second <= second {
            self.samples.pop_front();
        }
        let groups: Vec<GroupRow> =
            groups.iter().enumerate().map(|(index, it)| self.group_row(index, it)).collect();
        let deliveries = groups.iter().map(|it| it.deliveries).sum::<f64>();
        let warmup_s = (self.times.measure_ns - self.times.start_ns) / SECOND_NS;
        let mut row = Row {
            second: second as i64 - warmup_s as i64,
            deliveries,
            groups,
            broken_connections: self.shared.broken.load(SeqCst),
            broker_cpu_share: None,
            broker_ns_per_delivery: None,
            broker_resident_bytes: None,
            client_cpu_share: 0.0,
        };
        if let (Some(before), Some(after)) = (self.samples.front(), self.samples.get(1))
            && before.second == second
        {
            let elapsed_ns = (after.at_ns - before.at_ns).max(1) as f64;
            row.client_cpu_share = (after.client_cpu_ns - before.client_cpu_ns) as f64 / elapsed_ns;
            if let (Some(before), Some(after)) = (&before.broker, &after.broker) {
                let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns) as f64;
                row.broker_cpu_share = Some(cpu_ns / elapsed_ns);
                row.broker_ns_per_delivery = (deliveries >= 1.0).then(|| cpu_ns / deliveries);
                row.broker_resident_bytes = Some(after.resident_bytes);
            }
        }
        self.watcher.on_row(&row);
        self.rows.push(row);
    }

    fn group_row(&mut self, index: usize, group: &GroupSecond) -> GroupRow {
        let each = &mut self.delivery_bytes[index];
        if group.sampled_count > 0 {
            *each = group.sampled_bytes as f64 / group.sampled_count as f64;
        }
        let ms = |quantile| {
            let value = group.latency.value_at_quantile(quantile) as f64 / 1e6;
            (!group.latency.is_empty()).then_some(value)
        };
        GroupRow {
            deliveries: if *each > 0.0 { group.bytes as f64 / *each } else { 0.0 },
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: ms(1.0),
        }
    }

    fn usage(&mut self) -> Usage {
        let [Some(before), Some(after)] = &self.measured else { return Usage::default() };
        let elapsed_ns = (after.at_ns - before.at_ns).max(1) as f64;
        let share = |(index, (core, _)): (usize, &(Option<usize>, u32))| {
            let cpu_ns = after.thread_cpu_ns[index].saturating_sub(before.thread_cpu_ns[index]);
            (*core, cpu_ns as f64 / elapsed_ns)
        };
        Usage {
            broker: before.broker.clone().zip(after.broker.clone()),
            broker_s: elapsed_ns / 1e9,
            client_cpu_share: (after.client_cpu_ns - before.client_cpu_ns) as f64 / elapsed_ns,
            threads: self.threads.iter().enumerate().map(share).collect(),
        }
    }
}
