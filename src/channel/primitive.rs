//! The atomics of the protocol, which a model checker replaces by its own (`--cfg fanfare_loom`).

#[cfg(not(fanfare_loom))]
pub(super) use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(fanfare_loom)]
pub(super) use loom::sync::atomic::{AtomicU32, Ordering};
