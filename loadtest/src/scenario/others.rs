//! The others: who is measured beside what a scenario does, without it and with it.

use std::thread;

use super::{Plan, Setting, measure_window};
use crate::{
    client::{Lane, Times, Window},
    clock,
    output::Live,
    process,
    report::Report,
    schedule::Schedule,
};

/// Subscribers of one topic, so many of them looked at, on a thread of their own above what is beside them.
pub fn plan(title: String, topic: &str, rate: u64, size: u64, count: usize, sampled: usize) -> Plan {
    let mut plan = Plan::new(title);
    let group = plan.add_group(topic);
    let topic = plan.add_topic(group, topic.to_owned(), Schedule::of_one(rate), size);
    (0..count).for_each(|_| plan.subscribe(vec![topic], Lane::Quick));
    plan.publish(&[topic], Lane::Quick);
    plan.sample(group, sampled);
    plan
}

/// Runs the plan of the others once, and `beside` beside them when their warm-up is over. It says when the window begins
/// and ends of which their latencies are, and comes to its end by the deadline of the run.
///
/// # Errors
/// One line for the operator.
pub fn measure_beside<T: Send>(
    setting: &Setting<'_>,
    plan: &Plan,
    beside: impl FnOnce(&Times, &Window) -> Result<T, String> + Send,
) -> Result<(Report, T), String> {
    let run = setting.run;
    let connections = plan.open(setting.broker)?;
    let mut watcher = Live::new(&plan.title, &plan.groups, run.warmup, run.duration);
    let window = Window::new();
    let times = Times::starting_soon(run.warmup, run.duration, run.drain);
    thread::scope(|scope| {
        let beside = scope.spawn(|| {
            // The others' time is measured, not what this program makes them wait.
            process::pin_to_cores(&run.cores)?;
            process::lower_priority();
            clock::sleep_until(times.measure_ns);
            beside(&times, &window)
        });
        let report = measure_window(setting, plan, connections, times, Some(&window), &mut watcher);
        let beside = beside.join().map_err(|_| "the thread beside the others panicked".to_owned())?;
        Ok((report?, beside?))
    })
}
