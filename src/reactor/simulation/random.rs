//! Random worlds: every seed another one.

mod past;

use std::{
    env,
    panic::{self, AssertUnwindSafe},
    sync::mpsc,
    time::{Duration, Instant, SystemTime},
};

use super::*;

/// What everyone publishes to; those under `skip/` may skip, where there is such a rule.
const TOPICS: [&str; 6] = ["a/x", "a/y", "a", "b/x", "skip/x", "skip/x/y"];
const FILTERS: [&str; 8] = ["a/#", "a/+", "+/x", "#", "skip/#", "+/+", "b/+", "+"];

/// How many steps a reactor that stalls does not run.
const STALL_STEPS: usize = 80;

/// What a random world does, beside its knobs.
#[derive(Clone, Debug)]
struct Plan {
    clients_max: usize,
    steps: usize,
    rounds: usize,
    payload_max: usize,
    topic_count: usize,
    /// The clock jumps by seconds.
    jumps: bool,
    /// Times in 16 that a client is slow, and that it is stuck.
    slow: u64,
    stuck: u64,
    drains: bool,
    /// A reactor at a time does not run for a while.
    stalls: bool,
    /// Some clients send what no client may send.
    has_strangers: bool,
    /// After so many steps each there are other policies, if not never.
    policy_steps: Option<usize>,
    /// What topics keep.
    keeping: Option<past::Keeping>,
    /// Clients publish with keys, and repeat what was published, also by others that are gone.
    repeats: bool,
    /// Some of them have values.
    has_values: bool,
}

fn plan(seed: u64, rng: &mut Rng) -> (Knobs, Plan) {
    // By itself, so that a seed's other draws do not depend on it.
    let deflates = Rng::new(seed ^ 7692).chance(1, 3);
    let is_tight = rng.chance(1, 3);
    let evicts = rng.chance(1, 5);
    let is_big = rng.chance(1, 6);
    let jumps = rng.chance(1, 4);
    let is_crowded = rng.chance(1, 6);
    let has_few_sockets = rng.chance(1, 6);
    let drains = rng.chance(1, 4);
    let skips = rng.chance(1, 2);
    let (stalls, has_strangers) = (rng.chance(1, 4), rng.chance(1, 3));
    let has_little_log = rng.chance(1, 4);
    let clients_max = rng.between(2, 10);
    let payload_max = if is_big { 20_000 } else { *rng.pick(&[16, 60, 300]) };
    let (keeping, history_bytes_max) = past::plan(seed, payload_max);
    let net = SimConfig {
        seed,
        ring_count: *rng.pick(&[1, 2, 2, 4]),
        buffer_count: rng.between(1, 8),
        large_buffer_count: rng.between(0, 3),
        buffer_bytes: if is_big { 2_000 } else { *rng.pick(&[16, 64, 300]) },
        sockets_max: if has_few_sockets { rng.between(2, 5) } else { 1_000 },
        window_bytes: if is_big { 30_000 } else { *rng.pick(&[100, 600, 5_000]) },
        trouble: rng.between(0, 8) as u64,
    };
    let mut key_rng = Rng::new(seed ^ 0x6b65);
    let repeats = key_rng.chance(1, 2);
    let knobs = Knobs {
        net,
        queue_entries: rng.between(1, 8),
        connections_max: if is_crowded { 3 } else { 100 },
        owed_bytes_max: match (is_tight, is_big) {
            (true, true) => 60_000,
            (true, false) => rng.between(400, 4_000),
            (false, _) => 1 << 30,
        },
        owed_ms_max: if is_tight || jumps { *rng.pick(&[0, 300, 5_000]) } else { 0 },
        policy: if skips { SlowConsumer::Skip } else { SlowConsumer::Disconnect },
        has_skip_rule: rng.chance(1, 2),
        policies: Vec::new(),
        topics_max: if evicts { rng.between(3, 6) } else { 1_000 },
        log_bytes_max: match (has_little_log, is_big) {
            (true, true) => 2 << 20,
            (true, false) if deflates => 320 << 10,
            (true, false) => 192 << 10,
            (false, _) => 1 << 30,
        },
        history_bytes_max: history_bytes_max.unwrap_or(PAST_BYTES_AMPLE),
        key_window_ms: *key_rng.pick(&[10, 100, 60_000]),
        keys_max: *key_rng.pick(&[1, 7, 65_536, 65_536]),
        max_delay_us: *rng.pick(&[None, Some(0), Some(500), Some(5_000)]),
        shares_listeners: rng.chance(1, 4),
        accepts_per_s_max: 0,
        subscriptions_max: 1_000,
        filter_limits: None,
        plus_levels_max: None,
        deflates,
        access: None,
        configure: |_| {},
        may_close: is_tight || jumps || is_crowded || drains || has_little_log,
        is_verbose: false,
    };
    let plan = Plan {
        clients_max,
        steps: rng.between(300, 1_200),
        rounds: rng.between(1, 3),
        payload_max,
        topic_count: if evicts { 30 } else { TOPICS.len() },
        jumps,
        slow: *rng.pick(&[0, 4, 10]),
        stuck: *rng.pick(&[0, 0, 2]),
        drains,
        stalls,
        has_strangers,
        policy_steps: Rng::new(seed ^ 0x701c).chance(1, 3).then_some(200),
        keeping,
        repeats,
        has_values: keeping.is_some() && Rng::new(seed ^ 0x5a1e).chance(1, 2),
    };
    (knobs, plan)
}

/// Policies that overlap each other and `skip/#`. Where nobody may be closed no bound is narrower than that of all
/// topics.
fn policies(knobs: &Knobs, rng: &mut Rng) -> Vec<TopicPolicy> {
    let mut policies = Vec::new();
    for filter in ["#", "+/x", "a/#", "a/+", "a/x", "skip/+", "skip/x/y", "nobody/+/#"] {
        if !rng.chance(1, 3) {
            continue;
        }
        let slow_consumer = match rng.below(3) {
            0 => None,
            1 if knobs.may_close => Some(SlowConsumer::Disconnect),
            _ => Some(SlowConsumer::Skip),
        };
        let bounds = knobs.may_close.then(|| (rng.between(300, 2_000), rng.between(0, 1) as u32 * 400));
        policies.push(TopicPolicy {
            filter: filter.into(),
            slow_consumer,
            owed_bytes_max: bounds.map(|(bytes, _)| bytes).filter(|_| rng.chance(1, 2)),
            owed_ms_max: bounds.map(|(_, ms)| ms).filter(|_| rng.chance(1, 2)),
            ..TopicPolicy::default()
        });
    }
    policies
}

/// The world of `seed`, from its beginning to its end.
fn run(seed: u64, is_verbose: bool) {
    let mut rng = Rng::new(seed);
    let (mut knobs, plan) = plan(seed, &mut rng);
    knobs.is_verbose = is_verbose;
    if is_verbose {
        eprintln!("{knobs:#?}\n{plan:#?}");
    }
    let mut policy_rng = Rng::new(seed ^ 0x9011);
    if policy_rng.chance(1, 2) {
        knobs.policies = policies(&knobs, &mut policy_rng);
    }
    let mut keep_rng = Rng::new(seed ^ 0x4ee9);
    plan.keeping.into_iter().for_each(|keeping| past::keep(&mut knobs.policies, keeping, &mut keep_rng));
    let mut stamp_rng = Rng::new(seed ^ 0x57a9);
    let stamps = stamp_rng.chance(1, 2);
    if stamps {
        past::stamp(&mut knobs.policies, &mut stamp_rng);
    }
    if plan.has_values {
        past::keep_values(&mut knobs.policies, &mut keep_rng);
    }
    let mut others = tenants::plan(seed, &mut knobs);
    let mut world = World::new(knobs);
    for _ in 0..plan.rounds {
        for moment in 0..plan.steps {
            if let Some(others) = others.as_mut().filter(|_| moment.is_multiple_of(8)) {
                others.stir(&mut world, &TOPICS, &FILTERS);
            }
            if plan.policy_steps.is_some_and(|steps| moment % steps == steps - 1) {
                let mut policies = policies(&world.knobs, &mut policy_rng);
                plan.keeping
                    .into_iter()
                    .for_each(|keeping| past::keep(&mut policies, keeping, &mut keep_rng));
                if stamps {
                    past::stamp(&mut policies, &mut stamp_rng);
                }
                if plan.has_values {
                    past::keep_values(&mut policies, &mut keep_rng);
                }
                world.knobs.policies = policies;
                world.reload();
            }
            step(&mut world, &plan, moment, &mut rng);
        }
        others.iter_mut().for_each(|others| others.leave(&world));
        world.settle();
        probe(&mut world, &plan, &mut rng);
    }
    if plan.drains {
        if rng.chance(1, 2) {
            hand_over_in_vain(&mut world, &plan, &mut rng);
        }
        drain(world, &plan, &mut rng);
    } else {
        world.end();
    }
}

fn step(world: &mut World, plan: &Plan, moment: usize, rng: &mut Rng) {
    match rng.below(20) {
        0..9 => {
            let index = rng.below(world.reactors.len());
            if plan.stalls && moment / STALL_STEPS % (world.reactors.len() + 1) == index {
                return;
            }
            // An enter may return for nothing.
            if rng.chance(1, 50) && world.reactors[index].is_some() {
                world.asleep_until_ns[index] = world.asleep_until_ns[index].map(|_| 0);
            }
            world.turn(index);
        }
        9 | 10 => {
            world.now_ns += match rng.below(200) {
                0 if plan.jumps => rng.between(1, 40) as u64 * SECOND,
                0..10 => rng.between(1, 300) as u64 * MS,
                10..60 => rng.between(1, 15) as u64 * MS,
                _ => rng.between(1, 200) as u64 * 1_000,
            };
        }
        11 if world.clients.iter().filter(|it| it.state != State::Over).count() < plan.clients_max => {
            let format = *rng.pick(&[Format::Json, Format::Binary]);
            let client = world.connect(rng.below(world.reactors.len()), format);
            if plan.keeping.is_some() {
                past::inherit(world, client, rng);
            }
            world.clients[client].pace = match rng.below(16) as u64 {
                draw if draw < plan.stuck => Pace::Stuck,
                draw if draw < plan.stuck + plan.slow => Pace::Slow,
                _ => Pace::Eager,
            };
        }
        _ if world.clients.is_empty() => {}
        _ => {
            let client = rng.below(world.clients.len());
            act(world, plan, client, rng);
        }
    }
}

/// A client does something.
fn act(world: &mut World, plan: &Plan, client: usize, rng: &mut Rng) {
    let it = &world.clients[client];
    if it.state == State::Over {
        return;
    }
    let (pace, state, waits) = (it.pace, it.state, it.out.len());
    match rng.below(24) {
        0..6 => match pace {
            Pace::Eager => drop(world.read(client, usize::MAX)),
            Pace::Slow => drop(world.read(client, rng.between(1, 200))),
            Pace::Stuck => {}
        },
        6..12 => world.write(client, if rng.chance(1, 2) { usize::MAX } else { rng.between(1, 40) }),
        12 if rng.chance(1, 12) => match rng.below(6) {
            0 => world.reset(client),
            1 => world.hang_up(client),
            3 => world.cut(client),
            4 if plan.has_strangers && state != State::Closing => world.babble(client, rng),
            // It half-closes: without a close frame that is an end as well.
            2 if state == State::Open => {
                world.clients[client].out.clear();
                world.net.finish(world.clients[client].peer);
                world.clients[client].state = State::Closing;
                world.oracle.on_over(client);
            }
            _ if state == State::Open => world.say_goodbye(client),
            _ => {}
        },
        _ if state != State::Open || waits > 4_000 || world.oracle.asked_count(client) > 100 => {}
        13 if rng.chance(1, 3) => {
            let count = rng.between(2, 12);
            world.ask_together(client, |world| (0..count).for_each(|_| command(world, plan, client, rng)));
        }
        13 if plan.repeats => repeat(world, plan, client, rng),
        14 => {
            let count = rng.between(2, 10);
            let topic = topic(plan, rng);
            for _ in 0..count {
                publish(world, plan, client, &topic, rng);
            }
        }
        _ => command(world, plan, client, rng),
    }
}

fn topic(plan: &Plan, rng: &mut Rng) -> String {
    match rng.below(plan.topic_count) {
        index if index < TOPICS.len() => TOPICS[index].into(),
        index => format!("a/{index}"),
    }
}

fn command(world: &mut World, plan: &Plan, client: usize, rng: &mut Rng) {
    if plan.keeping.is_some() && rng.chance(1, 3) {
        return past::command(world, plan, client, rng);
    }
    match rng.below(16) {
        0..4 => {
            let filter = some_filter(plan, client, rng);
            // Without an id there is no telling whether there was room, or a topic's past under way.
            let has_id = plan.topic_count > TOPICS.len()
                || plan.keeping.is_some()
                || world.oracle.is_held(client, &filter)
                || rng.chance(15, 16);
            world.subscribe_as(client, &filter, has_id);
        }
        4..6 => {
            let held: Vec<String> = world.oracle.held(client).map(str::to_owned).collect();
            let filter = if held.is_empty() || rng.chance(1, 16) {
                some_filter(plan, client, rng)
            } else {
                rng.pick(&held).clone()
            };
            world.unsubscribe(client, &filter);
            if rng.chance(1, 3) {
                world.subscribe(client, &filter);
            }
        }
        6 => world.ping(client),
        _ => {
            let topic = topic(plan, rng);
            publish(world, plan, client, &topic, rng);
        }
    }
}

fn some_filter(plan: &Plan, client: usize, rng: &mut Rng) -> String {
    // Whoever has a filter is refused the past of what that matches.
    let is_by_name = rng.chance(1, 2) || (plan.keeping.is_some() && client.is_multiple_of(2));
    if is_by_name { topic(plan, rng) } else { (*rng.pick(&FILTERS)).into() }
}

fn publish(world: &mut World, plan: &Plan, client: usize, topic: &str, rng: &mut Rng) {
    let len = rng.between(0, plan.payload_max);
    let (is_json, has_id, counts) = (rng.chance(1, 2), rng.chance(2, 3), rng.chance(1, 8));
    if plan.repeats && rng.chance(1, 2) {
        let key = format!("k{}", world.oracle.next_number());
        world.give_key(&key);
    }
    world.publish_as(client, topic, len, is_json, has_id, counts, None);
}

/// A client publishes what was published before with its key, by itself or by one that may be over.
fn repeat(world: &mut World, plan: &Plan, client: usize, rng: &mut Rng) {
    let newest: Vec<(usize, String)> =
        world.oracle.keyed.newest(12).map(|(number, key)| (number, key.to_owned())).collect();
    if newest.is_empty() {
        return;
    }
    for _ in 0..rng.between(1, 3) {
        let (number, key) = rng.pick(&newest);
        // The same key of another topic is another one.
        let topic = match rng.chance(1, 8) {
            true => topic(plan, rng),
            false => world.oracle.topic_of(*number).to_owned(),
        };
        world.give_key(key);
        let (has_id, counts) = (rng.chance(3, 4), rng.chance(1, 4));
        world.publish_as(client, &topic, 20, rng.chance(1, 2), has_id, counts, None);
    }
}

/// The world is at rest: who receives what is determined.
fn probe(world: &mut World, plan: &Plan, rng: &mut Rng) {
    for _ in 0..4 {
        let open: Vec<usize> = (0..world.clients.len())
            .filter(|&client| {
                world.clients[client].state == State::Open && world.clients[client].pace == Pace::Eager
            })
            .collect();
        if open.is_empty() {
            return;
        }
        // What a client that reads little is in is not determined, nor who is gone without a word.
        let is_determined = !world.has_lost
            && world.clients.iter().all(|it| it.pace == Pace::Eager || it.state == State::Over);
        let (client, topic) = (*rng.pick(&open), topic(plan, rng));
        let receivers =
            (is_determined && !world.knobs.may_close).then(|| world.oracle.receiver_count(&topic));
        world.publish_counted(client, &topic, receivers);
        world.settle();
    }
}

/// The reactors close all connections for a successor, which goes away, and serve again.
fn hand_over_in_vain(world: &mut World, plan: &Plan, rng: &mut Rng) {
    let (emptied, ends) = mpsc::channel();
    for index in 0..world.reactors.len() {
        world.order(index, Order::Drain { within_ms: 2_000, emptied: Some(emptied.clone()) });
    }
    for moment in 0..plan.steps {
        step(world, plan, moment, rng);
    }
    world.net.set_trouble(0);
    world.pass(20 * SECOND);
    world.net.set_trouble(world.knobs.net.trouble);
    assert_eq!(ends.try_iter().count(), world.reactors.len(), "each reactor is emptied");
    assert_eq!(world.net.open_count(), 0, "sockets stay open");
    (0..world.reactors.len()).for_each(|index| world.order(index, Order::Accept));
    for moment in 0..plan.steps {
        step(world, plan, moment, rng);
    }
}

/// Every reactor is told to drain, and does, whoever is connected and however they read.
fn drain(mut world: World, plan: &Plan, rng: &mut Rng) {
    for index in 0..world.reactors.len() {
        world.order_drain(index);
    }
    let began_ns = world.now_ns;
    for moment in 0..plan.steps {
        step(&mut world, plan, moment, rng);
    }
    world.net.set_trouble(0);
    world.pass(20 * SECOND);
    for index in 0..world.reactors.len() {
        world.describe(index);
    }
    assert!(
        world.reactors.iter().all(Option::is_none),
        "a drain ends in {} s",
        (world.now_ns - began_ns) / SECOND
    );
    assert_eq!(world.net.open_count(), 0, "sockets stay open");
    world.oracle.check_over();
}

/// Runs a seed and says which it was if it fails.
fn run_or_tell(seed: u64, is_verbose: bool) {
    tell_of("simulation::random", seed, || run(seed, is_verbose));
}

/// Says which seed it was of which test, if that fails.
pub(super) fn tell_of(test: &str, seed: u64, run: impl FnOnce()) {
    if let Err(failure) = panic::catch_unwind(AssertUnwindSafe(run)) {
        eprintln!(
            "seed {seed} fails; FANFARE_SIM_SEED={seed} cargo test --lib {test} -- --nocapture tells how"
        );
        panic::resume_unwind(failure);
    }
}

fn run_all(seeds: std::ops::Range<u64>) {
    if let Ok(seed) = env::var("FANFARE_SIM_SEED") {
        let seed = seed.parse().expect("FANFARE_SIM_SEED is a number");
        if seeds.start == 0 {
            run_or_tell(seed, true);
        }
        return;
    }
    let is_searching = env::var("FANFARE_SIM_SECONDS").is_ok();
    seeds.filter(|_| !is_searching).for_each(|seed| run_or_tell(seed, false));
}

#[test]
fn random_worlds_keep_every_promise() {
    run_all(0..60);
}

#[test]
fn more_random_worlds_keep_every_promise() {
    run_all(1_000..1_060);
}

/// For as long as `FANFARE_SIM_SECONDS` says.
#[test]
fn fresh_random_worlds_keep_every_promise() {
    run_fresh(|seed| run_or_tell(seed, false));
}

/// Runs seeds that were never run, for as long as `FANFARE_SIM_SECONDS` says; whoever runs one says which it was if it fails.
pub(super) fn run_fresh(run: impl Fn(u64)) {
    let Ok(seconds) = env::var("FANFARE_SIM_SECONDS") else { return };
    let seconds = seconds.parse().expect("FANFARE_SIM_SECONDS is a number");
    let began = Instant::now();
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let first = epoch.as_nanos() as u64 >> 10;
    let mut count = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        run(first.wrapping_add(count));
        count += 1;
    }
    eprintln!("{count} worlds from seed {first} on keep every promise");
}
