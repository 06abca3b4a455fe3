//! The queues between reactors and the sleep/wake protocol. No descriptors, no meaning.
//!
//! Every ordered pair of reactors has two bounded queues: *requests* towards a home, and *deliveries*
//! back. Each has one sender and one receiver. A reactor always drains its deliveries, which need
//! nothing from anybody; it drains requests only while it can answer them. So no cycle of reactors
//! can wait on itself.

mod inbox;
mod parker;
mod primitive;

pub use inbox::{Mesh, MeshAndPorts, Port};
pub use parker::Parker;
