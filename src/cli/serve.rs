//! `fanfare serve`: logging, the kernel's limits, the probe, and then the control thread's loop.

use std::{
    env,
    io::{IsTerminal, stderr},
    net::SocketAddr,
    sync::Arc,
};

use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::{Failure, print};
use crate::{config::Config, control, reactor::Reactors};

/// Runs the broker until a signal ends it.
pub(super) fn serve(config: Config) -> Result<(), Failure> {
    start_logging(&config);
    raise_descriptor_limit();
    let features = kernel_features().map_err(Failure::Run)?;
    let config = Arc::new(config);
    let announced = Arc::clone(&config);
    control::run(config, Reactors::start, move |reactors, admin| {
        announce(&announced, reactors.count(), admin, &features);
    })
    .map_err(Failure::Run)
}

/// `fanfare probe`.
pub(super) fn print_probe() -> Result<(), Failure> {
    let features = kernel_features().map_err(Failure::Run)?;
    print(&format!("{features}\n"));
    Ok(())
}

/// What the kernel has of what the broker needs, in a line, or what is missing and how to allow it.
fn kernel_features() -> Result<String, String> {
    // To become crate::uring::probe.
    Ok("not probed".into())
}

/// Which code unmasks payloads on this processor.
fn unmask_kind() -> &'static str {
    // To become crate::protocol::mask::kind().as_str().
    "not chosen"
}

/// Logs to stderr as `[log]` says. The filter was parsed once when the configuration was checked.
fn start_logging(config: &Config) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.log.level))
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    if config.log.json { builder.json().init() } else { builder.init() }
}

/// Raises the soft limit of descriptors to the hard one. The soft one, mostly 1,024, exists for programs
/// that use select(2), and every connection is a descriptor.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes to the struct that it is given, setrlimit only reads it.
    let is_raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !is_raised {
        warn!("the limit of open files could not be raised: {}", std::io::Error::last_os_error());
    }
}

/// Says that the broker is up, and a line to try: to a person on stdout, to a machine in the log.
fn announce(config: &Config, reactor_count: usize, admin: Option<SocketAddr>, features: &str) {
    let listen = config.listen.address;
    let unmask = unmask_kind();
    if config.log.json {
        let admin = admin.map_or("off".into(), |address| address.to_string());
        info!(%listen, reactors = reactor_count, kernel = features, unmask, %admin, "ready");
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let admin = match admin {
        Some(address) => format!("http://{address}/ (healthz, readyz, metrics)"),
        None => "off".into(),
    };
    let reactors = match reactor_count {
        1 => "1, on one core".into(),
        count => format!("{count}, one core each"),
    };
    // As the user typed it, so that it can be typed again.
    let program = env::args().next().unwrap_or_else(|| "fanfare".into());
    let url = match listen.port() {
        7600 if listen.ip().is_loopback() && listen.is_ipv4() => String::new(),
        _ => format!(" --url ws://{}/ws", reachable(listen)),
    };
    print(&format!(
        "fanfare {version} is ready\n\
         \x20 clients   ws://{listen}/ws\n\
         \x20 admin     {admin}\n\
         \x20 reactors  {reactors}\n\
         \x20 kernel    {features}\n\
         \x20 unmask    {unmask}\n\
         \n\
         Try it from two other terminals:\n\
         \x20 {program} sub 'room/#'{url}\n\
         \x20 {program} pub room/42 '{{\"text\":\"hi\"}}'{url}\n\n"
    ));
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
