//! How a broker ends: it drains, or a successor takes its place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{
    admin::Admin,
    fleet::{Fleet, Phase, Watch, carry_out},
    takeover::Successor,
};
use crate::{config::Config, reactor::ControlRequest};

/// How often the control thread looks at reactors that end.
const END_INTERVAL: Duration = Duration::from_millis(5);
/// What reactors get beyond their time to drop what is left.
const MARGIN: Duration = Duration::from_secs(2);

/// Asks every reactor to drain within `within_ms` and end, and waits until all have, for little longer.
pub(super) async fn drain<F: Fleet>(fleet: &F, within_ms: u64) {
    let deadline = Instant::now() + Duration::from_millis(within_ms) + MARGIN;
    fleet.close_listeners();
    let mut to_ask: Vec<usize> = (0..fleet.count()).collect();
    loop {
        // A control queue may be full for a moment.
        to_ask.retain(|index| {
            !fleet.has_ended(*index) && !fleet.ask(*index, ControlRequest::Drain { within_ms, emptied: None })
        });
        let left = (0..fleet.count()).filter(|index| !fleet.has_ended(*index)).count();
        if left == 0 {
            debug!("every reactor has ended");
            return;
        }
        if Instant::now() >= deadline {
            warn!(reactors = left, "reactors did not end in time; their connections are dropped");
            return;
        }
        tokio::time::sleep(END_INTERVAL).await;
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
    let has_stopped = carry_out(fleet, MARGIN, ControlRequest::StopAccepting).await;
    if !has_stopped || !successor.is_gone() {
        let within_ms = config.timeouts.takeover_ms;
        let limit = Duration::from_millis(within_ms) + MARGIN;
        let drain = |emptied| ControlRequest::Drain { within_ms, emptied: Some(emptied) };
        if !has_stopped || !carry_out(fleet, limit, drain).await {
            // The successor hears of the end by the end of the socket.
            warn!("reactors did not close their connections in time; the end of the process does");
            return Takeover::Done;
        }
        if successor.tell_done() {
            info!("no connection is left; the successor accepts");
            return Takeover::Done;
        }
    }
    warn!("the successor went away before it accepted; this broker serves again");
    successor.refuse("it took this process for gone");
    resume(fleet, watch, admin).await;
    Takeover::Failed
}

async fn resume<F: Fleet>(fleet: &F, watch: &Arc<Watch<F>>, admin: &mut Option<Admin>) {
    let mut to_ask: Vec<usize> = (0..fleet.count()).collect();
    loop {
        to_ask.retain(|index| !fleet.has_ended(*index) && !fleet.ask(*index, ControlRequest::Accept));
        if to_ask.is_empty() {
            break;
        }
        tokio::time::sleep(END_INTERVAL).await;
    }
    if let Some(admin) = admin {
        admin.serve(watch);
    }
    watch.set_phase(Phase::Ready);
}
