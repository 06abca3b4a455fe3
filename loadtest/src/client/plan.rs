//! What a run consists of: topics, connections, times, threads.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use crate::{clock, dialect::Reader, payload::Payload, schedule::Schedule};

/// A topic under load.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Index of the group that it is reported with.
    pub group: usize,
    /// When its publications are due.
    pub schedule: Schedule,
    /// What they carry.
    pub payload: Payload,
    /// Whoever is behind may lose what is not the newest: the order must rise and the last must come.
    pub is_conflated: bool,
    /// How many connections publish to it; 0: somebody else does, by the same schedule.
    pub publishers: usize,
}

/// A run's times, all by [`clock::now_ns`].
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The schedules' zero.
    pub start_ns: u64,
    /// From here on it counts: the warm-up is over.
    pub measure_ns: u64,
    /// The last publication is due before this.
    pub end_ns: u64,
    /// Nobody waits for deliveries longer than this.
    pub deadline_ns: u64,
}

/// One second.
pub const SECOND_NS: u64 = 1_000_000_000;

impl Times {
    /// A run that starts in a moment.
    pub fn starting_soon(warmup_s: u64, duration_s: u64, drain_s: u64) -> Times {
        // Time for the threads to start; on a whole tick.
        let start_ns = (clock::now_ns() + 200_000_000).next_multiple_of(1_000_000);
        let measure_ns = start_ns + warmup_s * SECOND_NS;
        let end_ns = measure_ns + duration_s * SECOND_NS;
        Times { start_ns, measure_ns, end_ns, deadline_ns: end_ns + drain_s * SECOND_NS }
    }

    /// Whether what is due or received at `at_ns` counts.
    pub fn is_measured(&self, at_ns: u64) -> bool {
        (self.measure_ns..self.end_ns).contains(&at_ns)
    }
}

/// A part of a run whose begin and end are known only when they are there.
#[derive(Debug)]
pub struct Window {
    begin_ns: AtomicU64,
    end_ns: AtomicU64,
}

impl Window {
    /// Not yet.
    pub fn new() -> Window {
        Window { begin_ns: AtomicU64::new(u64::MAX), end_ns: AtomicU64::new(u64::MAX) }
    }

    /// It begins at `at_ns`.
    pub fn begin(&self, at_ns: u64) {
        self.begin_ns.store(at_ns, SeqCst);
    }

    /// It ends before `at_ns`.
    pub fn end(&self, at_ns: u64) {
        self.end_ns.store(at_ns, SeqCst);
    }

    /// Whether it has begun at `at_ns`, and is not over as far as one knows.
    pub fn contains(&self, at_ns: u64) -> bool {
        (self.begin_ns.load(SeqCst)..self.end_ns.load(SeqCst)).contains(&at_ns)
    }
}

/// Which thread a connection is served by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// One of the threads that share the load.
    #[default]
    Bulk,
    /// A thread of its own above the others, for what must not wait for the client's other work.
    Quick,
}

/// A subscriber's connection.
pub struct Subscriber {
    /// Its topics, ascending, all of one group, and where each subscription starts.
    pub topics: Vec<(usize, u64)>,
    /// Its socket, blocking.
    pub socket: TcpStream,
    /// What it was cut off in, if anything.
    pub reader: Reader,
    /// Parsed and verified, or a sink.
    pub is_sampled: bool,
    /// Which thread serves it.
    pub lane: Lane,
}

/// A publisher's connection.
pub struct Publisher {
    /// The topics that it publishes to, and its place among each one's publishers.
    pub feeds: Vec<(usize, usize)>,
    /// Its socket, blocking.
    pub socket: TcpStream,
    /// What it was cut off in, if anything.
    pub reader: Reader,
    /// Which thread serves it.
    pub lane: Lane,
}

/// When a publisher publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// By the timetable, whatever comes of it.
    Open,
    /// When fewer than so many of its publications to a topic are on their way.
    Closed {
        /// How many.
        window: u64,
    },
}

/// Which threads there are.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    /// How many share the load; 0: one per core, or one.
    pub count: usize,
    /// The cores that they are pinned to, in turn; none: not pinned.
    pub cores: Vec<usize>,
}

impl Threads {
    /// The core of each thread.
    pub fn places(&self) -> Vec<Option<usize>> {
        let count = if self.count == 0 { self.cores.len().max(1) } else { self.count };
        (0..count).map(|index| self.cores.get(index % self.cores.len().max(1)).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_from_its_begin_to_its_end() {
        let window = Window::new();
        assert!(!window.contains(0) && !window.contains(7));
        window.begin(5);
        assert_eq!([4, 5, 9].map(|at| window.contains(at)), [false, true, true]);
        window.end(8);
        assert_eq!([4, 5, 7, 8].map(|at| window.contains(at)), [false, true, true, false]);
    }

    #[test]
    fn threads_go_round_the_cores() {
        let places = |count, cores: &[usize]| Threads { count, cores: cores.to_vec() }.places();
        assert_eq!(places(0, &[]), [None]);
        assert_eq!(places(2, &[]), [None, None]);
        assert_eq!(places(0, &[3, 5]), [Some(3), Some(5)]);
        assert_eq!(places(3, &[3, 5]), [Some(3), Some(5), Some(3)]);
        assert_eq!(places(1, &[3, 5]), [Some(3)]);
    }
}
