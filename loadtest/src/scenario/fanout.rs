//! One topic, many subscribers.

use super::{Load, TICK_NS, run_loads};
use crate::{
    cli::{Fanout, Verify},
    client::Topic,
    payload::Payload,
    schedule::Schedule,
};

/// Runs it; whether nothing went wrong.
///
/// # Errors
/// One line for the operator.
pub fn run(fanout: &Fanout) -> Result<bool, String> {
    let subscribers = fanout.subscribers as usize;
    let load = Load {
        topic: Topic {
            name: fanout.topic.clone(),
            schedule: Schedule { rate: fanout.rate, tick_ns: TICK_NS },
            payload: Payload::new(fanout.size as usize),
            publishers: fanout.publishers as usize,
        },
        subscribers,
        sample: match fanout.verify {
            Verify::All => subscribers,
            Verify::Sample => subscribers.min(fanout.sample as usize),
        },
    };
    let name = format!("fanout {} pub/s × {subscribers} × {} B", fanout.rate, fanout.size);
    run_loads(&name, &fanout.broker, &fanout.run, vec![load])
}
