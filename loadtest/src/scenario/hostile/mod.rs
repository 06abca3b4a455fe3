//! Hostile clients beside healthy ones: what does each kind of attack cost those who do nothing wrong?
//!
//! One attack after the other: everybody is connected and everything prepared, the healthy are alone for a
//! while, the attack lasts as long as it lasts, and what the healthy are owed then is waited for. The healthy
//! have a thread of their own, above the attackers', which also notes how late its own timer fires: a busy
//! core of this program is not to be taken for the broker.
//!
//! # Modules
//!
//! - [`attack`]: what each kind consists of; [`flood`]: who sends as fast as it goes;
//! - [`healthy`]: who waits; [`client`]: their connections.

mod attack;
mod client;
mod flood;
mod healthy;
#[cfg(test)]
mod tests;

use std::{sync::atomic::Ordering::SeqCst, thread, time::Duration};

use clap::ValueEnum;
use hdrhistogram::Histogram;

use super::{check, ensure_descriptors};
use crate::{
    broker::long_turns,
    cli::{Attack, Hostile},
    client::INTERRUPTED,
    clock,
    connect::Target,
    dialect::Dialect,
    environment::Environment,
    output::{print, tell},
    process,
    report::{
        Latency, Turns,
        hostile::{Bounds, HostileReport, Round, Verdict},
    },
};
use attack::{Outcome, Prepared, Variant, attackers, memory_unit, prepare, variants};
use flood::Until;
use healthy::{Findings, Healthy, Phase};

/// How often the broker's memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a broker may take until it accepts again after an attack.
const RECOVERY_NS: u64 = 60_000_000_000;
/// Turns of the broker that took longer are told.
const LONG_TURNS_S: [f64; 2] = [0.002, 0.020];

/// Runs it.
///
/// # Errors
/// One line for the operator.
pub fn run(options: &Hostile, parameters: Vec<(String, String)>) -> Result<bool, String> {
    if options.broker.protocol != Dialect::Json {
        return Err("hostile speaks fanfare-json only".to_owned());
    }
    check(&options.broker, &options.outputs)?;
    let kinds = if options.attack.is_empty() { Attack::value_variants() } else { &options.attack };
    let most = kinds.iter().map(|it| attackers(options, *it)).max().unwrap_or(0);
    ensure_descriptors(most + healthy_connections(options))?;
    process::pin_to_cores(&options.cores)?;
    let target = options.broker.target()?;
    // A broker that is not there, or is no broker, is told in a line before anything is prepared.
    client::Client::open(&target, 0, false)?;
    let mut rounds = Vec::new();
    for variant in kinds.iter().flat_map(|it| variants(*it)) {
        if INTERRUPTED.load(SeqCst) {
            break;
        }
        tell(format_args!("{}, {} attackers", variant.name, attackers(options, variant.attack)));
        let round = await_broker(&target).and_then(|()| measure(options, variant, &target));
        // One attack that could not be run leaves what came of the others.
        rounds.push(round.unwrap_or_else(|error| {
            let count = attackers(options, variant.attack);
            Round { trouble: Some(error), verdict: Verdict::NotRun, ..Round::new(variant.name, count) }
        }));
    }
    let report = HostileReport::new(
        format!("hostile: {} healthy subscribers and those who ping beside attackers", options.subscribers),
        Environment::read(options.broker.pid),
        parameters,
        bounds(options),
        rounds,
    );
    print(&report);
    options.outputs.write_json(&report)?;
    options.outputs.write_html(|| report.page())?;
    Ok(report.passed)
}

/// Waits until the broker has got over the attack before, which may have left it much to do.
fn await_broker(target: &Target) -> Result<(), String> {
    let until_ns = clock::now_ns() + RECOVERY_NS;
    loop {
        match client::Client::open(target, 0, false) {
            Ok(_) => return Ok(()),
            Err(error) if clock::now_ns() >= until_ns || INTERRUPTED.load(SeqCst) => return Err(error),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn bounds(options: &Hostile) -> Bounds {
    Bounds {
        ping_p99_ms: options.ping_p99_ms,
        ping_max_ms: options.ping_max_ms,
        delivery_p99_ms: options.delivery_p99_ms,
        closed_max: options.closed_max,
        memory_bytes_max: options.memory_max.map(|mib| mib << 20),
    }
}

fn healthy_connections(options: &Hostile) -> usize {
    options.healthy + options.subscribers + 1
}

/// Runs one attack.
fn measure(options: &Hostile, variant: Variant, target: &Target) -> Result<Round, String> {
    let count = attackers(options, variant.attack);
    let (attacking_cores, healthy_cores) = share_cores(&options.cores);
    let threads = if variant.attack == Attack::Shed { 1 } else { attacking_cores.len().max(1) };
    let prepared = match prepare(options, variant, target, threads)? {
        Prepared::Skipped(reason) if options.attack.is_empty() => {
            let trouble = Some(reason.to_owned());
            return Ok(Round { trouble, verdict: Verdict::Skipped, ..Round::new(variant.name, count) });
        }
        Prepared::Skipped(reason) => return Err(reason.to_owned()),
        prepared => prepared,
    };
    let healthy = Healthy::open(target, options.healthy, options.subscribers)?;
    let phase = Phase::new();
    let turns = || options.broker.metrics.as_deref().and_then(|url| long_turns(url, LONG_TURNS_S));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let note = be_prompt(&healthy_cores);
            (healthy.run(&phase, options.drain * 1_000_000_000), note)
        });
        attack::sleep_until(clock::now_ns() + options.warmup * 1_000_000_000);
        let before = turns();
        phase.begin();
        let attacking = spawn(scope, prepared, options, attacking_cores);
        let mut resident_bytes_max = None;
        while !attacking.iter().all(thread::ScopedJoinHandle::is_finished) {
            resident_bytes_max =
                resident_bytes_max.max(options.broker.pid.and_then(process::resident_now_bytes));
            thread::sleep(LOOK);
        }
        phase.end();
        let mut outcome = Outcome::default();
        let mut failed = None;
        for joined in attacking {
            match joined.join().unwrap_or_else(|_| Err("an attacker panicked".to_owned())) {
                Ok(share) => {
                    outcome.tally.add(share.tally);
                    outcome.bytes_each = share.bytes_each;
                }
                Err(error) => failed = Some(error),
            }
        }
        let (findings, note) = waiting.join().map_err(|_| "the healthy panicked".to_owned())?;
        if let Some(error) = failed {
            return Err(error);
        }
        let turns =
            before.zip(turns()).map(|(before, after)| [0, 1].map(|it| Turns::between(before[it], after[it])));
        let mut round = round(variant, count, &findings, &outcome);
        (round.turns, round.note) = (turns, note);
        round.resident_bytes_max = resident_bytes_max;
        round.judge(&bounds(options));
        Ok(round)
    })
}

/// Where the attackers run, and where the healthy do: on the last core, alone if there is another.
fn share_cores(cores: &[usize]) -> (Vec<usize>, Vec<usize>) {
    match cores {
        [] => (Vec::new(), Vec::new()),
        [only] => (vec![*only], vec![*only]),
        [others @ .., last] => (others.to_vec(), vec![*last]),
    }
}

/// Puts the calling thread above all others of this program; what does not go is told.
fn be_prompt(cores: &[usize]) -> Option<String> {
    if let Err(error) = process::pin_to_cores(cores) {
        return Some(error);
    }
    let raised = process::run_in_real_time().or_else(|_| process::raise_priority());
    raised.err().map(|error| format!("the healthy run at the priority of the attackers: {error}"))
}

type Attacking<'scope> = thread::ScopedJoinHandle<'scope, Result<Outcome, String>>;

/// Begins the attack, a thread on each core.
fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    prepared: Prepared,
    options: &'scope Hostile,
    cores: Vec<usize>,
) -> Vec<Attacking<'scope>> {
    let begin_ns = clock::now_ns();
    let duration_ns = options.duration * 1_000_000_000;
    let end_ns = begin_ns + duration_ns;
    let pid = options.broker.pid;
    match prepared {
        Prepared::Flood(floods) => {
            let place = move |index: usize| cores.get(index).copied();
            let spawned = floods.into_iter().enumerate().map(|(index, mut flood)| {
                let core = place(index);
                scope.spawn(move || {
                    core.map_or(Ok(()), process::pin_to_core)?;
                    flood.run(end_ns, Until::Time)?;
                    Ok(Outcome { tally: flood.tally(), bytes_each: None })
                })
            });
            spawned.collect()
        }
        Prepared::Leave(leave) => vec![scope.spawn(move || Ok(leave.run(begin_ns, end_ns)))],
        Prepared::Settle(settle) => vec![scope.spawn(move || {
            process::pin_to_cores(&cores)?;
            settle.run(duration_ns, pid)
        })],
        Prepared::Skipped(_) => Vec::new(),
    }
}

/// What is told of an attack, before it is judged.
fn round(variant: Variant, attackers: usize, findings: &Findings, outcome: &Outcome) -> Round {
    let pings = |of: fn(&healthy::Latencies) -> &Histogram<u64>| {
        let histograms = findings.pings.iter().map(of);
        // Of the worst connection: those of other reactors must not outweigh it.
        let worst = histograms.clone().max_by_key(|it| it.value_at_quantile(0.99));
        let latency = worst.map(Latency::of_histogram)?;
        Some(Latency { max: histograms.map(|it| it.max() as f64 / 1e6).fold(0.0, f64::max), ..latency })
    };
    let deliveries = &findings.deliveries;
    Round {
        ping_count: findings.pings.iter().map(|it| it.during.len()).sum(),
        ping_before_ms: pings(|it| &it.before),
        ping_ms: pings(|it| &it.during),
        delivery_count: deliveries.during.len(),
        delivery_before_ms: Some(Latency::of_histogram(&deliveries.before)),
        delivery_ms: Some(Latency::of_histogram(&deliveries.during)),
        own_delay_ms: Some(Latency::of_histogram(&findings.own_delay)),
        counts: findings.counts,
        trouble: findings.first_trouble.clone(),
        sent_bytes: outcome.tally.sent_bytes,
        received_bytes: outcome.tally.received_bytes,
        attackers_closed: outcome.tally.closed,
        bytes_each: outcome.bytes_each.map(|bytes| (bytes, memory_unit(variant.attack))),
        ..Round::new(variant.name, attackers)
    }
}
