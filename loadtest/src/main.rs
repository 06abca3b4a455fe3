//! Open-loop load test for fanfare and its peers.
//!
//! # Modules
//!
//! - `scenario/`: what is measured; [`floor`] is the bare loop to compare with; [`run_file`]: a scenario
//!   from a file; [`duration`]: how long something lasts, as flags and files say it;
//! - [`client`]: subscribers and publishers on io_uring, [`connect`]: opening them;
//! - [`schedule`], [`payload`], [`verify`], [`track`]: when a publication is due, what is in it, what
//!   came of it;
//! - [`codec`], [`dialect`]: RFC 6455 and the brokers' protocols from the client's end;
//! - [`broker`], [`process`], [`environment`]: what the broker takes, and on what;
//! - [`search`]: the highest rate that holds; [`compare`]: several brokers in turn, and one table;
//! - [`report`], [`output`]: what is printed, written and seen while it runs.
//!
//! It exits with 1 if anything was lost, duplicated, reordered or corrupted, or the result could not be printed,
//! with 2 if it could not run.

mod broker;
mod cli;
mod client;
mod clock;
mod codec;
mod compare;
mod connect;
mod dialect;
mod duration;
mod environment;
mod floor;
mod output;
mod payload;
mod process;
mod report;
mod run_file;
mod scenario;
mod schedule;
mod search;
mod track;
mod verify;

use std::{process::ExitCode, sync::atomic::Ordering::SeqCst};

use clap::Parser;

use cli::{Cli, Command};
use client::Pace;
use output::{is_printed, print, tell};
use scenario::{Setting, run_load, run_plan, topics};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match Cli::try_parse() {
        Ok(cli) => run(cli.command, arguments),
        Err(error) if !error.use_stderr() => {
            // --help and --version.
            print(error.render().to_string().trim_end());
            Ok(true)
        }
        Err(error) => Err(one_line(&error)),
    };
    match result {
        Ok(true) if is_printed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            tell(format_args!("fanfare-loadtest: {error}"));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command, arguments: Vec<String>) -> Result<bool, String> {
    if !matches!(command, Command::FloorServer(_)) {
        finish_on_interrupt();
    }
    let parameters = run_file::parameters(&arguments);
    let setting = |broker, run, pace| Setting { broker, run, pace, parameters: parameters.clone() };
    match &command {
        Command::Fanout(it) => {
            let setting = setting(&it.broker, &it.run, it.load.pace());
            run_load(&setting, &it.load, it.rate, |rate| Ok(topics::fanout(it, rate)))
        }
        Command::Fanin(it) => {
            let setting = setting(&it.broker, &it.run, it.load.pace());
            run_load(&setting, &it.load, it.rate, |rate| Ok(topics::fanin(it, rate)))
        }
        Command::Rooms(it) => {
            let setting = setting(&it.broker, &it.run, it.load.pace());
            run_load(&setting, &it.load, it.rate, |rate| Ok(topics::rooms(it, rate)))
        }
        Command::Ticker(it) => {
            let setting = setting(&it.broker, &it.run, it.load.pace());
            run_load(&setting, &it.load, it.rate, |rate| topics::ticker(it, rate))
        }
        Command::Beside(it) => run_plan(&setting(&it.broker, &it.run, Pace::Open), &topics::beside(it)),
        Command::Soak(it) => scenario::soak::run(it, parameters),
        Command::Connect(it) => scenario::run_connect(it, parameters),
        Command::Stalled(it) => scenario::stalled::run(it, parameters),
        Command::Resume(it) => scenario::resume::run(it, parameters),
        Command::Retained(it) => scenario::retained::run(it, parameters),
        Command::Hostile(it) => scenario::hostile::run(it, parameters),
        Command::Idle(it) => scenario::idle::run(it, parameters),
        Command::Floor(it) => floor::run(it, parameters),
        Command::Compare(it) => compare::run(it),
        Command::FloorServer(it) => floor::serve(it).map(|()| true),
        Command::Run(file) => {
            let arguments = run_file::command_line(file)?;
            let cli = Cli::try_parse_from(&arguments)
                .map_err(|error| format!("{}: {}", file.file.display(), one_line(&error)))?;
            run(cli.command, arguments)
        }
    }
}

/// clap's messages are pages; what is before the usage says it.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let wrong = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let wrong: Vec<&str> = wrong.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let wrong = wrong.join("; ").replace(":; ", ": ");
    format!(
        "{}; `fanfare-loadtest --help` says what there is",
        wrong.strip_prefix("error: ").unwrap_or(&wrong)
    )
}

/// The first ^C ends a run with what there is, the second the program.
fn finish_on_interrupt() {
    extern "C" fn on_interrupt(_: libc::c_int) {
        client::INTERRUPTED.store(true, SeqCst);
    }
    let handler = on_interrupt as extern "C" fn(libc::c_int);
    // SAFETY: the handler only stores to an atomic; zeroes are valid for the rest.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
    }
}
