//! The scenarios that are topics, subscribers and publishers: what each consists of.

use super::Plan;
use crate::{
    cli::{Beside, Fanin, Fanout, Rooms, Soak, Ticker},
    client::Lane,
    schedule::Schedule,
};

/// One topic, `publishers` and `subscribers`; the first step of most scenarios.
fn add_one_topic(
    plan: &mut Plan,
    name: &str,
    schedule: Schedule,
    size: u64,
    (publishers, subscribers): (usize, usize),
    lane: Lane,
) -> usize {
    let group = plan.add_group(name);
    let topic = plan.add_topic(group, name.to_owned(), schedule, size);
    (0..subscribers).for_each(|_| plan.subscribe(vec![topic], lane));
    (0..publishers).for_each(|_| plan.publish(&[topic], lane));
    group
}

/// One topic, many subscribers.
pub fn fanout(options: &Fanout, rate: u64) -> Plan {
    let Fanout { subscribers, publishers, topic, load, .. } = options;
    let mut plan = Plan::new(format!("fanout: {rate} pub/s × {subscribers} × {} B", load.size));
    let schedule = Schedule::of_one(rate);
    let group = add_one_topic(&mut plan, topic, schedule, load.size, (*publishers, *subscribers), Lane::Bulk);
    plan.sample(group, load.sampled_of(*subscribers));
    plan
}

/// One topic, many publishers.
pub fn fanin(options: &Fanin, rate: u64) -> Plan {
    let Fanin { subscribers, publishers, load, .. } = options;
    let mut plan =
        Plan::new(format!("fanin: {publishers} publishers, {rate} pub/s × {subscribers} × {} B", load.size));
    let counts = (*publishers, *subscribers);
    let group = add_one_topic(&mut plan, "load/in", Schedule::of_one(rate), load.size, counts, Lane::Bulk);
    plan.sample(group, load.sampled_of(*subscribers));
    plan
}

/// Many topics with some subscribers each.
pub fn rooms(options: &Rooms, rate: u64) -> Plan {
    let Rooms { rooms, members, publishers, load, .. } = options;
    let mut plan = Plan::new(format!(
        "rooms: {rooms} of {members}, {publishers} publishers, {rate} pub/s × {} B",
        load.size
    ));
    let group = add_rooms(&mut plan, (*rooms, *members, *publishers), rate, load.size);
    plan.sample(group, load.sampled_of(rooms * members));
    plan
}

/// Rooms of `members` each; more `publishers` than rooms share one, with fewer each has several.
pub fn add_rooms(
    plan: &mut Plan,
    (rooms, members, publishers): (usize, usize, usize),
    rate: u64,
    size: u64,
) -> usize {
    let group = plan.add_group("rooms");
    let first = plan.topics.len();
    for index in 0..rooms {
        let schedule = Schedule::of_many(rate, index as u64, rooms as u64);
        let topic = plan.add_topic(group, room_name(index), schedule, size);
        (0..members).for_each(|_| plan.subscribe(vec![topic], Lane::Bulk));
    }
    for index in 0..publishers {
        let rooms: Vec<usize> = match publishers >= rooms {
            true => vec![first + index % rooms],
            false => (first + index..first + rooms).step_by(publishers).collect(),
        };
        plan.publish(&rooms, Lane::Bulk);
    }
    group
}

/// What the room with this number is called.
pub fn room_name(index: usize) -> String {
    format!("room/{index}")
}

/// Many topics, each subscriber on several.
///
/// # Errors
/// One line for the operator.
pub fn ticker(options: &Ticker, rate: u64) -> Result<Plan, String> {
    let Ticker { topics, subscribers, per_subscriber, publishers, load, .. } = options;
    if per_subscriber > topics {
        return Err(format!("--per-subscriber {per_subscriber} is more than --topics {topics}"));
    }
    if publishers > topics {
        return Err(format!("--publishers {publishers} is more than --topics {topics}"));
    }
    let mut plan = Plan::new(format!(
        "ticker: {topics} topics, {subscribers} subscribers of {per_subscriber}, {rate} pub/s × {} B",
        load.size
    ));
    let group = plan.add_group("ticker");
    for index in 0..*topics {
        let schedule = Schedule::of_many(rate, index as u64, *topics as u64);
        plan.add_topic(group, format!("tick/{index}"), schedule, load.size);
    }
    // Spread evenly; a topic that nobody has is published all the same, as tickers are.
    for index in 0..*subscribers {
        let first = index * topics / subscribers;
        plan.subscribe((first..first + per_subscriber).map(|it| it % topics).collect(), Lane::Bulk);
    }
    for index in 0..*publishers {
        plan.publish(&(index..*topics).step_by(*publishers).collect::<Vec<_>>(), Lane::Bulk);
    }
    plan.sample(group, load.sampled_of(*subscribers));
    if options.conflate {
        plan.conflate();
    }
    Ok(plan)
}

/// A small topic on the quick lane, a large one beside it.
pub fn beside(options: &Beside) -> Plan {
    let Beside { small_subscribers, small_rate, large_subscribers, large_rate, size, .. } = options;
    let mut plan = Plan::new(format!(
        "beside: {small_rate} pub/s × {small_subscribers} beside {large_rate} pub/s × {large_subscribers}, {size} B"
    ));
    for (name, subscribers, rate, lane) in [
        ("load/small", *small_subscribers, *small_rate, Lane::Quick),
        ("load/large", *large_subscribers, *large_rate, Lane::Bulk),
    ] {
        let schedule = Schedule::of_one(rate);
        let group = add_one_topic(&mut plan, name, schedule, *size, (1, subscribers), lane);
        plan.sample(group, subscribers.min(64));
    }
    plan
}

/// A bit of everything.
pub fn soak(options: &Soak) -> Plan {
    let Soak { subscribers, rooms, publishers, rate, size, .. } = options;
    let mut plan = Plan::new(format!(
        "soak: {rate} pub/s × {size} B over a fan-out to {subscribers}, {rooms} rooms of 10, a fan-in of \
         {publishers}"
    ));
    let tenth = rate / 10;
    let schedule = Schedule::of_one(tenth);
    let group = add_one_topic(&mut plan, "soak/out", schedule, *size, (1, *subscribers), Lane::Bulk);
    plan.sample(group, 16.min(*subscribers));
    let group = add_rooms(&mut plan, (*rooms, 10, *rooms), tenth * 4, *size);
    plan.sample(group, *rooms);
    let schedule = Schedule::of_one(rate - tenth * 5);
    let group = add_one_topic(&mut plan, "soak/in", schedule, *size, (*publishers, 2), Lane::Bulk);
    plan.sample(group, 2);
    plan
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(arguments: &[&str]) -> Plan {
        let line = [&["fanfare-loadtest"], arguments].concat();
        match Cli::parse_from(line).command {
            Command::Fanout(it) => fanout(&it, it.rate),
            Command::Fanin(it) => fanin(&it, it.rate),
            Command::Rooms(it) => rooms(&it, it.rate),
            Command::Ticker(it) => ticker(&it, it.rate).unwrap(),
            Command::Beside(it) => beside(&it),
            Command::Soak(it) => soak(&it),
            _ => panic!("{arguments:?} has no plan"),
        }
    }

    /// Whatever the numbers: every topic has who publishes to it, as many as it thinks, all together
    /// publish the rate, and who is sampled has all topics covered that anyone has.
    #[test]
    fn every_topic_of_every_scenario_is_published_to() {
        for (arguments, rate) in [
            (&["fanout", "--publishers", "3"][..], 1000),
            (&["fanin"], 20_000),
            (&["rooms"], 2000),
            (&["rooms", "--rooms", "7", "--publishers", "3", "--rate", "100"], 100),
            (&["rooms", "--rooms", "3", "--publishers", "7", "--rate", "100"], 100),
            (&["ticker"], 5000),
            (&["ticker", "--topics", "5", "--publishers", "2", "--per-subscriber", "5"], 5000),
            (&["beside"], 120),
            (&["soak"], 1000),
            (&["soak", "--rooms", "3", "--publishers", "2", "--rate", "57"], 57),
        ] {
            let plan = plan(arguments);
            assert!(plan.topics.iter().all(|it| it.publishers > 0), "{arguments:?}");
            let total: u64 = plan.topics.iter().map(|it| it.schedule.total(10_000_000_000)).sum();
            let planned = rate * 10;
            let slack = plan.topics.len() as u64 + planned / 50;
            assert!(total.abs_diff(planned) <= slack, "{arguments:?}: {total} of {planned}");
        }
    }

    #[test]
    fn what_a_ticker_cannot_be_is_told() {
        for arguments in [
            &["ticker", "--topics", "3", "--per-subscriber", "4", "--publishers", "1"][..],
            &["ticker", "--topics", "3", "--per-subscriber", "1", "--publishers", "4"],
        ] {
            let line = [&["fanfare-loadtest"], arguments].concat();
            let Command::Ticker(options) = Cli::parse_from(line).command else { panic!() };
            assert!(ticker(&options, options.rate).is_err(), "{arguments:?}");
        }
    }
}
