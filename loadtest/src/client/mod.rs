//! The client: thousands of subscribers and some publishers on a few rings, cheap enough that the
//! broker is what is measured.
//!
//! A *sampled* subscriber is received into provided buffers, parsed and verified, and its latencies are
//! recorded. Any other is a *sink*: it receives with MSG_TRUNC, which has the kernel throw the bytes
//! away uncopied, and only their number is known. Everybody's bytes are the same (one encoding for
//! all), so a sink that got as many bytes as a verified subscriber got the same publications.
//!
//! # Modules
//!
//! - [`plan`]: what a run consists of;
//! - [`worker`]: one thread, with its [`receiver`]s and [`sender`]s; [`shared`]: what the threads tell
//!   each other; [`series`]: what each second brought;
//! - [`monitor`]: the one who watches, [`outcome`]: what came of it.

pub mod monitor;
pub mod outcome;
pub mod plan;
mod receiver;
mod sender;
mod series;
mod shared;
mod worker;

use std::{
    sync::{atomic::Ordering::SeqCst, mpsc},
    thread,
};

pub use monitor::{Row, Unwatched, Watcher};
pub use outcome::{GroupOutcome, Loss, Outcome};
pub use plan::{Lane, Pace, Publisher, Subscriber, Threads, Times, Topic, Window};
pub use series::{coarse_histogram, fine_histogram};
pub use shared::INTERRUPTED;

use crate::{broker::BrokerProbe, dialect::Dialect, process};
use monitor::{Monitor, Usage};
use shared::Shared;
use worker::{Orders, Worker, WorkerResult};

/// A thread that is busier than this is what was measured, not the broker.
pub const CLIENT_LIMIT: f64 = 0.9;
/// A broker that was without a processor for longer than this may have its p99 from that alone.
const WAITING_LIMIT: f64 = 0.01;

/// What is run, except for the connections.
pub struct Run<'a> {
    /// The topics.
    pub topics: &'a [Topic],
    /// How many groups they are in.
    pub group_count: usize,
    /// When.
    pub times: Times,
    /// What was due in it has its latency told, in place of all that is measured.
    pub window: Option<&'a Window>,
    /// The protocol.
    pub dialect: Dialect,
    /// By the timetable or by a window.
    pub pace: Pace,
    /// On which threads.
    pub threads: &'a Threads,
    /// What is known of the broker.
    pub probe: &'a BrokerProbe,
}

/// One thread's share.
struct Share {
    lane: Lane,
    core: Option<usize>,
    subscribers: Vec<(usize, Subscriber)>,
    publishers: Vec<Publisher>,
}

/// Runs to the end.
///
/// # Errors
/// One line for the operator.
pub fn run(
    run: &Run<'_>,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
    watcher: &mut (dyn Watcher + Send),
) -> Result<Outcome, String> {
    let mut pacing = vec![None; run.topics.len()];
    for (index, subscriber) in subscribers.iter().enumerate().filter(|(_, it)| it.is_sampled) {
        subscriber.topics.iter().for_each(|(topic, _)| pacing[*topic] = Some(index));
    }
    let places = run.threads.places();
    let has_quick = subscribers.iter().any(|it| it.lane == Lane::Quick);
    let worker_count = places.len() + has_quick as usize;
    let shared = Shared::new(run.topics, run.times, &subscribers, &publishers, worker_count);
    let shares = share_out(&places, has_quick, subscribers, publishers);
    let orders = Orders {
        topics: run.topics,
        group_count: run.group_count,
        times: run.times,
        window: run.window,
        dialect: run.dialect,
        pace: run.pace,
        pacing: &pacing,
        shared: &shared,
    };
    let (hello, hellos) = mpsc::channel();
    thread::scope(|scope| {
        let workers: Vec<_> = shares
            .into_iter()
            .map(|share| {
                let hello = hello.clone();
                scope.spawn(move || work(share, orders, &run.threads.cores, &hello))
            })
            .collect();
        drop(hello);
        let mut hellos: Vec<Hello> = hellos.iter().take(worker_count).collect();
        hellos.sort_by_key(|it| it.thread_id);
        let threads = hellos.iter().map(|it| (it.core, it.thread_id)).collect();
        let mut notes: Vec<String> = hellos.into_iter().filter_map(|it| it.note).collect();
        let monitor = Monitor::new(run.times, run.group_count, &shared, run.probe, watcher, threads);
        // On a thread of its own, so that its priority is nobody else's.
        let watching = scope.spawn(|| {
            // Without it a busy client would have its seconds measured late; and it costs next to nothing.
            let _ = process::pin_to_cores(&run.threads.cores);
            let _ = process::raise_priority();
            monitor.watch(|| shared.running.load(SeqCst) == 0)
        });
        let (series, usage) = watching.join().map_err(|_| "the monitor panicked".to_owned())?;
        let results: Vec<WorkerResult> = workers
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|_| Err("a client thread panicked".to_owned())))
            .collect::<Result<_, _>>()?;
        let broken_count = shared.broken.load(SeqCst);
        let merged = outcome::merge(run.topics, run.group_count, &shared, results, run.dialect);
        let ended_ns = match shared.ended_early_ns.load(SeqCst) {
            0 => None,
            at_ns => Some(at_ns).filter(|it| *it < run.times.end_ns),
        };
        notes.extend(limit_note(&usage));
        let is_stopped =
            || process::real_time_is_throttled() && run.probe.pid.is_some_and(process::is_real_time);
        notes.extend(waiting_note(usage.broker_waiting_share(), is_stopped));
        Ok(Outcome {
            groups: merged.groups,
            losses: merged.losses,
            losses_omitted: merged.losses_omitted,
            measured_s: ended_ns.unwrap_or(run.times.end_ns).saturating_sub(run.times.measure_ns) as f64
                / 1e9,
            ended_early_s: ended_ns.map(|it| it.saturating_sub(run.times.start_ns) as f64 / 1e9),
            series,
            usage,
            broken: (broken_count, merged.broken_reason),
            notes,
        })
    })
}

/// Deals the connections out, the quick ones to a thread of their own at the end.
fn share_out(
    places: &[Option<usize>],
    has_quick: bool,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
) -> Vec<Share> {
    let share = |lane, core| Share { lane, core, subscribers: Vec::new(), publishers: Vec::new() };
    let mut shares: Vec<Share> = places.iter().map(|core| share(Lane::Bulk, *core)).collect();
    if has_quick {
        shares.push(share(Lane::Quick, None));
    }
    let bulk_count = places.len();
    let place = |lane, index| if lane == Lane::Quick { bulk_count } else { index % bulk_count };
    for (index, it) in subscribers.into_iter().enumerate() {
        shares[place(it.lane, index)].subscribers.push((index, it));
    }
    for (index, it) in publishers.into_iter().enumerate() {
        shares[place(it.lane, index)].publishers.push(it);
    }
    shares
}

/// What a worker says once it runs.
struct Hello {
    thread_id: u32,
    core: Option<usize>,
    note: Option<String>,
}

fn work(
    share: Share,
    orders: Orders<'_>,
    cores: &[usize],
    hello: &mpsc::Sender<Hello>,
) -> Result<WorkerResult, String> {
    let _running = Running(orders.shared);
    let fail = |error| {
        orders.shared.failed.store(true, SeqCst);
        error
    };
    let mut note = None;
    match (share.lane, share.core) {
        (Lane::Bulk, Some(core)) => process::pin_to_core(core).map_err(fail)?,
        (Lane::Bulk, None) => {}
        (Lane::Quick, _) => {
            process::pin_to_cores(cores).map_err(fail)?;
            note = process::raise_priority().err().map(|error| {
                format!(
                    "the small topic's thread has no higher priority than the others ({error}): its \
                     latencies include waiting for this program itself; run as root or with CAP_SYS_NICE"
                )
            });
        }
    }
    let _ = hello.send(Hello { thread_id: process::thread_id(), core: share.core, note });
    Worker::new(orders, share.lane, share.subscribers, share.publishers).map_err(fail)?.run()
}

/// A worker until its end, however it comes.
struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

fn limit_note(usage: &Usage) -> Option<String> {
    busiest(&usage.threads).filter(|(_, share)| *share > CLIENT_LIMIT).map(|(name, share)| {
        format!(
            "this client's {name} was {:.0} % busy: it may be the client that was measured; give it more \
             --cores",
            share * 100.0
        )
    })
}

/// Of a broker that its machine kept from running. It is the same however long that was: whoever has the notes of several
/// runs tells it once.
fn waiting_note(share: Option<f64>, is_stopped: impl Fn() -> bool) -> Option<String> {
    let why = || match is_stopped() {
        true => {
            "it runs in real time, and the kernel stops whoever does for 50 ms of each second in which it needs its whole \
             core (kernel.sched_rt_runtime_us): a nice value of -20 lets it run on"
        }
        false => "something else ran there",
    };
    share.filter(|it| *it > WAITING_LIMIT).map(|_| {
        format!(
            "the broker was kept from its processor for more than a hundredth of the time, and latencies have that in them: {}",
            why()
        )
    })
}

/// The busiest core or unpinned thread of the client, by name, and its share of a core. Threads of one
/// core count together.
pub fn busiest(threads: &[(Option<usize>, f64)]) -> Option<(String, f64)> {
    let named = threads.iter().enumerate().map(|(index, (core, share))| match core {
        Some(core) => {
            let of_core = threads.iter().filter(|it| it.0 == Some(*core));
            (format!("core {core}"), of_core.map(|it| it.1).sum())
        }
        None => (format!("thread {}", index + 1), *share),
    });
    named.max_by(|one, other| f64::total_cmp(&one.1, &other.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::BrokerSample, process::ThreadTime};

    #[test]
    fn a_client_that_is_the_limit_is_told_by_core() {
        let usage =
            |threads: &[(Option<usize>, f64)]| Usage { threads: threads.to_vec(), ..Usage::default() };
        assert_eq!(limit_note(&usage(&[])), None);
        assert_eq!(limit_note(&usage(&[(Some(1), 0.5), (Some(2), 0.8), (None, 0.9)])), None);
        let note = limit_note(&usage(&[(Some(1), 0.5), (Some(1), 0.45)])).unwrap();
        assert!(note.starts_with("this client's core 1 was 95 % busy"), "{note}");
        assert!(limit_note(&usage(&[(None, 0.2), (None, 0.99)])).unwrap().contains("thread 2"));
    }

    #[test]
    fn a_broker_that_its_machine_held_up_is_told_with_why() {
        // One thread runs, the other waits for it all the time.
        let at = |s: u64, waited_ms: u64| {
            let thread = |cpu_s, waited_ms| ThreadTime {
                cpu_ns: cpu_s * 1_000_000_000,
                waited_ns: waited_ms * 1_000_000,
            };
            let threads = [(7, thread(s, waited_ms)), (9, thread(0, s * 1_000))].into_iter().collect();
            BrokerSample { threads, ..BrokerSample::default() }
        };
        let usage = |waited_ms: u64| Usage {
            broker: Some((at(1, 500), at(10, 500 + waited_ms))),
            broker_s: 10.0,
            ..Usage::default()
        };
        let note = |usage: Usage, is_stopped| waiting_note(usage.broker_waiting_share(), || is_stopped);
        assert_eq!(note(Usage::default(), true), None, "its process is not known");
        assert_eq!(note(usage(100), true), None);
        assert!(note(usage(101), true).unwrap().contains("sched_rt_runtime_us"));
        assert!(note(usage(101), false).unwrap().ends_with("something else ran there"));
    }
}
