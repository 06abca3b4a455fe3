//! SIGINT and SIGTERM for a client that has something to say at its end.

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};
use tokio::{io::AsyncReadExt, net::UnixStream};

/// The handlers, which stay for as long as the process lives, and the pipe through which they wake it.
pub(super) struct Interrupt {
    receiver: UnixStream,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Installs the handlers, within a runtime. A second signal ends the process in the handler itself, whatever it waits
    /// for: stdout may be a pipe that nobody reads.
    pub fn register() -> io::Result<Interrupt> {
        let (wake, waker) = StdUnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let signal = Arc::new(AtomicUsize::new(0));
        let was_raised = Arc::new(AtomicBool::new(false));
        // Handlers of one signal run in the order of registration.
        for number in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&was_raised))?;
            flag::register(number, Arc::clone(&was_raised))?;
            flag::register_usize(number, Arc::clone(&signal), number as usize)?;
            pipe::register(number, waker.try_clone()?)?;
        }
        Ok(Interrupt { receiver: UnixStream::from_std(wake)?, signal })
    }

    /// Waits for a signal, and gives the exit code that stands for it.
    pub async fn raised(&mut self) -> u8 {
        // The handlers hold the other end: it neither ends nor fails before one has written.
        let _ = self.receiver.read(&mut [0; 1]).await;
        128 + self.signal.load(Ordering::SeqCst) as u8
    }
}
