//! The queues between reactors and the sleep/wake protocol. No descriptors, no meaning.
//!
//! Every ordered pair of reactors has two bounded queues: *requests* towards a home, and *deliveries*
//! back. Each has one sender and one receiver; a bit per sender tells a receiver whose to look into. A
//! reactor always drains its deliveries, which need nothing from anybody; it drains requests only while it
//! can answer them. So no cycle of reactors can wait on itself.

mod inbox;
mod parker;
mod primitive;

pub use inbox::{GUEST_ENTRIES, Mesh, MeshAndPorts, PORTS_MAX, Port};
pub use parker::Parker;
