//! Open-loop load test for fanfare.
//!
//! # Modules
//!
//! - `scenario/`: what is measured, one file each; [`floor`] is the bare loop to compare with;
//! - [`client`]: subscribers and publishers on io_uring, [`connect`]: opening them;
//! - [`schedule`], [`payload`], [`verify`]: when a publication is due, what is in it, what came of it;
//! - [`track`]: deliveries against what was published, for protocols that number them and those that do not;
//! - [`codec`], [`dialect`]: RFC 6455 and the brokers' protocols from the client's end;
//! - [`compare`]: several brokers in turn, and one table;
//! - [`process`], [`clock`], [`report`].
//!
//! It exits with 1 if anything was lost, duplicated, reordered or corrupted, with 2 if it could not run.

mod cli;
mod client;
mod clock;
mod codec;
mod compare;
mod connect;
mod dialect;
mod floor;
mod payload;
mod process;
mod report;
mod scenario;
mod schedule;
mod track;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Fanout(fanout) => scenario::fanout::run(&fanout),
        Command::Beside(beside) => scenario::beside::run(&beside),
        Command::Idle(idle) => scenario::idle::run(&idle),
        Command::Floor(floor) => floor::run(&floor),
        Command::Compare(options) => compare::run(&options),
        Command::FloorServer(server) => floor::serve(&server).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("fanfare-loadtest: {error}");
            ExitCode::from(2)
        }
    }
}
