//! Races and limits, each arranged on purpose.

use super::*;

/// Two clients on one reactor; one publishes, the other receives.
#[test]
fn a_publication_reaches_its_subscriber() {
    let mut world = World::new(Knobs::calm(1));
    let (a, b) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    world.subscribe(a, "t");
    world.settle();
    for _ in 0..3 {
        world.publish(b, "t");
    }
    world.settle();
    assert_eq!(world.seqs(a, "t"), [1, 2, 3]);
    world.end();
}

/// A slow reader subscribes to a filter whose registration waits for a home that is not running, and is
/// then closed for being too far behind.
#[test]
fn a_close_frame_is_the_last_frame_even_if_a_subscribe_waits() {
    let knobs = Knobs { owed_bytes_max: 200, may_close: true, ..Knobs::calm(2) };
    let mut world = World::new(knobs);
    let (slow, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    let topic = world.topic_at(0, "t");
    world.subscribe(slow, &topic);
    world.settle();
    world.clients[slow].pace = Pace::Stuck;
    world.net.set_window(world.clients[slow].peer, 10);
    world.subscribe(slow, "a/#");
    for _ in 0..10 {
        world.publish(publisher, &topic);
        world.write_all();
        world.turns(0, 3);
    }
    assert!(matches!(world.reactor(0).core().connections[0].phase, Phase::Closing(_)));
    world.net.set_window(world.clients[slow].peer, 1 << 20);
    world.clients[slow].pace = Pace::Eager;
    world.settle();
    assert!(matches!(world.closed_with(slow), Some(Some(4000))));
    world.end();
}
