//! What is measured: each scenario is a [`Plan`] or a file of its own.

mod connect;
mod feed;
mod find_max;
pub mod hostile;
pub mod idle;
mod others;
mod plan;
pub mod resume;
pub mod retained;
pub mod soak;
pub mod stalled;
#[cfg(test)]
pub mod tests;
pub mod topics;

pub use connect::run as run_connect;
pub use find_max::{Bound, run as find_max};
pub use plan::Plan;

use crate::{
    cli::{Broker, Load, Run},
    client::{self, Pace, Publisher, Subscriber, Times, Watcher, Window},
    environment::Environment,
    output::{Live, Outputs, print},
    process,
    report::{self, GroupShape, Report},
};

/// How a plan is run, whatever the scenario.
pub struct Setting<'a> {
    /// Where the broker is.
    pub broker: &'a Broker,
    /// How long and on which cores.
    pub run: &'a Run,
    /// By the timetable or by a window.
    pub pace: Pace,
    /// What the run was told, for its report.
    pub parameters: Vec<(String, String)>,
}

/// Runs a scenario that has a rate, once or as a search; whether nothing went wrong.
///
/// # Errors
/// One line for the operator.
pub fn run_load(
    setting: &Setting<'_>,
    load: &Load,
    rate: u64,
    plan: impl Fn(u64) -> Result<Plan, String>,
) -> Result<bool, String> {
    if load.find_max {
        return find_max(setting, Bound { p99_ms: load.p99_ms, tries: load.tries }, rate, plan);
    }
    run_plan(setting, &plan(rate)?)
}

/// Runs a plan once, prints, writes; whether nothing went wrong.
///
/// # Errors
/// One line for the operator.
pub fn run_plan(setting: &Setting<'_>, plan: &Plan) -> Result<bool, String> {
    check(setting.broker, &setting.run.outputs)?;
    let report = measure(setting, plan)?;
    finish(&report, &setting.run.outputs)
}

/// What would fail only after the run, told before it.
///
/// # Errors
/// One line for the operator.
pub fn check(broker: &Broker, outputs: &Outputs) -> Result<(), String> {
    outputs.check()?;
    broker.probe().check()
}

/// Runs a plan once.
///
/// # Errors
/// One line for the operator.
pub fn measure(setting: &Setting<'_>, plan: &Plan) -> Result<Report, String> {
    let run = setting.run;
    let mut live = Live::new(&plan.title, &plan.groups, run.warmup, run.duration);
    measure_watched(setting, plan, &mut live)
}

/// Runs a plan once, seen by `watcher` alone.
///
/// # Errors
/// One line for the operator.
pub fn measure_watched(
    setting: &Setting<'_>,
    plan: &Plan,
    watcher: &mut (dyn Watcher + Send),
) -> Result<Report, String> {
    ensure_descriptors(plan.connection_count())?;
    let connections = plan.open(setting.broker)?;
    let run = setting.run;
    let times = Times::starting_soon(run.warmup, run.duration, run.drain);
    measure_opened(setting, plan, connections, times, watcher)
}

/// Runs a plan once over `connections` that are open.
///
/// # Errors
/// One line for the operator.
pub fn measure_opened(
    setting: &Setting<'_>,
    plan: &Plan,
    connections: (Vec<Subscriber>, Vec<Publisher>),
    times: Times,
    watcher: &mut (dyn Watcher + Send),
) -> Result<Report, String> {
    measure_window(setting, plan, connections, times, None, watcher)
}

/// Runs a plan once over `connections` that are open; latencies are those of the window, if there is one.
///
/// # Errors
/// One line for the operator.
fn measure_window(
    setting: &Setting<'_>,
    plan: &Plan,
    (subscribers, publishers): (Vec<Subscriber>, Vec<Publisher>),
    times: Times,
    window: Option<&Window>,
    watcher: &mut (dyn Watcher + Send),
) -> Result<Report, String> {
    let Setting { broker, run, pace, parameters } = setting;
    let shapes: Vec<GroupShape> = (0..plan.groups.len())
        .map(|group| GroupShape {
            name: plan.groups[group].clone(),
            topics: plan.topics.iter().filter(|it| it.group == group).count(),
            subscribers: plan.subscriber_count(group),
            sampled: subscribers
                .iter()
                .filter(|it| it.is_sampled && plan.topics[it.topics[0].0].group == group)
                .count(),
        })
        .collect();
    let environment = Environment::read(broker.pid);
    let prepared = client::Run {
        topics: &plan.topics,
        group_count: plan.groups.len(),
        times,
        window,
        dialect: broker.protocol,
        pace: *pace,
        threads: &run.threads(),
        probe: &broker.probe(),
    };
    let outcome = client::run(&prepared, subscribers, publishers, watcher)?;
    let resident_bytes = broker.pid.and_then(process::resident_bytes);
    Ok(Report::new(&plan.title, environment, parameters.clone(), outcome, &shapes, resident_bytes))
}

/// Prints the report and writes it; whether it passed.
///
/// # Errors
/// If a file cannot be written.
pub fn finish(report: &Report, outputs: &Outputs) -> Result<bool, String> {
    print(report);
    outputs.write_json(report)?;
    outputs.write_html(|| report::page(report))?;
    Ok(report.passed)
}

/// Fails early, in words, if this process may not open so many connections.
///
/// # Errors
/// One line for the operator.
pub fn ensure_descriptors(connections: usize) -> Result<(), String> {
    let limit = process::raise_descriptor_limit();
    let needed = connections as u64 + 64;
    if needed > limit {
        return Err(format!(
            "{connections} connections need {needed} descriptors, the limit is {limit}: raise it (ulimit -n)"
        ));
    }
    Ok(())
}
