//! A small topic beside a large one: does the large one's fan-out hold up the small one's?

use super::{Load, TICK_NS, run_loads};
use crate::{cli::Beside, client::Topic, payload::Payload, schedule::Schedule};

/// Runs it; whether nothing went wrong.
///
/// # Errors
/// One line for the operator.
pub fn run(beside: &Beside) -> Result<bool, String> {
    let load = |name: &str, subscribers: u64, rate: u64| Load {
        topic: Topic {
            name: format!("load/{name}"),
            schedule: Schedule { rate, tick_ns: TICK_NS },
            payload: Payload::new(beside.size as usize),
            publishers: 1,
        },
        subscribers: subscribers as usize,
        sample: subscribers.min(64) as usize,
    };
    let loads = vec![
        load("small", beside.small_subscribers, beside.small_rate),
        load("large", beside.large_subscribers, beside.large_rate),
    ];
    run_loads("beside", &beside.broker, &beside.run, loads)
}
