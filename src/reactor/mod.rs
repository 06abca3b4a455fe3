//! One reactor per core, and the threads that they run on.
//!
//! [`turn`] is what a reactor asks of its ring, [`core`] what it knows and decides, `commands` what
//! clients' commands do. None of it is shared: reactors meet in [`crate::channel`].

mod commands;
pub mod connection;
pub mod core;
pub mod pacing;
pub mod pending;
#[cfg(test)]
mod simulation;
pub mod timers;
pub mod turn;

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, atomic::AtomicUsize, mpsc},
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::{
    channel::Mesh,
    config::Config,
    metrics::ReactorStats,
    protocol::Format,
    pubsub::{
        home::{Homes, REACTORS_MAX},
        log::{Budget, SHARED_CHUNK_BYTES},
        message::{Delivery, Request},
    },
    uring::{
        listener,
        ring::{Ring, RingConfig},
        wake::Doorbell,
    },
};
use core::{ReactorPort, Shared};
use turn::{Reactor, Turn};

/// Entries of all queues to one reactor of one kind together.
const QUEUE_ENTRIES: usize = 16_384;
/// What each reactor must have of the log: the chunks that are being written are a quarter of it at most.
const LOG_BYTES_MIN: usize = 4 * (Format::COUNT + 1) * SHARED_CHUNK_BYTES;
/// Descriptors that are not connections: rings, listeners, logs, the admin listener's.
const DESCRIPTORS_RESERVED: usize = 64;

/// What the control thread asks of a reactor.
#[derive(Debug)]
pub enum ControlRequest {
    /// Send the counters back.
    Stats(mpsc::Sender<ReactorStats>),
    /// Run with this configuration from now on: what needs a restart is as it was.
    Reload(Arc<Config>),
    /// Stop accepting, flush what is queued, close every connection with 1012 and end; whatever is
    /// left after `timeouts.drain_ms` is dropped.
    Drain,
}

/// The control thread's end of all reactors.
pub struct Reactors {
    mesh: Arc<Mesh<Request, Delivery, ControlRequest>>,
    doorbell: Mutex<Doorbell>,
    threads: Vec<JoinHandle<()>>,
    address: SocketAddr,
}

/// What a reactor's thread says when it has its ring: the ring's descriptor, or why there is none.
type Setup = Result<(usize, RawFd), String>;

impl Reactors {
    /// Binds one listener per reactor (SO_REUSEPORT), starts the threads, and returns when each has
    /// its ring and accepts.
    ///
    /// # Errors
    /// A sentence that names the key, the value and what is allowed: the address in use, say.
    pub fn start(config: Arc<Config>) -> Result<Reactors, String> {
        let cores = allowed_cores();
        let count = match config.reactor.count {
            0 => cores.len().clamp(1, REACTORS_MAX),
            count => count,
        };
        let log_bytes_min = LOG_BYTES_MIN * count;
        if config.limits.log_bytes_max < log_bytes_min {
            return Err(format!(
                "limits.log_bytes_max = {} is too little for {count} reactors: at least {log_bytes_min} bytes, \
                 or set reactor.count",
                config.limits.log_bytes_max
            ));
        }
        let listeners = listen(&config, count)?;
        let address = listener::local_address(&listeners[0])
            .map_err(|error| format!("the listener's address cannot be read: {error}"))?;
        let connections_max = connections_max(&config);
        let connection_count = Arc::new(AtomicUsize::new(0));
        let shared = Shared {
            homes: Homes::new(count, random()),
            budget: Budget::new(config.limits.log_bytes_max),
            epoch: random(),
            config: config.clone(),
        };
        let (mesh, ports) = Mesh::new(count, (QUEUE_ENTRIES / count).max(256));
        let (said, setups) = mpsc::channel::<Setup>();
        let mut threads = Vec::new();
        let mut starts = Vec::new();
        for (port, listener) in ports.into_iter().zip(listeners) {
            let (start, started) = mpsc::channel::<Vec<RawFd>>();
            let index = port.index();
            let run = ReactorThread {
                core: config.reactor.pin.then(|| cores[index % cores.len()]),
                ring: ring_config(&config, connections_max / count),
                port,
                listener,
                shared: shared.clone(),
                connection_count: connection_count.clone(),
                connections_max,
            };
            let said = said.clone();
            let thread = thread::Builder::new()
                .name(format!("reactor-{index}"))
                .spawn(move || run.run(said, started))
                .map_err(|error| format!("reactor {index} has no thread: {error}"))?;
            threads.push(thread);
            starts.push(start);
        }
        drop(said);
        let mut rings = vec![-1; count];
        for _ in 0..count {
            let (index, ring) =
                setups.recv().map_err(|_| "a reactor ended before it had its ring".to_string())??;
            rings[index] = ring;
        }
        let doorbell = Doorbell::new(rings.clone())
            .map_err(|error| format!("the control thread has no ring to wake reactors with: {error}"))?;
        for start in starts {
            start.send(rings.clone()).map_err(|_| "a reactor ended before it accepted".to_string())?;
        }
        Ok(Reactors { mesh, doorbell: Mutex::new(doorbell), threads, address })
    }

    /// How many reactors there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Where clients connect; the port is a real one even if the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks reactor `index`; false when its control queue is full or it has ended.
    pub fn ask(&self, index: usize, request: ControlRequest) -> bool {
        if self.has_ended(index) {
            return false;
        }
        match self.mesh.send_order(index, request) {
            Ok(false) => true,
            Ok(true) => self.doorbell.lock().is_ok_and(|mut doorbell| doorbell.ring(index).is_ok()),
            Err(_) => false,
        }
    }

    /// Whether reactor `index`'s thread has ended: by drain, or by a panic (which ends the process
    /// in release builds).
    pub fn has_ended(&self, index: usize) -> bool {
        self.threads[index].is_finished()
    }
}

/// Everything that goes along to a reactor's thread.
struct ReactorThread {
    core: Option<usize>,
    ring: RingConfig,
    port: ReactorPort,
    listener: OwnedFd,
    shared: Shared,
    connection_count: Arc<AtomicUsize>,
    connections_max: usize,
}

impl ReactorThread {
    fn run(self, said: mpsc::Sender<Setup>, started: mpsc::Receiver<Vec<RawFd>>) {
        if let Some(core) = self.core {
            pin_to(core);
        }
        let index = self.port.index();
        let mut ring = match Ring::new(self.ring) {
            Ok(ring) => ring,
            Err(error) => {
                // The starter may have given up over another reactor's error.
                let _ = said.send(Err(error.to_string()));
                return;
            }
        };
        let _ = said.send(Ok((index, ring.as_raw_fd())));
        let Ok(peers) = started.recv() else { return };
        ring.set_peers(peers);
        let mut reactor = Reactor::new(
            ring,
            self.port,
            self.shared,
            self.listener.as_raw_fd(),
            self.connection_count,
            self.connections_max,
        );
        let began = Instant::now();
        loop {
            match reactor.turn(began.elapsed().as_nanos() as u64) {
                Ok(Turn::Next) => {}
                Ok(Turn::Ended) => return,
                Err(error) => panic!("reactor {index}'s ring cannot be entered: {error}"),
            }
        }
    }
}

fn listen(config: &Config, count: usize) -> Result<Vec<OwnedFd>, String> {
    let listen = &config.listen;
    let sndbuf_bytes = (listen.sndbuf_bytes > 0).then_some(listen.sndbuf_bytes as usize);
    listener::listen_group(listen.address, count, listen.backlog, sndbuf_bytes).map_err(|error| {
        let address = listen.address;
        match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "listen.address = \"{address}\" cannot be listened on: another process does; \
                 choose another with --listen"
            ),
            _ => format!(
                "listen.address = \"{address}\" cannot be listened on: {error}; \
                 choose an address of this machine and a port that this user may use"
            ),
        }
    })
}

fn ring_config(config: &Config, connections_share: usize) -> RingConfig {
    RingConfig {
        entries: 4_096,
        buffer_count: usize::from(config.reactor.buffer_count),
        buffer_bytes: config.reactor.buffer_bytes as usize,
        sends_per_turn: turn::SENDS_MAX,
        pending_sends: connections_share.clamp(1_024, 16_384),
    }
}

/// How many connections the configuration and the limit of descriptors allow.
fn connections_max(config: &Config) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes to the struct that it is given.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    let descriptors = if is_known { limit.rlim_cur as usize } else { 1_024 };
    let possible = descriptors.saturating_sub(DESCRIPTORS_RESERVED);
    match config.limits.connections_max {
        0 => possible,
        configured => configured.min(possible),
    }
}

/// The cores that this process may run on.
fn allowed_cores() -> Vec<usize> {
    // SAFETY: a zeroed set is an empty one, which the call fills.
    let (set, result) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let result = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        (set, result)
    };
    // SAFETY: the index is below the size of the set.
    let is_in = |core: &usize| unsafe { libc::CPU_ISSET(*core, &set) };
    let cores: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(is_in).collect();
    if result == 0 && !cores.is_empty() { cores } else { vec![0] }
}

/// Keeps the calling thread on `core`. Where that is not allowed it runs wherever it may.
fn pin_to(core: usize) {
    // SAFETY: a zeroed set is an empty one, and the core is below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// 64 bits that nobody can foresee: the standard hasher's keys come from the kernel.
fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}
