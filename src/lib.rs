//! fanfare: a WebSocket publish/subscribe broker on thread-per-core io_uring reactors.
//!
//! # A publication's journey
//!
//! 1. [`reactor`] receives bytes into a provided buffer and feeds them to the connection's
//!    [`protocol::session`], which checks frames and unmasks them in place.
//! 2. The command in the message names a topic; the topic's *home* reactor ([`pubsub::home`]) gives
//!    the publication its `seq` and encodes it once per [`protocol::Encoding`] into a chunk
//!    ([`pubsub::log`]).
//! 3. Once per turn the home hands each interested reactor a *batch* per topic that moved and per
//!    contiguous range, over the bounded queues of [`channel`]: a reference to the chunk, never bytes.
//! 4. The receiving reactor appends the batch to its view of the topic ([`pubsub::fanout`]): the head
//!    moves. The topic's cursor then visits local subscribers and queues at most one send each, which the
//!    reactor's [`reactor::transport`] hands to the ring.
//! 5. [`uring`] submits everything a turn produced, and waits, with one system call.
//!
//! # Modules
//!
//! `main → cli → control → reactor → {channel, uring, config, metrics}`, `metrics → pubsub → {protocol, work}` and
//! `uring → config → protocol`, `access → protocol`: imports go one way. [`protocol`], [`access`], [`pubsub`] and [`work`] are pure: no descriptor, clock or
//! thread, and no randomness of their own but the seeds of hash tables that strangers fill.

pub mod access;
pub mod channel;
pub mod cli;
pub mod config;
pub mod control;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod metrics;
pub mod protocol;
pub mod pubsub;
pub mod reactor;
pub mod uring;
pub mod work;
