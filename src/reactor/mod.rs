//! One reactor per core, and the threads that they run on.
//!
//! [`turn`] is what a reactor asks of its ring, [`desk`] what it knows and decides: `reading` what comes in, `commands` what
//! clients' commands do, [`slow`] what becomes of those who take too little, over [`connections`], who is in which of the
//! [`queues`], and the [`exchange`] with other reactors, which is all that they share. A [`guest`] has such an exchange without
//! being one of them. `drain` says when connections are closed for the reactor's own end. `launch` starts reactors with what
//! `settings` makes of the configuration; the control thread asks them by [`Order`].
//!
//! `sending` composes what goes to a connection, and a [`transport`] stands between that and the ring, on the way in as well.

pub mod admission;
pub mod audit;
pub mod buffered;
pub mod carrier;
mod commands;
pub mod connection;
pub mod connections;
pub mod cores;
mod deadline;
pub mod desk;
mod drain;
mod due;
pub mod exchange;
mod gate;
pub mod guest;
mod launch;
mod lingering;
mod meters;
mod orders;
pub mod pacing;
pub mod pending;
pub mod queues;
mod reading;
pub mod review;
mod sending;
mod settings;
mod share;
#[cfg(test)]
mod simulation;
pub mod slow;
mod spin;
pub mod timers;
pub mod transport;
pub mod turn;
mod wall;

pub use launch::{GuestSeat, Prepared, Reactors};
pub use orders::Order;
pub use settings::{locked_bytes, reactor_count};

use crate::{
    channel::PORTS_MAX,
    pubsub::home::{GUESTS_MAX, REACTORS_MAX},
    uring::probe::DESCRIPTORS_RESERVED,
};

const _: () =
    assert!(DESCRIPTORS_RESERVED as usize >= turn::REFUSED_MAX + 64, "refusals take the operator's");
const _: () = assert!(REACTORS_MAX + GUESTS_MAX <= PORTS_MAX, "each has a bit in the others' words");
