//! Signals as values: SIGTERM and SIGINT stop the broker, SIGHUP asks for a reload.

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};
use tokio::{io::AsyncReadExt, net::UnixStream};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM or SIGINT, the first one.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The handlers and the pipe through which they wake the control thread.
pub(super) struct Signals {
    /// Taken into the runtime by the first [`Signals::next`].
    wake: Option<StdUnixStream>,
    receiver: Option<UnixStream>,
    stop: Arc<AtomicBool>,
    is_stop_told: bool,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers. From now on a second SIGTERM or SIGINT ends the process in the handler
    /// itself, with 128 and the signal's number, whatever the threads are doing.
    pub fn register() -> io::Result<Signals> {
        let (wake, waker) = StdUnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let reload = Arc::new(AtomicBool::new(false));
        // Handlers of one signal run in the order of registration: the exit sees the flag of the
        // signal before this one, and the flag is set before the pipe wakes its reader.
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
            flag::register(signal, Arc::clone(&stop))?;
            pipe::register(signal, waker.try_clone()?)?;
        }
        flag::register(SIGHUP, Arc::clone(&reload))?;
        pipe::register(SIGHUP, waker)?;
        Ok(Signals { wake: Some(wake), receiver: None, stop, is_stop_told: false, reload })
    }

    /// Waits for the next one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Signal {
        loop {
            if !self.is_stop_told && self.stop.load(Ordering::SeqCst) {
                self.is_stop_told = true;
                return Signal::Stop;
            }
            if self.reload.swap(false, Ordering::SeqCst) {
                return Signal::Reload;
            }
            if let Some(wake) = self.wake.take() {
                self.receiver =
                    Some(UnixStream::from_std(wake).expect("called within the control thread's runtime"));
            }
            let receiver = self.receiver.as_mut().expect("taken in above");
            let mut bytes = [0; 64];
            // The handlers hold the other end for as long as the process lives: it neither ends nor fails.
            let _ = receiver.read(&mut bytes).await;
        }
    }
}
