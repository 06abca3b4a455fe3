//! Subscribers that stop reading beside others that do not: what they cost the others, and the broker.

use std::{net::TcpStream, sync::atomic::Ordering::SeqCst};

use super::{Plan, Setting, check, ensure_descriptors, idle::is_closed, measure};
use crate::{
    cli::Stalled,
    client::{INTERRUPTED, Lane, Pace},
    connect,
    dialect::Role,
    environment::Environment,
    output::print,
    process,
    report::stalled::{Round, StalledReport},
    schedule::Schedule,
};

/// Runs it: rounds without and with them in turn, so that what else the machine does is in both.
///
/// # Errors
/// One line for the operator.
pub fn run(options: &Stalled, parameters: Vec<(String, String)>) -> Result<bool, String> {
    let Stalled { stalled, healthy, own_topics, broker, run, .. } = options;
    check(broker, &run.outputs)?;
    ensure_descriptors(stalled + healthy + own_topics + options.publishers)?;
    let setting = Setting { broker, run, pace: Pace::Open, parameters: parameters.clone() };
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        for has_stalled in [false, true] {
            if INTERRUPTED.load(SeqCst) {
                break;
            }
            rounds.push(measure_round(&setting, options, has_stalled)?);
        }
    }
    let report = StalledReport::new(
        title(options),
        Environment::read(broker.pid),
        parameters,
        rounds,
        options.memory_max.map(|mib| mib << 20),
        options.ratio_max,
    );
    print(&report);
    run.outputs.write_json(&report)?;
    run.outputs.write_html(|| report.page())?;
    Ok(report.passed)
}

fn measure_round(setting: &Setting<'_>, options: &Stalled, has_stalled: bool) -> Result<Round, String> {
    let sockets = if has_stalled { open(options)? } else { Vec::new() };
    let report = measure(setting, &plan(options, has_stalled))?;
    let socket_bytes = process::socket_bytes();
    let closed = sockets.iter().filter(|it| is_closed(it)).count();
    Ok(Round { stalled: sockets.len(), closed, socket_bytes, report })
}

/// Connects and subscribes those who never read again.
fn open(options: &Stalled) -> Result<Vec<TcpStream>, String> {
    let target = options.broker.target()?;
    let topics = options.own_topics.max(1);
    let mut sockets = Vec::with_capacity(options.stalled);
    for index in 0..topics {
        let name = if options.own_topics == 0 { HEALTHY.to_owned() } else { own_topic(index) };
        let count = (index + 1) * options.stalled / topics - sockets.len();
        let role = Role::Subscriber(&name);
        let connected = connect::connect(&target, options.broker.protocol, role, sockets.len(), count)?;
        sockets.extend(connected.into_iter().map(|it| it.socket));
    }
    Ok(sockets)
}

const HEALTHY: &str = "stalled/healthy";

fn own_topic(index: usize) -> String {
    format!("stalled/own/{index}")
}

fn title(options: &Stalled) -> String {
    let Stalled { stalled, healthy, rate, size, own_topics, .. } = options;
    let where_ = match own_topics {
        0 => "of the same topic".to_owned(),
        count => format!("of {count} topics of their own"),
    };
    format!("stalled: {rate} pub/s × {size} B to {healthy}, beside {stalled} {where_} that do not read")
}

fn plan(options: &Stalled, has_stalled: bool) -> Plan {
    let Stalled { healthy, publishers, rate, size, own_topics, .. } = options;
    let mut plan =
        Plan::new(format!("{}{}", title(options), if has_stalled { "" } else { ", without them" }));
    let group = plan.add_group(HEALTHY);
    let topic = plan.add_topic(group, HEALTHY.to_owned(), Schedule::of_one(*rate), *size);
    (0..*healthy).for_each(|_| plan.subscribe(vec![topic], Lane::Bulk));
    (0..*publishers).for_each(|_| plan.publish(&[topic], Lane::Bulk));
    plan.sample(group, (*healthy).min(64));
    if *own_topics > 0 {
        // In every round, so that the load is the same; one reads each, so that there is something to verify.
        let group = plan.add_group("stalled/own");
        for index in 0..*own_topics {
            let schedule = Schedule::of_many(*rate, index as u64, *own_topics as u64);
            let topic = plan.add_topic(group, own_topic(index), schedule, *size);
            plan.subscribe(vec![topic], Lane::Bulk);
            plan.publish(&[topic], Lane::Bulk);
        }
        plan.sample(group, *own_topics);
    }
    plan
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn every_round_has_the_same_load() {
        for arguments in [&["stalled"][..], &["stalled", "--own-topics", "7", "--stalled", "20"]] {
            let line = [&["fanfare-loadtest"], arguments].concat();
            let Command::Stalled(options) = Cli::parse_from(line).command else { panic!() };
            let [without, with] = [false, true].map(|has_stalled| plan(&options, has_stalled));
            assert_eq!(without.topics.len(), with.topics.len());
            assert_eq!(without.connection_count(), with.connection_count());
            assert!(with.topics.iter().all(|topic| topic.publishers > 0));
        }
    }
}
