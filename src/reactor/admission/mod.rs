//! Who is let in: listeners and what they accept, at what rate, how many of an address, of a user and of those that have not
//! completed their upgrade, and what the others are told.

pub mod accept;
pub mod addresses;
pub(super) mod door;
pub mod listeners;
pub(super) mod rate;
mod recent;
pub(super) mod refusal;
pub(super) mod upgrading;
pub mod usages;
