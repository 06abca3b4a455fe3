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
mod signals;
mod socket;
pub mod takeover;

use std::{future, io, net::SocketAddr, os::fd::OwnedFd, process, sync::Arc, thread, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};
use tracing::{error, info, warn};

use crate::config::Config;
use activation::Inherited;
use admin::Admin;
use ending::Takeover;
use fleet::{Fleet, Phase, Watch};
use signals::{Signal, Signals};
use socket::ControlSocket;
use takeover::Successor;

/// How often the control thread looks whether every reactor still runs.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// After a failed accept on the control socket, which is mostly a want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is there before the control thread is.
#[derive(Debug, Default)]
pub struct Origin {
    /// The admin listener, if it was inherited.
    pub admin: Option<OwnedFd>,
    /// The broker takes a running one's place, and its start waits for that one's end.
    pub takes_over: bool,
}

/// Runs the broker until a signal ends it or a successor takes its place: starts the reactors with `start`,
/// calls `on_ready` with them and the address of the admin listener once they accept, drains them on SIGTERM
/// or SIGINT.
///
/// # Errors
/// One line that says why the broker could not start or go on.
pub fn run<F: Fleet>(
    config: Arc<Config>,
    origin: Origin,
    start: impl FnOnce(Arc<Config>) -> Result<F, String> + Send + 'static,
    on_ready: impl FnOnce(&F, Option<SocketAddr>),
) -> Result<(), String> {
    // First of all: a signal while the broker starts must end it too.
    let signals = Signals::register().map_err(|error| format!("cannot handle signals: {error}"))?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .map_err(|error| format!("cannot start the control thread's io_uring: {error}"))?;
    runtime.block_on(control(config, origin, signals, start, on_ready))
}

async fn control<F: Fleet>(
    config: Arc<Config>,
    origin: Origin,
    mut signals: Signals,
    start: impl FnOnce(Arc<Config>) -> Result<F, String> + Send + 'static,
    on_ready: impl FnOnce(&F, Option<SocketAddr>),
) -> Result<(), String> {
    let watch = Arc::new(Watch::new());
    if origin.takes_over {
        watch.set_phase(Phase::Waiting);
    }
    let bind = |path| ControlSocket::bind(path, !origin.takes_over);
    let mut socket = config.control.socket.as_deref().map(bind).transpose()?;
    let open = |address| Admin::open(address, origin.admin);
    let mut admin = config.admin.address.map(open).transpose()?;
    if let Some(admin) = &mut admin {
        admin.serve(&watch);
    }

    // Starting blocks: the admin listener answers meanwhile, and a signal gets through.
    let (started_sender, mut started) = oneshot::channel();
    let start_config = Arc::clone(&config);
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
                Signal::Reload => log_reload(),
            }
        }
    };

    let mut successors = match &mut socket {
        Some(socket) => Some(serve_successors(socket, &fleet, admin.as_ref())?),
        None => None,
    };
    watch.set_ready(Arc::clone(&fleet));
    match origin.takes_over {
        true => notify(&[NotifyState::MainPid(process::id()), NotifyState::Ready]),
        false => notify(&[NotifyState::Ready]),
    }
    on_ready(&fleet, admin.as_ref().map(Admin::address));
    while let Asked::Takeover(successor) =
        wait_until_asked(&fleet, &watch, &mut signals, &mut successors).await?
    {
        match ending::hand_over(&*fleet, &watch, &mut admin, successor, &config).await {
            Takeover::Failed => {}
            Takeover::Done => {
                if let Some(socket) = socket {
                    socket.leave();
                }
                if let Some(mut admin) = admin {
                    admin.finish().await;
                }
                return Ok(());
            }
        }
    }

    watch.set_phase(Phase::Draining);
    notify(&[NotifyState::Stopping]);
    info!(timeout_ms = config.timeouts.drain_ms, "draining; a second signal exits at once");
    ending::drain(&*fleet, &config).await;
    Ok(())
}

/// Serves the control socket from now on; what comes out are processes that are ready to take over, one at a
/// time.
fn serve_successors<F: Fleet>(
    socket: &mut ControlSocket,
    fleet: &Arc<F>,
    admin: Option<&Admin>,
) -> Result<mpsc::Receiver<Successor>, String> {
    let opened = || Ok((socket.listener()?, admin.map(Admin::duplicate).transpose()?));
    let (listener, admin) =
        opened().map_err(|error: io::Error| format!("the control socket cannot be served: {error}"))?;
    socket.publish()?;
    let fleet = Arc::clone(fleet);
    let (sender, receiver) = mpsc::channel(1);
    tokio_uring::spawn(meet_successors(listener, admin, fleet, sender));
    Ok(receiver)
}

async fn meet_successors<F: Fleet>(
    listener: UnixListener,
    admin: Option<OwnedFd>,
    fleet: Arc<F>,
    sender: mpsc::Sender<Successor>,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the control socket could not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let offer = || {
            let admin = admin.as_ref().map(OwnedFd::try_clone).transpose()?;
            Ok(Inherited { listeners: fleet.listeners()?, admin })
        };
        match Successor::meet(stream, offer).await {
            Ok((successor, is_over)) => {
                // Only a broker that ends does not take it, and then nothing more is to be served. The next
                // one is met when this one has failed: two would both think that they take over.
                if sender.send(successor).await.is_err() {
                    return;
                }
                let _ = is_over.await;
            }
            Err(why) => info!("not handing over: {why}"),
        }
    }
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
    successors: &mut Option<mpsc::Receiver<Successor>>,
) -> Result<Asked, String> {
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Two reports per deadline of the service manager, as sd_watchdog_enabled(3) advises.
    let mut watchdog = sd_notify::watchdog_enabled().map(|deadline| tokio::time::interval(deadline / 2));
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(Asked::Stop),
                Signal::Reload => log_reload(),
            },
            successor = next_successor(successors) => return Ok(Asked::Takeover(successor)),
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

fn log_reload() {
    warn!("SIGHUP: a reload needs a restart; the configuration is as it was");
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

/// The next process that is ready to take over, or never without a control socket.
async fn next_successor(successors: &mut Option<mpsc::Receiver<Successor>>) -> Successor {
    match successors {
        Some(receiver) => receiver.recv().await.expect("the control socket is served while the broker is"),
        None => future::pending().await,
    }
}
