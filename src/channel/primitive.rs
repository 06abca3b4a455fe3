//! The atomics of the protocol, which a model checker replaces by its own (`--cfg loom`).

#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU32, Ordering};
