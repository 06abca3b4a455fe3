//! What random worlds do with topics' pasts.

use super::*;
use crate::{
    config::Retain,
    protocol::{
        json::Pointer,
        publication::{LastValue, Stamps},
    },
    reactor::simulation::client::{Anchor, Start},
};

/// Topics of these may keep something; none is the filter of a rule that worlds have by themselves.
const KEPT: [&str; 6] = ["#", "a/#", "a/+", "a/x", "skip/+", "b/x"];
/// Epochs of no world, nearly or not at all an epoch.
const FOREIGN: [&str; 3] = ["0123456789abcdef", "0123456789ABCDEF", "none"];

/// What a world's topics keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    /// Everything, as long as nothing is evicted.
    All,
    /// Something of some of them, each time another.
    Some,
}

/// What topics keep in the world of `seed`, if anything, and of how many bytes all together, if that is short.
pub(super) fn plan(seed: u64, payload_max: usize) -> (Option<Keeping>, Option<usize>) {
    let mut rng = Rng::new(seed ^ 0x9a57);
    let keeping = *rng.pick(&[None, None, Some(Keeping::All), Some(Keeping::Some)]);
    let is_short = keeping.is_some() && rng.chance(1, 4);
    (keeping, is_short.then(|| rng.between(2, 12) * (payload_max + 300)))
}

/// Adds which of them are stamped.
pub(super) fn stamp(policies: &mut Vec<TopicPolicy>, rng: &mut Rng) {
    for filter in KEPT {
        if rng.chance(1, 3) {
            let time = rng.chance(2, 3);
            // Nobody has a name in these worlds.
            let user = rng.chance(1, 3);
            at(policies, filter).stamp = Some(Stamps { user, time });
        }
    }
}

/// The policy with this filter, which is there from now on.
fn at<'a>(policies: &'a mut Vec<TopicPolicy>, filter: &str) -> &'a mut TopicPolicy {
    let place = policies.iter().position(|policy| policy.filter == filter).unwrap_or_else(|| {
        policies.push(TopicPolicy { filter: filter.into(), ..TopicPolicy::default() });
        policies.len() - 1
    });
    &mut policies[place]
}

/// Adds what topics keep to what else holds for them.
pub(super) fn keep(policies: &mut Vec<TopicPolicy>, keeping: Keeping, rng: &mut Rng) {
    let filters = if keeping == Keeping::All { &KEPT[..1] } else { &KEPT[..] };
    for &filter in filters {
        if keeping == Keeping::Some && rng.chance(1, 2) {
            continue;
        }
        let policy = at(policies, filter);
        policy.history_format = *rng.pick(&[None, Some(Format::Json), Some(Format::Binary)]);
        let bounds = if keeping == Keeping::All { 0 } else { rng.below(8) };
        policy.history_count = match bounds {
            0 => Some(10_000),
            1 => Some(0),
            2 | 3 => Some(rng.between(1, 40) as u64),
            _ => None,
        };
        policy.history_bytes = (bounds == 3 || bounds == 4).then(|| rng.between(200, 4_000) as u64);
        policy.history_ms = (bounds >= 5).then(|| rng.between(20, 2_000) as u32);
    }
}

/// Adds which of them have values, of themselves or of what is published to them, and changes nothing else.
pub(super) fn keep_values(policies: &mut Vec<TopicPolicy>, rng: &mut Rng) {
    for filter in KEPT {
        if rng.chance(1, 2) {
            continue;
        }
        let place = policies.iter().position(|policy| policy.filter == filter).unwrap_or_else(|| {
            policies.push(TopicPolicy { filter: filter.into(), ..TopicPolicy::default() });
            policies.len() - 1
        });
        policies[place].last_value =
            rng.pick(&[None, Some(LastValue::Newest), Some(LastValue::Nothing), Some(per_key())]).clone();
        policies[place].retain = *rng.pick(&[None, Some(Retain::Clients), Some(Retain::Nobody)]);
    }
    // One that sets nothing is none.
    policies
        .retain(|policy| *policy != TopicPolicy { filter: policy.filter.clone(), ..TopicPolicy::default() });
}

/// The key is what payloads have behind their number, which is as many as they have lengths.
fn per_key() -> LastValue {
    LastValue::PerKey(Arc::new(Pointer::parse("/1").expect("a pointer")))
}

/// A client connects, maybe in place of one whose connection is over, and remembers what that had.
pub(super) fn inherit(world: &mut World, client: usize, rng: &mut Rng) {
    let over: Vec<usize> = (0..client).filter(|&it| world.clients[it].state == State::Over).collect();
    if over.is_empty() || rng.chance(1, 4) {
        return;
    }
    let before = *rng.pick(&over);
    let mut remembered = world.clients[before].remembered.clone();
    remembered.extend(world.oracle.remembered(before).map(|(topic, seq)| (topic.to_owned(), seq)));
    world.clients[client].remembered = remembered;
}

/// A client asks for something of some topic's past, or leaves a topic whose past it may be sent.
pub(super) fn command(world: &mut World, plan: &Plan, client: usize, rng: &mut Rng) {
    let topic = topic(plan, rng);
    match rng.below(10) {
        0 if plan.has_values && rng.chance(2, 3) => {
            for _ in 0..rng.between(1, 4) {
                world.publish_value(client, &topic, rng.between(0, plan.payload_max), false, true);
            }
        }
        0..2 => (0..rng.between(5, 30)).for_each(|_| publish(world, plan, client, &topic, rng)),
        2..7 => {
            if world.oracle.is_held(client, &topic) && rng.chance(3, 4) {
                world.unsubscribe(client, &topic);
            }
            let start = some_start(world, client, &topic, rng);
            world.subscribe_from(client, &topic, start);
            if rng.chance(1, 6) {
                world.unsubscribe(client, &topic);
            }
        }
        7 => {
            let pace = *rng.pick(&[Pace::Eager, Pace::Slow]);
            if world.clients[client].pace != Pace::Stuck {
                world.clients[client].pace = pace;
            }
        }
        _ => {
            let anchor = match rng.below(3) {
                0 => Anchor::Newest,
                1 => Anchor::Before(some_place(world, client, &topic, rng)),
                _ => Anchor::After(some_place(world, client, &topic, rng)),
            };
            let limit = *rng.pick(&[None, Some(0), Some(1), Some(7), Some(1_000)]);
            world.ask_history(client, &topic, limit, anchor);
        }
    }
}

fn some_start(world: &World, client: usize, topic: &str, rng: &mut Rng) -> Start {
    let since = rng.chance(3, 4).then(|| some_place(world, client, topic, rng));
    let has_last = since.is_none() || rng.chance(1, 2);
    Start { since, last: has_last.then(|| *rng.pick(&[0, 1, 3, 20, 10_000])) }
}

/// Mostly what the client remembers; or anything.
fn some_place(world: &World, client: usize, topic: &str, rng: &mut Rng) -> Since {
    let newest = world.oracle.newest().find(|(of, _)| *of == topic).map_or(0, |(_, seq)| seq);
    let own = world.oracle.remembered(client).find(|(of, _)| *of == topic).map(|(_, seq)| seq);
    let remembered = own.or_else(|| world.clients[client].remembered.get(topic).copied());
    match rng.below(12) {
        0 => Since { epoch: (*rng.pick(&FOREIGN)).into(), seq: newest },
        1 => world.since(newest + rng.between(1, 40) as u64),
        2..5 => world.since(rng.below(newest as usize + 1) as u64),
        _ => world.since(remembered.unwrap_or(0)),
    }
}
