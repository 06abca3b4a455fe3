//! The real binary over loopback: what the protocol promises, and what the broker does about clients that
//! break it.

#[path = "../common/mod.rs"]
mod common;

mod addresses;
mod audit;
mod auth;
mod cli;
mod commands;
mod deflate;
mod delivery;
mod echo;
mod fairness;
mod flood;
mod history;
mod hostile;
mod http;
mod interop;
mod key_sets;
mod keyed_values;
mod keys;
mod lifecycle;
mod limits;
mod memory;
mod permissions;
mod reload;
mod restart;
mod revocations;
mod rights;
mod slow;
mod stamps;
mod tenants;
mod time;
mod tours;
mod unix;
mod users;
mod values;
