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
