//! What the control thread sees to for as long as there are reactors, whatever else it does.

use std::{
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::error;

use super::{
    fleet::{Fleet, Watch},
    notices::Notices,
    notify,
};

/// How often it looks whether every reactor still runs, and what went wrong.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Whether the reactors run, what the operator is to be told, and the service manager's watchdog.
pub(super) struct Upkeep<F> {
    fleet: Arc<F>,
    watch: Arc<Watch<F>>,
    check: Interval,
    notices: Notices,
    watchdog: Option<Interval>,
}

impl<F: Fleet> Upkeep<F> {
    pub fn new(fleet: &Arc<F>, watch: &Arc<Watch<F>>) -> Upkeep<F> {
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Upkeep {
            fleet: Arc::clone(fleet),
            watch: Arc::clone(watch),
            check,
            notices: Notices::default(),
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
                    self.notices.tell(self.fleet.troubles(), Instant::now());
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
