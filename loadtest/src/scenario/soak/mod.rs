//! Everything side by side for hours: a steady plan, and around it connections that come and go.
//!
//! The plan (a fan-out, rooms, a fan-in) is verified like any other. Around it, each on a thread of its own
//! because nobody measures how fast they are:
//!
//! - subscribers that come and go, by name and by filter, in both languages;
//! - publishers that reconnect, and one subscriber by filter who must see all of theirs;
//! - slow readers, who may be told that they lost something but may not lose it in silence.

mod connection;
mod visitors;

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use super::{Setting, check, ensure_descriptors, finish, measure, topics};
use crate::{
    cli,
    client::Pace,
    connect::Target,
    dialect::Dialect,
    output::Outputs,
    payload::Payload,
    report::soak::{Drift, SoakReport, Tally},
};
use visitors::Publishers;

/// What the visitors know of each other and of the plan.
struct Surroundings {
    target: Target,
    payload: Payload,
    /// Names by the topic number in a payload's stamp: the plan's, then the reconnecting publishers'.
    topics: Vec<String>,
    /// The first of the reconnecting publishers' topics.
    first_own: usize,
    publishers: Publishers,
    is_over: AtomicBool,
    /// Nobody waits for what is on its way longer than this after the end.
    drain: Duration,
}

impl Surroundings {
    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }
}

/// Runs it.
///
/// # Errors
/// One line for the operator.
pub fn run(soak: &cli::Soak, parameters: Vec<(String, String)>) -> Result<bool, String> {
    if !matches!(soak.broker.protocol, Dialect::Json | Dialect::Binary) {
        return Err("soak speaks fanfare's two languages: fanfare-json and fanfare-bin only".to_owned());
    }
    let run = run_options(soak);
    let setting = Setting { broker: &soak.broker, run: &run, pace: Pace::Open, parameters };
    check(setting.broker, &run.outputs)?;
    let plan = topics::soak(soak);
    let visitor_count = soak.visitors + soak.reconnecting + soak.slow + 1;
    ensure_descriptors(plan.connection_count() + visitor_count)?;
    let own = (0..soak.reconnecting).map(|index| format!("soak/own/{index}"));
    let surroundings = Surroundings {
        target: soak.broker.target()?,
        payload: Payload::new(soak.size as usize),
        topics: plan.topics.iter().map(|it| it.name.clone()).chain(own).collect(),
        first_own: plan.topics.len(),
        publishers: Publishers::default(),
        is_over: AtomicBool::new(false),
        drain: Duration::from_secs(soak.drain),
    };
    let (measured, tallies) = thread::scope(|scope| {
        let visitors = spawn(scope, soak, &surroundings);
        let measured = measure(&setting, &plan);
        surroundings.is_over.store(true, SeqCst);
        let tallies = visitors.into_iter().map(|it| it.join().map_err(|_| "a visitor panicked".to_owned()));
        (measured, tallies.collect::<Result<Vec<Tally>, String>>())
    });
    let (mut report, tallies) = (measured?, merge(tallies?));
    report.passed &= tallies.iter().all(|it| it.faults == 0);
    let drift = Drift::of(&report.series);
    report.soak = Some(SoakReport { visitors: tallies, drift });
    finish(&report, &run.outputs)
}

fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    soak: &cli::Soak,
    surroundings: &'scope Surroundings,
) -> Vec<thread::ScopedJoinHandle<'scope, Tally>> {
    let mut visitors = vec![scope.spawn(|| visitors::watch(surroundings))];
    // It must be there before the first of them publishes.
    let until = Instant::now() + Duration::from_secs(10);
    while !surroundings.publishers.are_watched() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    for index in 0..soak.reconnecting {
        visitors.push(scope.spawn(move || visitors::reconnect(surroundings, index)));
    }
    for index in 0..soak.visitors {
        visitors.push(scope.spawn(move || visitors::come_and_go(surroundings, index)));
    }
    for index in 0..soak.slow {
        visitors.push(scope.spawn(move || visitors::dawdle(surroundings, index)));
    }
    visitors
}

/// One tally for each kind of visitor.
fn merge(tallies: Vec<Tally>) -> Vec<Tally> {
    let mut merged: Vec<Tally> = Vec::new();
    for tally in tallies {
        match merged.iter_mut().find(|it| it.name == tally.name) {
            Some(same) => same.add(tally),
            None => merged.push(tally),
        }
    }
    merged
}

/// A soak has the same settings as the others with other defaults.
fn run_options(soak: &cli::Soak) -> cli::Run {
    let cli::Soak { duration, warmup, drain, threads, .. } = *soak;
    let outputs = Outputs { json: soak.outputs.json.clone(), html: soak.outputs.html.clone() };
    cli::Run { duration, warmup, drain, cores: soak.cores.clone(), threads, outputs }
}
