//! Scenes of publications with keys.

use super::*;

/// Publishes with a key and an id; gives what the client is told: the `seq`, the receivers, and whether it is a duplicate.
fn publish(
    world: &mut World,
    client: usize,
    topic: &str,
    key: &str,
    counts: bool,
) -> (u64, Option<u64>, bool) {
    world.give_key(key);
    world.publish_as(client, topic, 20, true, true, counts, None);
    world.settle();
    match world.clients[client].seen.last() {
        Some(Event::Ok { seq: Some(seq), receivers, is_duplicate, .. }) => (*seq, *receivers, *is_duplicate),
        other => panic!("{other:?}"),
    }
}

fn keys(world: &World) -> Vec<usize> {
    (0..world.reactors.len()).map(|index| world.reactor(index).desk().home.key_count()).collect()
}

/// At this reactor's home and at another's, whoever publishes and in whichever format, and however often.
#[test]
fn what_has_a_key_is_published_once() {
    for home in [0, 1] {
        let mut world = World::new(Knobs::calm(2));
        let topic = world.topic_at(home, "t");
        let (reader, first) = (world.open(1, Format::Json), world.open(0, Format::Json));
        world.subscribe(reader, &topic);
        world.settle();
        assert_eq!(publish(&mut world, first, &topic, "a", true), (1, Some(1), false));
        assert_eq!(publish(&mut world, first, &topic, "a", false), (1, None, true));
        assert_eq!(publish(&mut world, first, &topic, "b", false), (2, None, false));
        world.hang_up(first);
        let again = world.open(1, Format::Binary);
        // A duplicate counts nobody: who had the first one to come is not known any more.
        assert_eq!(publish(&mut world, again, &topic, "a", true), (1, None, true));
        assert_eq!(publish(&mut world, again, "other", "a", false), (1, None, false));
        // Without an id there is nothing to tell.
        world.give_key("b");
        world.publish_as(again, &topic, 20, true, false, false, None);
        world.publish(again, &topic);
        world.settle();
        assert_eq!(world.seqs(reader, &topic), [1, 2, 3]);
        let duplicates = (0..2).map(|index| world.reactor(index).desk().home.duplicates_total());
        assert_eq!(duplicates.sum::<u64>(), 3);
        world.end();
    }
}

/// To the millisecond, and then it is remembered anew.
#[test]
fn a_key_is_remembered_for_the_window() {
    let mut world = World::new(Knobs { key_window_ms: 500, ..Knobs::calm(1) });
    let client = world.open(0, Format::Json);
    assert_eq!(publish(&mut world, client, "t", "a", false), (1, None, false));
    world.pass(300 * MS);
    assert_eq!(publish(&mut world, client, "t", "a", false), (1, None, true));
    world.pass(300 * MS);
    assert_eq!(publish(&mut world, client, "t", "a", false), (2, None, false));
    assert_eq!(publish(&mut world, client, "t", "a", false), (2, None, true));
    world.pass(2 * SECOND);
    assert_eq!(keys(&world), [0], "nobody publishes, and it is forgotten");
    world.end();
}

/// Beyond the bound the oldest goes first; a reload makes the bound another.
#[test]
fn keys_beyond_the_bound_make_room() {
    let mut world = World::new(Knobs { keys_max: 3, ..Knobs::calm(1) });
    let client = world.open(0, Format::Json);
    for (key, seq) in ["a", "b", "c", "d"].into_iter().zip(1..) {
        assert_eq!(publish(&mut world, client, "t", key, false), (seq, None, false));
        world.pass(20 * MS);
    }
    let window_ms = world.reactors[0].as_mut().expect("it runs").desk_mut().snapshot().key_window_ms;
    assert!((60..1_000).contains(&window_ms), "the oldest of three is the next to go: {window_ms}");
    assert_eq!(publish(&mut world, client, "t", "b", false), (2, None, true));
    assert_eq!(publish(&mut world, client, "t", "a", false), (5, None, false));
    assert_eq!(publish(&mut world, client, "t", "b", false), (6, None, false));
    assert_eq!(keys(&world), [3]);
    world.knobs.keys_max = 1;
    world.reload();
    world.pass(3 * SECOND);
    assert_eq!(keys(&world), [1]);
    world.end();
}
