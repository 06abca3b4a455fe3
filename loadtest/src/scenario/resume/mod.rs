//! Clients that were away come back all at once, beside others that stayed: do they get exactly what they missed, how
//! soon, and what does it cost the others, and the broker's memory?
//!
//! They subscribe, note where they are, and go. So much is published, each publication acknowledged. The others are
//! measured alone first, then while those come back: connected and upgraded before, so that nothing but the past is
//! what is waited for (`connect --storm` is about the rest).
//!
//! # Modules
//!
//! - [`storm`]: those who come back; [`check`]: what one of them must get.

mod check;
mod storm;
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
    broker::BrokerProbe,
    cli::{Resume, Verify},
    client::{INTERRUPTED, Pace},
    connect::{self, Connected, Target},
    dialect::{Dialect, Position, Role},
    environment::Environment,
    output::print,
    payload::{Payload, Stamp},
    process,
    report::resume::{Bounds, ResumeReport, StormReport},
};
use storm::Storm;

/// What is published while the clients are away.
const MISSED: &str = "resume/missed";
/// Nothing is published to it: the `ok` to a subscription tells that a connection is greeted.
const NOTHING: &str = "resume/nothing";
/// What the others are subscribed to.
const LIVE: &str = "resume/live";

/// Runs it.
///
/// # Errors
/// One line for the operator.
pub fn run(options: &Resume, parameters: Vec<(String, String)>) -> Result<bool, String> {
    let report = measure_all(options, parameters)?;
    print(&report);
    options.run.outputs.write_json(&report)?;
    options.run.outputs.write_html(|| report.page())?;
    Ok(report.passed)
}

fn measure_all(options: &Resume, parameters: Vec<(String, String)>) -> Result<ResumeReport, String> {
    let Resume { broker, run, .. } = options;
    if !matches!(broker.protocol, Dialect::Json | Dialect::Binary) {
        return Err("resume speaks fanfare's two languages: fanfare-json and fanfare-bin only".to_owned());
    }
    check_first(broker, &run.outputs)?;
    ensure_descriptors(options.clients + options.live + 2)?;
    let target = broker.target()?;
    let since = subscribe_and_leave(&target, broker.protocol, options.clients)?;
    publish_missed(&target, broker.protocol, options, &since)?;
    let setting = Setting { broker, run, pace: Pace::Open, parameters: parameters.clone() };
    let without = measure(&setting, &plan(options, ", without them"))?;
    let (with, storm) = match INTERRUPTED.load(SeqCst) {
        true => (without.clone(), StormReport::default()),
        false => measure_storm(&setting, options, &target, since)?,
    };
    let bounds = Bounds {
        others: options.others,
        within_s: options.within,
        memory_bytes_max: options.memory_max.map(|mib| mib << 20),
    };
    let environment = Environment::read(broker.pid);
    Ok(ResumeReport::new(title(options), environment, parameters, bounds, without, with, storm))
}

/// Where all of the clients are when they go.
fn subscribe_and_leave(target: &Target, dialect: Dialect, count: usize) -> Result<Position, String> {
    let connected = connect::connect(target, dialect, Role::Subscriber(MISSED), 0, count)?;
    let mut positions = connected.iter().map(|it| (it.epoch.as_ref(), it.seq));
    let first = positions.next().expect("one client at least");
    if positions.any(|it| it != first) {
        return Err(format!("somebody else publishes to {MISSED}"));
    }
    let Connected { epoch, seq, .. } = &connected[0];
    let epoch =
        epoch.clone().ok_or("the broker tells no epoch in the ok to a subscription: it is too old")?;
    Ok(Position { epoch, seq: *seq })
}

/// Publishes what they miss, each acknowledged with the `seq` after the one before.
fn publish_missed(
    target: &Target,
    dialect: Dialect,
    options: &Resume,
    since: &Position,
) -> Result<(), String> {
    let payload = Payload::new(options.size as usize);
    let publications = (0..options.missed).map(|place| (MISSED, stamp(place)));
    let mut expected = since.seq;
    Feed::open(target, dialect, MISSED)?.publish(&payload, publications, |seq| {
        expected += 1;
        if seq == expected {
            Ok(())
        } else {
            Err(format!("{MISSED}: {seq} was acknowledged, not {expected}"))
        }
    })
}

/// What makes the publication at this place, counted from 0, its own.
fn stamp(place: u64) -> Stamp {
    Stamp { due_ns: 0, topic: 1, publisher: 0, sequence: place }
}

/// The others again, and after their warm-up everybody comes back.
fn measure_storm(
    setting: &Setting<'_>,
    options: &Resume,
    target: &Target,
    since: Position,
) -> Result<(crate::report::Report, StormReport), String> {
    let storm = Storm::open(target, setting.broker.protocol, options, since)?;
    let plan = plan(options, ", with them");
    measure_beside(setting, &plan, |times, window| storm.run(times.end_ns, window, &setting.broker.probe()))
}

fn title(options: &Resume) -> String {
    let Resume { clients, missed, size, live, rate, .. } = options;
    format!("resume: {clients} clients × {missed} × {size} B, beside {rate} pub/s to {live} others")
}

/// Those who stayed.
fn plan(options: &Resume, which: &str) -> Plan {
    let Resume { live, rate, size, .. } = *options;
    let title = format!("{}{which}", title(options));
    others::plan(title, LIVE, rate, size, live, sampled_of(options, live))
}

/// How many of so many are verified by content.
fn sampled_of(options: &Resume, count: usize) -> usize {
    match options.verify {
        Verify::All => count,
        Verify::Sample => count.min(options.sample),
    }
}

/// The broker's memory now, if one may look.
fn resident_bytes(probe: &BrokerProbe) -> Option<u64> {
    probe.pid.and_then(process::resident_now_bytes)
}
