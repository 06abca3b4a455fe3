//! The command line.
//!
//! Whatever goes wrong is one line on stderr. Exit codes: 0 done, 1 it failed while running, 2 it was
//! asked for something that it does not understand.

mod client;
mod course;
mod history;
mod interrupt;
mod login;
mod moment;
mod permissions;
mod position;
mod printer;
mod publish;
mod serve;
mod subscribe;
mod token;
pub mod url;

use std::{
    env,
    ffi::OsString,
    fmt,
    future::Future,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::config::{
    document,
    load::{self, Setting, Sources},
};

/// A WebSocket publish/subscribe broker. Without a command it serves, with defaults that need no file.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker (the default).
    Serve(ServeArgs),
    /// Print what is published to topics, one line per message: topic, seq, data.
    Sub(subscribe::SubArgs),
    /// Print what a topic keeps, as sub does, and say on stderr where in its order that is.
    History(history::HistoryArgs),
    /// Publish to a topic.
    Pub(publish::PubArgs),
    /// Make static tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print or check a configuration.
    #[command(subcommand, arg_required_else_help = false)]
    Config(ConfigCommand),
    /// Say which kernel features the broker needs and whether they are here.
    Probe,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the commented default file.
    Default,
    /// Check a file, and the environment with it, without starting anything.
    Check {
        /// The TOML file; FANFARE_CONFIG or the defaults without one.
        file: Option<PathBuf>,
    },
    /// Say whether somebody may do something by a configuration, and why.
    Permissions(permissions::PermissionsArgs),
}

/// What `serve` takes. A flag wins over the environment (FANFARE_LISTEN_ADDRESS), that over the file.
#[derive(Debug, Args)]
struct ServeArgs {
    /// A TOML file; FANFARE_CONFIG names one too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect: an address and port, or unix:/run/fanfare/ws.sock [default: 127.0.0.1:7600].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where health and metrics are served, '' for nowhere [default: 127.0.0.1:7601].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// How many reactors, 0 for one per core, within a CPU quota [default: 0].
    #[arg(long, value_name = "N")]
    reactors: Option<String>,
    /// off, error, warn, info, debug, trace or a filter [default: info].
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Let others than this machine reach the broker, although whoever does may publish and subscribe.
    #[arg(long)]
    insecure: bool,
    /// Any key of the configuration, as listen.backlog=1024; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Take the place of the broker at control.socket: its listeners are handed over, it closes its
    /// connections, and no client is refused.
    #[arg(long)]
    takeover: bool,
}

/// Why a command failed, as one line.
#[derive(Debug)]
enum Failure {
    /// Exit code 2: the command line or the configuration is wrong.
    Usage(String),
    /// Exit code 1: it was understood and did not work.
    Run(String),
    /// It has been said; the exit code.
    Told(u8),
}

/// Runs the command that the process was started with. A broker calls `release_memory` about once a second: it gives
/// memory that is not used back to the kernel.
pub fn run(release_memory: fn()) -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => dispatch(cli, release_memory),
        Err(error) if !error.use_stderr() => {
            // --help and --version.
            print(&error.render().to_string())
        }
        Err(error) => Err(Failure::Usage(one_line(&error))),
    };
    let (line, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(line)) => (line, 2),
        Err(Failure::Run(line)) => (line, 1),
        Err(Failure::Told(code)) => return ExitCode::from(code),
    };
    tell(line);
    ExitCode::from(code)
}

fn dispatch(cli: Cli, release_memory: fn()) -> Result<(), Failure> {
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => {
            let takes_over = args.takeover;
            serve::serve(sources(args)?, takes_over, release_memory)
        }
        Command::Sub(args) => subscribe::subscribe(args),
        Command::History(args) => history::history(args),
        Command::Pub(args) => publish::publish(args),
        Command::Token(command) => token::token(command),
        Command::Config(ConfigCommand::Default) => print(&document::default_toml()),
        Command::Config(ConfigCommand::Check { file }) => {
            let sources =
                Sources { file: file.or_else(config_variable), environment: environment()?, flags: vec![] };
            serve::check(&sources)?;
            for line in load::unknown_variables(&sources) {
                eprintln!("fanfare: {line}");
            }
            let file = sources.file.map_or("the defaults".into(), |file| file.display().to_string());
            print(&format!("{file}: ok\n"))
        }
        Command::Config(ConfigCommand::Permissions(args)) => {
            let file = args.config.clone().or_else(config_variable);
            let sources = Sources { file, environment: environment()?, flags: vec![] };
            let loaded = serve::open(&sources, 0).map_err(Failure::Usage)?;
            permissions::permissions(args, loaded.access)
        }
        Command::Probe => serve::probe(),
    }
}

fn sources(args: ServeArgs) -> Result<Sources, Failure> {
    let mut flags = Vec::new();
    for setting in &args.set {
        let Some((path, value)) = setting.split_once('=') else {
            return Err(Failure::Usage(format!(
                "--set {setting} has no value: write --set KEY=VALUE, as in --set listen.backlog=1024"
            )));
        };
        flags.push(Setting { flag: "--set", path: path.trim().into(), value: value.trim().into() });
    }
    // After --set: the flag with a name of its own wins.
    let named = [
        ("--listen", "listen.address", args.listen),
        ("--admin", "admin.address", args.admin),
        ("--reactors", "reactor.count", args.reactors),
        ("--log", "log.level", args.log),
        ("--insecure", "listen.insecure", args.insecure.then(|| "true".to_owned())),
    ];
    for (flag, path, value) in named {
        if let Some(value) = value {
            flags.push(Setting { flag, path: path.into(), value });
        }
    }
    Ok(Sources { file: args.config.or_else(config_variable), environment: environment()?, flags })
}

/// The file that FANFARE_CONFIG names.
fn config_variable() -> Option<PathBuf> {
    env::var_os("FANFARE_CONFIG").filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// Our variables; others may hold what is no UTF-8, and are nobody's business here.
fn environment() -> Result<Vec<(String, String)>, Failure> {
    let ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"FANFARE_");
    env::vars_os()
        .filter(|(name, _)| ours(name) && name != "FANFARE_CONFIG")
        .map(|(name, value)| {
            let text = |text: OsString| {
                text.into_string().map_err(|text| {
                    Failure::Usage(format!(
                        "{}: the environment holds {text:?}, which is not UTF-8",
                        name.display()
                    ))
                })
            };
            Ok((text(name.clone())?, text(value)?))
        })
        .collect()
}

/// Runs a client on this thread.
fn run_client(client: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("cannot start: {error}")))?;
    let result = runtime.block_on(client);
    // A read of stdin may be under way, which nothing can end but the process.
    runtime.shutdown_background();
    result
}

/// Writes to stdout.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    printed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// What became of writing to stdout. A reader that went away (`| head`) is no error of ours.
fn printed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Run(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a line to stderr, as far as that can be written to.
fn tell(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "fanfare: {line}");
}

/// What clap found wrong without the usage that follows it.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let wrong: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let wrong = wrong.join("; ").replace(":; ", ": ");
    format!("{}; `fanfare --help` says what there is", wrong.strip_prefix("error: ").unwrap_or(&wrong))
}
