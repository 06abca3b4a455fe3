//! The control thread: admin HTTP, metrics, signals, the service manager and the takeover, on tokio-uring.
//!
//! It carries no client's data and may wait; reactors never wait for it. What it knows of them it asks
//! over their bounded control queues ([`fleet`]), so that a reactor that hangs shows up as one that
//! does not answer.

pub mod activation;
mod admin;
mod api;
mod audit;
pub mod credentials;
mod ending;
pub mod fleet;
pub mod guard;
pub mod guest;
pub mod http;
pub mod keys;
pub mod lines;
pub mod metrics;
pub mod notices;
pub mod reload;
pub mod revocations;
mod signals;
mod socket;
mod succession;
mod superseded;
pub mod takeover;
mod upkeep;

use std::{io, net::SocketAddr, os::fd::OwnedFd, process, sync::Arc, thread, time::Duration};

use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::{
    access::Access,
    config::Config,
    reactor::{Order, locked_bytes},
    uring::remedy::{self, Step, Surroundings},
};
use admin::Admin;
use ending::Takeover;
use fleet::{Fleet, Phase, Watch};
use guard::Operators;
use keys::fetch::KeyUrl;
use reload::{Hooks, Loaded, Reloader};
use revocations::{Kept, Ledger};
use signals::{Signal, Signals};
use socket::ControlSocket;
use succession::{Reception, Successors};
use upkeep::Upkeep;

/// After a failed accept, which is mostly a want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the broker comes to its place.
#[derive(Debug, Default)]
pub struct Launch {
    /// The admin listener, if it was inherited.
    pub admin: Option<OwnedFd>,
    /// Who may use it beside what is everybody's.
    pub operators: Option<Arc<Operators>>,
    /// Tells a token of the admin listener to whoever starts the broker, and to nobody else, if that can be.
    pub tell_token: Option<fn(&str)>,
    /// What the reactors start with of who may do what.
    pub access: Option<Arc<Access>>,
    /// Where keys are to be fetched from that are not in files.
    pub key_urls: Vec<KeyUrl>,
    /// The broker takes a running one's place, and its start waits for that one's end.
    pub takes_over: bool,
}

/// Runs the broker until a signal ends it or a successor takes its place: starts the reactors with `start` once
/// everything else is there that can fail, calls `on_ready` with them and the address of the admin listener once
/// they accept, takes a new configuration from `hooks` on SIGHUP, drains them on SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
/// One line that says why the broker could not start or go on.
pub fn run<F: Fleet>(
    config: Arc<Config>,
    launch: Launch,
    hooks: Hooks,
    start: impl FnOnce(Arc<Config>) -> Result<(F, Kept), String> + Send + 'static,
    on_ready: impl FnOnce(&F, Option<SocketAddr>),
) -> Result<(), String> {
    // First of all: a signal while the broker starts must end it too.
    let signals = Signals::register().map_err(|error| format!("cannot handle signals: {error}"))?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(|error| {
        let around = Surroundings::read(Some(locked_bytes(&config)));
        remedy::line(Step::Control, &error, &around)
    })?;
    let release_memory = hooks.release_memory;
    let reloader = Reloader::new(config, hooks);
    runtime.block_on(control(launch, reloader, release_memory, signals, start, on_ready))
}

async fn control<F: Fleet>(
    Launch { admin, operators, tell_token, access, key_urls, takes_over }: Launch,
    mut reloader: Reloader,
    release_memory: fn(),
    mut signals: Signals,
    start: impl FnOnce(Arc<Config>) -> Result<(F, Kept), String> + Send + 'static,
    on_ready: impl FnOnce(&F, Option<SocketAddr>),
) -> Result<(), String> {
    let config = reloader.config();
    let watch = Arc::new(Watch::new(config.is_insecure()));
    if takes_over {
        watch.set_phase(Phase::Waiting);
    }
    // As soon as may be: whoever comes first is to find them there.
    watch.keys().adopt(access, key_urls, &config);
    watch.keys().note_adopted();
    tokio_uring::spawn(keys::run(Arc::clone(&watch)));
    let bind = |path| ControlSocket::bind(path, !takes_over);
    let socket = config.control.socket.as_deref().map(bind).transpose()?;
    let open = |address| Admin::open(address, &config, operators, admin, tell_token);
    let mut admin = config.admin.address.map(open).transpose()?;
    let reception = socket.map(|socket| Reception::new(socket, admin.as_ref())).transpose()?;
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
        .map_err(|error| no_thread(&error))?;
    let (fleet, kept) = loop {
        tokio::select! {
            result = &mut started => {
                let (fleet, kept) = result.map_err(|_| "the reactors could not be started".to_owned())??;
                break (Arc::new(fleet), kept);
            }
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(()),
                // What is read now would not be what the reactors start with.
                Signal::Reload => is_reload_due = true,
            }
        }
    };

    let mut successors = match reception.map(|reception| reception.open(&fleet)).transpose() {
        Ok(successors) => successors,
        // There is nobody any more who could serve instead.
        Err(why) if takes_over => {
            error!("nobody can take this broker's place: {why}");
            None
        }
        Err(why) => return Err(why),
    };
    watch.set_ledger(Ledger::open(kept, reloader.config(), &fleet).map_err(|error| no_thread(&error))?);
    watch.set_ready(Arc::clone(&fleet));
    // Those that came while it started.
    watch.keys().tell(&*fleet).await;
    match takes_over {
        true => notify(&[NotifyState::MainPid(process::id()), NotifyState::Ready]),
        false => notify(&[NotifyState::Ready]),
    }
    on_ready(&fleet, admin.as_ref().map(Admin::address));
    if is_reload_due {
        reload(&mut reloader, &*fleet, &watch, admin.as_ref()).await;
    }
    let mut upkeep = Upkeep::new(&fleet, &watch, release_memory);
    loop {
        let successor = tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => break,
                Signal::Reload => {
                    reload(&mut reloader, &*fleet, &watch, admin.as_ref()).await;
                    continue;
                }
            },
            successor = Successors::next(&mut successors) => successor,
            why = upkeep.run() => return Err(why),
        };
        let outcome = tokio::select! {
            outcome = ending::hand_over(&*fleet, &watch, &mut admin, successor, reloader.running()) => outcome,
            why = upkeep.run() => return Err(why),
        };
        if outcome == Takeover::Done {
            fleet.leave_listeners();
            if let Some(successors) = successors {
                successors.leave();
            }
            if let Some(mut admin) = admin {
                admin.finish().await;
            }
            return Ok(());
        }
    }

    watch.set_phase(Phase::Draining);
    notify(&[NotifyState::Stopping]);
    let drain_ms = reloader.running().timeouts.drain_ms;
    info!(timeout_ms = drain_ms, "draining; a second signal exits at once");
    ending::drain(&*fleet, drain_ms).await;
    Ok(())
}

/// Takes a new configuration, and says to the service manager when that is over.
async fn reload<F: Fleet>(reloader: &mut Reloader, fleet: &F, watch: &Watch<F>, admin: Option<&Admin>) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager could not be told"),
    }
    let before = (reloader.config(), watch.keys().access());
    let loaded = reloader.reload(|config| fleet.check_reach(config));
    let is_applied = loaded.is_some();
    if let Some(Loaded { config, .. }) = &loaded {
        let (roles, issuers) = (config.roles.len(), config.auth.issuers.len());
        info!(target: "fanfare::audit", roles, issuers, asked = config.auth.is_on(), "rights read again");
    }
    if let Some(Loaded { config, access, key_urls, operators }) = loaded {
        watch.superseded().keep(before.0, before.1);
        let access = watch.keys().adopt(access, key_urls, &config);
        if let Some(admin) = admin {
            admin.set_operators(operators);
        }
        if let Some(ledger) = watch.ledger() {
            ledger.set_config(Arc::clone(&config));
        }
        let order = || Order::Reload(Arc::clone(&config), access.clone());
        let untold = fleet::tell(fleet, fleet::ANSWER_TIMEOUT, order).await;
        if !untold.is_empty() {
            error!(reactors = ?untold, "reactors did not take the new configuration");
        }
        watch.keys().note_adopted();
    }
    watch.set_insecure(reloader.running().is_insecure());
    watch.count_reload(is_applied);
    notify(&[NotifyState::Ready]);
}

/// Why the broker is short of a thread, and what to do about it.
pub fn no_thread(error: &io::Error) -> String {
    remedy::line(Step::Thread, error, &Surroundings::read(None))
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager could not be told");
    }
}
