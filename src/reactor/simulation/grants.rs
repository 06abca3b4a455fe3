//! Random worlds in which clients are asked who they are, and what they may do changes: by reloads, by other tokens, and by time.

use std::{env, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    oracle::rights::{ANONYMOUS, Era, Person, Rights, Whose},
    random::{run_fresh, tell_of},
    *,
};
use crate::{
    access::{
        Trusted,
        forge::Signer,
        grants::{GrantTexts, Grants, Role},
        keys::{Algorithm, KeySet, Source as KeySource},
        static_token,
        token::IssuerTerms,
    },
    protocol::publication::{LastValue, Stamps},
    uring::sim::EPOCH_NS,
};

const TOPICS: [&str; 7] = ["a/x", "a/y", "a", "b/x", "own/bob", "own/eve", "own/z"];
const FILTERS: [&str; 8] = ["a/#", "a/+", "+/x", "#", "own/#", "+/+", "b/+", "+/bob"];
/// What roles and tokens grant and deny.
const GRANTS: [&str; 12] =
    ["a/#", "a/+", "a/x", "#", "+/x", "own/{user}", "own/#", "b/+", "+/{user}", "a", "+/+", "b/x"];
const DENIES: [&str; 6] = ["a/y", "b/#", "+/y", "own/eve", "own/{user}", "a"];
const ROLES: [&str; 4] = ["one", "two", "three", "four"];
/// Who has static tokens.
const HOLDERS: [&str; 3] = ["bob", "bob", "eve"];
const SECRET: &[u8] = b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";

/// Some of `texts`, as often as not none.
fn some(texts: &[&str], count_max: usize, rng: &mut Rng) -> Vec<String> {
    (0..rng.below(count_max + 1)).map(|_| (*rng.pick(texts)).to_owned()).collect()
}

fn some_grants(rng: &mut Rng) -> GrantTexts {
    GrantTexts {
        publish: some(&GRANTS, 3, rng),
        subscribe: some(&GRANTS, 4, rng),
        history: rng.chance(1, 3).then(|| some(&GRANTS, 3, rng)),
        presence: Vec::new(),
        deny: if rng.chance(1, 4) { some(&DENIES, 2, rng) } else { Vec::new() },
    }
}

fn some_roles(rng: &mut Rng) -> Vec<usize> {
    (0..rng.below(3)).map(|_| rng.below(ROLES.len())).collect()
}

fn some_era(rng: &mut Rng) -> Era {
    Era {
        roles: ROLES.iter().map(|_| some_grants(rng)).collect(),
        anonymous: rng.chance(1, 2).then(|| some_roles(rng)),
        statics: HOLDERS.iter().map(|_| rng.chance(7, 8).then(|| some_roles(rng))).collect(),
        issuer: rng.chance(7, 8).then(|| some_roles(rng)),
        named_only: rng.chance(1, 2).then(|| (*rng.pick(&FILTERS[..5])).to_owned()),
    }
}

/// With what `era` says of topics among them.
fn with_named_only(mut policies: Vec<TopicPolicy>, era: &Era) -> Vec<TopicPolicy> {
    policies.iter_mut().for_each(|policy| policy.anonymous = None);
    if let Some(filter) = &era.named_only {
        match policies.iter_mut().find(|policy| policy.filter == *filter) {
            Some(policy) => policy.anonymous = Some(false),
            None => policies.push(TopicPolicy {
                filter: filter.clone(),
                anonymous: Some(false),
                ..TopicPolicy::default()
            }),
        }
    }
    // One that sets nothing is none.
    policies
        .retain(|policy| *policy != TopicPolicy { filter: policy.filter.clone(), ..TopicPolicy::default() });
    policies
}

/// A key, or none: whoever gives the same one may be somebody else.
fn give_some_key(world: &mut World, rng: &mut Rng) {
    if rng.chance(1, 4) {
        world.give_key(if rng.chance(1, 2) { "1" } else { "2" });
    }
}

fn static_token_of(place: usize) -> String {
    static_token::from_random(&[place as u8; 32])
}

/// The same as the broker has it.
fn access_of(era: &Era, version: u64) -> Access {
    let role = |(name, texts): (&&str, &GrantTexts)| {
        let grants = Grants::parse(texts).expect("filters");
        Role { name: (*name).into(), grants }
    };
    let names = |roles: &[usize]| roles.iter().map(|role| ROLES[*role].into()).collect::<Vec<Box<str>>>();
    let mut access = Access::new(version, ROLES.iter().zip(&era.roles).map(role).collect());
    if let Some(roles) = &era.issuer {
        let jwk = Signer::Hmac(SECRET.to_vec()).jwk("");
        let algorithms = vec![Algorithm::Hs256];
        let keys = KeySet::from_jwks(jwk.as_bytes(), &algorithms, KeySource::File).expect("a key").keys;
        let terms = IssuerTerms {
            iss: "login".into(),
            audience: Vec::new(),
            algorithms,
            user_claim: "sub".into(),
            claims: "fanfare".into(),
            ttl_s_max: None,
            tenants: false,
            keys: Some(Arc::new(keys)),
            refetch: None,
        };
        access.trust(vec![Trusted { terms, roles: names(roles).into(), tenant: None }], 0);
    }
    for (place, (user, roles)) in HOLDERS.iter().zip(&era.statics).enumerate() {
        if let Some(roles) = roles {
            let digest = Sha256::digest(static_token_of(place)).into();
            assert!(access.admit_static_token(user, names(roles).into(), None, digest));
        }
    }
    if let Some(roles) = &era.anonymous {
        access.admit_anonymous(names(roles).into());
    }
    access
}

/// Somebody with a token that ends so many seconds behind the world's beginning.
fn signed(secret: &[u8], user: &str, ends_in_s: u64, roles: Vec<usize>, grants: GrantTexts) -> Person {
    let ends_s = (EPOCH_NS + START_NS) / SECOND + ends_in_s;
    let named: Vec<&str> = roles.iter().map(|role| ROLES[*role]).collect();
    let mut own = serde_json::json!({
        "roles": named, "publish": grants.publish, "subscribe": grants.subscribe, "deny": grants.deny,
    });
    if let Some(history) = &grants.history {
        own["history"] = serde_json::json!(history);
    }
    let claims = serde_json::json!({"iss": "login", "sub": user, "exp": ends_s, "fanfare": own});
    let signer = Signer::Hmac(secret.to_vec());
    Person {
        token: signer.token(Algorithm::Hs256, r#"{"alg":"HS256"}"#, &claims.to_string()),
        user: Some(user.into()),
        whose: Whose::Issuer { roles, grants: Box::new(grants) },
        ends_ms: Some(ends_s * 1_000 - (EPOCH_NS + START_NS) / MS),
    }
}

/// Everybody: nobody in particular, holders of static tokens, of signed ones, and of such as are no good.
fn cast(rng: &mut Rng) -> Vec<Person> {
    let anonymous = Person { token: String::new(), user: None, whose: Whose::Anonymous, ends_ms: None };
    let mut cast = vec![anonymous];
    assert_eq!(cast.len() - 1, ANONYMOUS);
    cast.extend(HOLDERS.iter().enumerate().map(|(place, user)| Person {
        token: static_token_of(place),
        user: Some((*user).into()),
        whose: Whose::Static(place),
        ends_ms: None,
    }));
    for (user, ends_in_s) in [("bob", 3_600), ("bob", 20), ("bob", 300), ("eve", 9), ("eve", 3_600)] {
        let person = signed(SECRET, user, ends_in_s, some_roles(rng), some_grants(rng));
        if ends_in_s == 300 {
            let Whose::Issuer { roles, grants } = person.whose.clone() else { unreachable!("it is signed") };
            let foreign = signed(&[b'A'; 43], user, ends_in_s, roles, *grants);
            cast.push(Person { whose: Whose::Nobody, ends_ms: None, ..foreign });
        }
        cast.push(person);
    }
    let unknown = static_token::from_random(&[99; 32]);
    cast.push(Person { token: unknown, user: None, whose: Whose::Nobody, ends_ms: None });
    cast
}

/// The world of `seed`, from its beginning to its end.
fn run(seed: u64, is_verbose: bool) {
    let mut rng = Rng::new(seed ^ 0x0415_0415);
    let mut knobs = Knobs::calm(*rng.pick(&[1, 2, 4]));
    (knobs.net.seed, knobs.net.trouble) = (seed, rng.below(4) as u64);
    knobs.is_verbose = is_verbose;
    let everything =
        TopicPolicy { filter: "#".into(), history_count: Some(10_000), ..TopicPolicy::default() };
    knobs.policies = vec![everything];
    if rng.chance(1, 2) {
        let valued = |filter: &str| TopicPolicy {
            filter: filter.into(),
            last_value: Some(LastValue::Newest),
            ..TopicPolicy::default()
        };
        knobs.policies.extend(["a/x", "own/#"].map(valued));
    }
    for filter in ["#", "a/+", "own/#"] {
        if rng.chance(1, 3) {
            let stamp = Some(Stamps { user: rng.chance(2, 3), time: rng.chance(1, 2) });
            match knobs.policies.iter_mut().find(|policy| policy.filter == filter) {
                Some(policy) => policy.stamp = stamp,
                None => knobs.policies.push(TopicPolicy {
                    filter: filter.into(),
                    stamp,
                    ..TopicPolicy::default()
                }),
            }
        }
    }
    let (era, cast) = (some_era(&mut rng), cast(&mut rng));
    if is_verbose {
        eprintln!("{cast:#?}\n{era:#?}");
    }
    let mut world = world_of(knobs, cast.clone(), era);
    for version in 2..62 {
        step(&mut world, &cast, version, &mut rng);
        match rng.below(3) {
            0 => world.settle(),
            1 => {}
            _ => stir(&mut world, &mut rng),
        }
    }
    world.settle();
    world.end();
}

fn world_of(mut knobs: Knobs, cast: Vec<Person>, era: Era) -> World {
    knobs.access = Some(Arc::new(access_of(&era, 1)));
    knobs.policies = with_named_only(knobs.policies, &era);
    let reactor_count = knobs.net.ring_count;
    let mut world = World::new(knobs);
    world.oracle.rights = Some(Rights::new(reactor_count, cast, era));
    world
}

/// Something of what is under way goes on.
fn stir(world: &mut World, rng: &mut Rng) {
    for _ in 0..rng.between(1, 12) {
        match rng.below(4) {
            0 if !world.clients.is_empty() => {
                let client = rng.below(world.clients.len());
                world.write(client, if rng.chance(1, 2) { usize::MAX } else { rng.between(1, 40) });
            }
            1 if !world.clients.is_empty() => {
                let client = rng.below(world.clients.len());
                world.read(client, usize::MAX);
            }
            _ => _ = world.turn(rng.below(world.reactors.len())),
        }
        world.now_ns += MS / 50;
    }
}

fn step(world: &mut World, cast: &[Person], version: u64, rng: &mut Rng) {
    let open: Vec<usize> =
        (0..world.clients.len()).filter(|&client| world.clients[client].state == State::Open).collect();
    match rng.below(24) {
        0 => return reload(world, version, rng),
        1 => return world.pass(rng.between(1, 7_000) as u64 * MS),
        2..5 if open.len() < 6 => return connect(world, cast, rng),
        _ => {}
    }
    if open.is_empty() {
        return connect(world, cast, rng);
    }
    let client = *rng.pick(&open);
    let topic = *rng.pick(&TOPICS);
    let filter = if rng.chance(1, 2) { topic } else { *rng.pick(&FILTERS) };
    match rng.below(20) {
        0..2 => {
            let (token, id) = (rng.pick(cast).token.clone(), world.clients[client].new_id());
            if !token.is_empty() {
                world.ask(client, Ask::Auth { token }, Some(id));
            }
        }
        2..6 => _ = world.subscribe(client, filter),
        6 | 7 => {
            let newest = world.oracle.newest().find(|(of, _)| *of == topic).map_or(0, |(_, seq)| seq);
            let since = rng.chance(1, 2).then(|| world.since(rng.below(newest as usize + 1) as u64));
            let last = rng.chance(1, 2).then(|| *rng.pick(&[0, 1, 10]));
            world.subscribe_from(client, topic, Start { since, last });
        }
        8 => _ = world.ask_history(client, topic, None, Anchor::Newest),
        9 => {
            world.settle();
            let filter = *rng.pick(&FILTERS);
            // What it had of a topic before would come again.
            let is_new = world.oracle.remembered(client).next().is_none();
            let is_open = world.clients[client].state == State::Open;
            if is_open && is_new && !world.oracle.is_held(client, filter) {
                world.tour(client, filter, r#""last":2"#);
                world.settle();
            }
        }
        10..12 => _ = world.unsubscribe(client, filter),
        12 => leave_and_come_back(world, client, version, rng),
        13 if rng.chance(1, 4) => world.reset(client),
        14 => world.ping(client),
        _ => {
            for _ in 0..rng.between(1, 4) {
                let (topic, has_id) = (*rng.pick(&TOPICS), rng.chance(3, 4));
                give_some_key(world, rng);
                world.publish_as(client, topic, 20, true, has_id, rng.chance(1, 8), None);
            }
        }
    }
}

fn connect(world: &mut World, cast: &[Person], rng: &mut Rng) {
    let token = rng.pick(cast).token.as_str();
    let format = *rng.pick(&[Format::Json, Format::Binary]);
    let index = rng.below(world.reactors.len());
    world.connect_with(index, format, (!token.is_empty()).then_some(token));
}

/// A client leaves what it receives and subscribes to it anew in one message, which has to wait; and rights change meanwhile.
fn leave_and_come_back(world: &mut World, client: usize, version: u64, rng: &mut Rng) {
    let held: Vec<String> = world.oracle.held(client).map(str::to_owned).collect();
    if held.is_empty() {
        return;
    }
    let filter = rng.pick(&held).clone();
    world.publish(client, &filter.replace(['+', '#'], "x"));
    world.ask_together(client, |world| {
        world.unsubscribe(client, &filter);
        world.subscribe(client, &filter);
    });
    world.write(client, usize::MAX);
    stir(world, rng);
    if rng.chance(1, 2) {
        reload(world, version, rng);
    }
}

fn reload(world: &mut World, version: u64, rng: &mut Rng) {
    let era = some_era(rng);
    world.tell(|| format!("from now on {era:#?}"));
    world.knobs.access = Some(Arc::new(access_of(&era, version)));
    world.knobs.policies = with_named_only(std::mem::take(&mut world.knobs.policies), &era);
    world.oracle.rights.as_mut().expect("it is known").on_reload(era);
    world.reload();
}

/// A client whose token ends in 20 s and lets it receive all below a; and another token of the same user, which ends in 60 s and
/// grants nothing.
fn open_to_renew() -> (World, usize, String) {
    let grants = GrantTexts { subscribe: vec!["a/#".into()], ..GrantTexts::default() };
    let wide = signed(SECRET, "bob", 20, Vec::new(), grants);
    let narrow = signed(SECRET, "bob", 60, Vec::new(), GrantTexts::default());
    let roles = ROLES.iter().map(|_| GrantTexts::default()).collect();
    let statics = vec![None; HOLDERS.len()];
    let era = Era { roles, anonymous: None, statics, issuer: Some(Vec::new()), named_only: None };
    let mut world = world_of(Knobs::calm(2), vec![wide.clone(), narrow.clone()], era);
    let client = world.connect_with(0, Format::Json, Some(&wide.token));
    world.settle();
    (world, client, narrow.token)
}

fn renew(world: &mut World, client: usize, token: String) {
    let id = world.clients[client].new_id();
    world.ask(client, Ask::Auth { token }, Some(id));
    world.settle();
}

#[test]
fn what_another_token_does_not_grant_is_taken_back() {
    let (mut world, client, narrow) = open_to_renew();
    ["a/x", "a/+"].iter().for_each(|filter| _ = world.subscribe(client, filter));
    world.settle();
    renew(&mut world, client, narrow);
    let taken_back =
        world.clients[client].seen.iter().filter(|event| matches!(event, Event::Unsubscribed { .. }));
    assert_eq!(taken_back.count(), 2);
    world.end();
}

#[test]
fn each_token_tells_of_its_end() {
    let (mut world, client, narrow) = open_to_renew();
    let warned = |world: &World| {
        world.clients[client].seen.iter().filter(|event| matches!(event, Event::Expiring { .. })).count()
    };
    world.pass(16 * SECOND);
    assert_eq!(warned(&world), 1);
    renew(&mut world, client, narrow);
    world.pass(30 * SECOND);
    assert_eq!((warned(&world), world.clients[client].state), (1, State::Open));
    world.pass(16 * SECOND);
    world.settle();
    assert_eq!((warned(&world), world.closed_with(client)), (2, Some(Some(4001))));
    world.end();
}

fn run_all(seeds: std::ops::Range<u64>) {
    if let Ok(seed) = env::var("FANFARE_SIM_SEED") {
        return run(seed.parse().expect("FANFARE_SIM_SEED is a number"), true);
    }
    let is_searching = env::var("FANFARE_SIM_SECONDS").is_ok();
    seeds.filter(|_| !is_searching).for_each(|seed| tell_of("simulation::grants", seed, || run(seed, false)));
}

/// Nothing is delivered, told of the past or published that is not granted, and nothing refused that is.
#[test]
fn worlds_that_ask_who_clients_are_do_what_is_granted() {
    run_all(0..50);
}

/// For as long as `FANFARE_SIM_SECONDS` says.
#[test]
fn fresh_worlds_that_ask_who_clients_are_do_what_is_granted() {
    run_fresh(|seed| tell_of("simulation::grants", seed, || run(seed, false)));
}
