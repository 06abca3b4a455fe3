//! The control thread: admin HTTP, metrics, signals and the service manager, on tokio-uring.
//!
//! It carries no client's data and may wait; reactors never wait for it. What it knows of them it asks
//! over their bounded control queues ([`fleet`]), so that a reactor that hangs shows up as one that
//! does not answer.

pub mod fleet;
pub mod http;
pub mod metrics;
pub mod reload;
mod signals;

use std::{
    future,
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{net::TcpListener, sync::oneshot, time::MissedTickBehavior};
use tracing::{debug, error, info, warn};

use crate::{config::Config, reactor::ControlRequest};
use fleet::{Fleet, Phase, Watch};
use reload::{Reloader, Source};
use signals::{Signal, Signals};

/// How often the control thread looks whether every reactor still runs.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How often it looks while they drain.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);
/// What reactors get beyond `timeouts.drain_ms` to drop what is left and end.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);

/// Runs the broker until a signal ends it: starts the reactors with `start`, calls `on_ready` with them
/// and the address of the admin listener once they accept, takes a new configuration from `source` on
/// SIGHUP, drains them on SIGTERM or SIGINT.
///
/// # Errors
/// One line that says why the broker could not start or go on.
pub fn run<F: Fleet>(
    config: Arc<Config>,
    source: Source,
    start: impl FnOnce(Arc<Config>) -> Result<F, String> + Send + 'static,
    on_ready: impl FnOnce(&F, Option<SocketAddr>),
) -> Result<(), String> {
    // First of all: a signal while the broker starts must end it too.
    let signals = Signals::register().map_err(|error| format!("cannot handle signals: {error}"))?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .map_err(|error| format!("cannot start the control thread's io_uring: {error}"))?;
    runtime.block_on(control(Reloader::new(config, source), signals, start, on_ready))
}

async fn control<F: Fleet>(
    mut reloader: Reloader,
    mut signals: Signals,
    start: impl FnOnce(Arc<Config>) -> Result<F, String> + Send + 'static,
    on_ready: impl FnOnce(&F, Option<SocketAddr>),
) -> Result<(), String> {
    let watch = Arc::new(Watch::new());
    let admin = match reloader.running().admin.address {
        Some(address) => Some(serve_admin(address, Arc::clone(&watch)).await?),
        None => None,
    };

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

    watch.set_ready(Arc::clone(&fleet));
    notify(&[NotifyState::Ready]);
    on_ready(&fleet, admin);
    if is_reload_due {
        reload(&mut reloader, &*fleet, &watch).await;
    }
    wait_for_stop(&fleet, &watch, &mut signals, &mut reloader).await?;

    watch.set_phase(Phase::Draining);
    notify(&[NotifyState::Stopping]);
    let drain_ms = reloader.running().timeouts.drain_ms;
    info!(timeout_ms = drain_ms, "draining; a second signal exits at once");
    drain(&*fleet, Duration::from_millis(drain_ms) + DRAIN_MARGIN).await;
    Ok(())
}

/// Binds the admin listener and serves it from now on; returns the address it got.
async fn serve_admin<F: Fleet>(address: SocketAddr, watch: Arc<Watch<F>>) -> Result<SocketAddr, String> {
    let cannot_listen = |error: std::io::Error| {
        let reason = match error.kind() {
            ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
            _ => error.to_string(),
        };
        format!(
            "admin.address = \"{address}\" cannot be listened on: {reason}; \
             choose another with --admin, or turn it off with --admin ''"
        )
    };
    let listener = TcpListener::bind(address).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    tokio_uring::spawn(http::serve(listener, watch));
    Ok(address)
}

/// Returns when the broker is asked to stop.
///
/// # Errors
/// A reactor ended without having been asked to.
async fn wait_for_stop<F: Fleet>(
    fleet: &Arc<F>,
    watch: &Arc<Watch<F>>,
    signals: &mut Signals,
    reloader: &mut Reloader,
) -> Result<(), String> {
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Two reports per deadline of the service manager, as sd_watchdog_enabled(3) advises.
    let mut watchdog = sd_notify::watchdog_enabled().map(|deadline| tokio::time::interval(deadline / 2));
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(()),
                Signal::Reload => reload(reloader, &**fleet, watch).await,
            },
            _ = check.tick() => {
                if let Some(index) = (0..fleet.count()).find(|index| fleet.has_ended(*index)) {
                    return Err(format!("reactor {index} ended unexpectedly; its last words are above"));
                }
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

/// Asks every reactor to drain and waits until all have ended, at most `timeout`.
async fn drain<F: Fleet>(fleet: &F, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    let mut to_ask: Vec<usize> = (0..fleet.count()).collect();
    loop {
        // A control queue may be full for a moment.
        to_ask.retain(|index| !fleet.has_ended(*index) && !fleet.ask(*index, ControlRequest::Drain));
        let left = (0..fleet.count()).filter(|index| !fleet.has_ended(*index)).count();
        if left == 0 {
            debug!("every reactor has ended");
            return;
        }
        if Instant::now() >= deadline {
            warn!(reactors = left, "reactors did not end in time; their connections are dropped");
            return;
        }
        tokio::time::sleep(DRAIN_INTERVAL).await;
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
            tokio::time::sleep(DRAIN_INTERVAL).await;
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
