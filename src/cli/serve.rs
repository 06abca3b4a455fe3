//! `fanfare serve`: logging, the kernel's limits, the probe, and then the control thread's loop.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{IsTerminal, stderr},
    net::SocketAddr,
    panic,
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::disable_transparent_huge_pages,
};
use tracing::{info, warn};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use super::{Failure, print};
use crate::{
    config::{
        Config, ListenAddress,
        load::{self, Sources},
    },
    control::{
        self, Launch,
        activation::Inherited,
        credentials,
        lines::STDERR,
        reload::{Hooks, Loaded},
        revocations::Kept,
        takeover::Predecessor,
    },
    protocol::mask,
    reactor::{Prepared, Reactors, admission::listeners::Listeners, locked_bytes, reactor_count},
    uring::probe::{DESCRIPTORS, Finding, Needs, Report, State, descriptor_limits},
};

/// How long the end of the process waits for a stderr that does not take the last lines.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// Runs the broker until a signal ends it or a successor takes its place; with `takes_over` it takes a running
/// one's. SIGHUP reads `sources` again. `release_memory` is called about once a second.
pub(super) fn serve(sources: Sources, takes_over: bool, release_memory: fn()) -> Result<(), Failure> {
    let loaded = open(&sources, 0).map_err(Failure::Usage)?;
    let strangers = load::unknown_variables(&sources);
    keep_pages_small();
    start_writing()?;
    let hooks = Hooks {
        set_log_level: start_logging(&loaded.config),
        load: Box::new({
            let mut version = 0;
            move || {
                version += 1;
                open(&sources, version)
            }
        }),
        release_memory,
    };
    for line in strangers {
        warn!("{line}");
    }
    let result = serve_logged(loaded, hooks, takes_over);
    let (line, code) = match result {
        Ok(()) => (String::new(), None),
        Err(Failure::Run(line)) => (format!("fanfare: {line}\n"), Some(1)),
        Err(Failure::Usage(line)) => (format!("fanfare: {line}\n"), Some(2)),
        Err(Failure::Told(code)) => (String::new(), Some(code)),
    };
    // Behind what was logged, and no more than that may it keep the process from its end.
    STDERR.push(line.as_bytes());
    STDERR.flush(FLUSH_LIMIT);
    code.map_or(Ok(()), |code| Err(Failure::Told(code)))
}

/// The configuration, and what the files say that it names.
pub(super) fn open(sources: &Sources, version: u64) -> Result<Loaded<Config>, String> {
    let config = load::load(sources).map_err(|error| error.to_string())?;
    let access = credentials::open(&config, version)?;
    let key_urls = credentials::key_urls(&config)?;
    let operators = credentials::open_operators(&config)?;
    Ok(Loaded { config, access, key_urls, operators })
}

fn serve_logged(loaded: Loaded<Config>, hooks: Hooks, takes_over: bool) -> Result<(), Failure> {
    let Loaded { config, access, key_urls, operators } = loaded;
    raise_descriptor_limit();
    let report = Report::run(&needs(&config));
    if let Some(line) = missing(&report) {
        return Err(Failure::Run(line));
    }
    warn_of_shortages(&report, config.limits.connections_max > 0);
    if config.is_insecure() {
        warn!("--insecure: whoever reaches the broker may publish and subscribe to everything");
    }
    let config = Arc::new(config);
    let announced = Arc::clone(&config);
    let on_ready = move |reactors: &Reactors, admin: Option<SocketAddr>| {
        announce(&announced, reactors, admin, &report.summary());
    };
    let inherited = Inherited::from_service_manager().map_err(Failure::Run)?;
    if takes_over {
        if inherited.is_some() {
            return Err(Failure::Run(
                "--takeover and LISTEN_FDS both give listeners: start it without the one or the other".into(),
            ));
        }
        return serve_after(Loaded { config, access, key_urls, operators }, hooks, on_ready);
    }
    let Inherited { listeners, admin } = inherited.unwrap_or_default();
    let known = access.clone();
    let start = move |config: Arc<Config>| {
        let listeners = match listeners.is_empty() {
            true => Listeners::bind(&config, reactor_count(&config))?,
            false => Listeners::inherit(&config, listeners)?,
        };
        listeners.check_reach(&config)?;
        let kept = Kept::open(config.auth.revocations_file.as_deref())?;
        let reactors = Prepared::new(config, access, listeners)?.start(&kept.revocations)?;
        Ok((reactors, kept))
    };
    let tell_token = tell_token();
    let launch = Launch { admin, operators, tell_token, access: known, key_urls, takes_over };
    control::run(config, launch, hooks, start, on_ready).map_err(Failure::Run)
}

/// Takes the place of the broker at `control.socket`. That one closes its connections only when whatever can
/// fail here has not.
fn serve_after(
    Loaded { config, access, key_urls, operators }: Loaded,
    hooks: Hooks,
    on_ready: impl FnOnce(&Reactors, Option<SocketAddr>),
) -> Result<(), Failure> {
    let Some(path) = &config.control.socket else {
        return Err(Failure::Usage(
            "--takeover needs control.socket, the path of the running broker's control socket".into(),
        ));
    };
    let (predecessor, Inherited { listeners, admin }) = Predecessor::meet(path).map_err(Failure::Run)?;
    let known = access.clone();
    let prepare = || {
        Kept::check(config.auth.revocations_file.as_deref())?;
        let mut listeners = Listeners::inherit(&config, listeners)?;
        listeners.check_reach(&config)?;
        listeners.succeed(&config, reactor_count(&config))?;
        Prepared::new(Arc::clone(&config), access, listeners)
    };
    let prepared = prepare().map_err(Failure::Run)?;
    let revocations_file = config.auth.revocations_file.clone();
    let start = move |_| {
        predecessor.tell_ready();
        info!("waiting for the running broker to close its connections");
        predecessor.wait_until_done()?;
        // That one wrote to it until now.
        let kept = Kept::open(revocations_file.as_deref())?;
        let reactors = prepared.start(&kept.revocations)?;
        Ok((reactors, kept))
    };
    let tell_token = tell_token();
    let launch = Launch { admin, operators, tell_token, access: known, key_urls, takes_over: true };
    control::run(config.clone(), launch, hooks, start, on_ready).map_err(Failure::Run)
}

/// What tells a token to whoever starts the broker: on a terminal alone, since what a service says is kept, and others read it.
fn tell_token() -> Option<fn(&str)> {
    let tell: fn(&str) = |token| {
        let line = format!(
            "fanfare: there is no admin.tokens_file: until this broker ends this token may do everything on the admin listener: {token}\n"
        );
        STDERR.push(line.as_bytes());
    };
    stderr().is_terminal().then_some(tell)
}

/// `fanfare config check`: whether a broker would start with these, as far as files say.
pub(super) fn check(sources: &Sources) -> Result<(), Failure> {
    let loaded = open(sources, 0).map_err(Failure::Usage)?;
    Kept::check(loaded.config.auth.revocations_file.as_deref()).map_err(Failure::Usage)
}

/// `fanfare probe`: every finding, and exit code 1 if the broker cannot run here.
pub(super) fn probe() -> Result<(), Failure> {
    raise_descriptor_limit();
    let report = Report::run(&needs(&Config::default()));
    print(&report.to_string())?;
    missing(&report).map_or(Ok(()), |line| Err(Failure::Run(line)))
}

/// What this configuration asks of the machine; the probe's own guess where it leaves it open.
fn needs(config: &Config) -> Needs {
    let mut needs = Needs {
        reactor_count: reactor_count(config),
        locked_bytes: Some(locked_bytes(config)),
        ..Needs::default()
    };
    if config.limits.connections_max > 0 {
        needs.connections = config.limits.connections_max as u64;
    }
    match (&config.listen.address, config.listen.sndbuf_bytes) {
        // Nothing that is counted as TCP's.
        (ListenAddress::Unix(_), _) => needs.kernel_bytes_per_connection = 0,
        (ListenAddress::Tcp(_), 0) => {}
        (ListenAddress::Tcp(_), bytes) => needs.kernel_bytes_per_connection = u64::from(bytes),
    }
    needs
}

/// Without a number of connections of the operator's, what would not suffice is the probe's guess: the banner counts
/// it, and `fanfare probe` tells it. Descriptors are said all the same, because they are then the number.
fn warn_of_shortages(report: &Report, is_configured: bool) {
    for Finding { name, state, .. } in &report.findings {
        if let State::Warning { why, remedy } = state
            && (is_configured || *name == DESCRIPTORS)
        {
            warn!("{name}: {why}; {remedy}");
        }
    }
}

/// The first thing without which the broker cannot run, and what to do about it.
fn missing(report: &Report) -> Option<String> {
    report.findings.iter().find_map(|Finding { name, state, .. }| match state {
        State::Missing { why, remedy } => Some(format!("this machine lacks {name}: {why}; {remedy}")),
        State::Ok | State::Warning { .. } | State::Optional(_) => None,
    })
}

/// Has whatever goes to stderr from now on written by a thread of its own, the last words of a panic too.
fn start_writing() -> Result<(), Failure> {
    STDERR.start(stderr()).map_err(|error| Failure::Run(control::no_thread(&error)))?;
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let mut words = format!("thread '{}' {panic}\n", thread.name().unwrap_or("unnamed"));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            words += &format!("{backtrace}\n");
        }
        // It may abort the process.
        STDERR.push(words.as_bytes());
        STDERR.flush(FLUSH_LIMIT);
    }));
    Ok(())
}

/// Logs to stderr as `[log]` says; returns what changes the level. A filter was parsed once when its
/// configuration was checked.
fn start_logging(config: &Config) -> Box<dyn FnMut(&str)> {
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&config.log.level));
    let lines = fmt::layer().with_writer(|| &STDERR).with_ansi(stderr().is_terminal());
    let lines = if config.log.json { lines.json().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Box::new(move |level| {
        handle.reload(EnvFilter::new(level)).expect("the subscriber lives as long as the process");
    })
}

/// Raises the soft limit of descriptors to the hard one. The soft one, mostly 1,024, exists for programs
/// that use select(2), and every connection is a descriptor.
fn raise_descriptor_limit() {
    let raised = descriptor_limits().and_then(|(_, hard)| {
        let limit = Rlimit { current: Some(hard), maximum: Some(hard) };
        Ok(setrlimit(Resource::Nofile, limit)?)
    });
    if let Err(error) = raised {
        warn!("the limit of open files could not be raised: {error}");
    }
}

/// Keeps the kernel from backing tables that are used from the front with 2 MiB pages: each would cost
/// up to that much memory more than is used. A refusal costs only that memory.
fn keep_pages_small() {
    let _ = disable_transparent_huge_pages(true);
}

/// Says that the broker is up, and a line to try: to a person on stdout, to a machine in the log.
fn announce(config: &Config, reactors: &Reactors, admin: Option<SocketAddr>, features: &str) {
    // Not the configuration's, whose port may be 0.
    let listen = reactors.address();
    let placement = reactors.placement();
    let unmask = mask::kind().as_str();
    if config.log.json {
        let admin = admin.map_or("off".into(), |address| address.to_string());
        info!(
            %listen,
            reactors = placement.reactor_count,
            cores = placement.core_count,
            pinned = placement.pinned_count,
            placement = %placement,
            kernel = features,
            unmask,
            %admin,
            "ready"
        );
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let admin = match admin {
        Some(address) => format!("http://{address}/ (healthz, readyz, metrics)"),
        None => "off".into(),
    };
    // As the user typed it, so that it can be typed again.
    let program = env::args().next().unwrap_or_else(|| "fanfare".into());
    let (clients, url) = match listen {
        ListenAddress::Tcp(listen) => {
            let url = match listen.port() {
                7600 if listen.ip().is_loopback() && listen.is_ipv4() => String::new(),
                _ => format!(" --url ws://{}/ws", reachable(*listen)),
            };
            (format!("ws://{listen}/ws"), url)
        }
        ListenAddress::Unix(_) => (listen.to_string(), format!(" --url '{listen}'")),
    };
    let banner = format!(
        "fanfare {version} is ready\n\
         \x20 clients   {clients}\n\
         \x20 admin     {admin}\n\
         \x20 reactors  {placement}\n\
         \x20 kernel    {features}\n\
         \x20 unmask    {unmask}\n\
         \n\
         Try it from two other terminals:\n\
         \x20 {program} sub 'room/#'{url}\n\
         \x20 {program} pub room/42 '{{\"text\":\"hi\"}}'{url}\n\n"
    );
    // A stdout that takes nothing, a terminal that was stopped, must not hold up the control thread; and a disk that is
    // full does not end a broker that serves.
    if let Err(error) = thread::Builder::new().name("banner".into()).spawn(move || drop(print(&banner))) {
        warn!(%error, "the banner could not be printed");
    }
}

/// An address that a client on this machine can connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port()))
        }
        address => address,
    }
}
