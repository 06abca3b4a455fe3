//! One reactor: the glue of a turn.

use std::{sync::Arc, sync::mpsc};

use crate::{config::Config, metrics::ReactorStats};

/// What the control thread asks of a reactor.
pub enum ControlRequest {
    /// Send the counters back.
    Stats(mpsc::Sender<ReactorStats>),
    /// Stop accepting, flush what is queued, close every connection with 1012 and end; whatever is
    /// left after `limits.drain_ms` is dropped.
    Drain,
}

/// The control thread's end of all reactors.
#[derive(Debug)]
pub struct Reactors {}

impl Reactors {
    /// Binds one listener per reactor (SO_REUSEPORT), starts the threads, and returns when each has
    /// its ring and accepts.
    ///
    /// # Errors
    /// A sentence that names the key, the value and what is allowed: the address in use, say.
    pub fn start(config: Arc<Config>) -> Result<Reactors, String> {
        let _ = config;
        todo!()
    }

    /// How many reactors there are.
    pub fn count(&self) -> usize {
        todo!()
    }

    /// Asks reactor `index`; false when its control queue is full or it has ended.
    pub fn ask(&self, index: usize, request: ControlRequest) -> bool {
        let _ = (index, request);
        todo!()
    }

    /// Whether reactor `index`'s thread has ended: by drain, or by a panic (which ends the process
    /// in release builds).
    pub fn has_ended(&self, index: usize) -> bool {
        let _ = index;
        todo!()
    }
}
