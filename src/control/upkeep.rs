//! What the control thread sees to for as long as there are reactors, whatever else it does.

use std::{
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, warn};

use super::{
    audit::AuditLines,
    fleet::{Fleet, Watch},
    notices::Notices,
    notify,
};
use crate::reactor::cores::CoreWatch;

/// How often it looks whether every reactor still runs, and what went wrong.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How often memory that is not used goes back to the kernel, and cores are looked at.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);

/// Whether the reactors run, and on which cores, what the operator is to be told, the service manager's watchdog, and
/// unused memory.
pub(super) struct Upkeep<F> {
    fleet: Arc<F>,
    watch: Arc<Watch<F>>,
    check: Interval,
    release: Interval,
    release_memory: fn(),
    notices: Notices,
    audit: AuditLines,
    cores: CoreWatch,
    watchdog: Option<Interval>,
}

impl<F: Fleet> Upkeep<F> {
    pub fn new(fleet: &Arc<F>, watch: &Arc<Watch<F>>, release_memory: fn()) -> Upkeep<F> {
        let (mut check, mut release) = (interval(CHECK_INTERVAL), interval(RELEASE_INTERVAL));
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        release.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Upkeep {
            fleet: Arc::clone(fleet),
            watch: Arc::clone(watch),
            check,
            release,
            release_memory,
            notices: Notices::default(),
            audit: AuditLines::default(),
            cores: CoreWatch::here(),
            // Two reports per deadline, as sd_watchdog_enabled(3) advises.
            watchdog: sd_notify::watchdog_enabled().map(|deadline| interval(deadline / 2)),
        }
    }

    /// Goes on until a reactor has ended without having been asked to, and returns the sentence about that.
    /// Dropping the future loses nothing.
    pub async fn run(&mut self) -> String {
        loop {
            tokio::select! {
                _ = self.check.tick() => {
                    if let Some(index) = (0..self.fleet.count()).find(|index| self.fleet.has_ended(*index)) {
                        return format!("reactor {index} ended unexpectedly; its last words are above");
                    }
                    let now = Instant::now();
                    self.notices.tell(self.fleet.troubles(), now);
                    self.audit.tell(self.fleet.audit(), now);
                }
                // Here and not in the reactors: giving back a passed peak takes the kernel milliseconds.
                _ = self.release.tick() => {
                    self.watch.superseded().let_go();
                    (self.release_memory)();
                    if let Some(line) = self.cores.look() {
                        warn!("{line}");
                    }
                }
                () = next_tick(&mut self.watchdog) => {
                    // Apart, because a silent reactor takes a second to be sure of.
                    let watch = Arc::clone(&self.watch);
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
}

/// The next tick, or never where there is no interval.
async fn next_tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => future::pending().await,
    }
}
