//! What the control thread asks of reactors; a reactor takes it in [`super::turn`].

use std::sync::{Arc, mpsc};

use crate::{
    access::{Access, revocation::Revocations},
    config::Config,
    metrics::ReactorStats,
};

/// What the control thread asks of a reactor.
#[derive(Debug)]
pub enum Order {
    /// Send the counters back.
    Stats(mpsc::Sender<ReactorStats>),
    /// Run with this configuration, and who may do what by it, from now on: what needs a restart is as it was.
    Reload(Arc<Config>, Option<Arc<Access>>),
    /// Go by these keys of issuers, of which nothing else differs; by none of another configuration than runs.
    Keys(Arc<Access>),
    /// Let in nobody any more of whom these say so, and close the connections of those who are.
    Revoke(Arc<Revocations>),
    /// Accept no more; tell when the kernel holds no accept. Connections that it took from a queue before
    /// are served.
    StopAccepting(mpsc::Sender<()>),
    /// Accept again, and end a drain that is not to end the reactor: what it closes already is closed.
    Accept,
    /// Stop accepting, let upgrades under way come to their end, flush what is queued and close every
    /// connection with 1012.
    Drain {
        /// Whatever is left after so many milliseconds is dropped; half of them are for what is under way.
        within_ms: u64,
        /// The reactor tells this one when it has no connection left, and stays. Without one it closes its
        /// listeners and ends.
        emptied: Option<mpsc::Sender<()>>,
    },
}
