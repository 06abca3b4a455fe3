//! Many topics that keep something, and a client that gets the newest of all of them, or what changed while it was away: how
//! soon, and what does it cost those who subscribe to something else?
//!
//! All is published once, each publication acknowledged. Then come rounds. In each the others are measured alone and beside
//! *tours*, one after the other: a client subscribes to all of the topics by one filter, gets the newest of each, is told
//! `replayed`, and goes. Then some of the topics are published to again, and a client makes its *return*: it subscribes to
//! the moment that the last `replayed` told, and must get exactly what was published since.
//!
//! # Modules
//!
//! - [`check`]: what must come; [`client`]: one subscription from its command to `replayed`.

mod check;
mod client;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering::SeqCst;

use super::{
    Plan, Setting, check as check_first, ensure_descriptors,
    feed::Feed,
    measure,
    others::{self, measure_beside},
};
use crate::{
    broker::long_turns,
    cli::Retained,
    client::{INTERRUPTED, Pace, Times, Window, plan::SECOND_NS},
    clock,
    connect::Target,
    dialect::{Beginning, Dialect},
    environment::Environment,
    output::print,
    payload::Payload,
    process,
    report::{
        Turns,
        retained::{Bounds, Memory, Replay, RetainedReport, Round},
    },
};
use check::{Check, Topics};
use client::Client;

/// What all of the topics match.
const FILTER: &str = "retained/topic/#";
/// What the others are subscribed to.
const LIVE: &str = "retained/live";
/// Turns of the broker that took longer beside tours are told.
const LONG_TURN_S: f64 = 0.002;

/// Runs it.
///
/// # Errors
/// One line for the operator.
pub fn run(options: &Retained, parameters: Vec<(String, String)>) -> Result<bool, String> {
    let report = measure_all(options, parameters)?;
    print(&report);
    options.run.outputs.write_json(&report)?;
    options.run.outputs.write_html(|| report.page())?;
    Ok(report.passed)
}

fn measure_all(options: &Retained, parameters: Vec<(String, String)>) -> Result<RetainedReport, String> {
    let Retained { broker, run, topics, changed, .. } = options;
    if !matches!(broker.protocol, Dialect::Json | Dialect::Binary) {
        return Err("retained speaks fanfare's two languages: fanfare-json and fanfare-bin only".to_owned());
    }
    if changed > topics {
        return Err(format!("--changed {changed} is more than --topics {topics}"));
    }
    check_first(broker, &run.outputs)?;
    ensure_descriptors(options.live + 3)?;
    let target = broker.target()?;
    let mut feed = Feed::open(&target, broker.protocol, FILTER)?;
    let mut topics = Topics::new(*topics, Payload::new(options.size as usize));
    let memory = publish_all(options, &mut feed, &mut topics)?;
    let setting = Setting { broker, run, pace: Pace::Open, parameters: parameters.clone() };
    let mut rounds = Vec::new();
    for index in 0..options.rounds {
        if INTERRUPTED.load(SeqCst) {
            break;
        }
        rounds.push(round(&setting, &target, options, &mut topics, &mut feed, index)?);
    }
    let bounds = Bounds {
        others: options.others,
        tour_ms: options.tour_ms,
        return_ms: options.return_ms,
        topic_bytes: options.topic_bytes_max,
    };
    let environment = Environment::read(broker.pid);
    Ok(RetainedReport::new(title(options), environment, parameters, bounds, memory, rounds))
}

/// The first publication to each, and what the broker's memory was before and after.
fn publish_all(options: &Retained, feed: &mut Feed, topics: &mut Topics) -> Result<Memory, String> {
    let resident_bytes = || options.broker.pid.and_then(process::resident_now_bytes);
    let before = resident_bytes();
    let all: Vec<usize> = (0..topics.count()).collect();
    publish(feed, topics, &all)?;
    Ok(Memory {
        topics: topics.count(),
        are_new: topics.are_new(),
        resident_bytes_before: before,
        resident_bytes_after: resident_bytes(),
    })
}

/// One publication more to each of these.
fn publish(feed: &mut Feed, topics: &mut Topics, indexes: &[usize]) -> Result<(), String> {
    let publications: Vec<_> = indexes.iter().map(|it| (Topics::name(*it), topics.next_stamp(*it))).collect();
    let payload = topics.payload().clone();
    let mut acknowledged = indexes.iter();
    feed.publish(&payload, publications, |seq| {
        let index = acknowledged.next().ok_or("more was acknowledged than was published")?;
        topics.on_published(*index, seq);
        Ok(())
    })
}

/// Which topics change in a round: spread over all names, and others than in the round before.
fn changed(topics: usize, count: usize, round: usize) -> Vec<usize> {
    (0..count).map(|index| (index * topics / count + round) % topics).collect()
}

fn round(
    setting: &Setting<'_>,
    target: &Target,
    options: &Retained,
    topics: &mut Topics,
    feed: &mut Feed,
    index: usize,
) -> Result<Round, String> {
    let without = measure(setting, &plan(options, ", alone"))?;
    let Setting { broker, .. } = setting;
    let turns =
        || broker.metrics.as_deref().and_then(|url| long_turns(url, [LONG_TURN_S])).map(|[turns]| turns);
    let before = turns();
    let (with, (tours, at)) = measure_beside(setting, &plan(options, ", beside tours"), |times, window| {
        make_tours(target, broker.protocol, topics, times, window)
    })?;
    let turns = before.zip(turns()).map(|(before, after)| Turns::between(before, after));
    // Whoever was told no moment cannot come back to it.
    let back = at.map(|at| {
        let changed = changed(topics.count(), options.changed, index);
        publish(feed, topics, &changed)?;
        let deadline_ns = clock::now_ns() + setting.run.drain * SECOND_NS;
        come_back(target, broker.protocol, topics, (&changed, &at), deadline_ns)
    });
    Ok(Round { without, with, tours, turns, back: back.transpose()? })
}

/// One tour after the other, until another would not be over before the end, and the moment that the last was told.
fn make_tours(
    target: &Target,
    dialect: Dialect,
    topics: &Topics,
    times: &Times,
    window: &Window,
) -> Result<(Vec<Replay>, Option<String>), String> {
    let mut tours = Vec::new();
    let mut longest_ns = 0;
    let mut begun_ns = clock::now_ns();
    window.begin(begun_ns);
    loop {
        let mut client = Client::open(target, dialect)?;
        let mut check = Check::of_all(topics);
        let tour = client.replay(FILTER, Beginning::Newest(1), &mut check, times.deadline_ns);
        let ended_ns = clock::now_ns();
        longest_ns = longest_ns.max(ended_ns - begun_ns);
        begun_ns = ended_ns;
        if tour.is_complete && ended_ns + longest_ns <= times.end_ns && !INTERRUPTED.load(SeqCst) {
            tours.push(tour);
            continue;
        }
        window.end(ended_ns);
        tours.push(client.linger(&mut check, tour));
        return Ok((tours, check.at().map(str::to_owned)));
    }
}

/// What somebody gets who was there until that moment, since which these changed.
fn come_back(
    target: &Target,
    dialect: Dialect,
    topics: &Topics,
    (changed, at): (&[usize], &str),
    deadline_ns: u64,
) -> Result<Replay, String> {
    let mut client = Client::open(target, dialect)?;
    let mut check = Check::of_changed(topics, changed);
    let back = client.replay(FILTER, Beginning::At(at), &mut check, deadline_ns);
    Ok(client.linger(&mut check, back))
}

fn title(options: &Retained) -> String {
    let Retained { topics, size, changed, live, rate, .. } = options;
    format!("retained: {topics} topics × {size} B, {changed} changed, beside {rate} pub/s to {live} others")
}

/// The others.
fn plan(options: &Retained, which: &str) -> Plan {
    let Retained { live, rate, size, .. } = *options;
    others::plan(format!("{}{which}", title(options)), LIVE, rate, size, live, live)
}
