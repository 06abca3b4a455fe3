//! The control thread: admin HTTP, metrics, signals, the service manager and the takeover, on tokio-uring.
//!
//! It carries no client's data and may wait; reactors never wait for it. What it knows of them it asks
//! over their bounded control queues ([`fleet`]), so that a reactor that hangs shows up as one that
//! does not answer.

pub mod activation;
mod admin;
mod ending;
pub mod fleet;
pub mod http;
pub mod metrics;
pub mod notices;
pub mod reload;
mod signals;
mod socket;
mod succession;
pub mod takeover;

use std::{
    future,
    net::SocketAddr,
    os::fd::OwnedFd,
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{sync::oneshot, time::MissedTickBehavior};
use tracing::{error, info, warn};

use crate::{config::Config, reactor::ControlRequest};
use admin::Admin;
use ending::Takeover;
use fleet::{Fleet, Phase, Watch};
use notices::Notices;
use reload::{Reloader, Source};
use signals::{Signal, Signals};
use socket::ControlSocket;
use succession::Successors;
use takeover::Successor;

/// How often the control thread looks whether every reactor still runs, and what went wrong.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How often it looks for room in a control queue that is full.
const ASK_INTERVAL: Duration = Duration::from_millis(5);

/// What is there before the control thread is.
#[derive(Debug, Default)]
pub struct Origin {
    /// The admin listener, if it was inherited.
    pub admin: Option<OwnedFd>,
    /// The broker takes a running one's place, and its start waits for that one's end.
    pub takes_over: bool,
}

/// Runs the broker until a signal ends it or a successor takes its place: starts the reactors with `start`,
/// calls `on_ready` with them and the address of the admin listener once they accept, takes a new configuration
/// from `source` on SIGHUP, drains them on SIGTERM or SIGINT.
///
/// # Errors
/// One line that says why the broker could not start or go on.
pub fn run<F: Fleet>(
    config: Arc<Config>,
    origin: Origin,
    source: Source,
    start: impl FnOnce(Arc<Config>) -> Result<F, String> + Send + 'static,
    on_ready: impl FnOnce(&F, Option<SocketAddr>),
) -> Result<(), String> {
    // First of all: a signal while the broker starts must end it too.
    let signals = Signals::register().map_err(|error| format!("cannot handle signals: {error}"))?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .map_err(|error| format!("cannot start the control thread's io_uring: {error}"))?;
    runtime.block_on(control(origin, Reloader::new(config, source), signals, start, on_ready))
}

async fn control<F: Fleet>(
    origin: Origin,
    mut reloader: Reloader,
    mut signals: Signals,
    start: impl FnOnce(Arc<Config>) -> Result<F, String> + Send + 'static,
    on_ready: impl FnOnce(&F, Option<SocketAddr>),
) -> Result<(), String> {
    let watch = Arc::new(Watch::new());
    if origin.takes_over {
        watch.set_phase(Phase::Waiting);
    }
    let config = reloader.config();
    let bind = |path| ControlSocket::bind(path, !origin.takes_over);
    let socket = config.control.socket.as_deref().map(bind).transpose()?;
    let open = |address| Admin::open(address, origin.admin);
    let mut admin = config.admin.address.map(open).transpose()?;
    if let Some(admin) = &mut admin {
        admin.serve(&watch);
    }

    // Starting blocks: the admin listener answers meanwhile, and a signal gets through.
    let (started_sender, mut started) = oneshot::channel();
    let start_config = reloader.config();
    let mut is_reload_due = false;
    thread::Builder::new()
        .name("start".into())
        .spawn(move || started_sender.send(start(start_config)))
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let fleet = loop {
        tokio::select! {
            result = &mut started => {
                break Arc::new(result.map_err(|_| "the reactors could not be started".to_owned())??);
            }
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(()),
                // What is read now would not be what the reactors start with.
                Signal::Reload => is_reload_due = true,
            }
        }
    };

    let mut successors = Successors::meet(socket, &fleet, admin.as_ref())?;
    watch.set_ready(Arc::clone(&fleet));
    match origin.takes_over {
        true => notify(&[NotifyState::MainPid(process::id()), NotifyState::Ready]),
        false => notify(&[NotifyState::Ready]),
    }
    on_ready(&fleet, admin.as_ref().map(Admin::address));
    if is_reload_due {
        reload(&mut reloader, &*fleet, &watch).await;
    }
    while let Asked::Takeover(successor) =
        wait_until_asked(&fleet, &watch, &mut signals, &mut reloader, &mut successors).await?
    {
        let config = reloader.config();
        match ending::hand_over(&*fleet, &watch, &mut admin, successor, &config).await {
            Takeover::Failed => {}
            Takeover::Done => {
                successors.leave();
                if let Some(mut admin) = admin {
                    admin.finish().await;
                }
                return Ok(());
            }
        }
    }

    watch.set_phase(Phase::Draining);
    notify(&[NotifyState::Stopping]);
    let drain_ms = reloader.running().timeouts.drain_ms;
    info!(timeout_ms = drain_ms, "draining; a second signal exits at once");
    ending::drain(&*fleet, drain_ms).await;
    Ok(())
}

/// What the broker is asked for while it serves.
enum Asked {
    Stop,
    Takeover(Successor),
}

/// Returns when the broker is asked to stop, or to hand over.
///
/// # Errors
/// A reactor ended without having been asked to.
async fn wait_until_asked<F: Fleet>(
    fleet: &Arc<F>,
    watch: &Arc<Watch<F>>,
    signals: &mut Signals,
    reloader: &mut Reloader,
    successors: &mut Successors,
) -> Result<Asked, String> {
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut notices = Notices::default();
    // Two reports per deadline of the service manager, as sd_watchdog_enabled(3) advises.
    let mut watchdog = sd_notify::watchdog_enabled().map(|deadline| tokio::time::interval(deadline / 2));
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(Asked::Stop),
                Signal::Reload => reload(reloader, &**fleet, watch).await,
            },
            successor = successors.next() => return Ok(Asked::Takeover(successor)),
            _ = check.tick() => {
                if let Some(index) = (0..fleet.count()).find(|index| fleet.has_ended(*index)) {
                    return Err(format!("reactor {index} ended unexpectedly; its last words are above"));
                }
                notices.tell(fleet.troubles(), Instant::now());
            }
            () = next_tick(&mut watchdog) => {
                // Apart, because a silent reactor takes a second to be sure of.
                let watch = Arc::clone(watch);
                tokio_uring::spawn(async move {
                    match watch.first_unwell().await {
                        None => notify(&[NotifyState::Watchdog]),
                        Some(reason) => error!("no sign of life to the service manager: {reason}"),
                    }
                });
            }
        }
    }
}

/// Takes a new configuration, and says to the service manager when that is over.
async fn reload<F: Fleet>(reloader: &mut Reloader, fleet: &F, watch: &Watch<F>) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager could not be told"),
    }
    let config = reloader.reload();
    let is_applied = config.is_some();
    if let Some(config) = config {
        let deadline = Instant::now() + fleet::ANSWER_TIMEOUT;
        let mut to_tell: Vec<usize> = (0..fleet.count()).collect();
        loop {
            // A control queue may be full for a moment.
            to_tell.retain(|index| !fleet.ask(*index, ControlRequest::Reload(Arc::clone(&config))));
            if to_tell.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                error!(reactors = ?to_tell, "reactors did not take the new configuration");
                break;
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }
    watch.count_reload(is_applied);
    notify(&[NotifyState::Ready]);
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager could not be told");
    }
}

/// The next tick, or never where there is no interval.
async fn next_tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => future::pending().await,
    }
}
