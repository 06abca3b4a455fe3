//! How a broker ends: it drains, or a successor takes its place.

use std::{sync::Arc, time::Duration};

use tracing::{debug, error, info, warn};

use super::{
    admin::Admin,
    fleet::{Fleet, Phase, Watch, carry_out, tell, try_each},
    takeover::Successor,
};
use crate::{config::Config, reactor::Order};

/// What reactors get beyond their time to drop what is left.
const MARGIN: Duration = Duration::from_secs(2);

/// Asks every reactor to drain within `within_ms` and end, and waits until all have, for little longer.
pub(super) async fn drain<F: Fleet>(fleet: &F, within_ms: u64) {
    fleet.close_listeners();
    let mut is_asked = vec![false; fleet.count()];
    let limit = Duration::from_millis(within_ms) + MARGIN;
    let left = try_each(fleet, limit, |index| {
        is_asked[index] = is_asked[index] || fleet.ask(index, Order::Drain { within_ms, emptied: None });
        // Only its end is awaited.
        false
    });
    match left.await.len() {
        0 => debug!("every reactor has ended"),
        left => warn!(reactors = left, "reactors did not end in time; their connections are dropped"),
    }
}

/// What has become of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takeover {
    /// The successor serves, or will when this process has ended.
    Done,
    /// The successor went away; this broker serves again.
    Failed,
}

/// Stops accepting, closes every connection, and tells the successor to accept.
pub(super) async fn hand_over<F: Fleet>(
    fleet: &F,
    watch: &Arc<Watch<F>>,
    admin: &mut Option<Admin>,
    successor: Successor,
    config: &Config,
) -> Takeover {
    info!("a successor is ready: handing over");
    watch.set_phase(Phase::Draining);
    if let Some(admin) = admin {
        admin.stop();
    }
    let is_empty = tokio::select! {
        is_empty = empty(fleet, config.timeouts.takeover_ms) => is_empty,
        () = successor.gone() => false,
    };
    if is_empty && successor.tell_done() {
        info!("no connection is left; the successor accepts");
        return Takeover::Done;
    }
    if !successor.is_gone() {
        // The successor hears of the end by the end of the socket.
        warn!("reactors did not close their connections in time; the end of the process does");
        return Takeover::Done;
    }
    warn!("the successor went away before it accepted; this broker serves again");
    successor.refuse("it took this process for gone");
    resume(fleet, watch, admin).await;
    Takeover::Failed
}

/// Accepts no more and closes every connection; false if that is not over in time.
async fn empty<F: Fleet>(fleet: &F, within_ms: u64) -> bool {
    let limit = Duration::from_millis(within_ms) + MARGIN;
    let drain = |emptied| Order::Drain { within_ms, emptied: Some(emptied) };
    carry_out(fleet, MARGIN, Order::StopAccepting).await && carry_out(fleet, limit, drain).await
}

/// Serves again, whatever a successor left half done.
async fn resume<F: Fleet>(fleet: &F, watch: &Arc<Watch<F>>, admin: &mut Option<Admin>) {
    let untold = tell(fleet, MARGIN, || Order::Accept).await;
    if !untold.is_empty() {
        error!(reactors = ?untold, "reactors did not take the order to accept again");
    }
    if let Some(admin) = admin {
        admin.serve(watch);
    }
    watch.set_phase(Phase::Ready);
}
