//! Log lines on their way to stderr, which may take no more for as long as it likes: a terminal that was
//! stopped, a pipe that nobody reads.
//!
//! Whoever logs puts a line into a bounded queue and goes on; a thread that does nothing else writes them. A
//! line for which there is no room is dropped and counted, and how many were is said once lines flow again.

use std::{
    io::{self, Write},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::warn;

/// How many bytes of lines may wait. As many may be in the writer's hands.
const QUEUED_BYTES_MAX: usize = 64 * 1024;

/// The lines of this process.
pub static STDERR: Lines = Lines::new();

/// A bounded queue of lines, and who is to write them.
pub struct Lines {
    queue: Mutex<Queue>,
    /// Something has come, or has been written.
    changed: Condvar,
}

/// What waits to be written.
struct Queue {
    bytes: Vec<u8>,
    line_count: u64,
    is_being_written: bool,
    dropped_total: u64,
}

impl Lines {
    /// With nothing in it, and nobody who writes.
    pub const fn new() -> Lines {
        let queue = Queue { bytes: Vec::new(), line_count: 0, is_being_written: false, dropped_total: 0 };
        Lines { queue: Mutex::new(queue), changed: Condvar::new() }
    }

    /// Writes them to `output` from now on, on a thread of its own. Called once.
    ///
    /// # Errors
    /// Why there is no such thread.
    pub fn start(&'static self, output: impl Write + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("log".into()).spawn(move || self.write(output)).map(drop)
    }

    /// Queues a line, which ends with its line feed; never waits for what is written.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.bytes.len() + line.len() > QUEUED_BYTES_MAX {
            queue.dropped_total += 1;
            return;
        }
        queue.bytes.extend_from_slice(line);
        queue.line_count += 1;
        drop(queue);
        self.changed.notify_all();
    }

    /// Waits until everything is written, at most `limit`; false if it is not.
    pub fn flush(&self, limit: Duration) -> bool {
        let is_busy = |queue: &mut Queue| queue.is_being_written || !queue.bytes.is_empty();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lines dropped since the start, because there was no room or they could not be written.
    pub fn dropped_total(&self) -> u64 {
        self.lock().dropped_total
    }

    fn write(&self, mut output: impl Write) {
        let (mut bytes, mut told, mut flows) = (Vec::new(), 0, true);
        loop {
            let line_count = self.take(&mut bytes);
            let dropped_total = self.dropped_total();
            if flows && dropped_total > told {
                // Queued like any other, for which there is room now: lines were dropped because there was none.
                warn!(count = dropped_total - told, "log lines were dropped: stderr did not take them");
                told = dropped_total;
            }
            let written = output.write_all(&bytes).and_then(|()| output.flush());
            flows = written.is_ok();
            bytes.clear();
            let mut queue = self.lock();
            queue.is_being_written = false;
            if !flows {
                queue.dropped_total += line_count;
            }
            drop(queue);
            self.changed.notify_all();
        }
    }

    /// Waits for lines and gives them to the writer; how many there are.
    fn take(&self, bytes: &mut Vec<u8>) -> u64 {
        let waited = self.changed.wait_while(self.lock(), |queue| queue.bytes.is_empty());
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.bytes, bytes);
        queue.is_being_written = true;
        std::mem::take(&mut queue.line_count)
    }

    /// A panic is a line too, wherever it comes from.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::new()
    }
}

/// Takes a whole line with each write, as the subscriber of `tracing` gives them.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Says what it is about to write, and waits until it may: true to write it, false to fail.
    struct Gate {
        asks: Sender<Vec<u8>>,
        may: Receiver<bool>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.asks.send(bytes.to_vec());
            match self.may.recv() {
                Ok(true) => Ok(bytes.len()),
                Ok(false) | Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (&'static Lines, Receiver<Vec<u8>>, Sender<bool>) {
        let lines: &Lines = Box::leak(Box::new(Lines::new()));
        let ((asks, asked), (let_go, may)) = (channel(), channel());
        lines.start(Gate { asks, may }).unwrap();
        (lines, asked, let_go)
    }

    #[test]
    fn lines_are_written_in_order_and_a_flush_waits_for_them() {
        let (lines, asked, let_go) = gated();
        lines.push(b"one\n");
        assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), b"one\n");
        lines.push(b"two\n");
        lines.push(b"three\n");
        assert!(!lines.flush(Duration::ZERO));
        let_go.send(true).unwrap();
        assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), b"two\nthree\n");
        let_go.send(true).unwrap();
        assert!(lines.flush(PATIENCE));
        assert_eq!(lines.dropped_total(), 0);
    }

    /// The output takes nothing: whoever logs goes on all the same, and what does not fit is counted.
    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        const LINE: [u8; 1024] = [b'x'; 1024];
        let (lines, asked, let_go) = gated();
        lines.push(b"one\n");
        asked.recv_timeout(PATIENCE).unwrap();
        for _ in 0..QUEUED_BYTES_MAX / LINE.len() {
            lines.push(&LINE);
        }
        assert_eq!(lines.dropped_total(), 0);
        for _ in 0..3 {
            lines.push(&LINE);
        }
        assert_eq!(lines.dropped_total(), 3);
        let_go.send(true).unwrap();
        assert_eq!(asked.recv_timeout(PATIENCE).unwrap().len(), QUEUED_BYTES_MAX);
        lines.push(b"last\n");
        let_go.send(true).unwrap();
        assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), b"last\n");
    }

    #[test]
    fn what_cannot_be_written_counts_as_dropped() {
        let (lines, asked, let_go) = gated();
        lines.push(b"one\n");
        asked.recv_timeout(PATIENCE).unwrap();
        lines.push(b"two\n");
        lines.push(b"three\n");
        let_go.send(false).unwrap();
        assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), b"two\nthree\n");
        assert!(!lines.flush(Duration::ZERO), "nothing waits, but they are not written");
        assert_eq!(lines.dropped_total(), 1);
        let_go.send(false).unwrap();
        assert!(lines.flush(PATIENCE));
        assert_eq!(lines.dropped_total(), 3);
    }
}
