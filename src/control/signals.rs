//! Signals as values: SIGTERM, SIGINT and SIGQUIT stop the broker, SIGHUP asks for a reload. SIGUSR1 and SIGUSR2,
//! which would end the process, are told and ignored.

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
    low_level::pipe,
};
use tokio::{io::AsyncReadExt, net::UnixStream};
use tracing::info;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM, SIGINT or SIGQUIT, the first one.
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
    /// What came of those that mean nothing here.
    ignored: [(&'static str, Arc<AtomicBool>); 2],
}

impl Signals {
    /// Installs the handlers. From now on a second one that stops the broker ends the process in the
    /// handler itself, with 128 and the signal's number, whatever the threads are doing.
    pub fn register() -> io::Result<Signals> {
        let (wake, waker) = StdUnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let reload = Arc::new(AtomicBool::new(false));
        // Handlers of one signal run in the order of registration: the exit sees the flag of the
        // signal before this one, and the flag is set before the pipe wakes its reader.
        for signal in [SIGTERM, SIGINT, SIGQUIT] {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
            flag::register(signal, Arc::clone(&stop))?;
            pipe::register(signal, waker.try_clone()?)?;
        }
        flag::register(SIGHUP, Arc::clone(&reload))?;
        pipe::register(SIGHUP, waker.try_clone()?)?;
        let ignored = [("SIGUSR1", Arc::default()), ("SIGUSR2", Arc::default())];
        for (signal, (_, flag)) in [SIGUSR1, SIGUSR2].into_iter().zip(&ignored) {
            flag::register(signal, Arc::clone(flag))?;
            pipe::register(signal, waker.try_clone()?)?;
        }
        Ok(Signals { wake: Some(wake), receiver: None, stop, is_stop_told: false, reload, ignored })
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
            for (name, flag) in &self.ignored {
                if flag.swap(false, Ordering::SeqCst) {
                    info!("{name} means nothing here and is ignored");
                }
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
