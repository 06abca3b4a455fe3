//! The queues between reactors and the sleep/wake protocol.
